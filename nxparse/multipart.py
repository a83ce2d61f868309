"""multipart/form-data as Samsung's cameras write it.

What is on the wire (captured from an NX300: wiki page "Email-service" of the
repository ge0rg/samsung-nx-hacks)::

    --B CRLF
    content-disposition: form-data; name="message"; fileName="sample.txt" CRLF
    content-Type: multipart/form-data; CRLF
    CRLF
    <?xml ... </email> CRLF      a surplus line end, not part of the data
    CRLF --B CRLF
    content-disposition: form-data; name="binary"; fileName="SAM_4371.JPG" CRLF
    content-Type: image/jpeg; CRLF
    CRLF
    ...JPEG... CRLF              surplus again
    CRLF --B                     and here the body ends, without the closing `--`

RFC 2046 wants ``CRLF --B--`` at the end. Parsers that wait for it lose the
last photo, which most of the time is the only one. This one takes the end of
the body for the end of the last part, wherever in the delimiter it comes.

The scanner goes through these states::

    START     the first line: is it the boundary that Content-Type promised?
    PREAMBLE  it was not: skip everything up to the first delimiter
    HEADERS   behind a delimiter, up to the blank line
    BEGIN     behind the blank line, whose end may at once begin a delimiter
    DATA      up to the next delimiter
    EPILOGUE  behind `--B--`: nothing that follows counts

A delimiter is a line end, `--B`, blanks, and a line end, or a line end and
`--B--`. Anything else that merely resembles one is data. What might still
become a delimiter when the next chunk comes is held back: never more than the
delimiter's own length (in HEADERS: than a header block may have), so the time
is linear in the size of the body and the memory does not depend on it.

The scanner does no IO and copies no data: it returns spans, offsets into the
body, wherever that is kept. It knows one thing about the content: a camera
that ends its message (the part of that name, XML) with a surplus line end does
the same to its photos. That line end is taken off, so that a photo is the file
on the card, byte for byte. Markers inside a JPEG are no help there: real
photos hold thumbnails, and with them two or three ends of image.

Every deviation from the RFCs is tolerated under a name (`deviation.Kind`);
``strict=True`` refuses it instead.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from urllib.parse import quote

from nxparse.deviation import BodyError, Deviation, Kind

# Limits on what a sender can make us keep or do. A camera sends one message
# and up to 20 photos with two headers each, of about 120 bytes together.
MAX_PARTS = 64
MAX_HEADERS = 16
MAX_HEADER_BYTES = 8192
MAX_BOUNDARY = 256  # RFC 2046 allows 70
MAX_PADDING = 64  # blanks that RFC 2046 allows behind a delimiter
CHUNK = 1 << 18

Fetch = Callable[[int, int], bytes]
"""Reads the bytes from one offset of a body up to another."""

_BLANKS = b" \t"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# In a name: browsers leave all but quotes and line ends alone, but half of all parsers take a
# backslash for an escape, refuse control characters, or end a line at these two separators.
_MISLEADING = re.compile(r'[\x00-\x08\x0a-\x1f\x7f"\\\u2028\u2029]')
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")


class MultipartError(BodyError):
    """A body that cannot be taken apart. `offset` is where that was noticed."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(f"{message} (at byte {offset})")
        self.offset = offset


class LimitError(MultipartError):
    """A body with more parts, headers or bytes in a header than any camera sends."""

    status = 413


@dataclass(frozen=True, slots=True)
class PartSpan:
    """Where a part is: its data are `body[start:end]`.

    `name`, `filename` and `headers` are as on the wire, None where absent;
    `content_type` is the bare media type in lower case. `complete` tells
    whether a delimiter, or the beginning of one, follows the data.
    """

    name: str | None
    filename: str | None
    content_type: str | None
    headers: tuple[tuple[str, str], ...]
    start: int
    end: int
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Part:
    """A part with its data. `view` is a window on the body, `data` a copy of it.

    `headers` has names in lower case; of repeated ones, the first counts.
    """

    name: str | None
    filename: str | None
    content_type: str | None
    headers: dict[str, str]
    view: memoryview = field(repr=False)

    @property
    def data(self) -> bytes:
        return bytes(self.view)


class _State(Enum):
    START = auto()
    PREAMBLE = auto()
    HEADERS = auto()
    BEGIN = auto()
    DATA = auto()
    EPILOGUE = auto()


class _Line(Enum):
    """What the bytes behind a `--B` make of it."""

    NEXT = auto()  # a delimiter: another part follows
    CLOSE = auto()  # the close delimiter
    DATA = auto()  # no delimiter at all
    MORE = auto()  # cannot be told yet


class Scanner:
    """Finds the parts of a body that is fed to it in chunks of any size.

    `boundary` is what Content-Type says (`boundary_of`), None if nothing
    usable. Call `feed` for each chunk and then `close`, once, which returns
    the parts. Both raise MultipartError; the first one is final and kept in
    `error`. `deviations` grows as they are met.
    """

    def __init__(self, boundary: bytes | None, *, strict: bool = False) -> None:
        self.boundary = boundary if boundary and _usable(boundary) else None
        self.strict = strict
        self.size = 0
        self.deviations: list[Deviation] = []
        self.error: MultipartError | None = None
        self._state = _State.START
        self._held = b""  # what has come but cannot be understood yet
        self._base = 0  # the offset of the first byte of what is being understood
        self._newline = b"\r\n"
        self._bare = False  # does the delimiter before the headers end with a bare LF?
        self._delimiters = 0
        self._parts: list[PartSpan] = []
        self._newline_ended: list[bool] = []  # for each part: do its data end with a line end?
        self._open: PartSpan | None = None  # the part whose data are being read
        self._tail = b""  # its last two bytes before what is held, if anything is
        self._delimiter = b""  # what ends it, without what follows the boundary
        self._mark = b""  # the same without CR; outside of data, what is everywhere

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        self.size += len(chunk)
        # Most chunks of a photo have nothing of a delimiter: there is nothing to do.
        if (
            self._held
            or chunk.rfind(self._mark) >= 0
            or _prefix_at_end(chunk, 0, self._delimiter) >= 0
        ):
            self._run(self._held + chunk, final=False)

    def close(self) -> list[PartSpan]:
        """The body is over: return its parts in the order in which they stand there."""
        self._run(self._held, final=True)
        message = next((i for i, part in enumerate(self._parts) if part.name == "message"), None)
        if message is None or not self._newline_ended[message]:
            return self._parts
        try:
            return [self._without_surplus(i) for i in range(len(self._parts))]
        except MultipartError as error:
            self.error = error
            raise

    def _run(self, buffer: bytes, *, final: bool) -> None:
        if self.error:
            raise self.error
        self._base = self.size - len(buffer)
        position, starved = 0, False
        try:
            while not starved:
                position, starved = self._step(buffer, position, final)
        except MultipartError as error:
            self.error = error
            self._held = self._mark = b""
            raise
        self._held = buffer[position:]

    def _step(self, buffer: bytes, position: int, final: bool) -> tuple[int, bool]:
        """Understand something of the buffer from `position` on.

        Returns where to go on, and whether that has to wait for more bytes.
        """
        match self._state:
            case _State.DATA:
                return self._data(buffer, position, final)
            case _State.START:
                return self._start(buffer, position, final)
            case _State.PREAMBLE:
                return self._preamble(buffer, position, final)
            case _State.HEADERS:
                return self._headers(buffer, position, final)
            case _State.BEGIN:
                return self._begin(buffer, position, final)
        return len(buffer), True

    def _start(self, buffer: bytes, position: int, final: bool) -> tuple[int, bool]:
        # The first line is whole, or too long to be a delimiter, within this window.
        position = len(buffer) - len(buffer[position:].lstrip(b"\r\n"))
        window = 2 + MAX_BOUNDARY + MAX_PADDING + 2
        newline = buffer.find(b"\n", position, position + window)
        if newline < 0 and not final and len(buffer) - position < window:
            return position, True
        if newline >= 0:
            first_header = buffer[newline + 1 : newline + 9].lower()
            if not final and len(first_header) < 8 and b"content-".startswith(first_header):
                return position, True
            if first_header == b"content-":
                self._rescue(buffer[position:newline].rstrip(b"\r \t"), position)
        if self.boundary is None:
            raise MultipartError(
                "Content-Type names no usable boundary, and the body does not begin with one",
                self._base + position,
            )
        if buffer.startswith(self._dashed, position):
            line, after = self._line(buffer, position + len(self._dashed), final)
            if line in (_Line.NEXT, _Line.CLOSE):
                return self._go_on(line, buffer, after), False
        self._state = _State.PREAMBLE
        return position, False

    def _rescue(self, line: bytes, position: int) -> None:
        """Take the boundary from a line that can be nothing but a delimiter: headers follow it."""
        boundary = line[2:]
        if not line.startswith(b"--") or not _usable(boundary):
            return
        if self.boundary is None:
            self._deviate(Kind.BOUNDARY_MISSING, position, repr(boundary))
        elif boundary != self.boundary:
            self._deviate(Kind.BOUNDARY_MISMATCH, position, f"{boundary!r} for {self.boundary!r}")
        self.boundary = boundary

    def _preamble(self, buffer: bytes, position: int, final: bool) -> tuple[int, bool]:
        delimiter = b"\n" + self._dashed
        search = position
        while (found := buffer.find(delimiter, search)) >= 0:
            line, after = self._line(buffer, found + len(delimiter), final)
            if line is _Line.MORE:
                return found, True
            if line is not _Line.DATA:
                return self._go_on(line, buffer, after), False
            search = found + 1
        if final:
            raise MultipartError(
                f"the boundary {self.boundary!r} never appears in the body", self.size
            )
        found = _prefix_at_end(buffer, search, delimiter)
        return found if found >= 0 else len(buffer), True

    def _headers(self, buffer: bytes, position: int, final: bool) -> tuple[int, bool]:
        lines: list[bytes] = []
        start = position
        limit = position + MAX_HEADER_BYTES
        bare = -1
        while True:
            newline = buffer.find(b"\n", start, limit)
            if newline < 0:
                if len(buffer) >= limit:
                    raise LimitError(
                        f"the headers of a part are longer than {MAX_HEADER_BYTES} bytes",
                        self._base + position,
                    )
                if final:
                    self._end_in_headers(buffer, position, start)
                return position, True
            line = buffer[start:newline]
            if line.startswith(self._dashed) and not lines:
                kind, after = self._line(buffer, start + len(self._dashed), final)
                if kind in (_Line.NEXT, _Line.CLOSE):
                    self._deviate(Kind.EMPTY_PART, start)
                    return self._go_on(kind, buffer, after), False
            if bare < 0 and not line.endswith(b"\r"):
                bare = newline
            start = newline + 1
            line = line.removesuffix(b"\r")
            if not line:
                break
            lines.append(line)
            if len(lines) > MAX_HEADERS:
                raise LimitError(
                    f"a part has more than {MAX_HEADERS} headers", self._base + position
                )
        if bare >= 0 and self._newline == b"\r\n":
            if not self._parts and self._bare and b"\r\n" not in buffer[position:start]:
                self._newline = b"\n"  # not a slip: this sender always writes LF
            else:
                self._deviate(Kind.BARE_LF, bare, "in the headers of a part")
        self._open = self._described(lines, position, self._base + start)
        self._state = _State.BEGIN
        return start, False

    def _end_in_headers(self, buffer: bytes, position: int, start: int) -> None:
        rest = buffer[start:]
        if start == position and rest.startswith(self._dashed):
            kind, _ = self._line(buffer, start + len(self._dashed), final=True)
            if kind is not _Line.DATA:
                self._deviate(Kind.EMPTY_PART, start)
                return
        if start > position or (not self._dashed.startswith(rest) and rest.strip(b"\r\n \t")):
            raise MultipartError("the body ends inside the headers of a part", self.size)
        self._deviate(Kind.CLOSE_DELIMITER_UNMARKED, position)

    def _begin(self, buffer: bytes, position: int, final: bool) -> tuple[int, bool]:
        head = buffer[position : position + len(self._dashed)]
        self._tail = b""
        if head == self._dashed:
            line, after = self._line(buffer, position + len(head), final)
            if line is _Line.MORE:
                return position, True
            if line is not _Line.DATA:
                self._finish(buffer, position, position)
                return self._go_on(line, buffer, after), False
        elif not final and self._dashed.startswith(head):
            return position, True
        self._delimiter = self._newline + self._dashed
        self._mark = self._delimiter.lstrip(b"\r")
        self._state = _State.DATA
        return position, False

    def _data(self, buffer: bytes, position: int, final: bool) -> tuple[int, bool]:
        assert self._open
        delimiter = self._delimiter
        search = position
        # In CPython `rfind` is faster than `find`, up to 30 times on line ends: for it skips
        # what cannot be, as the mark begins with what stands in it only once.
        found = buffer.rfind(self._mark, search)
        while found >= 0 and (found := buffer.find(delimiter, search)) >= 0:
            line, after = self._line(buffer, found + len(delimiter), final)
            if line is _Line.MORE:
                break
            if line is not _Line.DATA:
                self._finish(buffer, position, found)
                return self._go_on(line, buffer, after), False
            search = found + 1
        if found < 0:
            found = _prefix_at_end(buffer, search, delimiter)
        if found < 0:
            found = len(buffer)
        if final and not self._open.headers and self._base + found == self._open.start:
            self._deviate(Kind.CLOSE_DELIMITER_UNMARKED, position)
        elif final:
            missing = found == len(buffer)
            # CRLF and two hyphens alone may as well be the middle of a photo.
            complete = len(buffer) - found > len(self._newline) + 2
            self._finish(buffer, position, found, complete=complete)
            kind = Kind.CLOSE_DELIMITER_MISSING if missing else Kind.CLOSE_DELIMITER_CUT
            self._deviate(kind, found)
        else:
            self._tail = self._ending(buffer, position, found)
        return found, True

    def _line(self, buffer: bytes, position: int, final: bool) -> tuple[_Line, int]:
        """Judge what follows a `--B`; also returns where the delimiter ends."""
        if buffer.startswith(b"--", position):
            return _Line.CLOSE, position + 2
        rest = buffer[position : position + MAX_PADDING + 2]
        padded = rest.lstrip(_BLANKS)
        after = position + len(rest) - len(padded)
        if padded.startswith(b"\r\n"):
            return _Line.NEXT, after + 2
        if padded.startswith(b"\n") and after - position <= MAX_PADDING:
            return _Line.NEXT, after + 1
        if (padded not in (b"", b"\r") and rest != b"-") or len(rest) == MAX_PADDING + 2:
            return _Line.DATA, position
        if not final:
            return _Line.MORE, position
        kind = Kind.CLOSE_DELIMITER_CUT if rest == b"-" else Kind.CLOSE_DELIMITER_UNMARKED
        self._deviate(kind, position)
        return _Line.CLOSE, len(buffer)

    def _go_on(self, line: _Line, buffer: bytes, after: int) -> int:
        """Go on behind a delimiter that ends at `after`."""
        self._delimiters += 1
        self._mark = b""
        if line is _Line.CLOSE:
            self._state = _State.EPILOGUE
            return after
        # One more than there may be parts: the last one may be the end, not marked as one.
        if self._delimiters > MAX_PARTS + 1:
            raise self._too_many_parts(after)
        self._bare = not buffer.endswith(b"\r\n", 0, after)
        if self._bare and self._newline == b"\r\n":
            self._deviate(Kind.BARE_LF, after - 1, "behind a boundary")
        self._state = _State.HEADERS
        return after

    def _too_many_parts(self, position: int) -> LimitError:
        return LimitError(f"the body has more than {MAX_PARTS} parts", self._base + position)

    def _described(self, lines: list[bytes], position: int, start: int) -> PartSpan:
        """The part that has these header lines and whose data begin at the offset `start`."""
        if lines and len(self._parts) >= MAX_PARTS:
            raise self._too_many_parts(position)
        headers: list[tuple[str, str]] = []
        for line in lines:
            text = self._text(line, position)
            if text[0] in " \t":
                self._deviate(Kind.HEADER_FOLDED, position, text)
                if headers:
                    if _CONTROL.search(text):
                        self._deviate(Kind.HEADER_CONTROL, position, text)
                    headers[-1] = (headers[-1][0], f"{headers[-1][1]} {text.strip()}")
                    continue
                text = text.lstrip(" \t")
            name, colon, value = text.partition(":")
            if not colon:
                self._deviate(Kind.HEADER_WITHOUT_COLON, position, text)
                continue
            if not _TOKEN.fullmatch(name):
                self._deviate(Kind.HEADER_NAME, position, text)
            if _CONTROL.search(value):
                self._deviate(Kind.HEADER_CONTROL, position, text)
            if any(name.strip().lower() == other.lower() for other, _ in headers):
                self._deviate(Kind.HEADER_REPEATED, position, text)
            headers.append((name.strip(), value.strip()))
        fields = {name.lower(): value for name, value in reversed(headers)}
        if "content-transfer-encoding" in fields:
            self._deviate(Kind.TRANSFER_ENCODING, position, fields["content-transfer-encoding"])
        disposition = self._disposition(fields.get("content-disposition", ""), position)
        kind = fields.get("content-disposition", "").partition(";")[0].strip().lower()
        if headers and kind != "form-data":
            self._deviate(Kind.DISPOSITION, position, fields.get("content-disposition", "none"))
        return PartSpan(
            name=disposition.get("name"),
            filename=disposition.get("filename"),
            content_type=self._media_type(fields.get("content-type"), position),
            headers=tuple(headers),
            start=start,
            end=start,
        )

    def _text(self, line: bytes, position: int) -> str:
        # Cameras are sold with Korean firmware: what is not UTF-8 most likely is CP949.
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            self._deviate(Kind.HEADER_ENCODING, position, repr(line[:80]))
        try:
            return line.decode("cp949")
        except UnicodeDecodeError:
            return line.decode("latin-1")

    def _disposition(self, value: str, position: int) -> dict[str, str]:
        """The name and the file name in a Content-Disposition, as far as they are there."""
        found: dict[str, str] = {}
        for key, text, closed in _parameters(value):
            wanted = key.lower()
            if wanted.endswith("*"):
                self._deviate(Kind.PARAMETER_EXTENDED, position, f"{key}={text}")
            if wanted not in ("name", "filename"):
                continue
            if not closed:
                self._deviate(Kind.PARAMETER_MALFORMED, position, key)
            if wanted in found:
                self._deviate(Kind.PARAMETER_REPEATED, position, f"{key}={text}")
                continue
            if key != wanted:
                self._deviate(Kind.PARAMETER_CASE, position, key)
            found[wanted] = text
        return found

    def _media_type(self, value: str | None, position: int) -> str | None:
        if value is None:
            return None
        if value.rstrip().endswith(";"):
            self._deviate(Kind.TRAILING_SEMICOLON, position, value)
        media_type = value.partition(";")[0].strip().lower()
        if media_type and not _MEDIA_TYPE.fullmatch(media_type):
            return None
        if media_type.startswith("multipart/") and boundary_of(value) is None:
            self._deviate(Kind.MULTIPART_LABEL, position, value)
        return media_type

    def _ending(self, buffer: bytes, position: int, end: int) -> bytes:
        """The last two data bytes before `end`, when the data in the buffer begin at `position`."""
        if end - position >= 2:
            return buffer[end - 2 : end]
        return (self._tail + buffer[position:end])[-2:]

    def _finish(self, buffer: bytes, position: int, end: int, *, complete: bool = True) -> None:
        assert self._open
        if not self._open.headers and self._base + end == self._open.start:
            self._deviate(Kind.EMPTY_PART, end)
            return
        if len(self._parts) >= MAX_PARTS:
            raise self._too_many_parts(end)
        if not self._open.name:
            self._deviate(Kind.NO_PART_NAME, self._open.start - self._base)
        ending = self._ending(buffer, position, end)
        self._newline_ended.append(ending.endswith(self._newline))
        self._parts.append(replace(self._open, end=self._base + end, complete=complete))
        self._open = None

    def _without_surplus(self, index: int) -> PartSpan:
        part = self._parts[index]
        if not self._newline_ended[index]:
            return part
        end = part.end - len(self._newline)
        self._deviate(Kind.SURPLUS_NEWLINE, end - self._base)
        return replace(part, end=end)

    @property
    def _dashed(self) -> bytes:
        assert self.boundary is not None
        return b"--" + self.boundary

    def _deviate(self, kind: Kind, position: int, detail: str = "") -> None:
        deviation = Deviation(kind, self._base + position, detail)
        if self.strict:
            raise MultipartError(f"{kind.value}{': ' if detail else ''}{detail}", deviation.offset)
        self.deviations.append(deviation)


def _prefix_at_end(buffer: bytes, position: int, delimiter: bytes) -> int:
    """Where, behind `position`, the buffer ends with a delimiter's beginning; -1 if nowhere."""
    # Its first byte, of a line end, stands in it only once: the last one in the buffer decides.
    start = buffer.rfind(delimiter[:1], 1 - len(delimiter))
    return start if start >= position and delimiter.startswith(buffer[start:]) else -1


def _parameters(value: str) -> Iterator[tuple[str, str, bool]]:
    """The parameters of a header value: name, value, and whether its quotes are in order.

    Every byte is looked at a fixed number of times: there is nothing here to
    make slow. A backslash escapes a quote and nothing else, because old
    browsers send `filename="C:\\DCIM\\a.jpg"`.
    """
    position = value.find(";")
    while position >= 0:
        equals = value.find("=", position)
        if equals < 0:
            return
        name = value[position + 1 : equals].rpartition(";")[2].strip()
        start = equals + 1
        while value[start : start + 1] in (" ", "\t"):
            start += 1
        if value[start : start + 1] != '"':
            end = value.find(";", start)
            yield name, value[start : end if end >= 0 else None].strip(), True
            position = end
            continue
        end = value.find('"', start + 1)
        while end >= 0 and value[end - 1] == "\\" and value.find('"', end + 1) >= 0:
            end = value.find('"', end + 1)
        text = value[start + 1 : end if end >= 0 else None].replace('\\"', '"')
        position = value.find(";", end + 1) if end >= 0 else -1
        behind = value[end + 1 : position if position >= 0 else None] if end >= 0 else "?"
        yield name, text, not behind.strip()


def _usable(boundary: bytes) -> bool:
    return 0 < len(boundary) <= MAX_BOUNDARY and all(byte >= 0x20 for byte in boundary)


def boundary_of(content_type: str) -> bytes | None:
    """The boundary parameter of a Content-Type, None if it has none that can be used."""
    for name, text, _ in _parameters(content_type):
        if name.lower() == "boundary":
            try:
                boundary = text.rstrip().encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:
                return None
            return boundary if _usable(boundary) else None
    return None


def parse(body: bytes, content_type: str, *, strict: bool = False) -> list[Part]:
    """Read a whole body: its parts, in order.

    `content_type` is the header's value, boundary and all. With `strict`,
    everything that RFC 7578 does not allow is refused. Raises MultipartError,
    a ValueError.
    """
    scanner = Scanner(boundary_of(content_type), strict=strict)
    scanner.feed(bytes(body))
    view = memoryview(body)
    return [
        Part(
            part.name,
            part.filename,
            part.content_type,
            {name.lower(): value for name, value in reversed(part.headers)},
            view[part.start : part.end],
        )
        for part in scanner.close()
    ]


def repair(body: bytes, content_type: str) -> tuple[str, bytes]:
    """Write a camera's body anew, as any parser of RFC 7578 takes it.

    Returns the Content-Type and the body. Names, order and data of the parts
    stay as they are, but for line ends behind the message, which would make us
    look for them behind the photos. Raises MultipartError like `parse`.
    """
    boundary = boundary_of(content_type)
    scanner = Scanner(boundary)
    scanner.feed(bytes(body))
    written = encode(scanner.close(), lambda start, end: bytes(body[start:end]), boundary)
    return written.content_type, b"".join(written.chunks())


@dataclass(frozen=True, slots=True)
class Encoded:
    """A body of RFC 7578: its type, its size in bytes, and itself, made while it is read."""

    content_type: str
    size: int
    _pieces: Sequence[bytes | tuple[int, int]] = field(repr=False)
    _fetch: Fetch = field(repr=False)

    def chunks(self) -> Iterator[bytes]:
        """The body, in pieces of at most 256 KiB."""
        for piece in self._pieces:
            if isinstance(piece, bytes):
                yield piece
            else:
                yield from _fetched(self._fetch, *piece)


def encode(parts: Sequence[PartSpan], fetch: Fetch, boundary: bytes | None) -> Encoded:
    """Write parts anew, wherever their data are.

    The boundary stays, if it is a legal one and stands in no part.
    """
    parts = [trimmed(part, fetch) for part in parts]
    ranges = [(part.start, part.end) for part in parts]
    return write(parts, fetch, _unused_boundary(boundary, ranges, fetch))


def write(parts: Sequence[PartSpan], fetch: Fetch, boundary: bytes) -> Encoded:
    """Write parts anew as they are.

    Their data must not contain the boundary. They are read when the chunks are.
    """
    pieces: list[bytes | tuple[int, int]] = []
    for part in parts:
        head = b"--" + boundary + b"\r\n" + _clean_headers(part) + b"\r\n"
        pieces += [head, (part.start, part.end), b"\r\n"]
    pieces.append(b"--" + boundary + b"--\r\n")
    size = sum(len(one) if isinstance(one, bytes) else one[1] - one[0] for one in pieces)
    content_type = f"multipart/form-data; boundary={boundary.decode('ascii')}"
    return Encoded(content_type, size, pieces, fetch)


def trimmed(part: PartSpan, fetch: Fetch) -> PartSpan:
    """Return a message without the line ends after it, and any other part as it is."""
    if part.name != "message":
        return part
    tail = fetch(max(part.start, part.end - CHUNK), part.end)
    end = len(tail)
    while tail[max(end - 2, 0) : end] == b"\r\n":
        end -= 2
    return replace(part, end=part.end - len(tail) + end)


def _unused_boundary(
    wanted: bytes | None, ranges: Sequence[tuple[int, int]], fetch: Fetch
) -> bytes:
    """The boundary that was wanted, if it is a legal one and in no part; else one made up."""
    boundary = wanted or b""
    attempt = 0
    while not _is_legal(boundary) or any(
        _stands_in(b"--" + boundary, _fetched(fetch, start, end)) for start, end in ranges
    ):
        boundary = hashlib.sha256(b"%d" % attempt).hexdigest()[:32].encode("ascii")
        attempt += 1
    return boundary


def _is_legal(boundary: bytes) -> bool:
    return 0 < len(boundary) <= 70 and all(
        chr(byte).isascii() and (chr(byte).isalnum() or byte in b"-_") for byte in boundary
    )


def _stands_in(needle: bytes, chunks: Iterator[bytes]) -> bool:
    tail = b""
    for chunk in chunks:
        data = tail + chunk
        if needle in data:
            return True
        tail = data[-len(needle) + 1 :]
    return False


def _fetched(fetch: Fetch, start: int, end: int) -> Iterator[bytes]:
    for position in range(start, end, CHUNK):
        yield fetch(position, min(position + CHUNK, end))


def _clean_headers(part: PartSpan) -> bytes:
    """The headers that RFC 7578 gives a part, escaped as browsers do (WHATWG HTML, multipart)."""
    disposition = f'Content-Disposition: form-data; name="{_escaped(part.name or "unnamed")}"'
    if part.filename is not None:
        disposition += f'; filename="{_escaped(part.filename)}"'
    media_type = part.content_type or "application/octet-stream"
    if media_type.startswith("multipart/"):
        media_type = "text/xml" if part.name == "message" else "application/octet-stream"
    return f"{disposition}\r\nContent-Type: {media_type}\r\n".encode("utf-8", "replace")


def _escaped(text: str) -> str:
    return _MISLEADING.sub(lambda match: quote(match[0]), text)
