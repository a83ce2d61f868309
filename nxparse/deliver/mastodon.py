"""The target `mastodon:URL`: photos as posts on a Mastodon server.

An upload becomes one post, or a thread if it has more photos or a longer text than fit into one
post. Each video has a post of its own, after the photos. The parts of the text after each `~`
describe the photos (samsung-nx-emailservice, commit c3f8eb0). For an hour, the server recognises a
repeated post by its Idempotency-Key (docs.joinmastodon.org/methods/statuses); after that, the ids
of the published posts, stored as the progress of the delivery, prevent duplicates.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import responses
from itertools import chain, zip_longest
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

from nxparse.deliver import http_client
from nxparse.deliver.errors import (
    DeliveryError,
    Outcome,
    PermanentError,
    TemporaryError,
    TooLargeError,
    UnreachableError,
    clean_text,
)
from nxparse.deliver.http_client import Origin
from nxparse.store.records import Delivery
from nxparse.upload import File, Upload, camera

OPTIONS = {"visibility", "postscript"}
VISIBILITIES = ("public", "unlisted", "private", "direct")
POSTSCRIPT = "\N{CAMERA} {camera}"  # if the camera is known

# The limits of a server that has not changed them. Larger uploads become threads.
MAX_TEXT = 500  # characters
MAX_FILES = 4
MAX_DESCRIPTION = 1500  # characters

PROCESSING_LIMIT = 600.0  # seconds that a server may take to process one file
POLL_INTERVAL = 2.0  # seconds
CONFIGURATION_RETRY = 3600.0  # seconds; a wrong token or URL is not mended sooner
RATE_LIMIT_RETRY = 300.0  # seconds (docs.joinmastodon.org/api/rate-limits)

MEDIA = "/api/v2/media"


@dataclass(frozen=True, slots=True)
class Account:
    """Where and how to post. `postscript` may contain `{camera}`; None is the default one."""

    origin: Origin
    token: str = field(repr=False)
    visibility: str | None = None
    postscript: str | None = None

    def __str__(self) -> str:
        return str(self.origin)


def parse_account(url: str) -> Account:
    """Parse `https://TOKEN@host/?visibility=unlisted&postscript=...`.

    Raises ValueError, without the token.
    """
    try:
        origin, parts = http_client.parse_url(url)
        query = parts.query
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise ValueError("not a URL like https://TOKEN@host/") from None
    http_client.require_encryption(origin, "access token")
    if parts.path not in ("", "/") or parts.fragment or options.keys() - OPTIONS:
        raise ValueError("only ?visibility=... and &postscript=... can follow the host")
    token = unquote(parts.password or parts.username or "")
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError("there is no access token before the host, as in https://${TOKEN}@host/")
    visibility = options.get("visibility")
    if visibility is not None and visibility not in VISIBILITIES:
        raise ValueError(f"the visibility is none of {', '.join(VISIBILITIES)}")
    return Account(origin, token, visibility, options.get("postscript"))


class Post(NamedTuple):
    """One post of a thread: its text, and its files with their descriptions."""

    text: str
    files: tuple[tuple[File, str], ...]


def compose(text: str, files: Sequence[File], model: str, postscript: str | None) -> list[Post]:
    """Divide an upload into posts. `model` is that of the camera, empty if it is unknown."""
    # More `~` than files belong to the last description.
    text, *descriptions = text.split("~", len(files))
    if postscript is None:
        postscript = POSTSCRIPT if model else ""
    postscript = postscript.replace("{camera}", model or "camera")
    texts = textwrap.wrap(
        f"{text.strip()}\n\n{postscript.strip()}".strip(),
        MAX_TEXT,
        replace_whitespace=False,
        break_on_hyphens=False,
    )
    descriptions += [""] * (len(files) - len(descriptions))
    described = [(file, _shortened(one)) for file, one in zip(files, descriptions, strict=True)]
    photos = [one for one in described if one[0].content_type.startswith("image/")]
    groups = [photos[start : start + MAX_FILES] for start in range(0, len(photos), MAX_FILES)]
    groups += [[one] for one in described if one not in photos]
    posts = zip_longest(texts, groups)
    return [Post(text or "", tuple(group or ())) for text, group in posts]


def _shortened(description: str) -> str:
    text = description.strip()
    return text if len(text) <= MAX_DESCRIPTION else f"{text[: MAX_DESCRIPTION - 1]}…"


def deliver(to: Account, upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
    """Publish files of an upload. Raises a DeliveryError.

    The `progress` of a TemporaryError is the ids of the posts published so far.
    """
    # The subject of a post to a site was not typed by its user.
    text = upload.text or ("" if delivery.arrival.site else upload.subject)
    if number := delivery.file_number:  # leave out the descriptions of the other files
        text, *descriptions = text.split("~")
        text = "~".join([text, *descriptions[number - 1 : number]])
    # Another target may post the same upload to the same account, in another way.
    key = hashlib.sha256(f"{delivery.id} {delivery.target}".encode()).hexdigest()[:32]
    posts = compose(text, files, camera(upload), to.postscript)
    done = list(delivery.progress)
    for post in posts[len(done) :]:
        try:
            media = [_upload(to, file, description) for file, description in post.files]
            reply_to = done[-1] if done else ""
            done.append(_publish(to, post.text, media, reply_to, f"{key}.{len(done)}"))
        except TemporaryError as error:
            error.progress = tuple(done)
            raise
        except TooLargeError as error:
            # To send the files one at a time would publish the first posts again.
            if done or len(files) == 1:
                raise PermanentError(str(error)) from None
            raise
    return Outcome(f"posted to {to}" + (f" in {len(posts)} posts" if len(posts) > 1 else ""))


def _upload(to: Account, file: File, description: str) -> str:
    """Upload a file, and wait until it is processed. Returns its id."""
    boundary = secrets.token_hex(16)
    part = f"--{boundary}\r\nContent-Disposition: form-data; name="
    head = f'{part}"description"\r\n\r\n{description}\r\n' if description else ""
    # Safe names contain no quotes.
    head += f'{part}"file"; filename="{file.safe_name}"\r\n'
    head += f"Content-Type: {file.content_type}\r\n\r\n"
    first, last = head.encode("utf-8", "replace"), f"\r\n--{boundary}--\r\n".encode()
    headers = {
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Content-Length": str(len(first) + file.size + len(last)),
    }
    try:
        media = _call(to, "POST", MEDIA, headers, chain([first], file.chunks(), [last]))
        deadline = time.monotonic() + PROCESSING_LIMIT
        while media.get("url") is None:
            if time.monotonic() > deadline:
                raise TemporaryError(f"{to} has not processed {file.safe_name} yet")
            time.sleep(POLL_INTERVAL)
            media = _call(to, "GET", f"/api/v1/media/{quote(str(media['id']), safe='')}")
    except PermanentError as error:
        raise TooLargeError(f"{error} ({file.safe_name})") from None
    return str(media["id"])


def _publish(to: Account, text: str, media: Sequence[str], reply_to: str, key: str) -> str:
    """Publish a post, as a reply to another one unless `reply_to` is empty. Returns its id."""
    fields = {
        "status": text,
        "media_ids[]": media,
        "in_reply_to_id": reply_to,
        "visibility": to.visibility,
    }
    given = {name: value for name, value in fields.items() if value}
    body = urlencode(given, doseq=True, errors="replace").encode("ascii")
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Content-Length": str(len(body)),
        "Idempotency-Key": key,
    }
    return str(_call(to, "POST", "/api/v1/statuses", headers, [body])["id"])


def _call(
    to: Account,
    method: str,
    path: str,
    headers: Mapping[str, str] = {},
    body: Iterable[bytes] | None = None,
) -> Mapping[str, Any]:
    """Make a call of the API. Returns the entity in the reply, which has an id."""
    headers = {"Authorization": f"Bearer {to.token}", **headers}
    response = http_client.request(to.origin, method, path, headers, body)
    try:
        found = json.loads(response.body)
    except (ValueError, RecursionError):
        found = None
    entity: Mapping[str, Any] = found if isinstance(found, dict) else {}
    if not 200 <= response.status <= 299:
        # docs.joinmastodon.org/entities/Error
        text = entity.get("error") or responses.get(response.status, "")
        reason = clean_text(f"{to} replied {response.status}: {text}", [to.token])
        raise _error(response.status, reason, path)
    if not entity.get("id"):
        raise TemporaryError(f"{to} does not reply like a Mastodon server")
    return entity


def _error(status: int, reason: str, path: str) -> DeliveryError:
    if 300 <= status <= 399 or (status in (404, 405) and path == MEDIA):
        return UnreachableError(f"{reason}: is it a Mastodon server?", CONFIGURATION_RETRY)
    if status in (401, 403):
        return UnreachableError(reason, CONFIGURATION_RETRY)
    if status == 429:
        return UnreachableError(reason, RATE_LIMIT_RETRY)
    return (TemporaryError if http_client.is_temporary(status) else PermanentError)(reason)
