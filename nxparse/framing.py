"""The syntax around the data of a part: the boundary, its delimiters, and the headers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from nxparse import jpeg
from nxparse.deviation import Kind, LimitError, MultipartError

MAX_BOUNDARY = 256  # RFC 2046 allows 70
MAX_HEADERS = 16
MAX_HEADER_BYTES = 8192
MAX_PADDING = 64  # blanks between a boundary and its line end (RFC 2046 sets no limit)
MAX_PEEK = 512  # bytes after a doubtful delimiter in which Content-Disposition must come
MAX_STRAY = 1024  # bytes of text outside of parts, such as a preamble of one sentence

_PADDING = b"\0\t\n\r "  # bytes without meaning that clients write around parts
_CONTENT = re.compile(rb"[^\0\t\n\r ]")
_BINARY = re.compile(rb"[^\t\n\r -~\0]")
_HYPHENS = re.compile(rb"-*+")
_CONTENT_DISPOSITION = re.compile(
    rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]*:[^\n]*+\n){0,8}?content-disposition[ \t]*:",
    re.IGNORECASE,
)
# The first byte of a header line, and the beginnings of files that look like one.
_HEADER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z: \t\r\n-]")
_FILES = (b"RIFF", b"II*\0", b"MM\0*")

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")

Report = Callable[[Kind, str], None]
"""Reports a deviation and its detail. May raise."""


class PartSpan(NamedTuple):
    """The position of a part; its data are `body[start:end]`.

    `name`, `filename` and `headers` are as on the wire, None where absent. `content_type` is
    the bare media type in lower case. `complete` is false if the body ends inside the data.
    """

    name: str | None
    filename: str | None
    content_type: str | None
    headers: tuple[tuple[str, str], ...]
    start: int
    end: int
    complete: bool = True


class Delimiter(NamedTuple):
    """A delimiter at `buffer[start:end]`, without the line end before it.

    `newline` is the line end after the boundary. It is empty if the delimiter is `--B--`
    (`is_close`), or if zeros follow: some cameras write these after an unmarked end.
    """

    start: int
    end: int
    newline: bytes
    is_close: bool

    @property
    def is_padded(self) -> bool:
        return not self.newline and not self.is_close


class Boundary:
    """Finds the delimiters of a boundary `B`: `--B`, blanks and a line end; `--B--`; `--B` 00."""

    def __init__(self, boundary: bytes) -> None:
        self.dashed = b"--" + boundary
        dashed = re.escape(self.dashed)
        self._whole = re.compile(dashed + rb"(?:--|\0|[ \t]{0,%d}+(\r?\n))" % MAX_PADDING)
        self._cut = re.compile(dashed + rb"(?:-|[ \t]{0,%d}+\r?)\Z" % MAX_PADDING)

    def find(self, buffer: bytes, position: int) -> Delimiter | None:
        """Return the first delimiter from a position on."""
        # `find` is much faster than an expression, and most buffers have no boundary.
        start = buffer.find(self.dashed, position)
        return _delimiter(self._whole.search(buffer, start)) if start >= 0 else None

    def match(self, buffer: bytes, position: int) -> Delimiter | None:
        """Return the delimiter at a position."""
        return _delimiter(self._whole.match(buffer, position))

    def next_after(self, buffer: bytes, false: Delimiter) -> int:
        """Return where to search after a false delimiter.

        A boundary of hyphens could match at each of a million hyphens.
        """
        hyphens = _HYPHENS.match(buffer, false.start)
        assert hyphens
        return max(false.start + 1, hyphens.end() - (false.end - false.start))

    def is_cut(self, buffer: bytes, position: int) -> bool:
        """Return whether the rest of the buffer is the beginning of a delimiter, or empty."""
        if len(buffer) - position < len(self.dashed):
            return self.dashed.startswith(buffer[position:])
        return self.is_unmarked_end(buffer, position)

    def is_unmarked_end(self, buffer: bytes, position: int) -> bool:
        """Return whether the buffer ends after the boundary and, perhaps, blanks or one hyphen."""
        return self._cut.match(buffer, position) is not None

    def find_cut(self, buffer: bytes, position: int) -> int:
        """Return where a delimiter begins that the buffer's end cuts; that end if nowhere."""
        end = len(buffer)
        start = max(position, end - len(self.dashed) - MAX_PADDING - 1)
        if cut := self._cut.search(buffer, start):
            return cut.start()
        start = buffer.find(b"-", max(position, end - len(self.dashed) + 1))
        while start >= 0 and not self.is_cut(buffer, start):
            start = buffer.find(b"-", start + 1)
        return start if start >= 0 else end


def _delimiter(match: re.Match[bytes] | None) -> Delimiter | None:
    if not match:
        return None
    return Delimiter(match.start(), match.end(), match[1] or b"", match[0].endswith(b"--"))


def has_headers(buffer: bytes, delimiter: Delimiter, *, final: bool) -> bool | None:
    """Return whether the headers of a part follow, None if that depends on bytes to come."""
    if not delimiter.newline:
        return False
    window = buffer[delimiter.end : delimiter.end + MAX_PEEK]
    if _CONTENT_DISPOSITION.match(window):
        return True
    if final or len(window) == MAX_PEEK or not _HEADER.match(window or b" "):
        return False
    return None


class Strays:
    """The bytes outside of parts. `count` and `start` are for those since the last part.

    Padding does not count. `doubtful` is the offset of bytes that could be a photo, None if
    there are none: binary ones, or more text than `MAX_STRAY`.
    """

    def __init__(self) -> None:
        self.count = 0
        self.start = 0
        self._total = 0
        self._binary: int | None = None
        self._long_text: int | None = None

    @property
    def doubtful(self) -> int | None:
        return self._long_text if self._binary is None else self._binary

    def add(self, data: bytes, offset: int) -> None:
        """Add bytes that begin at an offset of the body."""
        count = len(data.translate(None, _PADDING))
        if count and not self.count:
            self.start = offset + skip_padding(data, 0)
        self.count += count
        self._total += count
        if self._binary is None and (binary := _BINARY.search(data)):
            self._binary = offset + binary.start()
        if self._long_text is None and self._total > MAX_STRAY:
            self._long_text = self.start


def skip_padding(buffer: bytes, position: int) -> int:
    """Return the position of the first byte that is no padding."""
    found = _CONTENT.search(buffer, position)
    return found.start() if found else len(buffer)


def line_ends(before: bytes, usual: bytes, after: bytes) -> tuple[bytes | None, int]:
    """Return the line end at the end of `before`, and the length of another one before it.

    `usual` is the client's line end, `after` the one after the delimiter.
    """
    newline: bytes | None = None
    if before.endswith(b"\r\n") and b"\r\n" in (usual, after):
        newline = b"\r\n"
    elif before.endswith(b"\n"):
        newline = b"\n"
    return newline, surplus_before(before, newline, usual)


def surplus_before(data: bytes, newline: bytes | None, usual: bytes) -> int:
    """Return the length of the line end before `newline`, which ends `data`."""
    data = data.removesuffix(newline or b"")
    for one in (b"\r\n", b"\n"):
        if newline and data.endswith(one) and one in (newline, usual):
            return len(one)
    return 0


class HeaderBlock(NamedTuple):
    """The header lines of a part.

    `end` is the position after the blank line, or after the last header if data follow it
    directly. `bare` is the position of the first bare LF, -1 if there is none.
    """

    lines: list[bytes]
    end: int
    bare: int
    has_blank_line: bool


def read_header_block(
    buffer: bytes, start: int, base: int, boundary: Boundary
) -> HeaderBlock | None:
    """Read the header block at `start`. Return None if the buffer ends inside it.

    `base` is the offset of the buffer in the body. Raises MultipartError.
    """
    lines: list[bytes] = []
    position, bare = start, -1
    limit = start + MAX_HEADER_BYTES
    while not _begins_data(buffer, position, boundary if lines else None):
        newline = buffer.find(b"\n", position, limit)
        if newline < 0 and len(buffer) < limit:
            return None
        if newline < 0:
            raise LimitError(
                f"the headers of a part are longer than {MAX_HEADER_BYTES} bytes", base + start
            )
        line = buffer[position:newline]
        if jpeg.START in line:
            raise MultipartError(
                "a photo begins inside the headers of a part",
                base + position + line.index(jpeg.START),
            )
        if bare < 0 and not line.endswith(b"\r"):
            bare = newline
        position = newline + 1
        line = line.removesuffix(b"\r")
        if not line:
            return HeaderBlock(lines, position, bare, has_blank_line=True)
        lines.append(line)
        if len(lines) > MAX_HEADERS:
            raise LimitError(f"a part has more than {MAX_HEADERS} headers", base + start)
    return HeaderBlock(lines, position, bare, has_blank_line=False)


def _begins_data(buffer: bytes, position: int, boundary: Boundary | None) -> bool:
    """Return whether a delimiter or something that is no header line begins at a position."""
    if boundary and buffer.startswith(boundary.dashed, position):
        return boundary.match(buffer, position) is not None
    return position < len(buffer) and (
        not _HEADER.match(buffer, position) or buffer.startswith(_FILES, position)
    )


def parse_headers(lines: Sequence[bytes], start: int, report: Report) -> PartSpan:
    """Return the part that has these header lines and whose data begin at `start`."""
    headers = _parse_lines(lines, report)
    fields = {name.lower(): value for name, value in reversed(headers)}
    if "content-transfer-encoding" in fields:
        report(Kind.TRANSFER_ENCODING, fields["content-transfer-encoding"])
    value = fields.get("content-disposition", "")
    disposition = _parse_disposition(value, report)
    if headers and value.partition(";")[0].strip().lower() != "form-data":
        report(Kind.DISPOSITION, fields.get("content-disposition", "none"))
    return PartSpan(
        name=disposition.get("name"),
        filename=disposition.get("filename"),
        content_type=_parse_media_type(fields.get("content-type"), report),
        headers=tuple(headers),
        start=start,
        end=start,
    )


def _parse_lines(lines: Sequence[bytes], report: Report) -> list[tuple[str, str]]:
    headers: list[tuple[str, str]] = []
    for line in lines:
        text = _decode(line, report)
        if text[0] in " \t" and headers:
            report(Kind.HEADER_MALFORMED, text)
            headers[-1] = (headers[-1][0], f"{headers[-1][1]} {text.strip()}")
            continue
        name, colon, value = text.partition(":")
        if not colon or not _TOKEN.fullmatch(name) or _CONTROL.search(value):
            report(Kind.HEADER_MALFORMED, text)
        if not colon:
            continue
        if any(name.strip().lower() == other.lower() for other, _ in headers):
            report(Kind.HEADER_REPEATED, text)
        headers.append((name.strip(), value.strip()))
    return headers


def _decode(line: bytes, report: Report) -> str:
    # Some cameras are sold with Korean firmware: CP949 is the most likely other encoding.
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        report(Kind.HEADER_ENCODING, repr(line[:80]))
    try:
        return line.decode("cp949")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _parse_disposition(value: str, report: Report) -> dict[str, str]:
    """Return the first `name` and `filename` in a Content-Disposition."""
    found: dict[str, str] = {}
    for key, text, is_closed in _parse_parameters(value):
        lower = key.lower()
        if lower.endswith("*"):
            report(Kind.PARAMETER_MALFORMED, key)
        if lower not in ("name", "filename"):
            continue
        if not is_closed or lower in found:
            report(Kind.PARAMETER_MALFORMED, key)
        if lower in found:
            continue
        if key != lower:
            report(Kind.PARAMETER_CASE, key)
        found[lower] = text
    return found


def _parse_media_type(value: str | None, report: Report) -> str | None:
    if value is None:
        return None
    if value.rstrip().endswith(";"):
        report(Kind.TRAILING_SEMICOLON, value)
    media_type = value.partition(";")[0].strip().lower()
    if media_type and not _MEDIA_TYPE.fullmatch(media_type):
        return None
    if media_type.startswith("multipart/") and boundary_of(value) is None:
        report(Kind.MULTIPART_LABEL, value)
    return media_type


def _parse_parameters(value: str) -> Iterator[tuple[str, str, bool]]:
    """Yield the parameters of a header: name, value, and whether its quotes are balanced.

    A backslash escapes only a quote, because old browsers send `filename="C:\\DCIM\\a.jpg"`.
    The time is linear in the length.
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
        after = value[end + 1 : position if position >= 0 else None] if end >= 0 else "?"
        yield name, text, not after.strip()


def is_usable(boundary: bytes) -> bool:
    """Return whether these bytes can be a boundary: not too many, no control characters."""
    return 0 < len(boundary) <= MAX_BOUNDARY and all(byte >= 0x20 for byte in boundary)


def boundary_of(content_type: str) -> bytes | None:
    """Return the boundary parameter of a Content-Type, None without a usable one."""
    for name, text, _ in _parse_parameters(content_type):
        if name.lower() == "boundary":
            try:
                boundary = text.rstrip().encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:
                return None
            return boundary if is_usable(boundary) else None
    return None
