"""Finds the parts of a multipart/form-data body that arrives in chunks.

The scanner copies no data and does no I/O. It returns spans: offsets into the body, wherever
that is stored. It keeps only the bytes that may still become part of a delimiter or of a header
block, so its memory does not grow with the body, and its time is linear in the body's size.

Deviations from RFC 2046 and RFC 7578 are accepted as long as the parts can be told apart, and
each is reported under a name (`deviation.Kind`). Bytes outside of parts that could be a photo
are an error.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import NamedTuple

from nxparse import filename, framing
from nxparse.deviation import Deviation, Kind, LimitError, MultipartError
from nxparse.framing import MAX_BOUNDARY, MAX_PADDING, Boundary, Delimiter, PartSpan

# Limits on what one client can make us store or compute. A camera sends a message and up to 20
# photos, each with two headers of about 120 bytes together.
MAX_PARTS = 64
MAX_FALSE_DELIMITERS = 10_000  # checking one takes 10 microseconds; a photo contains none
_LOOKBEHIND = 4  # bytes before a delimiter that matter: its line end and a surplus one


class _State(Enum):
    START = auto()  # at the first line, which should be the boundary from Content-Type
    PREAMBLE = auto()  # before the first delimiter
    HEADERS = auto()  # between a delimiter and the blank line
    BEGIN = auto()  # after the blank line, until the first bytes of the data are there
    DATA = auto()  # in the data of a part
    DOUBTFUL = auto()  # after a delimiter without its line end: the end, if only padding follows
    EPILOGUE = auto()  # after `--B--`


class _End(NamedTuple):
    """The possible end of a part's data.

    `offset` is where the delimiter begins, `newline` the line end before it (None if there is
    none) and `surplus` the length of another line end before that.
    """

    offset: int
    newline: bytes | None
    surplus: int
    is_close: bool = False


class Scanner:
    """Scans a body for its parts. Call `feed` for each chunk, then `close` once.

    `boundary` comes from Content-Type (`boundary_of`); None if it has no usable one. With
    `strict`, a deviation is an error. Both methods raise MultipartError; the first error is
    final and stored in `error`. `parts` and `deviations` grow during the scan.
    """

    def __init__(self, boundary: bytes | None, *, strict: bool = False) -> None:
        self.boundary: bytes | None = None
        self.size = 0
        self.parts: list[PartSpan] = []
        self.deviations: list[Deviation] = []
        self.error: MultipartError | None = None
        self._strict = strict
        self._state = _State.START
        self._buffer = b""  # the last bytes of the body so far, as many as are still needed
        self._base = 0  # the offset of the buffer in the body
        self._at = 0  # the position in the buffer of the first byte that is not scanned yet
        self._final = False  # whether the buffer ends where the body ends
        self._newline = b"\r\n"
        self._bare = False  # whether the delimiter before the headers ends with a bare LF
        self._delimiters = 0
        self._false_delimiters = 0
        # For each part, the length of a surplus line end after its data, None if unknown.
        self._surplus: list[int | None] = []
        self._message: int | None = None  # the index of the message in `parts`
        self._is_photo = False  # whether the part named message is a photo
        self._doubtful = _End(0, None, 0)
        self._strays = framing.Strays()
        if boundary and framing.is_usable(boundary):
            self._set_boundary(boundary)

    def feed(self, chunk: bytes) -> None:
        """Scan the next bytes of the body."""
        self.size += len(chunk)
        if not (self._state is _State.DATA and self._skip_data(chunk)):
            self._buffer += chunk
            self._run()

    def close(self) -> list[PartSpan]:
        """Finish the scan and return the parts in their order in the body."""
        self._final = True
        self._run()
        return self.parts

    def _skip_data(self, chunk: bytes) -> bool:
        """Skip a chunk without copying it, if the boundary does not appear up to its end."""
        # `find` is much faster than `in`, which first takes its operand for a number.
        dashed = self._boundary.dashed
        needed = len(dashed) - 1 + _LOOKBEHIND
        if len(chunk) < needed or chunk.find(dashed) >= 0:
            return False
        if self._buffer.find(b"-") >= 0 and (self._buffer + chunk[:needed]).find(dashed) >= 0:
            return False
        self._buffer = chunk[-needed:]
        self._base = self.size - needed
        self._at = _LOOKBEHIND
        return True

    def _run(self) -> None:
        if self.error:
            raise self.error
        try:
            while _SCAN[self._state](self):
                pass  # until the next state needs more bytes
            if self._final:
                self._finish()
        except MultipartError as error:
            self.error = error
            self._buffer = b""
            self._state = _State.EPILOGUE
            raise
        done = max(self._at - _LOOKBEHIND, 0)
        self._buffer = self._buffer[done:]
        self._base += done
        self._at -= done

    def _finish(self) -> None:
        """Check the bytes outside of parts, and cut off surplus line ends."""
        offset = self._strays.doubtful
        if offset is not None:
            raise MultipartError(
                "there are bytes that belong to no part and could be a photo", offset
            )
        if not self._writes_surplus():
            return
        for index, length in enumerate(self._surplus):
            if length:
                end = self.parts[index].end - length
                self._deviate(Kind.SURPLUS_NEWLINE, end)
                self.parts[index] = self.parts[index]._replace(end=end)

    def _writes_surplus(self) -> bool:
        """Return whether this client writes a line end of its own after the data of each part.

        Only the message shows that: a line end after a photo may be its own. End markers inside a
        JPEG do not help, as thumbnails have them too.
        """
        if self._message is None:
            return False
        after_message = self._surplus[self._message]
        if after_message is not None:
            return after_message > 0
        others = [length for length in self._surplus if length is not None]
        return bool(others) and all(others)

    def _set_boundary(self, boundary: bytes) -> None:
        self.boundary = boundary
        self._boundary = Boundary(boundary)

    def _has_headers(self, delimiter: Delimiter) -> bool | None:
        return framing.has_headers(self._buffer, delimiter, final=self._final)

    def _follow(self, delimiter: Delimiter) -> bool:
        """Continue after a delimiter."""
        self._at = delimiter.end
        if delimiter.is_close:
            self._state = _State.EPILOGUE
            return True
        self._delimiters += 1
        # One more than the limit on parts: the last delimiter may be an unmarked end.
        if self._delimiters > MAX_PARTS + 1:
            raise self._too_many_parts(self._base + self._at)
        self._bare = delimiter.newline == b"\n"
        if self._bare and self._newline == b"\r\n":
            self._deviate(Kind.BARE_LF, self._base + self._at - 1, "after a boundary")
        self._state = _State.HEADERS
        return True

    def _reject(self, false: Delimiter) -> int:
        """Count a false delimiter. Return the position where the search continues."""
        self._count_false(self._base + false.start)
        return self._boundary.next_after(self._buffer, false)

    def _count_false(self, offset: int) -> None:
        self._false_delimiters += 1
        if self._false_delimiters > MAX_FALSE_DELIMITERS:
            raise LimitError(
                f"the boundary appears more than {MAX_FALSE_DELIMITERS} times inside the data",
                offset,
            )

    def _scan_start(self) -> bool:
        buffer = self._buffer
        self._at = at = len(buffer) - len(buffer.lstrip(b"\r\n"))
        # A delimiter's line has its line end within this window.
        window = 2 + MAX_BOUNDARY + MAX_PADDING + 2
        newline = buffer.find(b"\n", at, at + window)
        if newline < 0 and not self._final and len(buffer) - at < window:
            return False
        if newline >= 0:
            header = buffer[newline + 1 : newline + 9].lower()
            if header == b"content-":
                self._trust_first_line(buffer[at:newline].rstrip(b"\r \t"))
            elif b"content-".startswith(header) and not self._final:
                return False
        if self.boundary is None:
            raise MultipartError(
                "Content-Type names no usable boundary, and the body does not begin with one",
                self._base + at,
            )
        found = self._boundary.match(buffer, at)
        if found and not found.is_padded:
            return self._follow(found)
        self._state = _State.PREAMBLE
        if self._final and self._boundary.is_unmarked_end(buffer, at):
            self._deviate_cut(at)
            self._at = len(buffer)
            self._state = _State.EPILOGUE
        return True

    def _trust_first_line(self, line: bytes) -> None:
        """Use the boundary in a line that is followed by a header."""
        boundary = line[2:]
        if not line.startswith(b"--") or not framing.is_usable(boundary):
            return
        offset = self._base + self._at
        if self.boundary is None:
            self._deviate(Kind.BOUNDARY_MISSING, offset, repr(boundary))
        elif boundary != self.boundary:
            self._deviate(Kind.BOUNDARY_MISMATCH, offset, f"{boundary!r} for {self.boundary!r}")
        self._set_boundary(boundary)

    def _scan_preamble(self) -> bool:
        search = self._at
        while found := self._boundary.find(self._buffer, search):
            counts: bool | None = not found.is_padded
            if not self._buffer.endswith(b"\n", 0, found.start):
                counts = self._has_headers(found)
            if counts is None:
                return self._leave_out(found.start)
            if counts:
                self._leave_out(found.start)
                self._report_strays(Kind.PREAMBLE)
                return self._follow(found)
            search = self._reject(found)
        if self._final:
            raise MultipartError(
                f"the boundary {self.boundary!r} never appears in the body", self.size
            )
        return self._leave_out(self._boundary.find_cut(self._buffer, search))

    def _scan_epilogue(self) -> bool:
        search = self._at
        while found := self._boundary.find(self._buffer, search):
            follows = self._has_headers(found)
            if follows is None:
                return self._leave_out(found.start)
            if follows:
                self._leave_out(found.start)
                self._report_strays(Kind.EPILOGUE)
                self._deviate(Kind.CLOSE_DELIMITER_EARLY, self._base + found.start)
                return self._follow(found)
            search = self._reject(found)
        if not self._final:
            return self._leave_out(self._boundary.find_cut(self._buffer, search))
        self._leave_out(len(self._buffer))
        self._report_strays(Kind.EPILOGUE)
        return False

    def _leave_out(self, end: int) -> bool:
        """Skip bytes that belong to no part. Return false."""
        self._strays.add(self._buffer[self._at : end], self._base + self._at)
        self._at = end
        return False

    def _report_strays(self, kind: Kind) -> None:
        if self._strays.count:
            self._deviate(kind, self._strays.start, f"{self._strays.count} bytes")
        self._strays.count = 0

    def _scan_headers(self) -> bool:
        offset = self._base + self._at
        if self._buffer.startswith(b"\0", self._at):
            self._deviate(Kind.CLOSE_DELIMITER_UNMARKED, offset)
            self._state = _State.EPILOGUE
            return True
        found = self._boundary.match(self._buffer, self._at)
        if found and not found.is_padded:
            self._deviate(Kind.EMPTY_PART, offset)
            return self._follow(found)
        block = framing.read_header_block(self._buffer, self._at, self._base, self._boundary)
        if not block:
            if self._final:
                self._end_in_headers()
            return False
        if not block.has_blank_line:
            self._deviate(Kind.BLANK_LINE_MISSING, self._base + block.end)
        if block.bare >= 0 and self._newline == b"\r\n":
            if not self.parts and self._bare and b"\r\n" not in self._buffer[self._at : block.end]:
                self._newline = b"\n"  # not a slip: this client always writes LF
            else:
                self._deviate(Kind.BARE_LF, self._base + block.bare, "in the headers of a part")
        if block.lines and len(self.parts) >= MAX_PARTS:
            raise self._too_many_parts(offset)
        self._open = framing.parse_headers(
            block.lines,
            self._base + block.end,
            lambda kind, detail: self._deviate(kind, offset, detail),
        )
        self._at = block.end
        self._state = _State.BEGIN
        return True

    def _end_in_headers(self) -> None:
        """Accept the end of the body after a delimiter, unless it cuts a header."""
        rest = self._buffer[self._at :]
        if self._boundary.is_unmarked_end(self._buffer, self._at):
            self._deviate_cut(self._at)
            self._deviate(Kind.EMPTY_PART, self._base + self._at)
        elif b"\n" not in rest and (
            self._boundary.dashed.startswith(rest) or not rest.strip(b"\r \t")
        ):
            self._deviate(Kind.CLOSE_DELIMITER_UNMARKED, self._base + self._at)
        else:
            raise MultipartError("the body ends inside the headers of a part", self.size)

    def _scan_begin(self) -> bool:
        if self._open.name == "message":
            head = self._buffer[self._at : self._at + filename.HEAD]
            if len(head) < filename.HEAD and not self._final:
                return False
            self._is_photo = filename.is_media(head)
        if not self._open.headers:
            # A part without headers is one only if its data are more than padding.
            self._at = framing.skip_padding(self._buffer, self._at)
            if self._at == len(self._buffer):
                if self._final:
                    self._deviate(Kind.CLOSE_DELIMITER_UNMARKED, self._open.start)
                return False
        self._content = self._base + self._at
        self._state = _State.DATA
        return True

    def _scan_data(self) -> bool:
        buffer, search = self._buffer, self._at
        while found := self._boundary.find(self._buffer, search):
            start, end, newline_after, is_close = found
            if is_close:
                newline_after = buffer[end : end + 2]
                if len(newline_after) < 2 and not self._final:
                    return self._wait(start)
            data_end = self._data_end(start, newline_after, is_close=is_close)
            is_regular = data_end.newline in (b"", b"\r\n", self._newline) and not found.is_padded
            is_delimiter = True if is_regular else self._has_headers(found)
            if is_delimiter is None:
                return self._wait(start)
            if is_delimiter:
                self._end_part(data_end)
                return self._follow(found)
            if is_close and not self._final and self._boundary.is_cut(self._buffer, end):
                return self._wait(start)
            if (
                framing.skip_padding(buffer, end) > end
                or buffer.startswith(self._boundary.dashed, end)
                or end == len(buffer)
            ):
                self._doubtful = data_end
                self._at = end
                self._state = _State.DOUBTFUL
                return True
            search = self._reject(found)
        if self._final:
            self._end_in_data()
            return False
        return self._wait(self._boundary.find_cut(self._buffer, search))

    def _wait(self, position: int) -> bool:
        self._at = position
        return False

    def _scan_doubtful(self) -> bool:
        self._at = after = framing.skip_padding(self._buffer, self._at)
        if not self._final and self._boundary.is_cut(self._buffer, after):
            return False
        is_end: bool | None = after == len(self._buffer)
        if self._doubtful.is_close and not is_end:
            found = self._boundary.match(self._buffer, after)
            is_end = self._has_headers(found) if found else False
            if is_end is None:
                return False
            if self._buffer.endswith(b"\n", 0, after):
                is_end = bool(found or self._boundary.is_unmarked_end(self._buffer, after))
        if is_end:
            if not self._doubtful.is_close:
                self._deviate(Kind.CLOSE_DELIMITER_UNMARKED, self._doubtful.offset)
            self._end_part(self._doubtful)
            self._state = _State.EPILOGUE
        else:
            self._count_false(self._doubtful.offset)
            self._state = _State.DATA
        return True

    def _data_end(self, start: int, newline_after: bytes, *, is_close: bool = False) -> _End:
        """Return the end of the data before a delimiter at `start`."""
        offset = self._base + start
        if offset == self._open.start:
            return _End(offset, b"", 0, is_close)  # the line end is that of the blank line
        ends = framing.line_ends(self._before(start), self._newline, newline_after)
        return _End(offset, *ends, is_close)

    def _before(self, position: int) -> bytes:
        """Return the last bytes of the data before a position."""
        opened = max(self._open.start - self._base, 0)
        return self._buffer[max(position - _LOOKBEHIND, opened) : position]

    def _end_part(self, end: _End) -> None:
        """End the part before a delimiter, and report a wrong line end."""
        if end.newline is None:
            self._deviate(Kind.NEWLINE_MISSING, end.offset)
        elif end.newline == b"\n" and self._newline == b"\r\n":
            self._deviate(Kind.BARE_LF, end.offset - 1, "before a boundary")
        self._add_part(end)

    def _end_in_data(self) -> None:
        """End the last part where the body ends, in the data or in the delimiter after them."""
        start = self._boundary.find_cut(self._buffer, self._at)
        end = self._data_end(start, b"")
        size = len(self._buffer) - start
        if size >= len(self._boundary.dashed):
            self._deviate_cut(start)
        # A line end and two hyphens could be data; two hyphens alone most likely are.
        elif size <= 2 and end.newline != self._newline:
            before = self._before(len(self._buffer))
            has_cr = before.endswith(b"\r") and self._newline == b"\r\n"
            newline = b"\r" if has_cr else None
            end = _End(self.size, newline, framing.surplus_before(before, newline, self._newline))
        if size > 2 and end.newline is None:
            self._deviate(Kind.NEWLINE_MISSING, end.offset)
        self._add_part(end, complete=size > 2)
        if size < len(self._boundary.dashed):
            data_end = end.offset - len(end.newline or b"")
            missing = data_end == self.size
            kind = Kind.CLOSE_DELIMITER_MISSING if missing else Kind.CLOSE_DELIMITER_CUT
            self._deviate(kind, data_end)

    def _add_part(self, end: _End, *, complete: bool = True) -> None:
        data_end = end.offset - len(end.newline or b"")
        if not self._open.headers and data_end <= self._content:
            self._deviate(Kind.EMPTY_PART, data_end)
            return
        if len(self.parts) >= MAX_PARTS:
            raise self._too_many_parts(data_end)
        if not self._open.name:
            self._deviate(Kind.NO_PART_NAME, self._open.start)
        if self._open.name == "message" and not self._is_photo and self._message is None:
            self._message = len(self.parts)
        is_known = end.surplus or (end.newline and complete)
        self._surplus.append(end.surplus if is_known else None)
        self.parts.append(self._open._replace(end=data_end, complete=complete))

    def _too_many_parts(self, offset: int) -> LimitError:
        return LimitError(f"the body has more than {MAX_PARTS} parts", offset)

    def _deviate_cut(self, start: int) -> None:
        """Report the delimiter at `start`, which is not marked as the last, or only half."""
        after = start + len(self._boundary.dashed)
        half = self._buffer[after:] == b"-"
        kind = Kind.CLOSE_DELIMITER_CUT if half else Kind.CLOSE_DELIMITER_UNMARKED
        self._deviate(kind, self._base + after)

    def _deviate(self, kind: Kind, offset: int, detail: str = "") -> None:
        if self._strict:
            raise MultipartError(f"{kind.value}{': ' if detail else ''}{detail}", offset)
        self.deviations.append(Deviation(kind, offset, detail))


# Each function scans from `_at` on. It returns false if it needs more bytes, or at the end.
_SCAN: dict[_State, Callable[[Scanner], bool]] = {
    _State.START: Scanner._scan_start,
    _State.PREAMBLE: Scanner._scan_preamble,
    _State.HEADERS: Scanner._scan_headers,
    _State.BEGIN: Scanner._scan_begin,
    _State.DATA: Scanner._scan_data,
    _State.DOUBTFUL: Scanner._scan_doubtful,
    _State.EPILOGUE: Scanner._scan_epilogue,
}
