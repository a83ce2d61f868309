"""The target `forward:URL`: an upload as a POST of multipart/form-data that any server parses.

The body is the one that `nxparse.multipart.repair` makes: the camera's parts with clean headers
and a close delimiter, streamed from the stored body. Uploads to social sites get a message like
that of an e-mail before their photos, so that a server needs to know one form only.

A reply of 2xx is a success. 408, 425, 429, 5xx and no reply are temporary; Retry-After is obeyed,
with 429 and 503 for everything that waits for this server. After 413 the photos are sent one at a
time. Any other status is final, redirects included. The text of a reply is logged without the
secrets of the URL.
"""

from __future__ import annotations

import base64
import email.utils
import re
from dataclasses import dataclass, field
from datetime import UTC
from urllib.parse import quote, unquote, unquote_plus, unquote_to_bytes, urlsplit

from nxparse.deliver import http_client
from nxparse.deliver.errors import (
    DeliveryError,
    PermanentError,
    TemporaryError,
    TooLargeError,
    UnreachableError,
    one_line,
)
from nxparse.deliver.http_client import ConnectError, NoResponseError, Origin, Response
from nxparse.multipart import Encoded

LATER = (408, 425, 429)
BUSY = (429, 503)  # with Retry-After
TEXTS = ("text/plain", "application/json")
MAX_TEXT = 4096  # bytes of a reply's text that are read


@dataclass(frozen=True, slots=True)
class Server:
    """Where to post to. What may be a secret (user, password, path) is in no repr."""

    origin: Origin
    path: str = field(repr=False)
    authorization: str = field(default="", repr=False)

    def __str__(self) -> str:
        return str(self.origin)


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
    origin = Origin(secure, host, port)
    return Server(origin, f"{path}?{query}" if query else path, authorization)


def send(body: Encoded, id: str, to: Server, now: float) -> str:
    """Post a body. Returns the status.

    `id` is the same when the same upload is sent again. `now` is a Unix time,
    for a Retry-After that is a date. Raises a DeliveryError, or what `body`
    raises if it cannot be read.
    """
    headers = {
        "Content-Type": body.content_type,
        "Content-Length": str(body.size),
        "Idempotency-Key": f'"{id}"',
        "User-Agent": "nx_addon",
    }
    if to.authorization:
        headers["Authorization"] = to.authorization
    try:
        response = http_client.request(
            to.origin,
            "POST",
            to.path,
            headers,
            body.chunks(),
            max_body=MAX_TEXT,
            has_secret=bool(to.authorization),
        )
    except ConnectError as error:
        raise UnreachableError(_told(f"{to}: {error}", to)) from None
    except NoResponseError as error:
        raise TemporaryError(_told(f"{to}: {error}", to)) from None
    said = f"{to} says {_told(_words(response), to)}"
    if 200 <= response.status <= 299:
        if response.broken:
            reason = _told(http_client.error_text(response.broken), to)
            raise TemporaryError(f"{said}, without the whole upload: {reason}")
        return f"{response.status}"
    if 300 <= response.status <= 399 and "Location" in response.headers:
        said += "; redirects are not followed, so the rule needs the final URL"
    raise _failure(response.status, said, _seconds(response.headers["Retry-After"], now))


def _failure(status: int, said: str, retry_after: float | None) -> DeliveryError:
    if status in BUSY and retry_after:
        return UnreachableError(said, retry_after)
    # 1xx: an interim reply is not the end of it.
    if status in LATER or status >= 500 or status < 200:
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


def _words(response: Response) -> str:
    """The status, and the first line of a text that may say why."""
    status = f"{response.status} {response.reason}".strip()
    text = response.body.decode("utf-8", "replace").strip()
    if not text or not response.headers.get("Content-Type", "").startswith(TEXTS):
        return status
    if 300 <= response.status <= 399:
        return status  # its text repeats the Location, in which there may be a secret
    return f"{status}: {text.partition(chr(10))[0]}"


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
