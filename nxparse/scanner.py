"""Finds the parts of a multipart/form-data body.

While the body arrives, the scanner only records where its delimiters may be. At the end it
reads the bytes around these places, from wherever the body is stored, and makes parts of them.
A part is a span of the body: no data is copied. The memory does not grow with the body, and
the time is linear in its size.

Deviations from RFC 2046 and RFC 7578 are accepted as long as the parts can be told apart, and
each is reported under a name (`deviation.Kind`). Bytes outside of parts that could be a photo
are an error.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from nxparse import framing
from nxparse.deviation import Deviation, Kind, LimitError, MultipartError
from nxparse.framing import MAX_HEADER_BYTES, Boundary, Delimiter, Fetch, PartSpan

# Limits on what one client can make us store or compute. A camera sends a message and up to 20
# photos, each with two headers of about 120 bytes together.
MAX_PARTS = 64
MAX_DELIMITERS = 10_000  # checking one takes 10 microseconds; a photo contains none
MAX_STRAY = 1024  # bytes of text outside of parts, such as a preamble of one sentence
_CHUNK = 1 << 16
_PADDING = b"\0\t\n\r "  # bytes without meaning that clients write around parts
_BINARY = re.compile(rb"[^\t\n\r -~\0]")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_CRLF, _LF = b"\r\n", b"\n"


class Scanner:
    """Scans a body: call `feed` for each chunk, then `close` once.

    `boundary` comes from Content-Type (`boundary_of`); None if it has no usable one. With
    `strict`, a deviation is an error. After an error, `parts` and `deviations` are those
    found before it.
    """

    def __init__(self, boundary: bytes | None, *, strict: bool = False) -> None:
        self.boundary = boundary
        self.size = 0
        self.parts: list[PartSpan] = []
        self.deviations: list[Deviation] = []
        self._strict = strict
        self._declared = boundary
        self._begin = 0  # the offset after leading line ends
        self._first_line: bytes | None = b""  # the first bytes, until the first line is complete
        self._finder: Boundary | None = None
        self._starts = array("Q")  # offsets of delimiter candidates
        self._tail = b""  # the last bytes, in which a delimiter may begin

    def feed(self, chunk: bytes) -> None:
        """Scan the next bytes of the body."""
        self.size += len(chunk)
        if self._first_line is None:
            self._record_candidates(chunk)
            return
        self._first_line = (self._first_line + chunk).lstrip(b"\r\n")
        if len(self._first_line) >= framing.MAX_FIRST_LINE:
            self._end_first_line(self._first_line)

    def close(self, fetch: Fetch) -> list[PartSpan]:
        """Return the parts in their order in the body, which `fetch` reads.

        Raises MultipartError.
        """
        if self._first_line is not None:
            self._end_first_line(self._first_line)
        if self._finder is None:
            raise MultipartError(
                "Content-Type names no usable boundary, and the body does not begin with one",
                self._begin,
            )
        if self._declared is None:
            self.report(Kind.BOUNDARY_MISSING, self._begin, repr(self.boundary))
        elif self.boundary != self._declared:
            detail = f"{self.boundary!r} for {self._declared!r}"
            self.report(Kind.BOUNDARY_MISMATCH, self._begin, detail)
        _Parser(self, self._finder, self._starts, fetch).parse(self._begin)
        return self.parts

    def report(self, kind: Kind, offset: int, detail: str = "") -> None:
        """Report a deviation. Raises MultipartError with `strict`."""
        if self._strict:
            raise MultipartError(f"{kind.value}{': ' if detail else ''}{detail}", offset)
        self.deviations.append(Deviation(kind, offset, detail))

    def _end_first_line(self, start: bytes) -> None:
        self._first_line = None
        self._begin = self.size - len(start)
        self.boundary = framing.parse_first_line(start) or self._declared
        if self.boundary:
            self._finder = Boundary(self.boundary)
            self._record_candidates(start)

    def _record_candidates(self, chunk: bytes) -> None:
        """Record the offsets of delimiters that end in this chunk."""
        finder = self._finder
        if finder is None or len(self._starts) > MAX_DELIMITERS:
            return
        dashed, tail, keep = finder.dashed, self._tail, finder.longest - 1
        # Most chunks have no boundary and need not be copied. `find` is much faster than `in`,
        # which first tries its operand as an integer.
        if chunk.find(dashed) < 0 and (
            tail.find(b"-") < 0 or (tail + chunk[: len(dashed)]).find(dashed) < 0
        ):
            self._tail = chunk[-keep:] if len(chunk) >= keep else (tail + chunk)[-keep:]
            return
        buffer = tail + chunk
        base = self.size - len(buffer)
        position = max(self._starts[-1] + 1 - base, 0) if self._starts else 0
        for start in finder.find_all(buffer, position):
            self._starts.append(base + start)
            if len(self._starts) > MAX_DELIMITERS:
                break
        self._tail = buffer[-keep:]


class _Parser:
    """Builds the parts from the recorded delimiters.

    Each method that continues after a delimiter returns the next one, None at the end of the
    body.
    """

    def __init__(
        self, scanner: Scanner, boundary: Boundary, starts: Sequence[int], fetch: Fetch
    ) -> None:
        self._size = scanner.size
        self._parts = scanner.parts
        self._report = scanner.report
        self._boundary = boundary
        self._starts = starts
        self._fetch = fetch
        self._newline = _CRLF  # the line end that this client writes
        self._newlines: list[bytes | None] = []  # for each part, the one after its data
        self._delimiters = 0
        self._stray = 0  # bytes of text outside of parts
        self._doubtful: int | None = None  # the offset of stray bytes that could be a photo

    def parse(self, begin: int) -> None:
        """Find the parts. The first line is at `begin`."""
        found = self._find_first(begin)
        while found:
            found = self._after_close(found.end) if found.is_close else self._read_part(found)
        if self._doubtful is not None:
            raise MultipartError(
                "there are bytes that belong to no part and could be a photo", self._doubtful
            )
        self._cut_surplus()

    # The order of a body: a preamble, parts, and an epilogue.

    def _find_first(self, begin: int) -> Delimiter | None:
        """Return the first delimiter, which should be the first line."""
        found = self._match(begin)
        if found and not found.ends_in_nul:
            return found
        if self._is_unmarked_end(begin):
            self._report_cut(begin)
            return None
        for found in self._find(begin):
            begins_line = self._bytes(found.start - 1, found.start) == b"\n"
            if (begins_line and not found.ends_in_nul) or self._has_headers(found):
                self._skip_stray(Kind.PREAMBLE, begin, found.start)
                return found
        raise MultipartError(
            f"the boundary {self._boundary.dashed[2:]!r} never appears in the body", self._size
        )

    def _read_part(self, opening: Delimiter) -> Delimiter | None:
        """Read the part after a delimiter."""
        start = opening.end
        self._delimiters += 1
        # One more than the limit on parts: the last delimiter may be an unmarked end.
        if self._delimiters > MAX_PARTS + 1:
            raise self._too_many_parts(start)
        is_bare = opening.newline == _LF
        if is_bare and self._newline == _CRLF:
            self._report(Kind.BARE_LF, start - 1, "after a boundary")
        if self._bytes(start, start + 1) == b"\0":
            self._report(Kind.CLOSE_DELIMITER_UNMARKED, start)
            return self._after_close(start)
        found = self._match(start)
        if found and not found.ends_in_nul:
            self._report(Kind.EMPTY_PART, start)
            return found
        text = self._bytes(start, start + MAX_HEADER_BYTES + self._boundary.longest)
        block = framing.read_header_block(text, start, self._boundary)
        if not block:
            self._end_in_headers(text, start)
            return None
        if not block.has_blank_line:
            self._report(Kind.BLANK_LINE_MISSING, block.end)
        lines = text[: block.end - start]
        bare = _BARE_LF.search(lines)
        if bare and self._newline == _CRLF:
            if not self._parts and is_bare and _CRLF not in lines:
                self._newline = _LF  # not a slip: this client always writes LF
            else:
                self._report(Kind.BARE_LF, start + bare.start(), "in the headers of a part")
        part = framing.parse_headers(
            block.lines, block.end, lambda kind, detail: self._report(kind, start, detail)
        )
        return self._find_end(part)

    def _end_in_headers(self, text: bytes, start: int) -> None:
        """Accept the end of the body after a delimiter, unless it cuts a header."""
        if self._boundary.is_unmarked_end(text):
            self._report_cut(start)
            self._report(Kind.EMPTY_PART, start)
        elif b"\n" not in text and (
            self._boundary.dashed.startswith(text) or not text.strip(b"\r \t")
        ):
            self._report(Kind.CLOSE_DELIMITER_UNMARKED, start)
        else:
            raise MultipartError("the body ends inside the headers of a part", self._size)

    def _find_end(self, part: PartSpan) -> Delimiter | None:
        """Find the end of the data of a part."""
        if not part.headers and self._skip_padding(part.start) == self._size:
            self._report(Kind.CLOSE_DELIMITER_UNMARKED, part.start)
            return None
        position = part.start
        for found in self._find(part.start):
            after = self._bytes(found.end, found.end + 2) if found.is_close else found.newline
            newline = self._newline_before(part, found.start, after)
            is_regular = newline in (b"", _CRLF, self._newline) and not found.ends_in_nul
            if is_regular or self._has_headers(found):
                self._end_part(part, found.start, newline)
                return found
            following = self._skip_padding(found.end)
            if self._is_end(found, following):
                if not found.is_close:
                    self._report(Kind.CLOSE_DELIMITER_UNMARKED, found.start)
                self._end_part(part, found.start, newline)
                return self._after_close(following)
            position = found.start + 1
        self._end_in_data(part, position)
        return None

    def _is_end(self, found: Delimiter, offset: int) -> bool:
        """Return whether a delimiter inside a line ends the body.

        Padding follows up to `offset`.
        """
        if offset == self._size or not found.is_close:
            return offset == self._size
        following = self._match(offset)
        if self._bytes(offset - 1, offset) == b"\n":
            return following is not None or self._is_unmarked_end(offset)
        return following is not None and self._has_headers(following)

    def _after_close(self, start: int) -> Delimiter | None:
        """Read the epilogue, which may contain another part."""
        for found in self._find(start):
            if self._has_headers(found):
                self._skip_stray(Kind.EPILOGUE, start, found.start)
                self._report(Kind.CLOSE_DELIMITER_EARLY, found.start)
                return found
        self._skip_stray(Kind.EPILOGUE, start, self._size)
        return None

    def _skip_stray(self, kind: Kind, start: int, end: int) -> None:
        """Report bytes that belong to no part, unless they are padding."""
        start = self._skip_padding(start)
        count = 0
        for offset in range(start, end, _CHUNK):
            data = self._bytes(offset, min(offset + _CHUNK, end))
            count += len(data.translate(None, _PADDING))
            binary = _BINARY.search(data)
            if binary or self._stray + count > MAX_STRAY:
                if self._doubtful is None:
                    self._doubtful = offset + binary.start() if binary else start
                return
        self._stray += count
        if count:
            self._report(kind, start, f"{count} bytes")

    # The end of the data of a part.

    def _newline_before(self, part: PartSpan, offset: int, after: bytes) -> bytes | None:
        """Return the line end before a delimiter, None if there is none.

        `after` is the line end after it.
        """
        if offset == part.start:
            return b""  # it is that of the blank line
        before = self._bytes(max(offset - 2, part.start), offset)
        if before == _CRLF and _CRLF in (self._newline, after):
            return _CRLF
        return _LF if before.endswith(_LF) else None

    def _end_part(self, part: PartSpan, offset: int, newline: bytes | None) -> None:
        """End a part before a delimiter, and report a wrong line end."""
        if newline is None:
            self._report(Kind.NEWLINE_MISSING, offset)
        elif newline == _LF and self._newline == _CRLF:
            self._report(Kind.BARE_LF, offset - 1, "before a boundary")
        self._add_part(part, offset, newline)

    def _end_in_data(self, part: PartSpan, position: int) -> None:
        """End the last part where the body ends, in the data or in the delimiter after it.

        No delimiter begins before `position`.
        """
        position = max(position, self._size - self._boundary.longest)
        offset = position + self._boundary.find_cut(self._bytes(position, self._size))
        newline = self._newline_before(part, offset, b"")
        size = self._size - offset
        if size >= len(self._boundary.dashed):
            self._report_cut(offset)
        # Up to two hyphens are ambiguous: after a line end they begin a delimiter,
        # otherwise they are data.
        elif size <= 2 and newline != self._newline:
            offset = self._size
            ends_with_cr = self._bytes(max(offset - 1, part.start), offset) == b"\r"
            newline = b"\r" if ends_with_cr and self._newline == _CRLF else None
        if size > 2 and newline is None:
            self._report(Kind.NEWLINE_MISSING, offset)
        self._add_part(part, offset, newline, complete=size > 2)
        if size < len(self._boundary.dashed):
            data_end = offset - len(newline or b"")
            missing = data_end == self._size
            kind = Kind.CLOSE_DELIMITER_MISSING if missing else Kind.CLOSE_DELIMITER_CUT
            self._report(kind, data_end)

    def _add_part(
        self, part: PartSpan, offset: int, newline: bytes | None, *, complete: bool = True
    ) -> None:
        """Add a part whose data ends before `newline` and `offset`."""
        end = offset - len(newline or b"")
        if not part.headers and self._skip_padding(part.start) >= end:
            self._report(Kind.EMPTY_PART, end)
            return
        if len(self._parts) >= MAX_PARTS:
            raise self._too_many_parts(end)
        if not part.name:
            self._report(Kind.NO_PART_NAME, part.start)
        self._parts.append(part._replace(end=end, complete=complete))
        self._newlines.append(newline)

    def _cut_surplus(self) -> None:
        """Cut off the line end that some clients add to the data of every part.

        The message decides, as a line end after a photo may belong to it. If the message is
        unclear, all other parts must agree. End markers inside a JPEG do not help, as
        thumbnails have them too.
        """
        messages = [part for part in self._parts if framing.is_message(part, self._fetch)]
        if not messages:
            return
        lengths = [*map(self._surplus, self._parts, self._newlines)]
        of_message = lengths[self._parts.index(messages[0])]
        known = [one for one in lengths if one is not None] if of_message is None else [of_message]
        if not known or not all(known):
            return
        for index, length in enumerate(lengths):
            if length:
                end = self._parts[index].end - length
                self._report(Kind.SURPLUS_NEWLINE, end)
                self._parts[index] = self._parts[index]._replace(end=end)

    def _surplus(self, part: PartSpan, newline: bytes | None) -> int | None:
        """Return the length of a line end that ends the data of a part, None if unknown.

        `newline` is the line end after the data.
        """
        if not newline:
            return None
        before = self._bytes(max(part.end - 2, part.start), part.end)
        for one in (_CRLF, _LF):
            if before.endswith(one) and one in (newline, self._newline):
                return len(one)
        return 0 if part.complete else None

    # Reading the body.

    def _bytes(self, start: int, end: int) -> bytes:
        return self._fetch(start, min(end, self._size))

    def _match(self, offset: int) -> Delimiter | None:
        """Return the delimiter at an offset."""
        return self._boundary.match(self._bytes(offset, offset + self._boundary.longest), offset)

    def _find(self, offset: int) -> Iterator[Delimiter]:
        """Yield the delimiters from an offset on, including false ones."""
        for index in range(bisect_left(self._starts, offset), len(self._starts)):
            found = self._match(self._starts[index])
            if found:
                yield found
        if len(self._starts) > MAX_DELIMITERS:
            raise LimitError(
                f"the boundary appears more than {MAX_DELIMITERS} times in the body",
                self._starts[-1],
            )

    def _has_headers(self, delimiter: Delimiter) -> bool:
        """Return whether the headers of a part follow a delimiter."""
        text = self._bytes(delimiter.end, delimiter.end + framing.MAX_PEEK)
        return bool(delimiter.newline) and framing.begins_headers(text)

    def _skip_padding(self, offset: int) -> int:
        """Return the offset of the first non-padding byte at or after `offset`."""
        for start in range(offset, self._size, _CHUNK):
            rest = self._bytes(start, start + _CHUNK).lstrip(_PADDING)
            if rest:
                return min(start + _CHUNK, self._size) - len(rest)
        return self._size

    def _is_unmarked_end(self, offset: int) -> bool:
        """Return whether the body ends after the boundary and, perhaps, blanks or one hyphen."""
        rest = self._bytes(offset, offset + self._boundary.longest)
        return offset + len(rest) == self._size and self._boundary.is_unmarked_end(rest)

    def _report_cut(self, start: int) -> None:
        """Report a closing delimiter with one or none of its final hyphens."""
        after = start + len(self._boundary.dashed)
        half = self._bytes(after, after + 2) == b"-"
        kind = Kind.CLOSE_DELIMITER_CUT if half else Kind.CLOSE_DELIMITER_UNMARKED
        self._report(kind, after)

    def _too_many_parts(self, offset: int) -> LimitError:
        return LimitError(f"the body has more than {MAX_PARTS} parts", offset)
