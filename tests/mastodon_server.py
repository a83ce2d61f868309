"""A Mastodon server on loopback, for the tests: it checks what Mastodon checks.

It takes photos and posts, keeps them, and refuses what Mastodon would refuse, in
its words. A script makes it slow, busy or broken. It is the other side of the
wire: it uses nothing of nxparse, so that it can contradict it.

Where what it does is known from, in the documentation of Mastodon
(docs.joinmastodon.org; repository mastodon/documentation, content/en):

- methods/media, methods/statuses, methods/instance, entities/MediaAttachment,
  entities/Status, entities/V1_Instance: the calls, their parameters and answers;
- client/intro: the ways to send parameters, and what counts as true;
- api/oauth-scopes: what a token may do; api/rate-limits: the headers;
- user/posting: how the characters of a post are counted.

What that leaves open is as in the source (repository mastodon/mastodon):

- api/v1 and api/v2 media_controller: 202 and 206 come with the attachment, its
  url null, and 422 for a failed one says "Error processing thumbnail ...". (The
  documentation has an empty 206 and another text.) An attachment that is in a
  post is not found any more.
- models/media_attachment, concerns/attachmentable: limits of size, pixels and
  description; photos are processed at once, films later. The doubled text on
  sizes is issue 6949 there. An empty file has the type inode/x-empty (Paperclip).
- post_status_service: the order of checks, and that an Idempotency-Key is looked
  up before them. Before pull request 31681 (2024) it left unknown attachments
  out without a word; `forgives` is for that.
- statuses_controller: the answer to a reply to nothing.
- concerns/api/rate_limit_headers, initializers/rack_attack, lib/rate_limiter: the
  limits and when they end. The limit of uploads is one for both versions.
- api/base_controller, locales: 401 and 403; dist/nginx.conf: 413 and what an
  error page is.

It does not decode pictures, know polls, quotes or scheduled posts, or count
graphemes as Mastodon does (it leaves combining characters out). What is wrong with
a body it says more clearly than Mastodon, which says "Bad Request".
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import struct
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.message import Message
from email.utils import formatdate
from enum import Enum, auto
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Self
from urllib.parse import parse_qsl, urlsplit

HOST = "127.0.0.1"
TIMEOUT = 10.0  # seconds; only a test that fails waits that long
TOKEN = "ZA-Yj3aBD8U8Cm7lKUp-lm9O9BmDgdhHzDeqsY8tlL0"  # the one in the documentation

VISIBILITIES = ("public", "unlisted", "private", "direct")
HOUR = 3600.0

Limits = Mapping[str, tuple[int, int]]
"""How many calls in how many seconds: `api` are all of them, with and without a token apart."""

LIMITS: Limits = {"api": (300, 300), "media": (30, 1800), "statuses": (300, 10800)}


class Call(Enum):
    """What a client can ask for. The value is the method, and a pattern of the path."""

    INSTANCE = "GET", r"/api/v([12])/instance"
    NODEINFO = "GET", r"/(\.well-known/nodeinfo|nodeinfo/2\.0)"
    ACCOUNT = "GET", r"/api/v1/accounts/verify_credentials"
    UPLOAD = "POST", r"/api/v([12])/media"
    LOOK = "GET", r"/api/v1/media/([^/]+)"
    DESCRIBE = "PUT", r"/api/v1/media/([^/]+)"
    POST = "POST", r"/api/v1/statuses"


SCOPES: dict[Call, tuple[str, ...]] = {
    Call.ACCOUNT: ("read", "read:accounts", "profile"),
    Call.UPLOAD: ("write", "write:media"),
    Call.LOOK: ("write", "write:media"),
    Call.DESCRIBE: ("write", "write:media"),
    Call.POST: ("write", "write:statuses"),
}
"""Any of which a token needs. What is not here is for everybody."""


class Fault(Enum):
    """What can go wrong besides a wrong answer."""

    DEAF = auto()
    """Read the head, and nothing of the body; do nothing; break the connection off."""
    DROP = auto()
    """Do nothing and break the connection off."""
    LOSE = auto()
    """Do what is asked, and break the connection off without an answer."""
    HALF = auto()
    """Do what is asked, and break the connection off after half of the answer."""
    IGNORE = auto()
    """Do nothing, and say nothing until the client goes."""
    HANG = auto()
    """Do what is asked, and say nothing until the client goes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, as it is sent."""

    status: int
    body: bytes
    type: str = "application/json; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Processing:
    """An upload that is processed in the background: still going on at so many looks."""

    looks: int
    fails: bool = False


Step = Answer | Fault | Processing | Callable[[], object] | None
"""What to do with a call: an answer in place of what is asked; something that goes wrong;
how an upload is processed; something to do before; or nothing special."""

Script = Mapping[Call, Sequence[Step]]
"""A Step for each call of a kind, in their order; all that follow are answered well."""


def answer(status: int, content: object, *headers: tuple[str, str]) -> Answer:
    """An answer with this as JSON."""
    return Answer(status, json.dumps(content, ensure_ascii=False).encode(), headers=headers)


def error(status: int, text: str) -> Answer:
    """An error as Mastodon tells it."""
    return answer(status, {"error": text})


def page(status: int) -> Answer:
    """An error as the web server before Mastodon tells it."""
    title = f"{status} {HTTPStatus(status).phrase}"
    html = f"<html>\r\n<head><title>{title}</title></head>\r\n<body>{title}</body>\r\n</html>\r\n"
    return Answer(status, html.encode(), "text/html")


def too_many(reset: float | str | None = None, limit: int = 300) -> Answer:
    """The answer to too many calls, until `reset`: seconds since 1970, or the text itself."""
    text = reset if isinstance(reset, str) else moment(reset or 0)
    headers = () if reset is None else _rate_headers(limit, 0, text)
    return answer(429, {"error": "Too many requests"}, *headers)


def moment(seconds: float) -> str:
    """Seconds since 1970 as Mastodon writes them."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def _rate_headers(limit: int, remaining: int, reset: str) -> tuple[tuple[str, str], ...]:
    return (
        ("X-RateLimit-Limit", str(limit)),
        ("X-RateLimit-Remaining", str(remaining)),
        ("X-RateLimit-Reset", reset),
    )


@dataclass(frozen=True, slots=True)
class File:
    """A file in a multipart body."""

    name: str
    filename: str
    content_type: str
    data: bytes


Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Heard:
    """A request. Lists in JSON are in `fields` as in a form: `name[]` for each member.

    `answered` is the status of the answer, None if there was none.
    """

    call: Call | None
    method: str
    path: str
    headers: Fields
    fields: Fields = ()
    files: tuple[File, ...] = ()
    answered: int | None = None

    def header(self, name: str) -> str | None:
        """The only header of this name, None without."""
        found = [value for other, value in self.headers if other.lower() == name.lower()]
        assert len(found) < 2
        return found[0] if found else None

    def all(self, name: str) -> list[str]:
        """The values of all fields with this name."""
        return [value for other, value in self.fields if other == name]

    def field(self, name: str) -> str | None:
        """The last field with this name, None without."""
        return self.all(name)[-1] if self.all(name) else None


# What Mastodon finds in what it is sent

KINDS = (
    ("image/jpeg", 0, b"\xff\xd8\xff"),
    ("image/png", 0, b"\x89PNG\r\n\x1a\n"),
    ("image/gif", 0, b"GIF8"),
    ("image/webp", 8, b"WEBP"),
    ("image/heic", 4, b"ftyphei"),
    ("video/mp4", 4, b"ftyp"),
)
"""Types of files that are taken, and what is at which place in them. The first that fits is it."""

URL = "https://" + "x" * 15
"""What a link in a post counts as."""


def kind(data: bytes) -> str | None:
    """The type of a file, None if it is of none that is taken."""
    return next((type for type, at, magic in KINDS if data.startswith(magic, at)), None)


def dimensions(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG, None if it does not say or is none."""
    at = 2 if data.startswith(b"\xff\xd8") else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        size, _, height, width = struct.unpack_from(">HBHH", data, at + 2)
        if data[at + 1] in (0xC0, 0xC1, 0xC2):
            return width, height
        at += 2 + size
    return None


def length(text: str, spoiler: str) -> int:
    """How many characters a post counts: a link is 23, a mention is without its host."""
    text = re.sub(r"https?://\S+", URL, text)
    text = re.sub(r"@(\w+)@[\w.-]+\w", r"@\1", text)
    return sum(not unicodedata.combining(char) for char in spoiler + text)


def truth(text: str | None) -> bool:
    """Whether a parameter counts as true."""
    return text not in (None, "", "0", "f", "F", "false", "FALSE", "off", "OFF")


def parameters(headers: Message, body: bytes, query: str) -> tuple[Fields, tuple[File, ...]]:
    """The fields and files of a request. Raises ValueError if its body is not as it says."""
    fields = tuple(parse_qsl(query, keep_blank_values=True, errors="strict"))
    match headers.get_content_type() if "Content-Type" in headers else None:
        case "application/x-www-form-urlencoded":
            pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict")
            return fields + tuple(pairs), ()
        case "application/json":
            return fields + tuple(_flat(json.loads(body))), ()
        case "multipart/form-data":
            more, files = multipart(body, headers.get_boundary() or "")
            return fields + more, files
    return fields, ()


def _flat(content: object) -> Iterable[tuple[str, str]]:
    if not isinstance(content, dict):
        raise ValueError("the JSON is no object")
    for name, value in content.items():
        key = f"{name}[]" if isinstance(value, list) else name
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                yield key, one if isinstance(one, str) else json.dumps(one)


def multipart(body: bytes, boundary: str) -> tuple[Fields, tuple[File, ...]]:
    """The fields and files of a multipart body (RFC 7578), which has to be a faultless one."""
    delimiter = b"\r\n--" + boundary.encode()
    before, *parts, end = (b"\r\n" + body).split(delimiter)
    if not boundary or before or not parts or end not in (b"--", b"--\r\n"):
        raise ValueError("multipart: the delimiters are not complete")
    fields, files = [], []
    for part in parts:
        head, blank, data = part.partition(b"\r\n\r\n")
        if not blank or not head.startswith(b"\r\n"):
            raise ValueError("multipart: a part without headers")
        headers = {}
        for line in head.decode()[2:].split("\r\n"):
            name, colon, value = line.partition(":")
            if not colon or not re.fullmatch(r"[\w-]+", name):
                raise ValueError(f"multipart: no header: {line}")
            headers[name.lower()] = value.strip(" \t")
        disposition = headers.get("content-disposition", "")
        found = re.fullmatch(r'form-data; name="([^"]*)"(?:; filename="([^"]*)")?', disposition)
        if not found:
            raise ValueError(f"multipart: a part without a name: {disposition}")
        if found[2] is None:
            fields.append((found[1], data.decode()))
        else:
            files.append(File(found[1], found[2], headers.get("content-type", ""), data))
    return tuple(fields), tuple(files)


# What is the same in all answers of a kind

INSTANCE: dict[str, dict[str, object]] = {
    "1": json.loads("""{
        "title": "Mastodon", "short_description": "", "description": "", "languages": ["en"],
        "email": "staff@mastodon.example", "urls": {"streaming_api": "wss://mastodon.example"},
        "stats": {"user_count": 1, "status_count": 0, "domain_count": 0}, "thumbnail": null,
        "registrations": false, "approval_required": false, "invites_enabled": false,
        "contact_account": null, "rules": []}"""),
    "2": json.loads("""{
        "title": "Mastodon", "description": "", "languages": ["en"], "thumbnail": null,
        "source_url": "https://github.com/mastodon/mastodon", "icon": [], "rules": [],
        "usage": {"users": {"active_month": 1}}, "api_versions": {"mastodon": 7},
        "registrations": {"enabled": false, "approval_required": false, "message": null},
        "contact": {"email": "staff@mastodon.example", "account": null}}"""),
}
NODEINFO: dict[str, object] = json.loads("""{
    "version": "2.0", "protocols": ["activitypub"], "services": {"outbound": [], "inbound": []},
    "usage": {"users": {"total": 1}, "localPosts": 0}, "openRegistrations": false,
    "metadata": {}}""")
ACCOUNT: dict[str, object] = json.loads("""{
    "id": "1", "username": "camera", "acct": "camera", "display_name": "Camera", "locked": false,
    "bot": true, "group": false, "created_at": "2026-01-01T00:00:00.000Z", "note": "",
    "url": "https://mastodon.example/@camera", "followers_count": 0, "following_count": 0,
    "statuses_count": 0, "last_status_at": null, "emojis": [], "fields": []}""")
ATTACHMENT: dict[str, object] = json.loads("""{
    "remote_url": null, "preview_remote_url": null, "text_url": null,
    "blurhash": "UFBWY:8_0Jxv4mx]t8t64.%M-:IUWGWAt6M}"}""")
STATUS: dict[str, object] = json.loads("""{
    "replies_count": 0, "reblogs_count": 0, "favourites_count": 0, "edited_at": null,
    "favourited": false, "reblogged": false, "muted": false, "bookmarked": false, "pinned": false,
    "filtered": [], "reblog": null, "application": {"name": "Camera", "website": null},
    "mentions": [], "tags": [], "emojis": [], "card": null, "poll": null}""")


@dataclass(slots=True)
class Media:
    """An attachment."""

    id: str
    file: File
    type: str
    description: str | None
    size: tuple[int, int] | None
    processing: Processing = Processing(0)
    status: str | None = None

    @property
    def done(self) -> bool:
        return not (self.processing.looks or self.processing.fails)


@dataclass(frozen=True, slots=True)
class Status:
    """A post, with its media in their order."""

    id: str
    text: str
    visibility: str
    media: tuple[Media, ...]
    in_reply_to: str | None
    spoiler_text: str
    sensitive: bool
    language: str | None
    idempotency_key: str | None
    made: float


class Refusal(Exception):  # noqa: N818
    """What is asked is refused: the status and text are the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class MastodonServer:
    """A server for one account. Use it in a with statement.

    `heard` has the requests, `media` the attachments by id, `statuses` the posts.
    `known` are ids of posts that can be replied to besides those. `visibility` is
    for posts that do not say. `image_size` and `body_size` are in bytes, `matrix`
    is in pixels. With `forgives`, attachments that are unknown or in another post
    are left out of a post; else it is refused. `clock` gives the seconds since
    1970. With `tls` the server talks TLS.
    """

    token: str = TOKEN
    scopes: tuple[str, ...] = ("write",)
    script: Script = field(default_factory=dict)
    version: str = "4.5.2"
    characters: int = 500
    attachments: int = 4
    description: int = 1500
    image_size: int = 16 << 20
    matrix: int = 33_177_600
    body_size: int = 99 << 20
    visibility: str = "public"
    known: tuple[str, ...] = ()
    forgives: bool = False
    limits: Limits = field(default_factory=lambda: LIMITS)
    clock: Callable[[], float] = time.time
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        self.heard: list[Heard] = []
        self.media: dict[str, Media] = {}
        self.statuses: list[Status] = []
        self._steps = {call: list(steps) for call, steps in self.script.items()}
        self._counts: Counter[tuple[str, int]] = Counter()
        self._changed = threading.Condition()
        self._stopped = False
        self._connections: list[tuple[threading.Thread, socket.socket]] = []
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if self.tls else 'http'}://{HOST}:{self.port}"
        self._thread = threading.Thread(target=self._run, name="Mastodon server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        socket.create_connection((HOST, self.port), TIMEOUT).close()  # only to wake it
        self._thread.join(TIMEOUT)
        self._listener.close()
        for thread, connection in self._connections:
            with contextlib.suppress(OSError):
                # What is being answered now is answered; nothing more is heard.
                connection.shutdown(socket.SHUT_RD)
            thread.join(TIMEOUT)
            connection.close()

    def then(self, call: Call, *steps: Step) -> None:
        """Append to the script."""
        with self._changed:
            self._steps.setdefault(call, []).extend(steps)

    def calls(self, call: Call) -> list[Heard]:
        """The requests of this kind."""
        return [heard for heard in self.heard if heard.call is call]

    def wait(self, statuses: int = 1, timeout: float = TIMEOUT) -> list[Status]:
        """All posts, as soon as there are so many. Fails if there are not in time."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.statuses) >= statuses, timeout)
            return list(self.statuses)

    def finish(self) -> None:
        """End the processing of all attachments that do not fail."""
        with self._changed:
            for media in self.media.values():
                if not media.processing.fails:
                    media.processing = Processing(0)

    def _run(self) -> None:
        while not self._stopped:
            connection, address = self._listener.accept()
            thread = threading.Thread(target=self._serve, args=(connection, address), daemon=True)
            self._connections.append((thread, connection))
            thread.start()

    def _serve(self, connection: socket.socket, address: object) -> None:
        # Whatever a client does to the connection is its own affair.
        with contextlib.suppress(OSError), connection:
            if self.tls:
                # A copy, because the one at hand has to stay open for __exit__.
                connection = self.tls.wrap_socket(connection.dup(), server_side=True)
            with connection:
                _Handler(connection, address, self)

    def _next(self, call: Call | None) -> Step:
        with self._changed:
            steps = self._steps.get(call) if call else None
            return steps.pop(0) if steps else None

    def _note(self, heard: Heard) -> None:
        with self._changed:
            self.heard.append(heard)
            self._changed.notify_all()

    def _do(self, heard: Heard, argument: str, processing: Processing | None) -> Answer:
        """Do what is asked. `argument` is what the path has for the group in its pattern."""
        with self._changed:
            known = heard.header("Authorization") == f"Bearer {self.token}"
            families = ["api" if known else "unknown"] if heard.path.startswith("/api/") else []
            families += ["media"] if heard.call is Call.UPLOAD else []
            for family in families:
                self._count(family)
            try:
                if any(self._left(family) < 0 for family in families):
                    raise Refusal(429, "Too many requests")
                self._authorize(heard, known)
                found = self._dispatch(heard, argument, processing)
            except Refusal as refusal:
                found = error(refusal.status, str(refusal))
            # A post counts when it is made, see _post.
            families += ["statuses"] if heard.call is Call.POST else []
            if not families:
                return found
            closest = min(families, key=self._left)
            headers = _rate_headers(
                self._limit(closest)[0], max(0, self._left(closest)), self._end(closest)
            )
            return replace(found, headers=found.headers + headers)

    def _limit(self, family: str) -> tuple[int, int]:
        return self.limits["api" if family == "unknown" else family]

    def _period(self, family: str) -> tuple[str, int]:
        return family, int(self.clock() // self._limit(family)[1])

    def _count(self, family: str) -> None:
        self._counts[self._period(family)] += 1

    def _left(self, family: str) -> int:
        return self._limit(family)[0] - self._counts[self._period(family)]

    def _end(self, family: str) -> str:
        _, seconds = self._limit(family)
        return moment(self.clock() + seconds - int(self.clock()) % seconds)

    def _authorize(self, heard: Heard, known: bool) -> None:
        scopes = SCOPES.get(heard.call) if heard.call else None
        if scopes is None:
            return
        if not known:
            raise Refusal(401, "The access token is invalid")
        if not set(scopes) & set(self.scopes):
            raise Refusal(403, "This action is outside the authorized scopes")

    def _dispatch(self, heard: Heard, argument: str, processing: Processing | None) -> Answer:
        match heard.call:
            case Call.INSTANCE:
                return self._instance(argument)
            case Call.NODEINFO:
                return self._nodeinfo(argument)
            case Call.ACCOUNT:
                return answer(200, ACCOUNT)
            case Call.UPLOAD:
                return self._upload(heard, argument, processing)
            case Call.LOOK:
                return self._look(argument)
            case Call.DESCRIBE:
                return self._describe(heard, argument)
            case Call.POST:
                return self._post(heard)
            case None:
                raise Refusal(404, "Not Found")

    # What the server tells of itself

    def _instance(self, version: str) -> Answer:
        statuses = {
            "max_characters": self.characters,
            "max_media_attachments": self.attachments,
            "characters_reserved_per_url": len(URL),
        }
        media = {
            "supported_mime_types": [type for type, _, _ in KINDS],
            "description_limit": self.description,
            "image_size_limit": self.image_size,
            "image_matrix_limit": self.matrix,
            "video_size_limit": self.body_size,
        }
        content = INSTANCE[version] | {
            "uri" if version == "1" else "domain": f"{HOST}:{self.port}",
            "version": self.version,
            "configuration": {"statuses": statuses, "media_attachments": media},
        }
        old = [("Deprecation", "@1668384000")] if version == "1" else []
        return answer(200, content, *old)

    def _nodeinfo(self, path: str) -> Answer:
        if path == "nodeinfo/2.0":
            return answer(
                200, NODEINFO | {"software": {"name": "mastodon", "version": self.version}}
            )
        schema = "http://nodeinfo.diaspora.software/ns/schema/2.0"
        return answer(200, {"links": [{"rel": schema, "href": f"{self.url}/nodeinfo/2.0"}]})

    # Attachments

    def _upload(self, heard: Heard, version: str, processing: Processing | None) -> Answer:
        file = next((file for file in heard.files if file.name == "file"), None)
        type = kind(file.data) if file else None
        size = dimensions(file.data) if file else None
        if size and size[0] * size[1] > self.matrix:
            raise Refusal(422, f"{size[0]}x{size[1]} images are not supported")
        problems = []
        if file is None:
            problems.append("File can't be blank")
        # "The file must have a MIME type." What counts is what is in it.
        elif not (file.content_type and type):
            problems += ["File content type is invalid", "File is invalid"]
        elif type.startswith("image/") and len(file.data) >= self.image_size:
            least = f"must be less than {self.image_size >> 20} MB"
            problems += [f"File file size {least}", f"File {least}"]
        description = heard.field("description")
        self._check(problems, description)
        assert file is not None
        assert type is not None
        if version == "1":
            processing = Processing(0)
        elif processing is None:
            processing = Processing(0 if type.startswith("image/") else 1)
        number = str(115_000_000_000_000_000 + len(self.media) + 1)
        media = Media(number, file, type, description or None, size, processing)
        self.media[number] = media
        return answer(200 if media.done else 202, self._attachment(media))

    def _look(self, number: str) -> Answer:
        media = self._unattached(number)
        if media.processing.looks:
            media.processing = replace(media.processing, looks=media.processing.looks - 1)
            return answer(206, self._attachment(media, done=False))
        return answer(200, self._attachment(media))

    def _describe(self, heard: Heard, number: str) -> Answer:
        media = self._unattached(number)
        description = heard.field("description")
        self._check([], description)
        if description is not None:
            media.description = description or None
        return answer(200 if media.done else 206, self._attachment(media))

    def _unattached(self, number: str) -> Media:
        media = self.media.get(number)
        if media is None or media.status:
            raise Refusal(404, "Record not found")
        if media.processing == Processing(0, fails=True):
            raise Refusal(422, "Error processing thumbnail for uploaded media")
        return media

    def _check(self, problems: Iterable[str], description: str | None) -> None:
        problems = list(problems)
        if len(description or "") > self.description:
            problems.append(f"Description is too long (maximum is {self.description} characters)")
        if problems:
            raise Refusal(422, f"Validation failed: {', '.join(problems)}")

    def _attachment(self, media: Media, done: bool | None = None) -> dict[str, object]:
        files = f"{self.url}/system/media_attachments/files/{media.id}"
        width, height = media.size or (640, 480)
        original = {"width": width, "height": height, "aspect": width / height}
        return ATTACHMENT | {
            "id": media.id,
            "type": media.type.partition("/")[0],
            "url": f"{files}/original" if (media.done if done is None else done) else None,
            "preview_url": f"{files}/small",
            "meta": {"original": original | {"size": f"{width}x{height}"}},
            "description": media.description,
        }

    # Posts

    def _post(self, heard: Heard) -> Answer:
        reply = heard.field("in_reply_to_id") or None
        if reply and reply not in {*self.known, *(status.id for status in self.statuses)}:
            text = "The post you are trying to reply to does not appear to exist."
            raise Refusal(404, text)
        key = heard.header("Idempotency-Key") or None
        for status in self.statuses:
            if key and status.idempotency_key == key and self.clock() - status.made < HOUR:
                return answer(200, self._status(status))
        media = self._attachable(heard.all("media_ids[]"))
        text, spoiler = heard.field("status") or "", heard.field("spoiler_text") or ""
        sensitive = truth(heard.field("sensitive")) or bool(spoiler)
        if not text.strip():
            text, spoiler = spoiler, ""
        visibility = heard.field("visibility")
        visibility = self.visibility if visibility is None else visibility
        problems = []
        if visibility not in VISIBILITIES:
            problems.append("Visibility is not included in the list")
        if not (text.strip() or media):
            problems.append("Text can't be blank")
        if length(text, spoiler) > self.characters:
            problems.append(f"Text character limit of {self.characters} exceeded")
        if problems:
            raise Refusal(422, f"Validation failed: {', '.join(problems)}")
        if not self._left("statuses"):
            raise Refusal(429, "Too many requests")
        self._count("statuses")
        status = Status(
            str(116_000_000_000_000_000 + len(self.statuses) + 1),
            text,
            visibility,
            media,
            reply,
            spoiler,
            sensitive,
            heard.field("language") or None,
            key,
            self.clock(),
        )
        for one in media:
            one.status = status.id
        self.statuses.append(status)
        self._changed.notify_all()
        return answer(200, self._status(status))

    def _attachable(self, numbers: Sequence[str]) -> tuple[Media, ...]:
        if len(numbers) > self.attachments:
            raise Refusal(422, f"Cannot attach more than {self.attachments} files")
        found = {number: self.media.get(number) for number in numbers}
        media = [one for one in found.values() if one and not one.status]
        missing = [number for number, one in found.items() if one not in media]
        if missing and not self.forgives:
            ids = ", ".join(number if number.isdecimal() else "0" for number in missing)
            raise Refusal(422, f"Media {ids} not found or already attached to another post")
        if len(media) > 1 and not all(one.type.startswith("image/") for one in media):
            raise Refusal(422, "Cannot attach a video to a post that already contains images")
        if not all(one.done for one in media):
            text = "Cannot attach files that have not finished processing. Try again in a moment!"
            raise Refusal(422, text)
        return tuple(media)

    def _status(self, status: Status) -> dict[str, object]:
        reply = status.in_reply_to
        own = reply in {other.id for other in self.statuses}
        return STATUS | {
            "id": status.id,
            "created_at": moment(status.made),
            "in_reply_to_id": reply,
            "in_reply_to_account_id": ("1" if own else "2") if reply else None,
            "sensitive": status.sensitive,
            "spoiler_text": status.spoiler_text,
            "visibility": status.visibility,
            "language": status.language or "en",
            "uri": f"{self.url}/users/camera/statuses/{status.id}",
            "url": f"{self.url}/@camera/{status.id}",
            "content": f"<p>{escape(status.text)}</p>" if status.text else "",
            "account": ACCOUNT,
            "media_attachments": [self._attachment(media) for media in status.media],
        }


class _Handler(BaseHTTPRequestHandler):
    """A connection: HTTP, and what the script says about it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: MastodonServer  # type: ignore[assignment]

    def __init__(self, connection: socket.socket, address: object, server: MastodonServer) -> None:
        super().__init__(connection, address, server)  # type: ignore[arg-type]

    def log_message(self, *_: object) -> None:
        pass

    def _exchange(self) -> None:
        call, argument = self._call()
        step = self.server._next(call)
        heard = Heard(call, self.command, self.path, tuple(self.headers.items()))
        found = step if isinstance(step, Answer) else None
        if int(self.headers.get("Content-Length", 0)) > self.server.body_size:
            self._say(heard, replace(page(413), headers=(("Connection", "close"),)))
            self._listen()
        try:
            if step is Fault.DEAF:
                self._reset()
            fields, files = parameters(self.headers, self._body(), urlsplit(self.path).query)
            heard = replace(heard, fields=fields, files=files)
        except OSError:
            self.server._note(heard)
            raise
        except ValueError as bad:
            found = found or error(400, str(bad))
        if callable(step):
            step()
        if step in (Fault.DROP, Fault.IGNORE):
            self.server._note(heard)
            self._reset() if step is Fault.DROP else self._listen()
        processing = step if isinstance(step, Processing) else None
        self._say(heard, found or self.server._do(heard, argument, processing), step)

    do_GET = do_POST = do_PUT = do_DELETE = _exchange  # noqa: N815

    def _call(self) -> tuple[Call | None, str]:
        path = urlsplit(self.path).path.rstrip("/")
        for call in Call:
            method, pattern = call.value
            if self.command == method and (found := re.fullmatch(pattern, path)):
                return call, found[1] if found.re.groups else ""
        return None, ""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self._read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self._read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _read(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionAbortedError
        return data

    def _say(self, heard: Heard, found: Answer, step: Step = None) -> None:
        lost = step in (Fault.LOSE, Fault.HANG)
        # Before it is said, so that who has heard it finds it noted.
        self.server._note(replace(heard, answered=None if lost else found.status))
        if step is Fault.LOSE:
            self._reset()
        if step is Fault.HANG:
            self._listen()
        lines = [
            f"HTTP/1.1 {found.status} {HTTPStatus(found.status).phrase}",
            f"Date: {formatdate(self.server.clock(), usegmt=True)}",
            "Server: Mastodon",
            f"Content-Type: {found.type}",
            f"Content-Length: {len(found.body)}",
            *(f"{name}: {value}" for name, value in found.headers),
        ]
        head = "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"
        half = step is Fault.HALF
        self.wfile.write(head + found.body[: len(found.body) // 2 if half else None])
        if half:
            self._reset()

    def _listen(self) -> None:
        while self.connection.recv(1 << 16):
            pass
        raise ConnectionAbortedError

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionAbortedError
