"""A small HTTP client for deliveries.

Request bodies are streamed and response bodies are truncated. Redirects are not followed: they
would send photos to a server that the user has not chosen. A server may respond and hang up before
it has read the whole body, so the response is read even after sending has failed.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from nxparse.deliver.errors import TemporaryError, UnreachableError
from nxparse.deliver.privacy import is_loopback, is_private
from nxparse.text import error_reason

CONNECT_TIMEOUT = 30.0  # seconds
IO_TIMEOUT = 300.0  # seconds for each write of the request and each read of the response
EARLY_TIMEOUT = 10.0  # seconds for a response after sending has failed
MAX_BODY = 1 << 20  # bytes of a response


@dataclass(frozen=True, slots=True)
class Origin:
    """A server. `host` is a name in ASCII or an address without brackets."""

    secure: bool
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def parse_url(url: str) -> tuple[Origin, SplitResult]:
    """Return the server of an http or https URL, and the parts of the URL.

    Raises ValueError, without the URL, if there is no usable server in it.
    """
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode("ascii")
        secure = {"http": False, "https": True}[parts.scheme]
        port = parts.port if parts.port is not None else 443 if secure else 80
    except (KeyError, ValueError):
        raise ValueError("not an HTTP URL") from None
    if not port or not re.fullmatch(r"[a-z0-9._-]+|[0-9a-f:.]+", host):
        raise ValueError("not an HTTP URL")
    return Origin(secure, host, port), parts


def require_encryption(origin: Origin, secret: str) -> None:
    """Raise ValueError if a secret for this server would be sent unencrypted."""
    if not origin.secure and not is_loopback(origin.host):
        raise ValueError(f"http:// would send the {secret} unencrypted: use https://")


class Response(NamedTuple):
    """A response. `body` is truncated, and empty if it could not be read."""

    status: int
    body: bytes


def request(
    origin: Origin,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: Iterable[bytes] | None = None,
) -> Response:
    """Make one request on a connection of its own.

    `headers` must include Content-Length if there is a body. Requests with an Authorization header
    are sent only over TLS or to this machine.

    Raises UnreachableError if there is no such connection, and TemporaryError if there is no
    response, if a successful one arrives before the whole body is sent, or if iterating over
    `body` raises an OSError.
    """
    kind = http.client.HTTPSConnection if origin.secure else http.client.HTTPConnection
    headers = {"User-Agent": "nx_addon", "Connection": "close", **headers}
    broken: OSError | None = None
    with closing(kind(origin.host, origin.port, timeout=CONNECT_TIMEOUT)) as connection:
        try:
            connection.connect()
        except OSError as error:
            raise UnreachableError(f"{origin}: {_describe(error)}") from None
        if "Authorization" in headers and not is_private(connection.sock):
            reason = "passwords and tokens are not sent over http://, use https://"
            raise UnreachableError(f"{origin}: {reason}")
        connection.sock.settimeout(IO_TIMEOUT)
        try:
            connection.request(method, path, body, headers)
        except OSError as error:
            broken = error
            connection.sock.settimeout(EARLY_TIMEOUT)
        try:
            with connection.getresponse() as raw:
                response = Response(raw.status, _read(raw))
        except (OSError, http.client.HTTPException) as error:
            raise TemporaryError(f"{origin}: {_describe(broken or error)}") from None
    if broken and 200 <= response.status <= 299:
        reason = f"replied {response.status} before it had the whole upload: {_describe(broken)}"
        raise TemporaryError(f"{origin} {reason}")
    return response


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(MAX_BODY)
    except (OSError, http.client.HTTPException, ValueError, OverflowError):
        return b""  # the status alone decides


def is_temporary(status: int) -> bool:
    """Whether a request with this status may succeed later."""
    # 1xx: interim, the final response is missing.
    return status in (408, 425, 429) or status >= 500 or status < 200


def _describe(error: Exception) -> str:
    """Return the reason of a failure. The text of the server is left out: it may repeat secrets."""
    return error_reason(error) if isinstance(error, OSError) else "the reply is not valid HTTP"
