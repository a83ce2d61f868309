"""The target `mastodon:URL`: photos as posts on a Mastodon server.

An upload becomes one post, or a thread if it has more photos or a longer text than the server
accepts in one; a video has a post of its own. Each photo is uploaded, and the post refers to it.
After the first `~` of a text come the descriptions of the photos, separated by `~`
(samsung-nx-emailservice, commit c3f8eb0).

Each post has an Idempotency-Key, by which the server recognises a post that it has published
already, for an hour (docs.joinmastodon.org/methods/statuses). The posts published before a thread
breaks off are stored as the progress of the delivery.

A server that rejects the token, has no such call, or limits the rate is unreachable for everything
that waits for it, until the time in X-RateLimit-Reset.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from nxparse.deliver import http_client
from nxparse.deliver.errors import (
    PermanentError,
    TemporaryError,
    TooLargeError,
    UnreachableError,
    one_line,
)
from nxparse.deliver.http_client import ConnectError, NoResponseError, Origin, Response
from nxparse.deliver.privacy import is_loopback
from nxparse.upload import File, Upload, camera

VISIBILITIES = ("public", "unlisted", "private", "direct")
POSTSCRIPT = "\N{CAMERA} {camera}"  # for a camera that is known

PROCESSING = 600.0  # seconds that a server may take for one file
LOOK = 2.0  # seconds between two looks at that
# A wrong token does not become right by trying.
REFUSED_RETRY = 3600.0
MAX_ANSWER = 1 << 20  # bytes

# Of a server that does not state its limits (docs.joinmastodon.org/entities/Instance).
CHARACTERS = 500
ATTACHMENTS = 4
DESCRIPTION = 1500


@dataclass(frozen=True, slots=True)
class Account:
    """Where to post, and how. `postscript` may contain `{camera}`; None is the default one."""

    origin: Origin
    token: str = field(repr=False)
    visibility: str | None = None
    postscript: str | None = None

    def __str__(self) -> str:
        return str(self.origin)


def account(url: str) -> Account:
    """Read `https://TOKEN@host/?visibility=unlisted&postscript=...`.

    Raises ValueError, without the token, if it is none.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").encode("idna").decode("ascii"), parts.port
        options = dict(
            parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True)
            if parts.query
            else []
        )
    except ValueError:
        raise ValueError("not a URL like https://TOKEN@host/") from None
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[\w.:-]+", host):
        raise ValueError("not a URL like https://TOKEN@host/")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("http:// would send the access token unencrypted: use https://")
    if parts.path not in ("", "/") or parts.fragment:
        raise ValueError("there is more behind the host than /?visibility=...&postscript=...")
    token = unquote(parts.password or parts.username or "")
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError("there is no access token before the host, as in https://${TOKEN}@host/")
    if unknown := options.keys() - {"visibility", "postscript"}:
        raise ValueError(f"there is no {min(unknown)}: there are visibility and postscript")
    visibility = options.get("visibility")
    if visibility is not None and visibility not in VISIBILITIES:
        raise ValueError(f"the visibility is none of {', '.join(VISIBILITIES)}")
    secure = parts.scheme == "https"
    origin = Origin(secure, host, port or (443 if secure else 80))
    return Account(origin, token, visibility, options.get("postscript"))


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes in one post: characters, files, characters for a description."""

    characters: int = CHARACTERS
    attachments: int = ATTACHMENTS
    description: int = DESCRIPTION

    def __str__(self) -> str:
        return f"{self.characters} {self.attachments} {self.description}"


@dataclass(frozen=True, slots=True)
class Post:
    """One of a thread: its text, and its files, each with what is to be seen on it."""

    text: str
    files: tuple[tuple[File, str], ...]


def compose(
    text: str, files: Sequence[File], model: str, postscript: str | None, limits: Limits
) -> list[Post]:
    """The posts that an upload becomes. `model` is that of the camera, empty if nobody knows."""
    # A `~` too much is one that was typed.
    text, *descriptions = text.split("~", len(files))
    if postscript is None:
        postscript = POSTSCRIPT if model else ""
    postscript = postscript.replace("{camera}", model or "camera")
    whole = "\n\n".join(filter(None, (text.strip(), postscript.strip())))
    descriptions += [""] * (len(files) - len(descriptions))
    described = [
        (file, _cut(description.strip(), limits.description))
        for file, description in zip(files, descriptions, strict=True)
    ]
    texts, groups = _pieces(whole, limits.characters), _groups(described, limits.attachments)
    length = max(len(texts), len(groups))
    texts += [""] * (length - len(texts))
    groups += [()] * (length - len(groups))
    return [Post(*one) for one in zip(texts, groups, strict=True)]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _pieces(text: str, limit: int) -> list[str]:
    """A text in pieces of at most `limit` characters, cut between words where there are any."""
    pieces = []
    while len(text) > limit:
        cut = max(text.rfind(blank, 1, limit + 1) for blank in " \n")
        cut = cut if cut > 0 else limit
        pieces.append(text[:cut].rstrip())
        text = text[cut:].lstrip()
    return [*pieces, text]


def _groups(files: Sequence[tuple[File, str]], size: int) -> list[tuple[tuple[File, str], ...]]:
    """Files in the groups that posts have: some pictures, or one video."""
    groups: list[tuple[tuple[File, str], ...]] = []
    room = 0
    for file, description in files:
        is_picture = file.content_type.startswith("image/")
        if is_picture and room:
            groups[-1] = (*groups[-1], (file, description))
            room -= 1
        else:
            groups.append(((file, description),))
            room = size - 1 if is_picture else 0
    return groups


def send(
    upload: Upload,
    files: Sequence[File],
    text: str,
    to: Account,
    key: str,
    published: Sequence[str],
) -> str:
    """Publish these files of an upload with a text. Returns what has been done, in a few words.

    `key` is the same in each attempt, and for nothing else. `published` is what
    earlier attempts have published, as the `progress` of what they raised has it:
    the limits, and the ids of the posts. Raises a DeliveryError, or the OSError of
    a file.
    """
    server = _Server(to)
    limits = server.limits()
    if published:
        # With others, what is left would not begin where the last post ended.
        limits = Limits(*map(int, published[0].split()))
    posts = compose(text, files, camera(upload), to.postscript, limits)
    done = list(published[1:])
    for number, post in enumerate(posts[len(done) :], len(done)):
        try:
            media = [server.upload(file, description) for file, description in post.files]
            last = done[-1] if done else None
            done.append(server.publish(post.text, media, last, f"{key}.{number}"))
        except (TemporaryError, OSError) as error:
            # An OSError of a file has no such attribute until now, but must not lose it.
            error.progress = (str(limits), *done) if done else ()  # type: ignore[union-attr]
            raise
        except TooLargeError as error:
            # What is published already must not be published again, file by file.
            if done or len(files) == 1:
                raise PermanentError(str(error)) from None
            raise
    return f"posted to {to}" + (f" in {len(posts)} posts" if len(posts) > 1 else "")


class _RefusedError(Exception):
    """The server refuses the request for good: its status, and its reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Server:
    """The four calls of a Mastodon server. All errors are DeliveryErrors, but _RefusedError."""

    def __init__(self, to: Account) -> None:
        self._to = to

    def limits(self) -> Limits:
        """Return what the server accepts, as far as it states that."""
        try:
            instance = self._call("GET", "/api/v2/instance")
        except _RefusedError:
            return Limits()
        except TemporaryError as error:
            raise UnreachableError(str(error), error.retry_after) from None
        return Limits(
            _limit(instance, "statuses", "max_characters", CHARACTERS),
            _limit(instance, "statuses", "max_media_attachments", ATTACHMENTS),
            _limit(instance, "media_attachments", "description_limit", DESCRIPTION),
        )

    def upload(self, file: File, description: str) -> str:
        """Upload a file, and wait until it can be in a post. Returns its id."""
        form = _Form({"description": description} if description else {}, file)
        try:
            media = self._entity(
                "POST", "/api/v2/media", form.content_type, form.size, form.chunks()
            )
            deadline = time.monotonic() + PROCESSING
            while media.get("url") is None:
                if time.monotonic() > deadline:
                    raise TemporaryError(f"{self._to} has not processed {file.safe_name} yet")
                time.sleep(LOOK)
                media = self._entity("GET", f"/api/v1/media/{_segment(media['id'])}")
        except _RefusedError as error:
            if error.status == 404:
                reason = f"{error}: is that a Mastodon server?"
                raise UnreachableError(reason, REFUSED_RETRY) from None
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
        form = "application/x-www-form-urlencoded"
        try:
            post = self._entity("POST", "/api/v1/statuses", form, len(body), [body], key)
        except _RefusedError as error:
            raise PermanentError(str(error)) from None
        return str(post["id"])

    def _entity(self, *call: Any) -> Mapping[str, Any]:
        """Return the answer to a call, which has to be an object with an id."""
        answer = self._call(*call)
        if not isinstance(answer, Mapping) or not answer.get("id"):
            raise self._nonsense()
        return answer

    def _call(
        self,
        method: str,
        path: str,
        content_type: str = "",
        size: int = 0,
        body: Iterable[bytes] = (),
        key: str = "",
    ) -> Any:
        headers = {"Authorization": f"Bearer {self._to.token}", "User-Agent": "nx_addon"}
        if content_type:
            headers |= {"Content-Type": content_type, "Content-Length": str(size)}
        if key:
            headers["Idempotency-Key"] = key
        try:
            response = http_client.request(
                self._to.origin,
                method,
                path,
                headers,
                body,
                max_body=MAX_ANSWER + 1,
                has_secret=True,
            )
        except ConnectError as error:
            raise UnreachableError(self._clean(f"{self._to}: {error}")) from None
        except NoResponseError as error:
            raise TemporaryError(self._clean(f"{self._to}: {error}")) from None
        if not 200 <= response.status <= 299:
            raise self._failure(response)
        if len(response.body) > MAX_ANSWER:
            raise TemporaryError(f"{self._to} answers more than {MAX_ANSWER} bytes")
        try:
            return json.loads(response.body)
        except (ValueError, RecursionError):
            raise self._nonsense() from None

    def _failure(self, response: Response) -> Exception:
        """What a status means that is none of success."""
        status = response.status
        if 300 <= status <= 399 and "Location" in response.headers:
            location = response.headers["Location"]
            reason = self._clean(f"{self._to} has moved to {location}: change the rule")
            return UnreachableError(reason, REFUSED_RETRY)
        if status == 429:
            reason = f"{self._to} says 429: too many requests"
            return UnreachableError(reason, _until_reset(response.headers))
        reason = self._clean(f"{self._to} says {status}: {_said(response)}")
        if status in (401, 403):
            return UnreachableError(reason, REFUSED_RETRY)
        if status in (408, 425) or status >= 500 or status < 200:
            return TemporaryError(reason)
        return _RefusedError(status, reason)

    def _nonsense(self) -> TemporaryError:
        return TemporaryError(f"{self._to} does not answer like a Mastodon server")

    def _clean(self, text: str) -> str:
        return one_line(text, [self._to.token])


def _said(response: Response) -> str:
    """The reason in an answer (docs.joinmastodon.org/entities/Error), or that of its status."""
    try:
        answer = json.loads(response.body)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, Mapping):
        answer = answer.get("error")
    return answer if answer and isinstance(answer, str) else response.reason


def _until_reset(headers: Message) -> float:
    """The seconds until X-RateLimit-Reset, by the clock of the server."""
    reset = headers.get("X-RateLimit-Reset") or ""
    try:
        now = parsedate_to_datetime(headers.get("Date") or "").timestamp()
    except (ValueError, TypeError):
        now = time.time()
    try:
        if re.fullmatch(r"[0-9]{1,12}(\.[0-9]+)?", reset):
            return max(0.0, float(reset) - now)
        moment = datetime.fromisoformat(reset)
        return max(0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0


def _limit(instance: Any, group: str, name: str, default: int) -> int:
    """A limit that a server states (docs.joinmastodon.org/entities/Instance)."""
    found = instance
    for key in ("configuration", group, name):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, int) and found > 0 else default


def _segment(id: object) -> str:
    return quote(str(id), safe="")


class _Form:
    """A form of multipart/form-data with a file, encoded while it is read (RFC 7578)."""

    def __init__(self, fields: Mapping[str, str], file: File) -> None:
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/form-data; boundary={boundary}"
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        )
        # A safe name contains no quote.
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file";'
            f' filename="{file.safe_name}"\r\nContent-Type: {file.content_type}\r\n\r\n'
        )
        self._head = head.encode("utf-8", "replace")
        self._tail = f"\r\n--{boundary}--\r\n".encode("ascii")
        self._file = file
        self.size = len(self._head) + file.size + len(self._tail)

    def chunks(self) -> Iterator[bytes]:
        yield self._head
        yield from self._file.chunks()
        yield self._tail
