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
    HEADERS   after a delimiter, up to the blank line
    BEGIN     after the blank line, until it is known whether the data are a photo
    DATA      up to the next delimiter
    CLOSING   after a `--B--` that no line end precedes: the end of the data, or data?
    EPILOGUE  after `--B--`: skip everything up to the next delimiter

A delimiter is a line end, `--B`, blanks, and a line end, or a line end and
`--B--`. Bodies whose framing is wrong are read as far as their parts can be told
apart: `--B` also counts without the line end before it if the headers of a part
follow, and `--B--` if only blanks are between it and the next delimiter, or the
end of the body. Parts may follow `--B--`. Anything else that merely resembles a
delimiter is data.

Text that belongs to no part (preamble, epilogue) is left out, and named. Bytes
that belong to no part and are no text could be a photo: then `close` fails.

What might still become a delimiter when the next chunk comes is held back: never
more than the delimiter's own length and `MAX_PEEK` (in HEADERS: than a header block
may have), so the time is linear in the size of the body and the memory does not
depend on it.

The scanner does no IO and copies no data: it returns spans, offsets into the
body, wherever that is kept. It knows two things about the content: what a photo
begins with, and that a camera that ends its message (the part of that name, XML)
with a surplus line end does the same to its photos. That line end is taken off,
so that a photo is the file on the card, byte for byte. Markers inside a JPEG are
no help there: real photos hold thumbnails, and with them two or three ends of image.

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

from nxparse import filename, jpeg
from nxparse.deviation import BodyError, Deviation, Kind

# Limits on what a sender can make us keep or do. A camera sends one message
# and up to 20 photos with two headers each, of about 120 bytes together.
MAX_PARTS = 64
MAX_HEADERS = 16
MAX_HEADER_BYTES = 8192
MAX_BOUNDARY = 256  # RFC 2046 allows 70
# Judging one takes 10 microseconds; a photo contains none.
MAX_FALSE_DELIMITERS = 10_000
MAX_PADDING = 64  # blanks that RFC 2046 allows behind a delimiter
MAX_PEEK = 512  # bytes in which the headers of a part must name their Content-Disposition
MAX_STRAY = 1024  # bytes of text outside of parts: mail programs write a sentence there
CHUNK = 1 << 18

Fetch = Callable[[int, int], bytes]
"""Reads the bytes from one offset of a body up to another."""

_BLANKS = b" \t"
_PADDING = b"\0\t\n\r "  # what cameras and others write around parts, and means nothing
_CONTENT = re.compile(rb"[^\0\t\n\r ]")
_BINARY = re.compile(rb"[^\t\n\r -~\0]")
_HYPHENS = re.compile(rb"-*+")
_DISPOSITION = re.compile(
    rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]*:[^\n]*+\n){0,8}?content-disposition[ \t]*:",
    re.IGNORECASE,
)
# The first byte of a header line, and the beginnings of files that look like one.
_HEADER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z: \t\r\n-]")
_FILES = (b"RIFF", b"II*\0", b"MM\0*")
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
    CLOSING = auto()
    EPILOGUE = auto()


class _Line(Enum):
    """What the bytes behind a `--B` make of it."""

    NEXT = auto()  # a delimiter: another part follows
    CLOSE = auto()  # the close delimiter
    DATA = auto()  # no delimiter at all
    MORE = auto()  # cannot be told yet


@dataclass(frozen=True, slots=True)
class _Closing:
    """A delimiter that is none by the rules: its offset, and what is before it."""

    start: int
    before: bytes
    newline: bytes | None  # its line end, at the end of `before`
    marked: bool  # is it `--B--`?


class Scanner:
    """Finds the parts of a body that is fed to it in chunks of any size.

    `boundary` is what Content-Type says (`boundary_of`), None if nothing
    usable. Call `feed` for each chunk and then `close`, once, which returns
    the parts. Both raise MultipartError; the first one is final and kept in
    `error`. `parts` and `deviations` grow as they are met.
    """

    def __init__(self, boundary: bytes | None, *, strict: bool = False) -> None:
        self.boundary = boundary if boundary and _usable(boundary) else None
        self.strict = strict
        self.size = 0
        self.parts: list[PartSpan] = []
        self.deviations: list[Deviation] = []
        self.error: MultipartError | None = None
        self._state = _State.START
        self._held = b""  # what has come but cannot be understood yet
        self._base = 0  # the offset of the first byte of what is being understood
        self._newline = b"\r\n"
        self._bare = False  # does the delimiter before the headers end with a bare LF?
        self._delimiters = 0
        self._false_delimiters = 0
        # For each part the length of the line end that ends its data; None if it cannot be told.
        self._newlines: list[int | None] = []
        self._message: int | None = None  # the number of the message among the parts
        self._open: PartSpan | None = None  # the part whose data are being read
        self._is_photo = False
        self._tail = b""  # its last bytes before what is held or not yet here
        self._content = 0  # where the data of a part without headers have more than blanks
        self._closing = _Closing(0, b"", None, marked=False)
        self._stray = 0  # bytes outside of parts, since the last delimiter and in all
        self._strays = 0
        self._stray_start = 0
        self._doubtful: int | None = None  # where bytes outside of parts could be a photo
        self._mark = b""  # what is in every chunk that needs a look
        self._dashed = b""
        if self.boundary is not None:
            self._set_boundary(self.boundary)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        self.size += len(chunk)
        # Most chunks of a photo have nothing of a delimiter: there is nothing to do.
        if (
            self._held
            or chunk.rfind(self._mark) >= 0
            or (
                chunk.find(b"-", self._near_end) >= 0
                and _prefix_at_end(chunk, 0, self._dashed) < len(chunk)
            )
        ):
            self._run(self._held + chunk, final=False)
        else:
            self._tail = chunk[-4:] if len(chunk) >= 4 else (self._tail + chunk)[-4:]

    def close(self) -> list[PartSpan]:
        """The body is over: return its parts in the order in which they stand there."""
        self._run(self._held, final=True)
        try:
            if self._doubtful is not None:
                raise MultipartError(
                    "there are bytes that belong to no part and could be a photo", self._doubtful
                )
            if not self._has_surplus():
                return self.parts
            return [self._without_surplus(i) for i in range(len(self.parts))]
        except MultipartError as error:
            self.error = error
            raise

    def _has_surplus(self) -> bool:
        """Does this sender write a line end of its own after the data of each part?"""
        if self._message is None:
            return False
        after_message = self._newlines[self._message]
        if after_message is not None:
            return after_message > 0
        others = [length for length in self._newlines if length is not None]
        return bool(others) and all(others)

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
            case _State.CLOSING:
                return self._close_or_data(buffer, position, final)
            case _State.EPILOGUE:
                return self._epilogue(buffer, position, final)

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
        self._set_boundary(boundary)

    def _set_boundary(self, boundary: bytes) -> None:
        self.boundary = boundary
        self._dashed = b"--" + boundary
        self._near_end = -len(boundary) - 2
        dashed = re.escape(self._dashed)
        self._delimiter = re.compile(dashed + rb"(?:--|\0|[ \t]{0,%d}+\r?\n)" % MAX_PADDING)
        self._cut_line = re.compile(dashed + rb"(?:-|[ \t]{0,%d}+\r?)\Z" % MAX_PADDING)

    def _preamble(self, buffer: bytes, position: int, final: bool) -> tuple[int, bool]:
        search = position
        while found := self._delimiter.search(buffer, search):
            before = _ending(self._tail, buffer, position, found.start())
            counts: bool | None = not _is_filled(found)
            if not before.endswith(b"\n"):
                counts = self._has_headers(buffer, found, final)
            if counts is None:
                return self._leave_out(buffer, position, found.start()), True
            if counts:
                self._leave_out(buffer, position, found.start())
                self._end_of_stray(Kind.PREAMBLE)
                line = _Line.CLOSE if _is_marked(found) else _Line.NEXT
                return self._go_on(line, buffer, found.end()), False
            search = self._reject(buffer, found)
        if final:
            raise MultipartError(
                f"the boundary {self.boundary!r} never appears in the body", self.size
            )
        return self._leave_out(buffer, position, self._unclear(buffer, search)), True

    def _epilogue(self, buffer: bytes, position: int, final: bool) -> tuple[int, bool]:
        search = position
        while found := self._delimiter.search(buffer, search):
            search = self._reject(buffer, found)
            counts = self._has_headers(buffer, found, final)
            if counts is None:
                return self._leave_out(buffer, position, found.start()), True
            if counts:
                self._leave_out(buffer, position, found.start())
                self._end_of_stray(Kind.EPILOGUE)
                self._deviate(Kind.CLOSE_DELIMITER_EARLY, found.start())
                return self._go_on(_Line.NEXT, buffer, found.end()), False
        unclear = len(buffer) if final else self._unclear(buffer, search)
        self._leave_out(buffer, position, unclear)
        if final:
            self._end_of_stray(Kind.EPILOGUE)
        return unclear, True

    def _has_headers(self, buffer: bytes, delimiter: re.Match[bytes], final: bool) -> bool | None:
        """Do the headers of a part follow a delimiter? None if that cannot be told yet."""
        end = delimiter.end()
        window = buffer[end : end + MAX_PEEK]
        if not delimiter[0].endswith(b"\n"):
            return False
        if _DISPOSITION.match(window):
            return True
        if final or len(window) == MAX_PEEK or not _HEADER.match(window or b" "):
            return False
        return None

    def _unclear(self, buffer: bytes, position: int) -> int:
        """Where, from `position` on, something begins that may become a delimiter."""
        start = max(position, len(buffer) - len(self._dashed) - MAX_PADDING - 2)
        line = self._cut_line.search(buffer, start)
        return line.start() if line else _prefix_at_end(buffer, position, self._dashed)

    def _leave_out(self, buffer: bytes, start: int, end: int) -> int:
        """Note bytes that belong to no part, and return where they end."""
        skipped = buffer[start:end]
        self._tail = _ending(self._tail, buffer, start, end)
        count = len(skipped.translate(None, _PADDING))
        if count and not self._stray:
            self._stray_start = self._base + end - len(skipped.lstrip(_PADDING))
        self._stray += count
        self._strays += count
        if self._doubtful is None:
            if binary := _BINARY.search(skipped):
                self._doubtful = self._base + start + binary.start()
            elif self._strays > MAX_STRAY:
                self._doubtful = self._stray_start
        return end

    def _end_of_stray(self, kind: Kind) -> None:
        if self._stray:
            self._deviate(kind, self._stray_start - self._base, f"{self._stray} bytes")
        self._stray = 0

    def _headers(self, buffer: bytes, position: int, final: bool) -> tuple[int, bool]:
        lines: list[bytes] = []
        start = position
        limit = position + MAX_HEADER_BYTES
        bare = -1
        while True:
            if not lines and buffer.startswith(b"\0", start):
                # Cameras may fill up what they send behind an end that is not marked as one.
                self._deviate(Kind.CLOSE_DELIMITER_UNMARKED, start)
                return self._go_on(_Line.CLOSE, buffer, start), False
            if self._is_data(buffer, start, lines):
                self._deviate(Kind.BLANK_LINE_MISSING, start)
                break
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
            if jpeg.START in line:
                raise MultipartError(
                    "a photo begins inside the headers of a part",
                    self._base + start + line.index(jpeg.START),
                )
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
            if not self.parts and self._bare and b"\r\n" not in buffer[position:start]:
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

    def _is_data(self, buffer: bytes, start: int, lines: list[bytes]) -> bool:
        """Are these the data of a part already, with no blank line before them?"""
        if lines and buffer.startswith(self._dashed, start):
            return self._delimiter.match(buffer, start) is not None
        return start < len(buffer) and (
            not _HEADER.match(buffer, start) or buffer.startswith(_FILES, start)
        )

    def _begin(self, buffer: bytes, position: int, final: bool) -> tuple[int, bool]:
        assert self._open
        if self._open.name == "message":
            head = buffer[position : position + filename.HEAD]
            if len(head) < filename.HEAD and not final:
                return position, True
            self._is_photo = filename.is_media(head)
        if not self._open.headers:
            # Without headers, what holds nothing but blanks is no part.
            start, position = position, _skip(buffer, position)
            self._tail = _ending(self._tail, buffer, start, position)
            self._content = self._base + position
            if position == len(buffer):
                if final:
                    self._deviate(Kind.CLOSE_DELIMITER_UNMARKED, self._open.start - self._base)
                return position, True
        self._mark = self._dashed
        self._state = _State.DATA
        return position, False

    def _data(self, buffer: bytes, position: int, final: bool) -> tuple[int, bool]:
        search = position
        # Much faster than an expression, which in most buffers finds nothing.
        last = buffer.rfind(self._mark, position)
        while search <= last and (found := self._delimiter.search(buffer, search)):
            start, end, is_marked = found.start(), found.end(), _is_marked(found)
            before = _ending(self._tail, buffer, position, start)
            behind = buffer[end : end + 2] if is_marked else buffer[end - 2 : end]
            if is_marked and len(behind) < 2 and not final:
                return self._hold(buffer, position, start)
            newline = self._newline_before(before, start, behind)
            is_regular = newline in (b"", b"\r\n", self._newline) and not _is_filled(found)
            follows = True if is_regular else self._has_headers(buffer, found, final)
            if follows is None:
                return self._hold(buffer, position, start)
            closing = _Closing(self._base + start, before, newline, is_marked)
            if follows:
                self._end_part(closing)
                return self._go_on(_Line.CLOSE if is_marked else _Line.NEXT, buffer, end), False
            if is_marked and not final and self._unclear(buffer, end) == end:
                return self._hold(buffer, position, start)
            if (
                _skip(buffer, end) > end
                or buffer.startswith(self._dashed, end)
                or end == len(buffer)
            ):
                self._closing = closing
                self._tail = _ending(self._tail, buffer, position, end)
                self._mark = b""
                self._state = _State.CLOSING
                return end, False
            search = self._reject(buffer, found)
        if final:
            self._end_of_data(buffer, position)
            return len(buffer), True
        return self._hold(buffer, position, self._unclear(buffer, search))

    def _hold(self, buffer: bytes, position: int, start: int) -> tuple[int, bool]:
        self._tail = _ending(self._tail, buffer, position, start)
        return start, True

    def _newline_before(self, before: bytes, position: int, behind: bytes) -> bytes | None:
        """The line end before a delimiter, None if there is none.

        `behind` is what follows the delimiter, or ends it.
        """
        assert self._open
        if self._base + position == self._open.start:
            return b""  # that of the blank line before the data
        if before.endswith(b"\r\n") and b"\r\n" in (self._newline, behind):
            return b"\r\n"
        return b"\n" if before.endswith(b"\n") else None

    def _end_part(self, closing: _Closing) -> None:
        """End the part before a delimiter, and name what is wrong with its line end."""
        position = closing.start - self._base
        newline = closing.newline
        if newline is None:
            self._deviate(Kind.NEWLINE_MISSING, position)
        elif newline == b"\n" and self._newline == b"\r\n":
            self._deviate(Kind.BARE_LF, position - 1, "before a boundary")
        self._finish(position - len(newline or b""), closing.before, newline)

    def _close_or_data(self, buffer: bytes, position: int, final: bool) -> tuple[int, bool]:
        after = _skip(buffer, position)
        if not final and self._unclear(buffer, after) == after:
            return self._hold(buffer, position, after)
        follows: bool | None = after == len(buffer)
        if self._closing.marked and not follows:
            found = self._delimiter.match(buffer, after)
            follows = self._has_headers(buffer, found, final) if found else False
            if follows is None:
                return self._hold(buffer, position, after)
            if _ending(self._tail, buffer, position, after).endswith(b"\n"):
                follows = bool(found or self._cut_line.match(buffer, after))
        if follows:
            if not self._closing.marked:
                self._deviate(Kind.CLOSE_DELIMITER_UNMARKED, self._closing.start - self._base)
            self._end_part(self._closing)
            self._state = _State.EPILOGUE
        else:
            self._count_false(self._closing.start)
            self._tail = _ending(self._tail, buffer, position, after)
            self._mark = self._dashed
            self._state = _State.DATA
        return after, False

    def _reject(self, buffer: bytes, found: re.Match[bytes]) -> int:
        """Where to go on when what looks like a delimiter is none."""
        self._count_false(self._base + found.start())
        return _after(buffer, found)

    def _count_false(self, offset: int) -> None:
        self._false_delimiters += 1
        if self._false_delimiters > MAX_FALSE_DELIMITERS:
            raise LimitError(
                f"the boundary appears more than {MAX_FALSE_DELIMITERS} times inside the data",
                offset,
            )

    def _end_of_data(self, buffer: bytes, position: int) -> None:
        """The body ends in the data of a part, or in the delimiter after them."""
        assert self._open
        start = self._unclear(buffer, position)
        before = _ending(self._tail, buffer, position, start)
        newline = self._newline_before(before, start, b"")
        size = len(buffer) - start
        if size >= len(self._dashed):
            marked = buffer.endswith(b"-") and size == len(self._dashed) + 1
            kind = Kind.CLOSE_DELIMITER_CUT if marked else Kind.CLOSE_DELIMITER_UNMARKED
            self._deviate(kind, start + len(self._dashed))
            if newline is None:
                self._deviate(Kind.NEWLINE_MISSING, start)
            self._finish(start - len(newline or b""), before, newline)
            return
        # A line end and two hyphens alone may as well be the middle of a photo; and without the
        # line end, they most likely are.
        complete = size > 2
        if not complete and newline != self._newline:
            start, newline = len(buffer), None
            before = _ending(self._tail, buffer, position, start)
            if before.endswith(b"\r") and self._newline == b"\r\n":
                newline = b"\r"
        elif newline is None:
            self._deviate(Kind.NEWLINE_MISSING, start)
        end = start - len(newline or b"")
        self._finish(end, before, newline, complete=complete)
        missing = end == len(buffer)
        self._deviate(Kind.CLOSE_DELIMITER_MISSING if missing else Kind.CLOSE_DELIMITER_CUT, end)

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
        self._mark = self._tail = b""
        if line is _Line.CLOSE:
            self._state = _State.EPILOGUE
            return after
        self._delimiters += 1
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
        if lines and len(self.parts) >= MAX_PARTS:
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

    def _finish(
        self, end: int, before: bytes, newline: bytes | None, *, complete: bool = True
    ) -> None:
        """End the data of a part at `end`. `before` is their end, with `newline` after it."""
        assert self._open
        if not self._open.headers and self._base + end <= self._content:
            self._deviate(Kind.EMPTY_PART, end)
            return
        if len(self.parts) >= MAX_PARTS:
            raise self._too_many_parts(end)
        if not self._open.name:
            self._deviate(Kind.NO_PART_NAME, self._open.start - self._base)
        if self._open.name == "message" and not self._is_photo and self._message is None:
            self._message = len(self.parts)
        before = before.removesuffix(newline or b"")
        surplus = 0
        if newline and before.endswith(b"\r\n") and b"\r\n" in (newline, self._newline):
            surplus = 2
        elif newline and before.endswith(b"\n") and b"\n" in (newline, self._newline):
            surplus = 1
        self._newlines.append(surplus if surplus or (newline and complete) else None)
        self.parts.append(replace(self._open, end=self._base + end, complete=complete))
        self._open = None

    def _without_surplus(self, index: int) -> PartSpan:
        part = self.parts[index]
        surplus = self._newlines[index]
        if not surplus:
            return part
        end = part.end - surplus
        self._deviate(Kind.SURPLUS_NEWLINE, end - self._base)
        return replace(part, end=end)

    def _deviate(self, kind: Kind, position: int, detail: str = "") -> None:
        deviation = Deviation(kind, self._base + position, detail)
        if self.strict:
            raise MultipartError(f"{kind.value}{': ' if detail else ''}{detail}", deviation.offset)
        self.deviations.append(deviation)


def _prefix_at_end(buffer: bytes, position: int, word: bytes) -> int:
    """Where, from `position` on, the buffer ends with a word's beginning; its end if nowhere."""
    start = buffer.find(word[:1], max(position, len(buffer) - len(word) + 1))
    while start >= 0 and not word.startswith(buffer[start:]):
        start = buffer.find(word[:1], start + 1)
    return start if start >= 0 else len(buffer)


def _ending(tail: bytes, buffer: bytes, start: int, end: int) -> bytes:
    """The last four bytes before `end`, when those before `start` are `tail`."""
    return buffer[end - 4 : end] if end - start >= 4 else (tail + buffer[start:end])[-4:]


def _skip(buffer: bytes, position: int) -> int:
    """Where, from `position` on, something other than padding begins."""
    found = _CONTENT.search(buffer, position)
    return found.start() if found else len(buffer)


def _is_marked(delimiter: re.Match[bytes]) -> bool:
    return delimiter[0].endswith(b"--")


def _is_filled(delimiter: re.Match[bytes]) -> bool:
    """Is a delimiter followed by zeros, so that it can only be the end?"""
    return delimiter[0].endswith(b"\0")


def _after(buffer: bytes, delimiter: re.Match[bytes]) -> int:
    """Where to go on when what looks like a delimiter is none.

    A boundary of hyphens is not found again at each of a million hyphens.
    """
    start = delimiter.start()
    hyphens = _HYPHENS.match(buffer, start)
    assert hyphens
    return max(start + 1, hyphens.end() - len(delimiter[0]))


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


def is_message(part: PartSpan, fetch: Fetch) -> bool:
    """Is this a part named message that is one, and no photo?"""
    return part.name == "message" and not filename.is_media(
        fetch(part.start, min(part.end, part.start + filename.HEAD))
    )


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
    if not is_message(part, fetch):
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
