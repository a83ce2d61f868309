"""The target `mastodon:URL`: photos as posts on a Mastodon server.

An upload becomes one post, or a thread if it has more photos or a longer text than the server
accepts in one post; a video has a post of its own. The parts of the text after each `~` describe
the photos (samsung-nx-emailservice, commit c3f8eb0).

Each post has an Idempotency-Key, by which the server recognises repetitions for an hour
(docs.joinmastodon.org/methods/statuses). After that, the ids of the published posts, which are
stored as the progress of the delivery, prevent duplicates.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from itertools import chain
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

from nxparse.deliver import http_client
from nxparse.deliver.errors import (
    DeliveryError,
    PermanentError,
    TemporaryError,
    TooLargeError,
    UnreachableError,
    clean_text,
)
from nxparse.deliver.http_client import Origin, Response
from nxparse.deliver.privacy import is_loopback
from nxparse.upload import File, Upload, camera

VISIBILITIES = ("public", "unlisted", "private", "direct")
POSTSCRIPT = "\N{CAMERA} {camera}"  # if the camera is known

PROCESSING_LIMIT = 600.0  # seconds that a server may take to process one file
POLL_INTERVAL = 2.0  # seconds
CONFIGURATION_RETRY = 3600.0  # seconds; a wrong token or URL is not mended sooner
MAX_REPLY = 1 << 20  # bytes

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
    if not origin.secure and not is_loopback(origin.host):
        raise ValueError("http:// would send the access token unencrypted: use https://")
    if parts.path not in ("", "/") or parts.fragment:
        raise ValueError("only ?visibility=... and &postscript=... can follow the host")
    token = unquote(parts.password or parts.username or "")
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError("there is no access token before the host, as in https://${TOKEN}@host/")
    if unknown := options.keys() - {"visibility", "postscript"}:
        raise ValueError(f"there is no {min(unknown)}: there are visibility and postscript")
    visibility = options.get("visibility")
    if visibility is not None and visibility not in VISIBILITIES:
        raise ValueError(f"the visibility is none of {', '.join(VISIBILITIES)}")
    return Account(origin, token, visibility, options.get("postscript"))


class Limits(NamedTuple):
    """What a server accepts in one post: characters, files, and characters of a description.

    The defaults are for servers that do not state theirs.
    """

    characters: int = 500
    attachments: int = 4
    description: int = 1500


class Post(NamedTuple):
    """One post of a thread: its text, and its files with their descriptions."""

    text: str
    files: tuple[tuple[File, str], ...]


def compose(
    text: str, files: Sequence[File], model: str, postscript: str | None, limits: Limits
) -> list[Post]:
    """Divide an upload into posts. `model` is that of the camera, empty if it is unknown."""
    # More `~` than files belong to the last description.
    text, *descriptions = text.split("~", len(files))
    if postscript is None:
        postscript = POSTSCRIPT if model else ""
    postscript = postscript.replace("{camera}", model or "camera")
    texts = _split_text(f"{text.strip()}\n\n{postscript.strip()}".strip(), limits.characters)
    groups: list[list[tuple[File, str]]] = []
    room = 0  # for pictures in the last group
    for number, file in enumerate(files):
        description = descriptions[number].strip() if number < len(descriptions) else ""
        if len(description) > limits.description:
            description = f"{description[: limits.description - 1]}…"
        is_picture = file.content_type.startswith("image/")
        if is_picture and room:
            groups[-1].append((file, description))
            room -= 1
        else:
            groups.append([(file, description)])
            room = limits.attachments - 1 if is_picture else 0
    length = max(len(texts), len(groups))
    texts += [""] * (length - len(texts))
    groups += [[]] * (length - len(groups))
    return [Post(text, tuple(group)) for text, group in zip(texts, groups, strict=True)]


def _split_text(text: str, limit: int) -> list[str]:
    """Split a text into pieces of at most `limit` characters, between words if possible."""
    pieces = []
    while len(text) > limit:
        cut = max(text.rfind(blank, 1, limit + 1) for blank in " \n")
        cut = cut if cut > 0 else limit
        pieces.append(text[:cut].rstrip())
        text = text[cut:].lstrip()
    return [*pieces, text]


def send(
    upload: Upload,
    files: Sequence[File],
    text: str,
    to: Account,
    key: str,
    published: Sequence[str],
) -> str:
    """Publish files of an upload with a text. Returns the description of the result.

    `key` is unique to a delivery, and the same in each attempt. `published` is the `progress` of
    the error that ended the last attempt: the limits, and the ids of the posts. Raises a
    DeliveryError, or the OSError of reading a file.
    """
    server = _Server(to)
    # With other limits, the remaining posts would not continue the published ones.
    limits = Limits(*map(int, published[0].split())) if published else server.limits()
    posts = compose(text, files, camera(upload), to.postscript, limits)
    done = list(published[1:])
    for number, post in enumerate(posts[len(done) :], len(done)):
        try:
            media = [server.upload(file, description) for file, description in post.files]
            last = done[-1] if done else None
            done.append(server.publish(post.text, media, last, f"{key}.{number}"))
        except (TemporaryError, OSError) as error:
            # An OSError has no such attribute of its own.
            progress = (" ".join(map(str, limits)), *done) if done else ()
            error.progress = progress  # type: ignore[union-attr]
            raise
        except TooLargeError as error:
            # To send the files one at a time would publish the first posts again.
            if done or len(files) == 1:
                raise PermanentError(str(error)) from None
            raise
    return f"posted to {to}" + (f" in {len(posts)} posts" if len(posts) > 1 else "")


class _Server:
    """The API calls, with an account. Their errors are DeliveryErrors."""

    def __init__(self, to: Account) -> None:
        self._to = to

    def limits(self) -> Limits:
        """Return the limits of the server (docs.joinmastodon.org/entities/Instance)."""
        try:
            instance = self._call("GET", "/api/v2/instance")
        except PermanentError:
            return Limits()
        except TemporaryError as error:
            raise UnreachableError(str(error), error.retry_after) from None
        default = Limits()
        return Limits(
            _limit(instance, "statuses", "max_characters", default.characters),
            _limit(instance, "statuses", "max_media_attachments", default.attachments),
            _limit(instance, "media_attachments", "description_limit", default.description),
        )

    def upload(self, file: File, description: str) -> str:
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
            media = self._entity("POST", MEDIA, headers, chain([first], file.chunks(), [last]))
            deadline = time.monotonic() + PROCESSING_LIMIT
            while media.get("url") is None:
                if time.monotonic() > deadline:
                    raise TemporaryError(f"{self._to} has not processed {file.safe_name} yet")
                time.sleep(POLL_INTERVAL)
                media = self._entity("GET", f"/api/v1/media/{quote(str(media['id']), safe='')}")
        except PermanentError as error:
            raise TooLargeError(f"{error} ({file.safe_name})") from None
        return str(media["id"])

    def publish(self, text: str, media: Sequence[str], reply_to: str | None, key: str) -> str:
        """Publish a post. Returns its id."""
        fields = {
            "status": text,
            "media_ids[]": list(media),
            "in_reply_to_id": reply_to,
            "visibility": self._to.visibility,
        }
        given = {name: value for name, value in fields.items() if value}
        body = urlencode(given, doseq=True, errors="replace").encode("ascii")
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Content-Length": str(len(body)),
            "Idempotency-Key": key,
        }
        return str(self._entity("POST", "/api/v1/statuses", headers, [body])["id"])

    def _entity(self, *call: Any) -> Mapping[str, Any]:
        """Make a call whose reply must be an object with an id."""
        entity = self._call(*call)
        if not isinstance(entity, Mapping) or not entity.get("id"):
            raise TemporaryError(f"{self._to} does not reply like a Mastodon server")
        return entity

    def _call(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: Iterable[bytes] = (),
    ) -> Any:
        """Make a call. Returns the parsed JSON of the reply, None if it is none."""
        common = {"Authorization": f"Bearer {self._to.token}", "User-Agent": "nx_addon"}
        response = http_client.request(
            self._to.origin, method, path, common | (headers or {}), body, max_body=MAX_REPLY
        )
        if not 200 <= response.status <= 299:
            raise self._error(response, path)
        return _parse_json(response.body)

    def _error(self, response: Response, path: str) -> DeliveryError:
        status, location = response.status, response.headers["Location"]
        has_moved = 300 <= status <= 399 and location is not None
        found = _parse_json(response.body)
        # docs.joinmastodon.org/entities/Error
        text = found.get("error") if isinstance(found, Mapping) else None
        reason = f"replied {status}: {text or response.reason}"
        if has_moved:
            reason = f"has moved to {location}: change the rule"
        reason = clean_text(f"{self._to} {reason}", [self._to.token])
        if has_moved or status in (401, 403):
            return UnreachableError(reason, CONFIGURATION_RETRY)
        if status in (404, 405) and path == MEDIA:
            return UnreachableError(f"{reason}: is it a Mastodon server?", CONFIGURATION_RETRY)
        if status == 429:
            return UnreachableError(reason, _seconds_until_reset(response.headers))
        if status in (408, 425) or status >= 500 or status < 200:
            return TemporaryError(reason)
        return PermanentError(reason)


def _parse_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _seconds_until_reset(headers: Message) -> float:
    """Return the seconds until X-RateLimit-Reset by the clock of the server, 0 if unknown."""
    try:
        reset = datetime.fromisoformat(headers["X-RateLimit-Reset"])
        return max(0.0, (reset - parsedate_to_datetime(headers["Date"])).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def _limit(instance: Any, group: str, name: str, default: int) -> int:
    try:
        limit = instance["configuration"][group][name]
    except (TypeError, KeyError):
        return default
    return limit if isinstance(limit, int) and limit > 0 else default
