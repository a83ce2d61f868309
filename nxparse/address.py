"""E-mail addresses that every mail server accepts, checked before an upload is accepted.

The local part is plain ASCII without quotes or comments; the domain is a host name, which may be
international (IDNA). Everything else is refused, because an address that two programs read
differently can bypass an allow-list (CVE-2023-27043). That includes `user%host` and `host!user`
(source routes), encoded words, and letters that IDNA 2003 and 2008 map to different domains.
"""

from __future__ import annotations

import re
import unicodedata
from contextlib import suppress
from encodings.idna import nameprep
from functools import lru_cache

_LOCAL = re.compile(r"(?!.*=\?)[A-Za-z0-9#$&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9#$&'*+/=?^_`{|}~-]+)*")
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_AMBIGUOUS = re.compile(r"[\u00df\u1e9e\u03c2\u200c\u200d]")
_DOT = re.compile("[.\u3002\uff0e\uff61]")  # RFC 3490 section 3.1
MAX_LOCAL = 64  # RFC 5321 section 4.5.3.1
MAX_DOMAIN = 253


class AddressError(ValueError):
    """An address that mail cannot be sent to."""


def deliverable(address: str) -> str:
    """Return the address in ASCII, its domain in IDNA. Raises AddressError."""
    local, at, domain = address.rpartition("@")
    if not at or len(local) > MAX_LOCAL or not _LOCAL.fullmatch(local):
        raise AddressError(f"{address[:100]!r} is not an e-mail address")
    if len(domain) > MAX_DOMAIN:
        raise AddressError(f"{address[:100]!r} has too long a domain")
    host = _encoded(domain)
    if len(host) > MAX_DOMAIN or not _HOST.fullmatch(host):
        raise AddressError(f"{address[:100]!r} has a domain that cannot exist")
    return f"{local}@{host}"


def _encoded(domain: str) -> str:
    """Encode a domain in IDNA; empty if that is not possible."""
    if domain.isascii():
        return domain
    if not _AMBIGUOUS.search(domain):
        with suppress(UnicodeError):
            return domain.encode("idna").decode("ascii")
    return ""


def is_deliverable(address: str) -> bool:
    """Return whether mail can be sent to an address."""
    try:
        deliverable(address)
    except AddressError:
        return False
    return True


@lru_cache(maxsize=256)  # each recipient is compared with each rule
def comparable(address: str) -> str:
    """Return the form in which an address is compared: Unicode, in lower case.

    Different spellings of one domain (full-width letters, punycode, other dots) get the same
    form, as in `deliverable`. Wildcards of globs stay. Names of users and sites, which have no
    `@`, are treated like a domain.
    """
    local, at, domain = address.rpartition("@")
    if len(domain) > MAX_DOMAIN or len(unicodedata.normalize("NFKC", domain)) > MAX_DOMAIN:
        return address.lower()
    labels = [_comparable_label(label) for label in _DOT.split(domain)]
    return f"{unicodedata.normalize('NFC', local).lower()}{at}{'.'.join(labels)}"


def _comparable_label(label: str) -> str:
    prepared = _prepared(label)
    if not prepared.startswith("xn--"):
        return prepared
    try:
        decoded = prepared[4:].encode("ascii").decode("punycode")
    except UnicodeError:
        return prepared
    # Any other label only looks like punycode, and is compared as it is.
    return decoded if not decoded.isascii() and _prepared(decoded) == decoded else prepared


def _prepared(label: str) -> str:
    """Apply the character mapping of IDNA to a label (RFC 3491)."""
    if label.isascii():
        return label.lower()
    if not _AMBIGUOUS.search(label):
        with suppress(UnicodeError):
            return nameprep(label)
    return unicodedata.normalize("NFKC", label).lower()
