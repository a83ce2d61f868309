"""The mail server in the option nx_smtp.

This is a module of its own because the options need it at every start, and only mail
needs the protocol.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import unquote, urlsplit


class Security(Enum):
    """When TLS starts on a connection. The value is the scheme of the URL."""

    IF_OFFERED = "smtp"
    STARTTLS = "smtp+starttls"
    TLS = "smtps"


_PORTS = {Security.IF_OFFERED: 25, Security.STARTTLS: 587, Security.TLS: 465}


@dataclass(frozen=True, slots=True)
class Smarthost:
    """The mail server that relays our mail. Its repr does not contain the password."""

    host: str
    port: int
    security: Security
    user: str = ""
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def token(self) -> str:
        """User and password for AUTH PLAIN, in UTF-8 (RFC 4616)."""
        return in_base64(f"\0{self.user}\0{self.password}")

    @property
    def secrets(self) -> list[str]:
        """The password in each form that is sent."""
        return [self.token, in_base64(self.password), self.password] if self.password else []


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")


def parse_smarthost(url: str) -> Smarthost:
    """Parse a URL such as `smtp://user:password@host:port`.

    Raises ValueError, whose text contains nothing of the URL.
    """
    try:
        parts = urlsplit(url)
        security = Security(parts.scheme)
        host, port = parts.hostname, parts.port
        # Names that cannot be looked up and passwords that cannot be sent fail here, not later.
        (host or "").encode("idna")
        url.encode()
        is_rest = parts.path not in ("", "/") or parts.query or parts.fragment
        if not host or port == 0 or re.search(r"[\s\0]", host) or is_rest:
            raise ValueError
    except ValueError:
        raise ValueError(
            "not a mail server URL; for example smtps://user:password@host, "
            "with special characters in the password as %40"
        ) from None
    return Smarthost(
        host,
        port or _PORTS[security],
        security,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
    )
