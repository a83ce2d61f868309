"""The target `forward:URL`: an upload as a POST of multipart/form-data that any server can parse.

The body is the one that `nxparse.multipart.repair` makes: the camera's parts with clean headers
and a close delimiter, streamed from the stored body. Uploads to social sites get a message part
like that of an e-mail, so that servers need to support only one form.

2xx is success. 408, 425, 429, 5xx and a missing reply are temporary errors. Retry-After is obeyed;
with 429 and 503 it applies to all deliveries to the server. After 413 the photos are sent one at a
time. Any other status is permanent, including redirects. The reply is logged without the secrets
of the URL.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import quote, unquote, unquote_plus, unquote_to_bytes

from nxparse.deliver import http_client
from nxparse.deliver.errors import (
    DeliveryError,
    TooLargeError,
    UnreachableError,
    clean_text,
)
from nxparse.deliver.http_client import Origin, Response
from nxparse.multipart import Encoded

BUSY = (429, 503)  # with Retry-After, for all uploads
TEXT_TYPES = ("text/plain", "application/json")
MAX_TEXT = 4096  # bytes of a reply that are read


@dataclass(frozen=True, slots=True)
class Server:
    """Where to post to. The parts that may be secret (user, password, path) are not in the repr."""

    origin: Origin
    path: str = field(repr=False)
    authorization: str = field(default="", repr=False)
    secrets: Sequence[str] = field(default=(), repr=False, compare=False)  # the longest first

    def __str__(self) -> str:
        return str(self.origin)


def parse_server(url: str) -> Server:
    """Parse `https://user:password@host/path`. Raises ValueError, without the URL."""
    try:
        origin, parts = http_client.parse_url(url)
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        query = quote(parts.query, safe="/?%:@!$&'()*+,;=~-._")
        user, password = map(unquote_to_bytes, (parts.username or "", parts.password or ""))
        # These could not be sent, which is better reported now than at each upload.
        if b":" in user or parts.fragment or re.search(r"[\s\0]", url):
            raise ValueError
    except ValueError:
        raise ValueError("not a URL like https://host/path") from None
    login = base64.b64encode(user + b":" + password).decode("ascii")
    return Server(
        origin,
        f"{path}?{query}" if query else path,
        f"Basic {login}" if parts.username is not None else "",
        _secrets(path, query, [user.decode("utf-8", "replace"), login], password),
    )


def send(body: Encoded, id: str, to: Server, now: float) -> str:
    """Post a body. Returns the status.

    `id` must be the same for each attempt of a delivery. `now` is a Unix time, for a Retry-After
    that is a date. Raises a DeliveryError, or the error of reading `body`.
    """
    headers = {
        "Content-Type": body.content_type,
        "Content-Length": str(body.size),
        "Idempotency-Key": f'"{id}"',
    }
    if to.authorization:
        headers["Authorization"] = to.authorization
    response = http_client.request(
        to.origin, "POST", to.path, headers, body.chunks(), max_body=MAX_TEXT
    )
    if not 200 <= response.status <= 299:
        raise _error(response, to, now)
    return str(response.status)


def _error(response: Response, to: Server, now: float) -> DeliveryError:
    status = response.status
    # Some JSON writers escape slashes.
    reply = clean_text(_reply(response).replace("\\/", "/"), to.secrets)
    reason = f"{to} replied {reply}"
    retry_after = _parse_retry_after(response.headers["Retry-After"], now)
    if status in BUSY and retry_after:
        return UnreachableError(reason, retry_after)
    if status == 413:
        return TooLargeError(reason)
    if 300 <= status < 400 and "Location" in response.headers:
        reason += "; redirects are not followed, so the rule needs the final URL"
    return http_client.status_error(status, reason, retry_after)


def _parse_retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds to wait, None if there is no valid value (RFC 9110 section 10.2.3)."""
    if not value:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
        return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _reply(response: Response) -> str:
    """Return the status line, and the first line of the body if it is a text."""
    status = f"{response.status} {response.reason}".strip()
    text = response.body.decode("utf-8", "replace").strip()
    if not text or not response.headers.get("Content-Type", "").startswith(TEXT_TYPES):
        return status
    if 300 <= response.status <= 399:
        return status  # the text repeats the Location, which may contain a secret
    return f"{status}: {text.partition(chr(10))[0]}"


def _secrets(path: str, query: str, login: Sequence[str], password: bytes) -> Sequence[str]:
    """Return the parts of a URL that may be secret, encoded and decoded, the longest first.

    Short words are no tokens, but may be in any reply: at least 8 characters are required of the
    segments of a path, and 4 of the rest. Passwords always count.
    """
    words = [path, query, *login, *re.findall(r"(?:[^=&]*=)?([^&]+)", query)]
    words = [word for word in words if len(word) >= 4]
    words += [word for word in path.split("/") if len(word) >= 8]
    forms = {decode(word) for word in words for decode in (str, unquote, unquote_plus)}
    forms.add(password.decode("utf-8", "replace"))
    return sorted(forms - {""}, key=len, reverse=True)
