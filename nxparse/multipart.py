"""multipart/form-data as Samsung's cameras write it: parsed, and written anew.

On the wire (captured from an NX300: wiki page "Email-service" of ge0rg/samsung-nx-hacks)::

    --B CRLF
    content-disposition: form-data; name="message"; fileName="sample.txt" CRLF
    content-Type: multipart/form-data; CRLF
    CRLF
    <?xml ... </email> CRLF      a surplus line end, not part of the data
    CRLF --B CRLF                the same with name="binary" for each photo
    ...JPEG... CRLF              surplus again
    CRLF --B                     the end: RFC 2046 requires CRLF --B--
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from nxparse.framing import CHUNK, Fetch, PartSpan, boundary_of, fetch_from, is_message, read_pieces
from nxparse.scanner import Scanner

_LEGAL_BOUNDARY = re.compile(rb"[A-Za-z0-9_-]{1,70}")  # those that every parser accepts
# Browsers escape only quotes and line ends in a name. But many parsers treat a backslash as an
# escape, refuse control characters, or end a line at these two separators.
_MISLEADING = re.compile(r'[\x00-\x08\x0a-\x1f\x7f"\\\u2028\u2029]')


@dataclass(frozen=True, slots=True)
class Part:
    """A part. `headers` has names in lower case; the first of repeated ones counts."""

    name: str | None
    filename: str | None
    content_type: str | None
    headers: dict[str, str]
    data: bytes = field(repr=False)


def parse(body: bytes, content_type: str, *, strict: bool = False) -> list[Part]:
    """Parse a whole body and return its parts in order.

    `content_type` is the value of the header. With `strict`, any deviation from RFC 7578 is an
    error. Raises MultipartError, a ValueError.
    """
    scanner = Scanner(boundary_of(content_type), strict=strict)
    body = bytes(body)
    scanner.feed(body)
    return [
        Part(
            part.name,
            part.filename,
            part.content_type,
            {name.lower(): value for name, value in reversed(part.headers)},
            body[part.start : part.end],
        )
        for part in scanner.close(fetch_from(body))
    ]


def repair(body: bytes, content_type: str) -> tuple[str, bytes]:
    """Encode a camera's body as RFC 7578 requires. Return the Content-Type and the body.

    Names, order and data of the parts stay the same, except for line ends after the message:
    they would be taken for a habit of the client. Raises MultipartError like `parse`.
    """
    body = bytes(body)
    wanted = boundary_of(content_type)
    scanner = Scanner(wanted)
    scanner.feed(body)
    fetch = fetch_from(body)
    parts = [trimmed(part, fetch) for part in scanner.close(fetch)]
    boundary = wanted or b""
    attempt = 0
    while not _LEGAL_BOUNDARY.fullmatch(boundary) or any(
        body.find(b"--" + boundary, part.start, part.end) >= 0 for part in parts
    ):
        boundary = hashlib.sha256(b"%d" % attempt).hexdigest()[:32].encode("ascii")
        attempt += 1
    written = write([(part, fetch) for part in parts], boundary)
    return written.content_type, b"".join(written.chunks())


@dataclass(frozen=True, slots=True)
class Encoded:
    """A multipart body that is encoded while it is read. `size` is in bytes."""

    content_type: str
    size: int
    _pieces: Sequence[bytes | tuple[PartSpan, Fetch]] = field(repr=False)

    def chunks(self) -> Iterator[bytes]:
        """Yield the body in pieces of at most 256 KiB."""
        for piece in self._pieces:
            if isinstance(piece, bytes):
                yield piece
            else:
                part, fetch = piece
                yield from read_pieces(fetch, part.start, part.end)


def write(parts: Sequence[tuple[PartSpan, Fetch]], boundary: bytes) -> Encoded:
    """Encode parts with a boundary that their data must not contain.

    Each part comes with the function that reads its data, which is called only for the chunks.
    """
    pieces: list[bytes | tuple[PartSpan, Fetch]] = []
    size = 0
    for part, fetch in parts:
        head = b"--" + boundary + b"\r\n" + _clean_headers(part) + b"\r\n"
        pieces += [head, (part, fetch), b"\r\n"]
        size += len(head) + part.end - part.start + 2
    close = b"--" + boundary + b"--\r\n"
    pieces.append(close)
    size += len(close)
    content_type = f"multipart/form-data; boundary={boundary.decode('ascii')}"
    return Encoded(content_type, size, pieces)


def trimmed(part: PartSpan, fetch: Fetch) -> PartSpan:
    """Return a message without trailing line ends, and any other part unchanged."""
    if not is_message(part, fetch):
        return part
    tail = fetch(max(part.start, part.end - CHUNK), part.end)
    end = len(tail)
    while tail[max(end - 2, 0) : end] == b"\r\n":
        end -= 2
    return part._replace(end=part.end - len(tail) + end)


def _clean_headers(part: PartSpan) -> bytes:
    """Return the headers of a part, escaped as in browsers (WHATWG HTML, multipart)."""
    disposition = f'Content-Disposition: form-data; name="{_escaped(part.name or "unnamed")}"'
    if part.filename is not None:
        disposition += f'; filename="{_escaped(part.filename)}"'
    media_type = part.content_type or "application/octet-stream"
    if media_type.startswith("multipart/"):
        media_type = "text/xml" if part.name == "message" else "application/octet-stream"
    return f"{disposition}\r\nContent-Type: {media_type}\r\n".encode("utf-8", "replace")


def _escaped(text: str) -> str:
    return _MISLEADING.sub(
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), text
    )
