"""Uploads of any size, in pieces that share their memory."""

from __future__ import annotations

from random import Random

from tests import bodies

MB = 1_000_000
_PHOTO = b"@PHOTO@"
_PIECE = Random(0).randbytes(MB)  # resembles the data of a JPEG


def photo(size: int) -> list[bytes]:
    """A photo of `size` bytes."""
    return [*([_PIECE] * (size // MB)), _PIECE[: size % MB]]


def body(size: int, number: int = 0) -> list[bytes]:
    """The body of an upload with one photo, SAM_NUMBER.JPG, of `size` bytes."""
    before, after = bodies.body([(f"SAM_{number}.JPG", _PHOTO)]).split(_PHOTO)
    return [before, *photo(size), after]


def request(size: int, number: int = 0, host: str = "www.ospserver.net") -> list[bytes]:
    """The request with that body."""
    pieces = body(size, number)
    length = b"Content-Length: %d" % sum(map(len, pieces))
    return [bodies.request(b"", host=host).replace(b"Content-Length: 0", length), *pieces]
