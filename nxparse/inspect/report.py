"""A report of what was seen, for a public bug report about a camera that nobody knows.

It has everything that helps to teach the addon a new model: request lines and
headers in their spelling, boundary and heads of a multipart body byte for byte,
the structure of XML, what deviates from the RFCs and where, sizes, the model
that a photo names. It has no photo, and nothing that is private: for that there
are stand-ins (`pseudonyms` tells what is private and how it is found twice).

A report is made in two steps. First each request and reply is taken apart. What
is private is replaced where it stands, and the result is a list of pieces: own
words (`str`), text from the wire (`_Text`), rows of it (`_Rows`). When that is
done, everything private is known. Then the texts from the wire are swept for
it, made visible and fenced.

So all that came over the wire goes through `_fenced`. Nothing in there means
anything to Markdown, since a fence is longer than any run of backticks in it,
and no line of a request can look like another one, since what could end a line
is escaped.

The first 64 KiB of a text are looked at, and 8 KiB of the result are shown. Of
other bodies there are sizes and digests. The digest of a photo that can be
found somewhere would tell whose camera this is, so digests are keyed, and the
key is thrown away: they tell which files in one report are the same, no more.
"""

from __future__ import annotations

import codecs
import hmac
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from nxparse import filename, jpeg, multipart
from nxparse.deviation import BodyError, Deviation, Kind
from nxparse.inspect import redact, show
from nxparse.inspect.pseudonyms import Keep, Pseudonyms, keep_for
from nxparse.inspect.recorded import Headers, RecordedRequest, RecordedResponse, header
from nxparse.multipart import PartSpan
from nxparse.server import endpoints, hotspot, page, social
from nxparse.server.endpoints import Call, Service
from nxparse.server.reply import Reply, refusal
from nxparse.upload import JPEG_HEAD, from_parts

MAX_READ = 64 * 1024  # bytes of a text that are looked at: as many as XML may have
MAX_SHOWN = 8 * 1024  # characters of a text, or of a line of a head
MAX_WORD = 256  # characters of what is a method, a version, a host
MAX_CELL = 100  # characters
MAX_HEADERS = 200
MAX_VERSION = 80  # characters
MAX_REFUSAL = 1000  # bytes of a reply that may be one of ours

_BINARY = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_READABLE = re.compile(rb"([ -~]{5,})")
_PART_HEAD = re.compile(rb"(?:\A|\n)--[^\r\n]{1,256}\r?\n(?=[A-Za-z-]{1,40}[ \t]{0,4}:)")
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
# Of the details of the others, some are whole headers. Those stand above them anyway.
_TELLING = frozenset({Kind.PARAMETER_CASE, Kind.XML_MALFORMED, Kind.XML_ENCODING, Kind.BARE_LF})

# What this addon says to everybody.
_OUR_PAGES = frozenset(
    answer.body
    for answer in (
        page.render([], 0.0, gallery=False),
        social.LOGGED_OUT,
        *(hotspot.YAHOO.redirect, hotspot.YAHOO.cookie),
        *(hotspot.MSN.redirect, hotspot.MSN.cookie),
    )
)

_ABOUT = """\
This is what was said between a camera and a server, or nx_addon in its place.
It is meant to be attached to a public bug report.

Private values are replaced by stand-ins that tell kind and length: `digits-12`,
`hex-32`, `text-1 (34 characters)`, `address-1@example.org`, `ip-1`. The second value
of the same kind and length is `digits-12-2`. The same value has the same stand-in
in the whole report. No photo is in it. The digests of files (HMAC-SHA256, 16 of its
digits) are made with a key that nobody has any more: they tell which files are the
same, and nothing to somebody who has one of them. Characters that cannot be seen are
written as `\\r`, `\\x00` or `\\u202e`.

Please read it before you share it: what nobody could know for private is still in it."""


@dataclass(frozen=True, slots=True)
class _Text:
    """Text from the wire, of several lines. `cut`: there was more of it."""

    text: str
    cut: bool = False


class _Own(str):
    """A cell that is not from the wire."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class _Rows:
    """Cells from the wire, or our own. In a cell nothing is the end of a line."""

    rows: Sequence[Sequence[str]]
    limit: int = MAX_CELL


_Piece = str | _Text | _Rows


def markdown(
    seen: Iterable[RecordedRequest], *, version: str = "", key: bytes | None = None
) -> str:
    """A report of these requests and replies, in Markdown. Never raises.

    `version` says what made it. `key` is that of the digests, by default a
    random one.
    """
    requests = list(seen)
    report = _Report(Pseudonyms(), key or secrets.token_bytes(32))
    maker = re.sub(r"[^A-Za-z0-9 .,+/()-]", "?", version[:MAX_VERSION])
    count = "1 request" if len(requests) == 1 else f"{len(requests)} requests"
    pieces: list[_Piece] = [
        "# What a camera said",
        _ABOUT,
        f"{count}{f', made with {maker}' if maker else ''}.",
    ]
    began = next((one.at for one in requests if one.at), 0.0)
    for number, one in enumerate(requests, 1):
        pieces += report.exchange(number, one, began)
    return "\n\n".join(_rendered(piece, report.names) for piece in pieces) + "\n"


@dataclass(frozen=True, slots=True)
class _Report:
    """Takes requests and replies apart."""

    names: Pseudonyms
    key: bytes

    def exchange(self, number: int, seen: RecordedRequest, began: float) -> Iterator[_Piece]:
        """A request and the reply to it."""
        client = (
            self.names.stand_in(seen.client[:MAX_WORD]) if seen.client else "an unknown address"
        )
        after = f", {seen.at - began:.1f} s after the first" if seen.at else ""
        yield f"## {number}. {show.title(seen)}"
        yield f"From {client}{after}."
        method = self.names.value(seen.method[:MAX_WORD], Keep.WORDS)
        line = f"{method} {self.names.url(seen.path[:MAX_READ])} {self._version(seen.version)}"
        yield _Rows([(line,), *self._fields(seen.headers)], MAX_SHOWN)
        if seen.host and endpoints.bare_host(seen.header("host")) != seen.host:
            yield "No Host header says so, but it went to:"
            yield _Rows([(self.names.host(seen.host[:MAX_WORD]),)])
        self._learn(seen)
        yield from self._body(seen.headers, seen.body)
        yield f"### Reply to {number}"
        if seen.answered is None:
            yield "None was seen."
        else:
            yield from self._reply(seen.answered)

    def _reply(self, answered: RecordedResponse) -> Iterator[_Piece]:
        reason = answered.reason
        if not re.fullmatch("[A-Za-z -]{0,40}", reason):
            reason = self.names.value(reason[:MAX_WORD], Keep.CONSTANTS)
        line = f"{answered.status} {reason}"
        yield _Rows([(line,), *self._fields(answered.headers)], MAX_SHOWN)
        if answered.body and _is_ours(answered.status, answered.body):
            yield "The body, as nx_addon writes it:"
            yield _Text(self.names.anywhere(answered.body.decode("utf-8", "replace")))
        else:
            yield from self._body(answered.headers, answered.body)

    def _version(self, version: str) -> str:
        known = re.fullmatch(r"HTTP/[0-9](?:\.[0-9])?", version)
        return version if known else self.names.value(version[:MAX_WORD], Keep.CONSTANTS)

    def _fields(self, headers: Headers) -> Iterator[tuple[str]]:
        for name, value in headers[:MAX_HEADERS]:
            yield (f"{self.names.anywhere(name[:MAX_WORD])}: {self._field(name, value)}",)
        if len(headers) > MAX_HEADERS:
            yield (_Own(f"(and {len(headers) - MAX_HEADERS} more)"),)

    def _field(self, name: str, value: str) -> str:
        return redact.field(self.names, name.lower(), value[:MAX_READ])

    def _learn(self, seen: RecordedRequest) -> None:
        """Take note of who logs in: the name is encrypted there, but later perhaps not."""
        match endpoints.find(seen.method, seen.host, seen.path):
            case Call(Service.LOGIN):
                with suppress(BodyError):
                    self.names.value(social.read_login(seen.body or b"").user, Keep.NOTHING)

    def _body(self, headers: Headers, body: bytes | None) -> Iterator[_Piece]:
        content_type = header(headers, "content-type")
        if body is None:
            yield "The body was not kept."
        elif not body:
            yield "No body."
        elif content_type.strip().lower().startswith("multipart/") or _PART_HEAD.match(body):
            yield from self._multipart(body, content_type)
        else:
            yield from self._content(body, content_type)

    def _content(self, data: bytes, content_type: str) -> Iterator[_Piece]:
        """A body that is one thing."""
        text = None if _is_picture(data, content_type) else _text(data)
        if text is not None:
            yield f"Body, {len(data)} bytes:"
            yield _Text(redact.readable(self.names, text), len(data) > MAX_READ)
            return
        rows = [
            (_Own("bytes"), _Own(len(data))),
            (_Own("looks like"), _sniffed(data, content_type)),
            (_Own("picture"), self._picture(data)),
            (_Own("keyed digest"), self._digest(data)),
        ]
        if not _is_picture(data, content_type):
            rows.append((_Own("begins with"), _beginning(data)))
        yield "Body:"
        yield _Rows([row for row in rows if row[1]])

    def _multipart(self, body: bytes, content_type: str) -> Iterator[_Piece]:
        scanner = multipart.Scanner(multipart.boundary_of(content_type[:MAX_READ]))
        try:
            scanner.feed(body)
            parts = scanner.close()
        except multipart.MultipartError as error:
            yield f"Body, {len(body)} bytes, that cannot be read as multipart:"
            yield _Rows([(self.names.anywhere(str(error)),)], MAX_SHOWN)
            yield from self._heads(body)
            return
        yield f"Body, {len(body)} bytes, its parts:"
        yield self._table(body, parts)
        for number, part in enumerate(parts, 1):
            yield from self._part(number, part, body, scanner.boundary or b"")
        yield from self._deviations(body, parts, scanner.deviations)

    def _table(self, body: bytes, parts: Sequence[PartSpan]) -> _Rows:
        head = ("", "name", "file", "type", "bytes", "at", "keyed digest", "picture")
        rows: list[Sequence[str]] = [[*map(_Own, head)]]
        for number, part in enumerate(parts, 1):
            data = memoryview(body)[part.start : part.end]
            claimed = header(part.headers, "content-type")
            rows.append(
                (
                    _Own(number),
                    self.names.value(part.name or "", Keep.WORDS) or "-",
                    self.names.file(part.filename or "") or "-",
                    self._field("Content-Type", claimed) or "-",
                    _Own(len(data)),
                    _Own(part.start),
                    self._digest(data),
                    self._picture(bytes(data[:JPEG_HEAD])),
                )
            )
        return _Rows(rows)

    def _part(self, number: int, part: PartSpan, body: bytes, boundary: bytes) -> Iterator[_Piece]:
        yield f"Head of part {number}:"
        yield _Text(redact.head(self.names, _bytes_of_head(body, part, boundary)))
        claimed = header(part.headers, "content-type")
        data = body[part.start : min(part.end, part.start + MAX_READ + 1)]
        text = None if _is_picture(data, claimed, part.filename or "") else _text(data)
        if text:
            if redact.is_markup(text):
                text = redact.xml(self.names, text)
            else:
                text = self.names.value(text, keep_for(part.name or ""))
            yield f"Part {number}:"
            yield _Text(text, len(data) > MAX_READ)

    def _deviations(
        self, body: bytes, parts: Sequence[PartSpan], found: Sequence[Deviation]
    ) -> Iterator[_Piece]:
        if any(part.name == "message" for part in parts):
            try:
                found = from_parts(parts, found, lambda start, end: body[start:end]).deviations
            except BodyError as error:
                yield "It cannot be read as an upload by e-mail:"
                yield _Rows([(self.names.anywhere(str(error)),)], MAX_SHOWN)
        if not found:
            yield "It deviates from no RFC."
            return
        yield "Deviations from the RFCs:"
        yield _Rows(
            [
                (_Own(one), _Own(f"at {one.offset}"), one.detail if one.kind in _TELLING else "")
                for one in sorted(found, key=lambda one: one.offset)
            ]
        )

    def _heads(self, body: bytes) -> Iterator[_Piece]:
        """What look like heads of parts in a body that is no multipart."""
        found = list(islice(_PART_HEAD.finditer(body), multipart.MAX_PARTS))
        if not found:
            yield from self._content(body, "")
            return
        ends = [*(match.start() for match in found[1:]), len(body)]
        yield "What may be parts of it:"
        yield _Rows(
            [
                [*map(_Own, ("", "at", "bytes, with the head"))],
                *(
                    [*map(_Own, (number, match.end(), end - match.end()))]
                    for number, (match, end) in enumerate(zip(found, ends, strict=True), 1)
                ),
            ]
        )
        for number, (match, end) in enumerate(zip(found, ends, strict=True), 1):
            limit = min(end, match.end() + multipart.MAX_HEADER_BYTES)
            blank = _BLANK_LINE.search(body, match.end(), limit)
            head = _without_end(body[match.end() : blank.end() if blank else limit])
            yield f"Head of part {number}:"
            yield _Text(redact.head(self.names, head), cut=blank is None)

    def _picture(self, data: bytes) -> str:
        """What a picture tells of itself, but for when it was taken."""
        told = jpeg.describe(data[:JPEG_HEAD])
        if told is None:
            return ""
        size = f"{told.width} x {told.height}" if told.width else "JPEG"
        words = (size, self.names.anywhere(told.make), self.names.anywhere(told.model))
        return ", ".join(word for word in words if word)

    def _digest(self, data: bytes | memoryview) -> _Own:
        return _Own(hmac.new(self.key, data, "sha256").hexdigest()[:16])


def _bytes_of_head(body: bytes, part: PartSpan, boundary: bytes) -> bytes:
    """What stands between the boundary and the data of a part."""
    earliest = max(0, part.start - multipart.MAX_HEADER_BYTES - 2 * multipart.MAX_BOUNDARY)
    before = body.rfind(b"--" + boundary, earliest, part.start)
    return _without_end(body[before + 2 + len(boundary) : part.start].partition(b"\n")[2])


def _without_end(head: bytes) -> bytes:
    """A head without the blank line behind it."""
    return head.removesuffix(b"\n").removesuffix(b"\r")


# Bodies


def _is_ours(status: int, body: bytes) -> bool:
    """Is this body one that nx_addon would write?"""
    if len(body) > MAX_REFUSAL:
        return False
    return body in _OUR_PAGES or body == refusal(status, Reply(status, body).remark).body


def _text(data: bytes) -> str | None:
    """The beginning of a text; None if this is none."""
    head = data[:MAX_READ]
    encodings = ["utf-16"] if head[:2] in (b"\xff\xfe", b"\xfe\xff") else ["utf-8", "cp949"]
    for encoding in encodings:
        with suppress(UnicodeDecodeError):
            decoder = codecs.getincrementaldecoder(encoding)()
            text = decoder.decode(head, final=len(data) <= MAX_READ)
            if not _BINARY.search(text):
                return _without_rest(text) if len(data) > MAX_READ else text
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return head.decode("utf-8", "backslashreplace")
    return None


def _without_rest(text: str) -> str:
    """A text that was cut, without the word in which that was."""
    return text[: 1 + max(text.rfind(mark) for mark in " \n<>")]


def _is_picture(data: bytes, content_type: str, name: str = "") -> bool:
    """Is this a picture or video, or does it say so?"""
    claimed = content_type.strip().lower().startswith(("image/", "video/", "audio/"))
    named = filename.safe(name, "").rpartition(".")[2] != "bin" if name else False
    return claimed or named or _sniffed(data, content_type) != "application/octet-stream"


def _sniffed(data: bytes, content_type: str) -> str:
    return filename.sniff(data[:16], content_type.partition(";")[0].strip().lower() or None)


def _beginning(data: bytes) -> str:
    """The first 16 bytes, but for what can be read."""
    pieces = _READABLE.split(data[:16])
    return " ".join(
        f"({len(piece)} characters)" if index % 2 else piece.hex()
        for index, piece in enumerate(pieces)
        if piece
    )


# What comes out


def _rendered(piece: _Piece, names: Pseudonyms) -> str:
    match piece:
        case _Text(text, cut):
            return _rendered_text(names.sweep(text), cut)
        case _Rows(rows, limit):
            return _fenced(_table([[_cell(names, cell, limit) for cell in row] for row in rows]))
        case _:
            return piece


def _rendered_text(text: str, cut: bool) -> str:
    notes: list[str] = []
    if "\r\n" in text and not re.search(r"(?<!\r)\n|\r(?!\n)", text):
        text = text.replace("\r\n", "\n")
        notes.append("(Its lines end with CRLF.)")
    if cut or len(text) > MAX_SHOWN:
        notes.append("(It is longer: the rest is cut off.)")
    shown = "\n".join(_visible(line) for line in text[:MAX_SHOWN].split("\n"))
    return "\n\n".join([_fenced(shown), *notes])


def _cell(names: Pseudonyms, text: str, limit: int) -> str:
    if isinstance(text, _Own):
        return text
    text = names.sweep(text)
    return _visible(text if len(text) <= limit else f"{text[: limit - 1]}…")


def _visible(line: str) -> str:
    """A line in which every character can be seen."""
    if line.isprintable():
        return line
    return "".join(
        char if char.isprintable() or char == "\t" else _escape_of(char) for char in line
    )


def _escape_of(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _fenced(text: str) -> str:
    """A code block that nothing in the text can end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    end = "" if text.endswith("\n") else "\n"
    return f"{fence}\n{text}{end}{fence}"
