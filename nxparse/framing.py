"""The syntax around the data of a part: the boundary, its delimiters, and the headers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from nxparse import filename, jpeg
from nxparse.deviation import Kind, LimitError, MultipartError

CHUNK = 1 << 18  # bytes of a body that are read at once
MAX_BOUNDARY = 256  # RFC 2046 allows 70
MAX_HEADERS = 16
MAX_HEADER_BYTES = 8192
MAX_BLANKS = 64  # blanks between a boundary and its line end (RFC 2046 sets no limit)
MAX_PEEK = 512  # bytes after a doubtful delimiter in which Content-Disposition must come
# The line, and the start of the header after it.
MAX_FIRST_LINE = 2 + MAX_BOUNDARY + MAX_BLANKS + 2 + len("content-")

_HYPHENS = re.compile(rb"-*+")
_CONTENT_DISPOSITION = re.compile(
    rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]*:[^\n]*+\n){0,8}?content-disposition[ \t]*:",
    re.IGNORECASE,
)
# The first byte of a header line, and the beginnings of files that look like one.
_HEADER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z: \t\r\n-]")
_FILE_SIGNATURES = (b"RIFF", b"II*\0", b"MM\0*")

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")

Fetch = Callable[[int, int], bytes]
"""Reads the bytes from one offset of a body up to another."""

Report = Callable[[Kind, str], None]
"""Reports a deviation and its detail. May raise."""


def read_pieces(fetch: Fetch, start: int, end: int) -> Iterator[bytes]:
    """Yield a range of a body in pieces of at most 256 KiB."""
    for position in range(start, end, CHUNK):
        yield fetch(position, min(position + CHUNK, end))


def fetch_from(body: bytes) -> Fetch:
    """Return the function that reads from a body in memory."""
    return lambda start, end: body[start:end]


class PartSpan(NamedTuple):
    """The position of a part; its data is `body[start:end]`.

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


def is_message(part: PartSpan, fetch: Fetch) -> bool:
    """Return whether a part is named message and is not a photo."""
    return part.name == "message" and not filename.is_media(
        fetch(part.start, min(part.end, part.start + filename.HEAD))
    )


class Delimiter(NamedTuple):
    """A delimiter at `body[start:end]`, without the line end before it.

    `newline` is the line end after the boundary. It is empty if the delimiter is `--B--`
    (`is_close`), or if a NUL follows (`ends_in_nul`): some cameras write these after an unmarked
    end.
    """

    start: int
    end: int
    newline: bytes
    is_close: bool

    @property
    def ends_in_nul(self) -> bool:
        return not self.newline and not self.is_close


class Boundary:
    """Finds the delimiters of a boundary `B`.

    These are `--B`, blanks and a line end; `--B--`; `--B` and a NUL. `longest` is the size
    of the longest one.
    """

    def __init__(self, boundary: bytes) -> None:
        self.dashed = b"--" + boundary
        self.longest = len(self.dashed) + MAX_BLANKS + 2
        dashed = re.escape(self.dashed)
        self._whole = re.compile(dashed + rb"(?:--|\0|[ \t]{0,%d}+(\r?\n))" % MAX_BLANKS)
        self._cut = re.compile(dashed + rb"(?:-|[ \t]{0,%d}+\r?)" % MAX_BLANKS)

    def match(self, text: bytes, offset: int) -> Delimiter | None:
        """Return the delimiter at the beginning of `text`, which is at `offset` in the body."""
        match = self._whole.match(text)
        if not match:
            return None
        return Delimiter(offset, offset + match.end(), match[1] or b"", match[0].endswith(b"--"))

    def find_all(self, buffer: bytes, position: int) -> Iterator[int]:
        """Yield the positions of delimiters in `buffer` from `position` on."""
        # `find` is much faster than an expression.
        while (position := buffer.find(self.dashed, position)) >= 0:
            match = self._whole.search(buffer, position)
            if not match:
                return
            yield match.start()
            # A boundary of hyphens could match at each of a million hyphens.
            hyphens = _HYPHENS.match(buffer, match.start())
            assert hyphens
            position = max(match.start() + 1, hyphens.end() - len(match[0]))

    def is_unmarked_end(self, text: bytes) -> bool:
        """Return whether a text is the boundary and, perhaps, blanks or one hyphen."""
        return self._cut.fullmatch(text) is not None

    def find_cut(self, text: bytes) -> int:
        """Return the position of a delimiter that the end of `text` cuts off.

        Returns `len(text)` if there is none.
        """
        start = text.find(b"-")
        while start >= 0:
            rest = text[start:]
            if self.dashed.startswith(rest) or self.is_unmarked_end(rest):
                return start
            start = text.find(b"-", start + 1)
        return len(text)


def parse_first_line(text: bytes) -> bytes | None:
    """Return the boundary in the first line, if a header of a part follows that line."""
    line, _, rest = text[:MAX_FIRST_LINE].partition(b"\n")
    boundary = line[2:].rstrip(b"\r \t")
    is_first = line.startswith(b"--") and rest[:8].lower() == b"content-"
    return boundary if is_first and is_usable(boundary) else None


def begins_headers(text: bytes) -> bool:
    """Return whether a text begins with header lines, one of them Content-Disposition."""
    return _CONTENT_DISPOSITION.match(text, 0, MAX_PEEK) is not None


class HeaderBlock(NamedTuple):
    """The header lines of a part.

    `end` is the offset after the blank line, or after the last header if data follows it
    directly.
    """

    lines: list[bytes]
    end: int
    has_blank_line: bool


def read_header_block(text: bytes, offset: int, boundary: Boundary) -> HeaderBlock | None:
    """Read the header block at the beginning of `text`, which is at `offset` in the body.

    Returns None if the text ends inside it. Raises MultipartError.
    """
    lines: list[bytes] = []
    position = 0
    while not _begins_data(text[position:], boundary if lines else None):
        newline = text.find(b"\n", position, MAX_HEADER_BYTES)
        if newline < 0 and len(text) < MAX_HEADER_BYTES:
            return None
        if newline < 0:
            raise LimitError(
                f"the headers of a part are longer than {MAX_HEADER_BYTES} bytes", offset
            )
        line = text[position:newline]
        if (photo := line.find(jpeg.START)) >= 0:
            raise MultipartError(
                "a photo begins inside the headers of a part", offset + position + photo
            )
        position = newline + 1
        line = line.removesuffix(b"\r")
        if not line:
            return HeaderBlock(lines, offset + position, has_blank_line=True)
        lines.append(line)
        if len(lines) > MAX_HEADERS:
            raise LimitError(f"a part has more than {MAX_HEADERS} headers", offset)
    return HeaderBlock(lines, offset + position, has_blank_line=False)


def _begins_data(text: bytes, boundary: Boundary | None) -> bool:
    """Return whether a text begins with a delimiter or with something that is no header line."""
    if boundary and text.startswith(boundary.dashed):
        return boundary.match(text, 0) is not None
    return bool(text) and (not _HEADER.match(text) or text.startswith(_FILE_SIGNATURES))


def parse_headers(lines: Sequence[bytes], start: int, report: Report) -> PartSpan:
    """Return the part that has these header lines and whose data begins at `start`."""
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
