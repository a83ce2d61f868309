"""A Mastodon server on loopback that validates requests as Mastodon does.

It stores media and posts, refuses invalid requests with Mastodon's messages, and follows a script
of faults. It does not use nxparse, so that it can reveal its errors.

Sources: docs.joinmastodon.org (methods/media, methods/statuses, api/oauth-scopes), and the
repository mastodon/mastodon for the rest:

- api/v1 and api/v2 media_controller: 202 and 206 have a body whose url is null; 422 if processing
  has failed; media of a post cannot be found any more.
- media_attachment, attachmentable: the limit of descriptions; images are processed at once, videos
  later; an empty file has no valid type.
- post_status_service: the order of the checks; the Idempotency-Key is looked up before them.
- api/base_controller, locales: 401 and 403. dist/nginx.conf: error pages.

It does not decode pictures, and does not count graphemes.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.message import Message
from email.utils import formatdate
from enum import Enum, auto
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qsl

HOST = "127.0.0.1"
TOKEN = "ZA-Yj3aBD8U8Cm7lKUp-lm9O9BmDgdhHzDeqsY8tlL0"  # the one in the documentation
VISIBILITIES = ("public", "unlisted", "private", "direct")
HOUR = 3600.0
CHARACTERS, ATTACHMENTS, DESCRIPTION = 500, 4, 1500  # the limits
KINDS = ((0, b"\xff\xd8\xff", "image"), (0, b"\x89PNG\r\n\x1a\n", "image"), (4, b"ftyp", "video"))
"""Offset and magic bytes of the accepted types."""


class Call(Enum):
    """The API calls. The value is the method, and a pattern of the path."""

    UPLOAD = "POST", r"/api/v2/media"
    POLL = "GET", r"/api/v1/media/([^/]+)"
    POST = "POST", r"/api/v1/statuses"


class Fault(Enum):
    """Broken connections."""

    DROP = auto()
    """Close the connection without processing the request."""
    LOSE = auto()
    """Process the request, and close the connection without a reply."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Processing:
    """An upload that is processed in the background until it has been polled `polls` times."""

    polls: int
    fails: bool = False


Step = Answer | Fault | Processing | Callable[[], object] | None
"""The step for a call: a reply instead of the usual one, a fault, a way to process an upload,
a function that is called first, or None."""


def answer(status: int, content: object, *headers: tuple[str, str]) -> Answer:
    """A reply in JSON."""
    return Answer(status, json.dumps(content, ensure_ascii=False).encode(), headers)


def error(status: int, text: str) -> Answer:
    """An error of Mastodon."""
    return answer(status, {"error": text})


@dataclass(frozen=True, slots=True)
class File:
    """A file in a multipart body."""

    name: str
    filename: str
    content_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request. `status` is that of the reply, or None."""

    call: Call | None
    path: str
    headers: Mapping[str, str]
    fields: tuple[tuple[str, str], ...] = ()
    files: tuple[File, ...] = ()
    status: int | None = None

    def all(self, name: str) -> list[str]:
        """The values of all fields with this name."""
        return [value for other, value in self.fields if other == name]

    def field(self, name: str) -> str | None:
        """The last field with this name, or None."""
        return next(reversed(self.all(name)), None)


def multipart(body: bytes, boundary: str) -> tuple[list[tuple[str, str]], list[File]]:
    """Parse a body (RFC 7578). Raises ValueError if it is malformed."""
    delimiter = b"\r\n--" + boundary.encode()
    before, *parts, end = (b"\r\n" + body).split(delimiter)
    if not boundary or before or not parts or end not in (b"--", b"--\r\n"):
        raise ValueError("multipart: the delimiters are not complete")
    fields, files = [], []
    for part in parts:
        head, blank, data = part.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        if not blank or lines[0]:
            raise ValueError("multipart: a part without headers")
        headers = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
        disposition = headers.get("content-disposition", "")
        pattern = r'form-data; name="([^"]*)"(?:; filename="([^"]*)")?'
        found = re.fullmatch(pattern, disposition)
        if not found or headers.keys() - {"", "content-disposition", "content-type"}:
            raise ValueError(f"multipart: wrong headers: {head!r}")
        if found[2] is None:
            fields.append((found[1], data.decode()))
        else:
            files.append(File(found[1], found[2], headers.get("content-type", ""), data))
    return fields, files


@dataclass(slots=True)
class Media:
    """An attachment. `status` is the id of its post."""

    id: str
    file: File
    kind: str
    description: str | None
    processing: Processing
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """A post. `made` is a Unix time."""

    id: str
    text: str
    visibility: str
    media: tuple[Media, ...]
    in_reply_to: str | None
    idempotency_key: str | None
    made: float


class Refusal(Exception):  # noqa: N818
    """A request that is refused: the status and text of the reply."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class MastodonServer:
    """A server for one account, to be used in a with statement.

    `script` has the steps for each kind of call in their order; all further calls are normal.
    `requests` has all requests, `media` the attachments by id, `statuses` the posts. `visibility`
    is the default of the account. `clock` returns the Unix time.
    """

    token: str = TOKEN
    script: Mapping[Call, Sequence[Step]] = field(default_factory=dict)
    visibility: str = "public"
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self.requests: list[RecordedRequest] = []
        self.media: dict[str, Media] = {}
        self.statuses: list[Status] = []
        self._steps = {call: list(steps) for call, steps in self.script.items()}
        self._lock = threading.Lock()
        self._http = _HTTPServer(self)
        self.port: int = self._http.server_port
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.005,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def calls(self, call: Call) -> list[RecordedRequest]:
        """The requests of this kind."""
        return [request for request in self.requests if request.call is call]

    def exchange(self, handler: BaseHTTPRequestHandler) -> Answer | None:
        """Read, record and process a request. Returns the reply, or None."""
        call = argument = None
        for one in Call:
            method, pattern = one.value
            if handler.command == method and (found := re.fullmatch(pattern, handler.path)):
                call, argument = one, found[found.re.groups]
        with self._lock:
            steps = self._steps.get(call) if call else None
            step = steps.pop(0) if steps else None
        request = RecordedRequest(call, handler.path, dict(handler.headers))
        size = int(handler.headers.get("Content-Length", 0))
        body = handler.rfile.read(size)
        if len(body) < size:
            self.requests.append(request)
            return None
        if callable(step):
            step()
        with self._lock:
            reply: Answer | None = None
            try:
                request = _with_body(request, body, handler.headers)
                if step is not Fault.DROP and not isinstance(step, Answer):
                    reply = self._do(request, argument or "", step)
            except Refusal as refusal:
                reply = error(refusal.status, str(refusal))
            except ValueError as malformed:
                reply = error(400, str(malformed))
            if step is Fault.LOSE:
                reply = None
            if isinstance(step, Answer):
                reply = step
            self.requests.append(replace(request, status=reply.status if reply else None))
            return reply

    def _do(self, request: RecordedRequest, argument: str, step: Step) -> Answer:
        if request.call is None:
            raise Refusal(404, "Not Found")
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            raise Refusal(401, "The access token is invalid")
        match request.call:
            case Call.UPLOAD:
                return self._upload(request, step)
            case Call.POLL:
                return self._poll(argument)
            case Call.POST:
                return self._post(request)

    def _upload(self, request: RecordedRequest, step: Step) -> Answer:
        file = next((file for file in request.files if file.name == "file"), None)
        if file is None:
            raise Refusal(422, "Validation failed: File can't be blank")
        found = (kind for at, magic, kind in KINDS if file.data.startswith(magic, at))
        kind = next(found, None)
        # "The file must have a MIME type", but only the content is examined.
        if not (file.content_type and kind):
            text = "Validation failed: File content type is invalid, File is invalid"
            raise Refusal(422, text)
        description = request.field("description")
        if len(description or "") > DESCRIPTION:
            text = f"Description is too long (maximum is {DESCRIPTION} characters)"
            raise Refusal(422, f"Validation failed: {text}")
        usual = Processing(0 if kind == "image" else 1)
        processing = step if isinstance(step, Processing) else usual
        id = str(115_000_000_000_000_001 + len(self.media))
        self.media[id] = Media(id, file, kind, description or None, processing)
        is_done = processing == Processing(0)
        return answer(200 if is_done else 202, _attachment(id, is_done))

    def _poll(self, id: str) -> Answer:
        media = self.media.get(id)
        if media is None or media.status:
            raise Refusal(404, "Record not found")
        if media.processing == Processing(0, fails=True):
            raise Refusal(422, "Error processing thumbnail for uploaded media")
        if not media.processing.polls:
            return answer(200, _attachment(id, True))
        media.processing = replace(media.processing, polls=media.processing.polls - 1)
        return answer(206, _attachment(id, False))

    def _post(self, request: RecordedRequest) -> Answer:
        reply_to = request.field("in_reply_to_id") or None
        if reply_to and reply_to not in {status.id for status in self.statuses}:
            text = "The post you are trying to reply to does not appear to exist."
            raise Refusal(404, text)
        key = request.headers.get("Idempotency-Key") or None
        for status in self.statuses:
            if key and status.idempotency_key == key and self.clock() - status.made < HOUR:
                return answer(200, {"id": status.id})
        media = self._attachable(request.all("media_ids[]"))
        text, visibility = request.field("status") or "", request.field("visibility")
        problems = []
        if visibility not in (None, *VISIBILITIES):
            problems.append("Visibility is not included in the list")
        if not (text.strip() or media):
            problems.append("Text can't be blank")
        if len(text) > CHARACTERS:
            problems.append(f"Text character limit of {CHARACTERS} exceeded")
        if problems:
            raise Refusal(422, f"Validation failed: {', '.join(problems)}")
        id = str(116_000_000_000_000_001 + len(self.statuses))
        visibility = visibility or self.visibility
        self.statuses.append(Status(id, text, visibility, media, reply_to, key, self.clock()))
        for one in media:
            one.status = id
        return answer(200, {"id": id})

    def _attachable(self, ids: Sequence[str]) -> tuple[Media, ...]:
        if len(ids) > ATTACHMENTS:
            raise Refusal(422, f"Cannot attach more than {ATTACHMENTS} files")
        media = [one for id in ids if (one := self.media.get(id)) and not one.status]
        if len(media) < len(ids):
            raise Refusal(422, "Media not found or already attached to another post")
        if len(media) > 1 and any(one.kind != "image" for one in media):
            raise Refusal(422, "Cannot attach a video to a post that already contains images")
        if any(one.processing != Processing(0) for one in media):
            raise Refusal(422, "Cannot attach files that have not finished processing.")
        return tuple(media)


def _with_body(request: RecordedRequest, body: bytes, headers: Message) -> RecordedRequest:
    """Parse the body of a request. Raises ValueError."""
    match headers.get_content_type() if body else None:
        case "application/x-www-form-urlencoded":
            fields = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict")
            return replace(request, fields=tuple(fields))
        case "multipart/form-data":
            fields, files = multipart(body, headers.get_boundary() or "")
            return replace(request, fields=tuple(fields), files=tuple(files))
    return request


def _attachment(id: str, is_done: bool) -> Mapping[str, object]:
    url = f"http://{HOST}/system/media_attachments/files/{id}/original"
    return {"id": id, "url": url if is_done else None, "preview_url": url, "meta": {}}


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, mastodon: MastodonServer) -> None:
        self.mastodon = mastodon
        super().__init__((HOST, 0), _Handler)

    def handle_error(self, *_: object) -> None:
        """Ignore broken connections."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HTTPServer

    def log_message(self, *_: object) -> None:
        pass

    def _exchange(self) -> None:
        found = self.server.mastodon.exchange(self)
        self.close_connection = True
        if found is None:
            return
        lines = [
            f"HTTP/1.1 {found.status} {HTTPStatus(found.status).phrase}",
            f"Date: {formatdate(self.server.mastodon.clock(), usegmt=True)}",
            "Content-Type: application/json; charset=utf-8",
            f"Content-Length: {len(found.body)}",
            *(f"{name}: {value}" for name, value in found.headers),
        ]
        head = "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"
        self.wfile.write(head + found.body)

    do_GET = do_POST = _exchange  # noqa: N815
