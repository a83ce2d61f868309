"""A report of recorded requests, for a public bug report about an unknown camera.

It has what helps to support a new model: request lines, headers in order and spelling, the parts
of multipart bodies, the structure of XML, replies, sizes, times, and deviations from the RFCs.
`redact` decides which values are printed. So nothing in a report means anything to Markdown, and
no value can look like a line of its own.
"""

from __future__ import annotations

import codecs
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from nxparse import filename, jpeg, multipart
from nxparse.deviation import BodyError, Deviation
from nxparse.inspect import show
from nxparse.inspect.recorded import Headers, RecordedQuestion, RecordedRequest, header
from nxparse.inspect.redact import Redactor, is_markup
from nxparse.multipart import PartSpan
from nxparse.server import endpoints, page
from nxparse.upload import JPEG_HEAD, from_parts

MAX_READ = 64 * 1024  # bytes of a text that are read: as many as XML may have
MAX_SHOWN = 8 * 1024  # characters of a text or a line
MAX_CELL = 120  # characters
MAX_WORD = 256  # characters of a method, a version, a host
MAX_HEADERS = 200
MAX_QUESTIONS = 500

_BINARY = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_PART_HEAD = re.compile(rb"(?:\A|\n)--[^\r\n]{1,256}\r?\n(?=[A-Za-z-]{1,40}[ \t]{0,4}:)")
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
# Details of deviations: names of headers and parameters, and what expat and the decoder report.
_DETAIL = re.compile(
    r"[A-Za-z][A-Za-z-]{0,30}\*?|[a-z ()-]{1,60}: line \d{1,5}, column \d{1,5}"
    r"|[a-z ]{0,10}[a-z_-]{2,8}[0-9-]{0,6} (?:is [a-z]{2,5}-?[0-9]{0,4}|nor UTF-8)"
)
_ABOUT = """\
This is what a camera sent and what it was answered. It is meant to be attached to a public bug
report.

Only values that are the same for everybody are printed. Any other one is a token such as
`<digits 12 #a1b2c3>`: its kind, its number of characters, and a digest (HMAC-SHA256). Equal
values have equal tokens. The key of the digests is not kept, so they say nothing about a value
or a file. If a host or path is a token although it is not private, please write it in the issue:
it is needed to support the camera."""

Rows = Sequence[Sequence[object]]


def markdown(
    seen: Iterable[RecordedRequest],
    questions: Iterable[RecordedQuestion] = (),
    *,
    version: str = "",
    key: bytes | None = None,
) -> str:
    """Report these requests, their replies and DNS questions, in Markdown. Never raises.

    `version` names the program that made the report. `key` is for the digests, by default random.
    """
    report = _Report(Redactor(key or secrets.token_bytes(32)))
    requests = list(seen)
    asked = list(islice(questions, MAX_QUESTIONS))
    count = "1 request" if len(requests) == 1 else f"{len(requests)} requests"
    maker = re.sub(r"[^A-Za-z0-9 .,+/()-]", "?", version[:80])
    pieces = [
        "# Report of a camera",
        _ABOUT,
        f"{count}{f', made with {maker}' if maker else ''}.",
    ]
    times = [*(one.at for one in requests), *(one.at for one in asked)]
    began = min(filter(None, times), default=0.0)
    for number, one in enumerate(requests, 1):
        pieces += report.exchange(number, one, began)
    if asked:
        pieces += ["## DNS questions", report.questions(asked, began)]
    return "\n\n".join(pieces) + "\n"


@dataclass(frozen=True, slots=True)
class _Report:
    redact: Redactor

    def exchange(self, number: int, seen: RecordedRequest, began: float) -> Iterator[str]:
        """A request and the reply to it."""
        known = f"`{self.redact.token(seen.client[:MAX_WORD])}`" if seen.client else ""
        after = f", {seen.at - began:.1f} s after the first" if seen.at else ""
        yield f"## {number}. {show.title(seen)}"
        yield f"From {known or 'an unknown address'}{after}."
        line = (
            self.redact.value("verb", seen.method[:MAX_WORD]),
            self.redact.target(seen.path[:MAX_READ]),
            self.redact.value("protocol", seen.version[:MAX_WORD]),
        )
        yield _fenced([" ".join(line), *self._fields(seen.headers)])
        if seen.host and endpoints.bare_host(seen.header("host")) != seen.host:
            yield "No Host header names it, but it went to:"
            yield _fenced([self.redact.host(seen.host[:MAX_WORD])])
        yield from self._body(seen.headers, seen.body)
        yield f"### Reply to {number}"
        if seen.answered is None:
            yield "None was recorded."
            return
        reason = self.redact.value("reason", seen.answered.reason[:MAX_WORD])
        status = f"{seen.answered.status} {reason}"
        yield _fenced([status, *self._fields(seen.answered.headers)])
        if seen.answered.body == page.render([], 0.0, gallery=False).body:
            yield "The body is the start page of nx_addon."
        else:
            yield from self._body(seen.answered.headers, seen.answered.body)

    def questions(self, asked: Sequence[RecordedQuestion], began: float) -> str:
        """The names that were looked up, in order."""
        return _table(
            [
                (
                    self.redact.token(one.client),
                    f"{one.at - began:.1f} s",
                    self.redact.name(one.type[:MAX_WORD]),
                    self.redact.host(one.name[:MAX_WORD]),
                )
                for one in asked
            ]
        )

    def _fields(self, headers: Headers) -> Iterator[str]:
        for name, value in headers[:MAX_HEADERS]:
            shown = self.redact.header(name[:MAX_WORD], value[:MAX_READ])
            yield f"{self.redact.name(name[:MAX_WORD])}: {shown}"
        if len(headers) > MAX_HEADERS:
            yield f"(and {len(headers) - MAX_HEADERS} more)"

    def _body(self, headers: Headers, body: bytes | None) -> Iterator[str]:
        content_type = header(headers, "content-type")
        if body is None:
            yield "The body was not kept."
        elif not body:
            yield "No body."
        elif content_type.strip().lower().startswith("multipart/") or _PART_HEAD.match(body):
            yield from self._multipart(body, content_type)
        else:
            yield from self._content(body, content_type)

    def _content(self, data: bytes, content_type: str) -> Iterator[str]:
        """A body that is one thing."""
        text = None if _is_picture(data, content_type) else _text(data)
        if text is not None:
            yield f"Body, {len(data)} bytes:"
            yield _block(self.redact.text(text), len(data) > MAX_READ)
            return
        rows = (
            ("bytes", len(data)),
            ("looks like", filename.sniff(data[:16], None)),
            ("picture", self._picture(data)),
            ("keyed digest", self.redact.digest(data)),
        )
        yield "Body:"
        yield _table([row for row in rows if row[1]])

    def _multipart(self, body: bytes, content_type: str) -> Iterator[str]:
        scanner = multipart.Scanner(multipart.boundary_of(content_type[:MAX_READ]))
        try:
            scanner.feed(body)
            parts = scanner.close()
        except multipart.MultipartError as error:
            yield f"Body, {len(body)} bytes, that cannot be read as multipart:"
            yield _fenced([self._error(error)])
            yield from self._heads(body)
            return
        yield f"Body, {len(body)} bytes, its parts:"
        rows: list[Sequence[object]] = [
            ("", "name", "file", "type", "bytes", "at", "keyed digest", "picture")
        ]
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
                    self._picture(bytes(data[:JPEG_HEAD])),
                )
            )
        yield _table(rows)
        for number, part in enumerate(parts, 1):
            yield f"Head of part {number}:"
            yield _block(self.redact.head(_head_of(body, part, scanner.boundary or b"")))
            data_ = body[part.start : min(part.end, part.start + MAX_READ + 1)]
            claimed = header(part.headers, "content-type")
            text = None if _is_picture(data_, claimed, part.filename or "") else _text(data_)
            if text:
                value = self.redact.xml if is_markup(text) else self._typed
                yield f"Part {number}:"
                yield _block(value(text), len(data_) > MAX_READ)
        yield from self._deviations(body, parts, scanner.deviations)

    def _typed(self, text: str) -> str:
        """The text of a field: the user may have typed it."""
        return "\n".join(self.redact.value("body", line) for line in text.split("\n"))

    def _deviations(
        self, body: bytes, parts: Sequence[PartSpan], found: Sequence[Deviation]
    ) -> Iterator[str]:
        if any(part.name == "message" for part in parts):
            try:
                found = from_parts(parts, found, lambda start, end: body[start:end]).deviations
            except BodyError as error:
                yield "It cannot be read as an upload by e-mail:"
                yield _fenced([self._error(error)])
        if not found:
            yield "It deviates from no RFC."
            return
        yield "Deviations from the RFCs:"
        yield _table(
            [
                (one, f"at {one.offset}", one.detail if _DETAIL.fullmatch(one.detail) else "")
                for one in sorted(found, key=lambda one: one.offset)
            ]
        )

    def _error(self, error: BodyError) -> str:
        """An error of ours, without what it quotes."""
        return re.sub(r"""b?(['"]).*\1""", lambda match: self.redact.token(match[0]), str(error))

    def _heads(self, body: bytes) -> Iterator[str]:
        """What look like heads of parts in a body that is no multipart."""
        found = list(islice(_PART_HEAD.finditer(body), multipart.MAX_PARTS))
        if not found:
            yield from self._content(body, "")
            return
        ends = [*(match.start() for match in found[1:]), len(body)]
        yield "What may be parts of it:"
        for number, (match, end) in enumerate(zip(found, ends, strict=True), 1):
            limit = min(end, match.end() + multipart.MAX_HEADER_BYTES)
            blank = _BLANK_LINE.search(body, match.end(), limit)
            head = body[match.end() : blank.end() if blank else limit]
            yield f"Head of part {number}, at {match.end()}, {end - match.end()} bytes with it:"
            yield _block(self.redact.head(_without_end(head)), blank is None)

    def _picture(self, data: bytes) -> str:
        """What a picture tells of itself, but for when it was taken."""
        found = jpeg.describe(data[:JPEG_HEAD])
        if found is None:
            return ""
        size = f"{found.width} x {found.height}" if found.width else "JPEG"
        make, model = (
            self.redact.value("make", found.make),
            self.redact.value("model", found.model),
        )
        return ", ".join(word for word in (size, make, model) if word)


def _head_of(body: bytes, part: PartSpan, boundary: bytes) -> bytes:
    """The bytes between the boundary and the data of a part."""
    earliest = max(0, part.start - multipart.MAX_HEADER_BYTES - 2 * multipart.MAX_BOUNDARY)
    before = body.rfind(b"--" + boundary, earliest, part.start)
    return _without_end(body[before + 2 + len(boundary) : part.start].partition(b"\n")[2])


def _without_end(head: bytes) -> bytes:
    """A head without the blank line after it."""
    return head.removesuffix(b"\n").removesuffix(b"\r")


def _text(data: bytes) -> str | None:
    """The beginning of a text; None if this is none."""
    head = data[:MAX_READ]
    encodings = ["utf-16"] if head[:2] in (b"\xff\xfe", b"\xfe\xff") else ["utf-8", "cp949"]
    for encoding in encodings:
        with suppress(UnicodeDecodeError):
            decoder = codecs.getincrementaldecoder(encoding)()
            text = decoder.decode(head, final=len(data) <= MAX_READ)
            if not _BINARY.search(text):
                return text
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return head.decode("utf-8", "backslashreplace")
    return None


def _is_picture(data: bytes, content_type: str, name: str = "") -> bool:
    """Is this a picture or video, or does it say so?"""
    claimed = content_type.strip().lower().startswith(("image/", "video/", "audio/"))
    named = filename.safe(name, "").rpartition(".")[2] != "bin" if name else False
    return claimed or named or filename.sniff(data[:16], None) != "application/octet-stream"


def _table(rows: Rows) -> str:
    cells = [[str(cell)[:MAX_CELL] for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return _fenced(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def _block(text: str, cut: bool = False) -> str:
    """A text of several lines. `cut`: there was more of it."""
    notes: list[str] = []
    if "\r\n" in text and not re.search(r"(?<!\r)\n|\r(?!\n)", text):
        text = text.replace("\r\n", "\n")
        notes.append("(Its lines end with CRLF.)")
    if cut or len(text) > MAX_SHOWN:
        notes.append("(It is longer: the rest is cut off.)")
    return "\n\n".join([_fenced(text[:MAX_SHOWN].removesuffix("\n").split("\n")), *notes])


def _fenced(lines: Iterable[str]) -> str:
    """A code block. There are no backticks in the lines, and no line ends but these."""
    return "\n".join(["```", *map(_visible, lines), "```"])


def _visible(line: str) -> str:
    line = line if len(line) <= MAX_SHOWN else f"{line[: MAX_SHOWN - 1]}…"
    return "".join(
        char if char.isprintable() or char == "\t" else char.encode("unicode_escape").decode()
        for char in line
    )
