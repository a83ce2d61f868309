"""A report of recorded requests, for a public bug report about an unknown camera.

It contains what helps to support a new model: request lines, headers in their order and spelling,
the parts of multipart bodies, the structure of XML, replies, sizes, times, and deviations from the
RFCs. `redact` decides which values are printed. Nothing in a report is Markdown syntax except its
own headings and code fences, and no value can start a line of its own.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from nxparse import __version__, filename
from nxparse.deviation import BodyError, Deviation, MultipartError
from nxparse.framing import MAX_BOUNDARY, MAX_HEADER_BYTES, PartSpan, boundary_of, fetch_from
from nxparse.inspect import show
from nxparse.inspect.recorded import Headers, RecordedQuestion, RecordedRequest, header
from nxparse.inspect.redact import Redactor, is_markup
from nxparse.scanner import Scanner
from nxparse.server import endpoints, page
from nxparse.upload import JPEG_HEAD, from_parts

MAX_READ = 16 * 1024  # bytes of a text that are redacted
MAX_SHOWN = 8 * 1024  # characters of a text or a line
MAX_CELL = 120  # characters
MAX_HEAD = 1024  # bytes of what may be the head of a part; real ones have less than 200
MAX_HEADS = 16  # of these
MAX_WORD = 256  # characters of a method, a version, a host
MAX_HEADERS = 200
MAX_QUESTIONS = 500

_BINARY = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_PART_HEAD = re.compile(rb"(?:\A|\n)--[^\r\n]{1,256}\r?\n(?=[A-Za-z-]{1,40}[ \t]{0,4}:)")
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_ABOUT = """\
This is what a camera sent and what it was answered. It is meant to be attached to a public bug
report.

Only values that are the same for everybody are printed. Any other value is replaced by a token such
as `<digits 12 #a1b2c3>`: its kind, its number of characters, and a digest (HMAC-SHA256). Equal
values have equal tokens. The key of the digests is not kept, so they reveal nothing about a value
or a file. If a host or path is a token although it is not private, please add it to the issue: it
is needed to support the camera."""


def markdown(
    requests: Iterable[RecordedRequest],
    questions: Iterable[RecordedQuestion] = (),
    *,
    version: str = "",
    key: bytes | None = None,
) -> str:
    """Report requests with their replies, and DNS questions, in Markdown. Never raises.

    `version` is that of mitmproxy. `key` is the key for digests, by default a random one.
    """
    report = _Report(Redactor(key or secrets.token_bytes(32)))
    requests = list(requests)
    questions = list(islice(questions, MAX_QUESTIONS))
    count = "1 request" if len(requests) == 1 else f"{len(requests)} requests"
    proxy = re.sub(r"[^A-Za-z0-9 .,+/()-]", "?", version[:80])
    made_with = f"nx_addon {__version__}{f' in {proxy}' if proxy else ''}"
    blocks = ["# Report of a camera", _ABOUT, f"{count}, made with {made_with}."]
    times = [*(one.at for one in requests), *(one.at for one in questions)]
    began = min(filter(None, times), default=0.0)
    for number, request in enumerate(requests, 1):
        blocks += report.exchange(number, request, began)
    if questions:
        blocks += ["## DNS questions", report.questions(questions, began)]
    return "\n\n".join(blocks) + "\n"


@dataclass(frozen=True, slots=True)
class _Report:
    redact: Redactor

    def exchange(self, number: int, request: RecordedRequest, began: float) -> Iterator[str]:
        """Yield the blocks for a request and its reply. `began` is the Unix time of the first."""
        client = f"`{self.redact.token(request.client[:MAX_WORD])}`" if request.client else ""
        after = f", {request.at - began:.1f} s after the first" if request.at else ""
        yield f"## {number}. {request.endpoint.title}"
        yield f"From {client or 'an unknown address'}{after}."
        line = (
            self.redact.value("verb", request.method[:MAX_WORD]),
            self.redact.target(request.path[:MAX_READ]),
            self.redact.value("protocol", request.version[:MAX_WORD]),
        )
        yield _fenced([" ".join(line), *self._headers(request.headers)])
        if request.host and endpoints.bare_host(request.header("host")) != request.host:
            yield "The Host header does not name the host that it went to:"
            yield _fenced([self.redact.host(request.host[:MAX_WORD])])
        yield from self._body(request.headers, request.body)
        yield f"### Reply to {number}"
        reply = request.answered
        if reply is None:
            yield "No reply was recorded."
            return
        reason = self.redact.value("reason", reply.reason[:MAX_WORD])
        yield _fenced([f"{reply.status} {reason}", *self._headers(reply.headers)])
        if reply.body == page.render([], 0.0, gallery=False).body:
            yield "The body is the start page of nx_addon."
        else:
            yield from self._body(reply.headers, reply.body)

    def questions(self, questions: Sequence[RecordedQuestion], began: float) -> str:
        """Return a table of the names that were looked up, in their order."""
        rows = [
            (
                self.redact.token(one.client),
                f"{one.at - began:.1f} s",
                self.redact.name(one.type[:MAX_WORD]),
                self.redact.host(one.name[:MAX_WORD]),
            )
            for one in questions
        ]
        return _table(rows)

    def _headers(self, headers: Headers) -> Iterator[str]:
        for name, value in headers[:MAX_HEADERS]:
            shown = self.redact.header(name[:MAX_WORD], value[:MAX_READ])
            yield f"{self.redact.name(name[:MAX_WORD])}: {shown}"
        if len(headers) > MAX_HEADERS:
            yield f"(and {len(headers) - MAX_HEADERS} more)"

    def _body(self, headers: Headers, body: bytes | None) -> Iterator[str]:
        content_type = header(headers, "content-type")
        if body is None:
            yield "The body was not recorded."
        elif not body:
            yield "No body."
        elif content_type.strip().lower().startswith("multipart/") or _PART_HEAD.match(body):
            yield from self._multipart(body, content_type)
        else:
            yield from self._content(body, content_type)

    def _content(self, data: bytes, content_type: str) -> Iterator[str]:
        """Yield the blocks for a body without parts."""
        text = _text(data, content_type)
        if text is not None:
            yield f"Body, {len(data)} bytes:"
            yield _block(self.redact.text(text), len(data) > MAX_READ)
            return
        rows = (
            ("bytes", len(data)),
            ("looks like", filename.sniff(data[:16], None)),
            ("model", self._model(data)),
            ("keyed digest", self.redact.digest(data)),
        )
        yield "Body:"
        yield _table([row for row in rows if row[1]])

    def _multipart(self, body: bytes, content_type: str) -> Iterator[str]:
        scanner = Scanner(boundary_of(content_type[:MAX_READ]))
        scanner.feed(body)
        try:
            parts = scanner.close(fetch_from(body))
        except MultipartError as error:
            yield f"Body, {len(body)} bytes, that cannot be parsed as multipart:"
            yield _fenced([self._error(error)])
            yield from self._heads(body)
            return
        yield f"Body, {len(body)} bytes, its parts:"
        rows: list[Sequence[object]] = [
            ("", "name", "file", "type", "bytes", "at", "keyed digest", "model")
        ]
        contents: list[str] = []
        for number, part in enumerate(parts, 1):
            data = memoryview(body)[part.start : part.end]
            claimed = header(part.headers, "content-type")[:MAX_READ]
            rows.append(
                (
                    number,
                    self.redact.name(part.name or "") or "-",
                    self.redact.value("filename", part.filename or "") or "-",
                    self.redact.header("Content-Type", claimed) or "-",
                    *(len(data), part.start, self.redact.digest(data)),
                    self._model(bytes(data[:JPEG_HEAD])),
                )
            )
            head = _head_of(body, part, scanner.boundary or b"")
            contents += [f"Head of part {number}:", _block(self.redact.head(head))]
            if text := _text(bytes(data[: MAX_READ + 1]), claimed, part.filename or ""):
                # Text that is not XML may have been typed by the user.
                shown = self.redact.xml(text) if is_markup(text) else self.redact.lines(text)
                contents += [f"Part {number}:", _block(shown, len(data) > MAX_READ)]
        yield _table(rows)
        yield from contents
        yield from self._deviations(body, parts, scanner.deviations)

    def _deviations(
        self, body: bytes, parts: Sequence[PartSpan], found: Sequence[Deviation]
    ) -> Iterator[str]:
        if any(part.name == "message" for part in parts):
            try:
                found = from_parts(parts, found, fetch_from(body)).deviations
            except BodyError as error:
                yield "It cannot be parsed as an upload by e-mail:"
                yield _fenced([self._error(error)])
        if not found:
            yield "It has no deviations from the RFCs."
            return
        yield "Deviations from the RFCs:"
        found = sorted(found, key=lambda one: one.offset)
        yield _table([(one, f"at {one.offset}") for one in found])

    def _error(self, error: BodyError) -> str:
        """The text of an error, without what it quotes from the body."""
        return re.sub(r"""b?(['"]).*\1""", lambda match: self.redact.token(match[0]), str(error))

    def _heads(self, body: bytes) -> Iterator[str]:
        """Yield what look like heads of parts in a body that cannot be parsed."""
        found = list(islice(_PART_HEAD.finditer(body), MAX_HEADS))
        if not found:
            yield from self._content(body, "")
        for number, match in enumerate(found, 1):
            limit = match.end() + MAX_HEAD
            blank = _BLANK_LINE.search(body, match.end(), limit)
            head = body[match.end() : blank.start() if blank else limit]
            yield f"Perhaps the head of part {number}, at {match.end()}:"
            yield _block(self.redact.head(head), blank is None)

    def _model(self, data: bytes) -> str:
        """The camera in a JPEG; its times and places are left out."""
        return self.redact.value("model", show.model(data[:JPEG_HEAD]))


def _head_of(body: bytes, part: PartSpan, boundary: bytes) -> bytes:
    """The bytes between the delimiter and the data of a part, without the blank line."""
    earliest = max(0, part.start - MAX_HEADER_BYTES - 2 * MAX_BOUNDARY)
    before = body.rfind(b"--" + boundary, earliest, part.start)
    head = body[before + 2 + len(boundary) : part.start].partition(b"\n")[2]
    return head.removesuffix(b"\n").removesuffix(b"\r")


def _text(data: bytes, content_type: str, name: str = "") -> str | None:
    """The first `MAX_READ` bytes as text; None for pictures, videos and other binary data."""
    claimed = content_type.strip().lower().startswith(("image/", "video/", "audio/"))
    named = filename.safe(name, "").rpartition(".")[2] != "bin" if name else False
    looks = filename.sniff(data[:16], None) != "application/octet-stream"
    if claimed or named or looks or _BINARY.search(data, 0, MAX_READ):
        return None
    # Whatever the encoding is, the structure is ASCII, and other characters are never printed.
    return data[:MAX_READ].decode("utf-8", "surrogateescape")


def _table(rows: Sequence[Sequence[object]]) -> str:
    return _fenced(show.aligned([[str(cell)[:MAX_CELL] for cell in row] for row in rows]))


def _block(text: str, cut: bool = False) -> str:
    """A code block of several lines. `cut` means that the text is only the beginning."""
    notes: list[str] = []
    if "\r\n" in text and not re.search(r"(?<!\r)\n|\r(?!\n)", text):
        text = text.replace("\r\n", "\n")
        notes.append("(Its lines end with CRLF.)")
    if cut or len(text) > MAX_SHOWN:
        notes.append("(It is longer; the rest is left out.)")
    return "\n\n".join([_fenced(text[:MAX_SHOWN].removesuffix("\n").split("\n")), *notes])


def _fenced(lines: Iterable[str]) -> str:
    """A code block. The lines contain no backticks, and no other line ends."""
    return "\n".join(["```", *map(_visible, lines), "```"])


def _visible(line: str) -> str:
    """A line without control characters, not longer than `MAX_SHOWN`."""
    line = line if len(line) <= MAX_SHOWN else f"{line[: MAX_SHOWN - 1]}…"
    return "".join(
        char if char.isprintable() or char == "\t" else char.encode("unicode_escape").decode()
        for char in line
    )
