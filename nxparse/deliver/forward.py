"""The target `forward:URL`: an upload as a POST of multipart/form-data that any server can parse.

The body is the one that `nxparse.multipart.repair` makes: the camera's parts with clean headers
and a close delimiter, streamed from the stored body. Uploads to social sites get a message part
like that of an e-mail, so that servers need to support only one form.

After 413 the photos are sent one at a time. Of a reply only the status is logged: the rest may
repeat secrets of the URL.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import responses
from urllib.parse import quote, unquote_to_bytes

from nxparse.deliver import http_client
from nxparse.deliver.errors import (
    DeliveryError,
    Outcome,
    PermanentError,
    TemporaryError,
    TooLargeError,
)
from nxparse.deliver.http_client import Origin
from nxparse.store.records import Delivery
from nxparse.upload import File, Upload, encoded


@dataclass(frozen=True, slots=True)
class Server:
    """Where to post to. The parts that may be secret (user, password, path) are not in the repr."""

    origin: Origin
    path: str = field(repr=False)
    authorization: str = field(default="", repr=False)

    def __str__(self) -> str:
        return str(self.origin)


def parse_server(url: str) -> Server:
    """Parse `https://user:password@host/path`. Raises ValueError, without the URL."""
    try:
        origin, parts = http_client.parse_url(url)
        path = parts.path or "/"
        if parts.query:
            path += f"?{parts.query}"
        path = quote(path, safe="/?%:@!$&'()*+,;=~-._")
        user, password = map(unquote_to_bytes, (parts.username or "", parts.password or ""))
        # These could not be sent, which is better reported now than at each upload.
        if parts.fragment or re.search(r"[\s\0]", url):
            raise ValueError
    except ValueError:
        raise ValueError("not a URL like https://host/path") from None
    if parts.username is not None:
        http_client.require_encryption(origin, "password")
    login = base64.b64encode(user + b":" + password).decode("ascii")
    return Server(origin, path, f"Basic {login}" if parts.username is not None else "")


def deliver(to: Server, upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
    """Post files of an upload. Raises a DeliveryError."""
    body = encoded(upload, files, delivery.id)
    headers = {
        "Content-Type": body.content_type,
        "Content-Length": str(body.size),
        "Idempotency-Key": f'"{delivery.id}"',
    }
    if to.authorization:
        headers["Authorization"] = to.authorization
    response = http_client.request(to.origin, "POST", to.path, headers, body.chunks())
    if not 200 <= response.status <= 299:
        raise _error(response.status, to)
    return Outcome(f"forwarded to {to}, status {response.status}")


def _error(status: int, to: Server) -> DeliveryError:
    reason = f"{to} replied {status} {responses.get(status, '')}".rstrip()
    if status == 413:
        return TooLargeError(reason)
    if http_client.is_temporary(status):
        return TemporaryError(reason)
    if 300 <= status <= 399:
        reason += "; redirects are not followed, so the rule needs the final URL"
    return PermanentError(reason)
