"""An upload as a POST of multipart/form-data that any server understands.

The body is the one that `nxparse.multipart.repair` makes: the camera's parts
with clean heads and a close delimiter, streamed from where they are kept. What
came to a social site has a message like that of an e-mail in front of its
photos, so that a server needs to know one form only.

A reply of 2xx is a success. 408, 425, 429 and from 500 on, and no reply at all,
are temporary, and Retry-After is obeyed, with 429 and 503 for all that is for
this server; 413 may mean that one photo at a time is not too much. Any other is
final, a redirect included: to follow one is to send photos to somebody whom
nobody has chosen.

The status decides. A server may give it before it has all, and hang up: so the
reply is read even if the sending has failed, only that 2xx is none then. The
text behind it is told if it can be read, without the secrets of the URL. The
whole reply has a limit, in bytes and in time; the sending has none but that it
must go on.
"""

from __future__ import annotations

import base64
import email.utils
import http.client
import io
import re
import socket
import ssl
import time
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC
from urllib.parse import quote, unquote, unquote_plus, unquote_to_bytes, urlsplit

from nxparse.deliver.errors import (
    DeliveryError,
    PermanentError,
    TemporaryError,
    TooLargeError,
    UnreachableError,
    one_line,
)
from nxparse.deliver.privacy import is_private
from nxparse.multipart import Encoded

CONNECT = 30.0  # seconds
ANSWER = 300.0  # seconds for each step of the sending, and for the whole reply
LATER = (408, 425, 429)
BUSY = (429, 503)  # with Retry-After
TEXTS = ("text/plain", "application/json")
MAX_REPLY = 1 << 17  # bytes
MAX_TEXT = 4096  # bytes of a reply's text that are read


@dataclass(frozen=True, slots=True)
class Server:
    """Where to post to. What may be a secret (user, password, path) is in no repr."""

    secure: bool
    host: str
    port: int
    path: str = field(repr=False)
    authorization: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def server(url: str) -> Server:
    """Read `https://user:password@host/path`. ValueError, without what it says, if it is none."""
    try:
        parts = urlsplit(url)
        secure = {"http": False, "https": True}[parts.scheme]
        host = (parts.hostname or "").encode("idna").decode("ascii")
        port = parts.port if parts.port is not None else 443 if secure else 80
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        query = quote(parts.query, safe="/?%:@!$&'()*+,;=~-._")
        user, password = map(unquote_to_bytes, (parts.username or "", parts.password or ""))
        # What can neither be looked up nor sent is better known now than at each upload.
        if not re.fullmatch(r"[a-z0-9._-]+|[0-9a-f:.]+", host) or not port or b":" in user:
            raise ValueError
        if parts.fragment or re.search(r"[\s\0]", url):
            raise ValueError
    except (KeyError, ValueError):
        raise ValueError("not a URL like https://host/path") from None
    authorization = ""
    if parts.username is not None:
        authorization = f"Basic {base64.b64encode(user + b':' + password).decode('ascii')}"
    return Server(secure, host, port, f"{path}?{query}" if query else path, authorization)


def send(body: Encoded, id: str, to: Server, now: float) -> str:
    """Post a body. Returns what the server said, in a few words.

    `id` is the same when the same upload is sent again. `now` is a Unix time,
    for a Retry-After that is a date. Raises a DeliveryError, or what `body`
    raises if it cannot be read.
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
        except OSError as error:
            raise UnreachableError(f"{to}: {_reason(error, to)}") from None
        if to.authorization and not is_private(connection.sock):
            raise UnreachableError(
                f"{to}: the password was not sent, as http:// does not encrypt it: "
                f"use https:// in the rule"
            )
        connection.sock.settimeout(ANSWER)
        broken = _post(connection, to, body, headers)
        try:
            reply = _Reply(connection.sock)
        except (OSError, http.client.HTTPException) as error:
            raise TemporaryError(f"{to}: {_reason(broken or error, to)}") from None
        said = f"{to} says {_told(_words(reply), to)}"
    if 200 <= reply.status <= 299:
        if broken:
            raise TemporaryError(f"{said}, without the whole upload: {_reason(broken, to)}")
        return f"{reply.status}"
    if 300 <= reply.status <= 399 and reply.getheader("Location"):
        said += "; redirects are not followed, so the rule needs the final URL"
    raise _failure(reply.status, said, _seconds(reply.getheader("Retry-After"), now))


def _connection(to: Server) -> http.client.HTTPConnection:
    if to.secure:
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(to.host, to.port, timeout=CONNECT, context=context)
    return http.client.HTTPConnection(to.host, to.port, timeout=CONNECT)


def _post(
    connection: http.client.HTTPConnection, to: Server, body: Encoded, headers: dict[str, str]
) -> OSError | None:
    """Send a request. Returns what broke it off, which is not what `body` raises."""
    try:
        connection.request("POST", to.path, headers=headers)
    except OSError as error:
        return error
    for chunk in body.chunks():
        try:
            connection.send(chunk)
        except OSError as error:
            return error
    return None


class _Incoming(io.RawIOBase):
    """What comes from a server: so many bytes, and until a time that is set now."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._left = MAX_REPLY
        self._deadline = time.monotonic() + ANSWER

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # no other buffer is given
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("timed out")
        if self._left <= 0:
            raise OSError("the reply is too long")
        self._connection.settimeout(remaining)
        size = self._connection.recv_into(buffer[: self._left])
        self._left -= size
        return size

    def makefile(self, mode: str) -> io.BufferedReader:
        """What http.client wants of a socket."""
        return io.BufferedReader(self)


class _Reply(http.client.HTTPResponse):
    """The head of a reply, read within limits; so is what stands behind it."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(_Incoming(connection), method="POST")  # type: ignore[arg-type]
        self.begin()

    def _read_status(self) -> tuple[str, int, str]:
        # begin() skips 100 only. After 101, which nobody has asked for, there is no more HTTP.
        version, status, reason = super()._read_status()  # type: ignore[misc]
        return version, 100 if 102 <= status <= 199 else status, reason


def _failure(status: int, said: str, retry_after: float | None) -> DeliveryError:
    if status in BUSY and retry_after:
        return UnreachableError(said, retry_after)
    if status in LATER or status >= 500:
        return TemporaryError(said, retry_after)
    return TooLargeError(said) if status == 413 else PermanentError(said)


def _seconds(value: str | None, now: float) -> float | None:
    """What Retry-After means: seconds, or a date, which is in UTC if it does not say."""
    if not value:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
        return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _words(reply: http.client.HTTPResponse) -> str:
    """The status, and the first line of a text that may say why."""
    reason = reply.reason.encode("latin-1").decode("utf-8", "replace")
    status = f"{reply.status} {reason}".strip()
    try:
        text = reply.read(MAX_TEXT).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException, ValueError, OverflowError):
        text = ""  # whatever is wrong with it, there is a status
    if not text or not reply.getheader("Content-Type", "").startswith(TEXTS):
        return status
    if 300 <= reply.status <= 399:
        return status  # its text repeats the Location, in which there may be a secret
    return f"{status}: {text.partition(chr(10))[0]}"


def _reason(error: Exception, to: Server) -> str:
    return _told(getattr(error, "strerror", None) or str(error), to) or type(error).__name__


def _told(text: str, to: Server) -> str:
    """What a server said, for a log: one line, no control characters, no secret."""
    return one_line(text.replace("\\/", "/"), _secrets(to))  # a slash as JSON may have it


def _secrets(to: Server) -> list[str]:
    """What may be secret in a URL, as it is sent and as it is read: some servers repeat it.

    Shorter words are no tokens, but may be any word of what a server says: less than
    8 characters in a path, which is made of such words, and less than 4 elsewhere.
    """
    path, _, query = to.path.partition("?")
    credentials = to.authorization.partition(" ")[2]
    login = base64.b64decode(credentials).decode("utf-8", "replace")
    user, _, password = login.partition(":")
    pairs = [pair.partition("=") for pair in query.split("&")]
    values = [value or name for name, _, value in pairs]
    words = [word for word in (path, query, credentials, user, *values) if len(word) >= 4]
    words += [word for word in path.split("/") if len(word) >= 8]
    forms = {read(word) for word in words for read in (str, unquote, unquote_plus)} | {password}
    return sorted(forms - {""}, key=len, reverse=True)
