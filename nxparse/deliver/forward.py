"""An upload as a POST of multipart/form-data that any server understands.

The body is the one that `nxparse.multipart.repair` makes: the camera's parts
with clean heads and a close delimiter, streamed from where they are kept. What
came to a social site has a message like that of an e-mail in front of its
photos, so that a server needs to know one form only.

A reply of 2xx is a success. 408, 425, 429 and 5xx, and no reply at all, are
temporary, and Retry-After is obeyed; 413 may mean that one photo at a time is
not too much. Any other is final, a redirect included: to follow one is to send
photos to somebody whom nobody has chosen.
"""

from __future__ import annotations

import base64
import email.utils
import http.client
import re
import ssl
from contextlib import closing
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

from nxparse.deliver.errors import (
    PermanentError,
    TemporaryError,
    TooLargeError,
    UnreachableError,
)
from nxparse.multipart import Encoded

CONNECT = 30.0  # seconds
ANSWER = 300.0  # seconds for each step, and for the reply
LATER = (408, 425, 429)
MAX_SAID = 4096  # bytes of a reply that are read


@dataclass(frozen=True, slots=True)
class Server:
    """Where to post to. What may be a secret (user, password, path) is in no repr."""

    secure: bool
    host: str
    port: int
    path: str = field(repr=False)
    authorization: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def server(url: str) -> Server:
    """Read `https://user:password@host/path`. ValueError, without what it says, if it is none."""
    try:
        parts = urlsplit(url)
        secure = {"http": False, "https": True}[parts.scheme]
        host, port = parts.hostname or "", parts.port or (443 if secure else 80)
        host = host.encode("idna").decode("ascii")
        if not host or parts.fragment or re.search(r"[\s\0]", url):
            raise ValueError
    except (KeyError, ValueError):
        raise ValueError("not a URL like https://host/path") from None
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/?%:@!$&'()*+,;=~-._")
    authorization = ""
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        authorization = f"Basic {base64.b64encode(login).decode('ascii')}"
    return Server(secure, host, port, f"{path}?{query}" if query else path, authorization)


def send(body: Encoded, id: str, to: Server, now: float) -> str:
    """Post a body. Returns what the server said, in a few words.

    `id` is the same when the same upload is sent again. `now` is a Unix time,
    for a Retry-After that is a date. Raises a DeliveryError.
    """
    headers = {
        "Content-Type": body.content_type,
        "Content-Length": str(body.size),
        "Idempotency-Key": f'"{id}"',
        "User-Agent": "nx_addon",
        "Connection": "close",
    }
    if to.authorization:
        headers["Authorization"] = to.authorization
    with closing(_connection(to)) as connection:
        try:
            connection.connect()
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(f"{to}: {_reason(error)}") from None
        connection.sock.settimeout(ANSWER)
        try:
            reply = _posted(connection, to, body, headers)
            said = reply.read(MAX_SAID)
        except (OSError, http.client.HTTPException) as error:
            raise TemporaryError(f"{to}: {_reason(error)}") from None
        retry_after = _seconds(reply.getheader("Retry-After"), now)
    _judge(reply.status, f"{to} says {_words(reply, said)}", retry_after)
    return f"{reply.status}"


def _connection(to: Server) -> http.client.HTTPConnection:
    if to.secure:
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(to.host, to.port, timeout=CONNECT, context=context)
    return http.client.HTTPConnection(to.host, to.port, timeout=CONNECT)


def _posted(
    connection: http.client.HTTPConnection, to: Server, body: Encoded, headers: dict[str, str]
) -> http.client.HTTPResponse:
    try:
        connection.request("POST", to.path, body.chunks(), headers)
    except (BrokenPipeError, ConnectionResetError) as error:
        # A server that has seen enough may have said so before it hung up.
        try:
            return connection.getresponse()
        except (OSError, http.client.HTTPException):
            raise error from None
    return connection.getresponse()


def _judge(status: int, said: str, retry_after: float | None) -> None:
    if 200 <= status <= 299:
        return
    if status in LATER or 500 <= status <= 599:
        raise TemporaryError(said, retry_after)
    if status == 413:
        raise TooLargeError(said)
    raise PermanentError(said)


def _seconds(value: str | None, now: float) -> float | None:
    """What Retry-After means: seconds, or a date."""
    if not value:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _words(reply: http.client.HTTPResponse, said: bytes) -> str:
    """The status, and the first line of a text that may say why."""
    words = f"{reply.status} {reply.reason}"
    if reply.getheader("Content-Type", "").startswith(("text/plain", "application/json")):
        words += f": {said.decode('utf-8', 'replace').strip().partition(chr(10))[0]}"
    clean = "".join(char if char.isprintable() else " " for char in words)
    return " ".join(clean.split())[:200]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
