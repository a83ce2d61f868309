"""A small HTTP client for deliveries: bodies are streamed, replies are bounded.

It follows no redirect: that would send photos to a server the user has not chosen. A server may
reply before it has read the whole body, and hang up, so the reply is read even after sending has
failed. The caller decides what a status means.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from email.message import Message

from nxparse.deliver.privacy import is_private

CONNECT = 30.0  # seconds
ANSWER = 300.0  # seconds for each step: one write of the body, one read of the reply


@dataclass(frozen=True, slots=True)
class Origin:
    """A server. `host` is a name in ASCII or an address without brackets."""

    secure: bool
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Response:
    """A reply. `body` is at most `max_body` bytes of it, empty if it could not be read.

    `broken` is the error that ended the sending of the request early.
    """

    status: int
    reason: str
    headers: Message = field(repr=False)
    body: bytes = field(repr=False)
    broken: OSError | None = None


class ConnectError(OSError):
    """The server could not be reached, or could not prove its identity."""


class InsecureError(ConnectError):
    """The connection is neither encrypted nor to this machine, so no secret was sent."""


class NoResponseError(OSError):
    """The server was reached, but sent no reply."""


def request(
    origin: Origin,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: Iterable[bytes] = (),
    *,
    max_body: int,
    has_secret: bool = False,
    connect: float | None = None,
    answer: float | None = None,
) -> Response:
    """Make one request on a connection of its own.

    `headers` include Content-Length where there is a body. `max_body` is in bytes; `connect` and
    `answer` are timeouts in seconds. With `has_secret`, nothing is sent over a connection that is
    neither encrypted nor to this machine. Raises ConnectError (InsecureError), NoResponseError, and
    whatever iterating over `body` raises.
    """
    with closing(_connection(origin, CONNECT if connect is None else connect)) as connection:
        try:
            connection.connect()
        except OSError as error:
            raise ConnectError(error_text(error)) from error
        if has_secret and not is_private(connection.sock):
            raise InsecureError(
                "http:// does not encrypt passwords, so none was sent: use https://"
            )
        connection.sock.settimeout(ANSWER if answer is None else answer)
        broken = _send(connection, method, path, headers, body)
        try:
            with connection.getresponse() as response:
                return Response(
                    response.status,
                    response.reason.encode("latin-1").decode("utf-8", "replace"),
                    response.headers,
                    _body(response, max_body),
                    broken,
                )
        except (OSError, http.client.HTTPException) as error:
            raise NoResponseError(error_text(broken or error)) from error


def error_text(error: Exception) -> str:
    """Return the reason of a failure, in the words of the system where there are any."""
    text = getattr(error, "strerror", None) or str(error).strip()
    return text if text and text.isprintable() else type(error).__name__


def _connection(origin: Origin, timeout: float) -> http.client.HTTPConnection:
    if not origin.secure:
        return http.client.HTTPConnection(origin.host, origin.port, timeout=timeout)
    context = ssl.create_default_context()
    return http.client.HTTPSConnection(origin.host, origin.port, timeout=timeout, context=context)


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: Iterable[bytes],
) -> OSError | None:
    """Send a request. Returns the error of the connection that ended it, if there was one."""
    try:
        connection.request(method, path, headers={**headers, "Connection": "close"})
    except OSError as error:
        return error
    for chunk in body:
        try:
            connection.send(chunk)
        except OSError as error:
            return error
    return None


def _body(response: http.client.HTTPResponse, limit: int) -> bytes:
    try:
        return response.read(limit)
    except (OSError, http.client.HTTPException, ValueError, OverflowError):
        return b""  # the status is all that decides
