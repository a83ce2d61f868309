"""Short multipart bodies, and scans of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from nxparse.deviation import Deviation, Kind, MultipartError
from nxparse.framing import PartSpan, boundary_of, fetch_from
from nxparse.scanner import Scanner
from nxparse.upload import Upload, from_parts
from tests import bodies

# A short boundary, so that the bodies in tables are readable.
B = b"B7x"
TYPE = "multipart/form-data; boundary=B7x"
FIELD = b'--B7x\r\nContent-Disposition: form-data; name="f"; filename="a.jpg"\r\n\r\n'
CLOSE = b"\r\n--B7x--\r\n"
XML = b"<email/>"
MESSAGE = b'--B7x\r\nContent-Disposition: form-data; name="message"\r\n\r\n' + XML
SMALL = [("a.jpg", bodies.jpeg(50, 1))]
THREE = [
    ("a.jpg", bodies.jpeg(60, 1)),
    ("b.jpg", bodies.jpeg(48, 2)),
    ("c.jpg", bodies.jpeg(71, 3)),
]


class Found(NamedTuple):
    """The result of a scan: parts and deviations, or the error, and the boundary."""

    parts: list[PartSpan]
    deviations: list[Deviation]
    error: str | None
    boundary: bytes | None


def scan(chunks: Iterable[bytes], boundary: bytes | None = B, *, strict: bool = False) -> Found:
    chunks = list(chunks)
    body = b"".join(chunks)
    scanner = Scanner(boundary, strict=strict)
    for chunk in chunks:
        scanner.feed(chunk)
    try:
        parts, problem = scanner.close(fetch_from(body)), None
    except MultipartError as error:
        parts, problem = [], f"{type(error).__name__}: {error}"
    return Found(parts, scanner.deviations, problem, scanner.boundary)


def read_chunked(body: bytes, size: int, content_type: str = TYPE) -> Upload:
    """Read an upload from a body in chunks of this size."""
    scanner = Scanner(boundary_of(content_type))
    for chunk in pieces(body, size):
        scanner.feed(chunk)

    def fetch(start: int, end: int) -> bytes:
        assert 0 <= start <= end <= len(body)
        return body[start:end]

    return from_parts(scanner.close(fetch), scanner.deviations, fetch)


def pieces(body: bytes, size: int) -> Iterator[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))


def halves(body: bytes, start: int = 0) -> Iterator[tuple[bytes, bytes]]:
    return ((body[:position], body[position:]) for position in range(start, len(body) + 1))


def kinds(found: Found) -> str:
    """The names of the deviations, separated by blanks."""
    return " ".join(map(str, found.deviations))


def noticed(found: Found) -> list[tuple[Kind, int]]:
    return [(deviation.kind, deviation.offset) for deviation in found.deviations]


def data(body: bytes, found: Found) -> list[bytes]:
    return [body[part.start : part.end] for part in found.parts]


def disposition(value: bytes) -> bytes:
    """A body of one part that has this Content-Disposition."""
    return b"--B7x\r\nContent-Disposition: " + value + b"\r\n\r\nD" + CLOSE


def headers(block: bytes, content: bytes = b"D") -> bytes:
    """A body of one part that has these header lines."""
    return b"--B7x\r\n" + block + b"\r\n" + content + CLOSE


FORM = b"Content-Disposition: form-data; name=f\r\n"
