"""E-mail addresses that can be delivered to, checked before anything is promised.

Only what every mail server takes: a local part of plain ASCII without quotes
or comments, and a host name, which may be international (IDNA). Everything
stranger is refused: what two programs read differently is how allow-lists are
passed by (CVE-2023-27043). That holds for `user%host` and `host!user`, which
some servers send on to the other host; for encoded words, which some parsers
decode in addresses; and for the letters that IDNA 2003 and 2008 take for
different domains.
"""

from __future__ import annotations

import re

_LOCAL = re.compile(r"(?!.*=\?)[A-Za-z0-9#$&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9#$&'*+/=?^_`{|}~-]+)*")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?")
_AMBIGUOUS = re.compile(r"[\u00df\u1e9e\u03c2\u200c\u200d]")
MAX_LOCAL = 64  # RFC 5321 section 4.5.3.1
MAX_DOMAIN = 253


class AddressError(ValueError):
    """An address that no mail can be sent to."""


def deliverable(address: str) -> str:
    """The address as mail servers want it: ASCII, its domain in IDNA. Raises AddressError."""
    local, at, domain = address.rpartition("@")
    if not at or len(local) > MAX_LOCAL or not _LOCAL.fullmatch(local):
        raise AddressError(f"{address[:100]!r} is not an e-mail address")
    if len(domain) > MAX_DOMAIN:
        raise AddressError(f"{address[:100]!r} has too long a domain")
    if not domain.isascii():
        if _AMBIGUOUS.search(domain):
            raise AddressError(f"{address[:100]!r} has a domain that cannot exist")
        try:
            domain = domain.encode("idna").decode("ascii")
        except UnicodeError:
            raise AddressError(f"{address[:100]!r} has a domain that cannot exist") from None
    labels = domain.split(".")
    if len(domain) > MAX_DOMAIN or not all(
        len(label) <= 63 and _LABEL.fullmatch(label) for label in labels
    ):
        raise AddressError(f"{address[:100]!r} has a domain that cannot exist")
    return f"{local}@{domain}"


def is_deliverable(address: str) -> bool:
    """Can mail be sent there?"""
    try:
        deliverable(address)
    except AddressError:
        return False
    return True
