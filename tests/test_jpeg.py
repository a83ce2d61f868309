"""Metadata of JPEG files, also damaged, cut and hostile ones."""

from __future__ import annotations

import struct
from base64 import b64decode
from collections.abc import Sequence
from typing import TypeAlias

import pytest

from nxparse.jpeg import MAX_ENTRIES, MAX_SEGMENTS, MAX_TEXT, Picture, describe

# A writer of JPEG and little-endian EXIF, from the standards. It uses nothing of nxparse.

SOS, APP1, COM = 0xDA, 0xE1, 0xFE
MODEL, ORIENTATION = 0x0110, 0x0112
THUMBNAIL, THUMBNAIL_LENGTH = 0x0201, 0x0202
BYTE, ASCII, SHORT, LONG = 1, 2, 3, 4
II = b"II*\0"

Value: TypeAlias = tuple[int, int, bytes]
"""Kind, count and bytes of the value of an entry."""
Entries: TypeAlias = Sequence[tuple[int, Value]]
"""Tags and values, in the order in which they are written."""


def ascii_(text: str) -> Value:
    data = text.encode() + b"\0"
    return ASCII, len(data), data


def short(number: int) -> Value:
    return SHORT, 1, struct.pack("<H", number)


def long(number: int) -> Value:
    return LONG, 1, struct.pack("<I", number)


def directory(entries: Entries, at: int, following: int = 0) -> bytes:
    """A directory at this offset, followed by the values that do not fit into it."""
    table, values = b"", b""
    behind = at + 2 + 12 * len(entries) + 4
    for tag, (kind, count, value) in entries:
        table += struct.pack("<HHI", tag, kind, count)
        if len(value) > 4:
            table += struct.pack("<I", behind + len(values))
            values += value
        else:
            table += value.ljust(4, b"\0")
    return struct.pack("<H", len(entries)) + table + struct.pack("<I", following) + values


def pointers(at: int, length: int) -> Entries:
    """The entries that say where the thumbnail is."""
    return [(THUMBNAIL, long(at)), (THUMBNAIL_LENGTH, long(length))]


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def exif(block: bytes) -> bytes:
    return segment(APP1, b"Exif\0\0" + block)


def main(*entries: tuple[int, Value]) -> bytes:
    """An Exif segment with these entries in IFD0."""
    return exif(II + struct.pack("<I", 8) + directory(entries, 8))


def jpeg(*segments: bytes) -> bytes:
    """A file of these segments, with a little picture data."""
    return b"\xff\xd8" + b"".join(segments) + segment(SOS, b"\1\1\0\0\x3f\0") + b"\x7f\xff\xd9"


SMALL = jpeg()
"""A thumbnail."""


def photo(entries: Entries) -> bytes:
    """A file with these entries, and a thumbnail."""
    second = 8 + len(directory(entries, 8))
    block = directory(entries, 8, second) + directory(pointers(second + 30, len(SMALL)), second)
    return jpeg(exif(II + struct.pack("<I", 8) + block + SMALL))


EVERYTHING = photo([(MODEL, ascii_("NX1")), (ORIENTATION, short(6))])


# Whole files.


def test_everything() -> None:
    """All metadata are found."""
    where = EVERYTHING.index(SMALL)
    assert describe(EVERYTHING) == Picture("NX1", 6, (where, where + len(SMALL)))


# Written by piexif 1.1.3, big-endian.
PIEXIF = """
/9j/4AAQSkZJRgABAQAAAQABAAD/4QEvRXhpZgAATU0AKgAAAAgABAEPAAIAAAAIAAAAPgEQAAIAAAAIAAAARgES
AAMAAAABAAgAAIdpAAQAAAABAAAATgAAAHBTQU1TVU5HAE5YIG1pbmkAAAGQAwACAAAAFAAAAFwyMDE0OjAxOjAy
IDAzOjA0OjA1AAADAQMAAwAAAAEABgAAAgEABAAAAAEAAACaAgIABAAAAAEAAACNAAAAAP/Y/9sAQwBQNzxGPDJQ
RkFGWlVQX3jIgnhubnj1r7mRyP///////////////////////////////////////////////////8AACwgAAwAE
AQERAP/EABQAAQAAAAAAAAAAAAAAAAAAAAH/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/9oACAEBAAA/AB//2f/bAEMA
UDc8RjwyUEZBRlpVUF94yIJ4bm549a+5kcj////////////////////////////////////////////////////A
AAsIADAAQAEBEQD/xAAVAAEBAAAAAAAAAAAAAAAAAAAAA//EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8A
mAAAAAAAAAAAAAAAD//Z
"""


def test_file_of_another_writer() -> None:
    """The reader agrees with what a well-known library writes."""
    assert describe(b64decode(PIEXIF)) == Picture("NX mini", 8, (184, 325))


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"\xff\xd8", id="start-of-image-alone"),
        pytest.param(b"\x89PNG\r\n\x1a\n", id="png"),
        pytest.param(b"\0" + EVERYTHING, id="shifted"),
    ],
)
def test_no_jpeg(head: bytes) -> None:
    """A file that does not begin like a JPEG has no metadata."""
    assert describe(head) == Picture()


# Segments.

NOTHING = Picture()
XMP = segment(APP1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>")
CAMERA = main((MODEL, ascii_("SAMSUNG")))
OTHER = main((MODEL, ascii_("OTHER")))
SAMSUNG = Picture(model="SAMSUNG")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        pytest.param(jpeg() + CAMERA, NOTHING, id="exif-behind-the-picture"),
        pytest.param(jpeg(b"\xff\xd8", CAMERA), NOTHING, id="second-start"),
        pytest.param(jpeg(b"\xff\xff\xff", CAMERA), SAMSUNG, id="fill-bytes"),
        pytest.param(jpeg(XMP, b"\0", CAMERA), NOTHING, id="no-marker"),
        pytest.param(jpeg(b"\xff\xe1\0\0", CAMERA), NOTHING, id="length-0"),
        pytest.param(jpeg(b"\xff\xe1\0\2", CAMERA), SAMSUNG, id="length-2"),
        pytest.param(jpeg(b"\xff\xe1\xff\xff", CAMERA), NOTHING, id="length-too-long"),
        pytest.param(jpeg(XMP, CAMERA), SAMSUNG, id="xmp-before-exif"),
        pytest.param(jpeg(CAMERA, OTHER), SAMSUNG, id="first-exif-counts"),
        pytest.param(jpeg(exif(b"XX*\0"), CAMERA), SAMSUNG, id="exif-without-byte-order"),
        pytest.param(jpeg(exif(b"II*\0")), NOTHING, id="exif-byte-order-alone"),
    ],
)
def test_segments(file: bytes, expected: Picture) -> None:
    """Segments are read up to the picture data; the first of each kind counts."""
    assert describe(file) == expected


def test_limit_of_segments() -> None:
    """The limit on segments is exact."""
    comment = segment(COM, b"")
    assert describe(jpeg(*[comment] * (MAX_SEGMENTS - 1), CAMERA)) == SAMSUNG
    assert describe(jpeg(*[comment] * MAX_SEGMENTS, CAMERA)) == NOTHING


# Entries.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(ascii_("NX300"), "NX300", id="as-written"),
        pytest.param((ASCII, 5, b"NX300"), "NX300", id="no-nul"),
        pytest.param((ASCII, 8, b"NX300  \0"), "NX300", id="blanks"),
        pytest.param((ASCII, 8, b"NX300\0XY"), "NX300", id="rubbish-behind-nul"),
        pytest.param(ascii_("<S630  / VLUU S630>"), "S630", id="list-in-brackets"),
        pytest.param(ascii_("WB30F/WB31F/WB32F\0\0"), "WB30F", id="list"),
        pytest.param(ascii_(" \r\nNX\x1b\t300\x7f"), "NX 300", id="controls"),
        pytest.param(ascii_("NX\u00e9\u202e300"), "NX 300", id="not-ascii"),
        pytest.param((ASCII, 4, b"NX10"), "NX10", id="in-the-entry-no-nul"),
        pytest.param((ASCII, 2, b"NX1\0"), "NX", id="count-too-small"),
        pytest.param((ASCII, 0xFFFFFFFF, b"NX300\0"), "", id="count-too-large"),
        pytest.param((BYTE, 6, b"NX300\0"), "", id="wrong-kind"),
        pytest.param(ascii_("x" * MAX_TEXT), "x" * MAX_TEXT, id="limit"),
        pytest.param(ascii_("x" * 63 + " x"), "x" * 63, id="blank-at-the-limit"),
        pytest.param(ascii_("\x01x" * 20_000), ("x " * 32).rstrip(), id="many-controls"),
    ],
)
def test_model(value: Value, expected: str) -> None:
    """The model is one printable line."""
    assert describe(jpeg(main((MODEL, value)))) == Picture(model=expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[pytest.param(short(number), number, id=f"short-{number}") for number in range(1, 9)],
        pytest.param(long(8), 8, id="long"),
        pytest.param((SHORT, 1, b"\6\0\xff\xff"), 6, id="rubbish-behind-short"),
        pytest.param(short(9), 1, id="9"),
        pytest.param((BYTE, 1, b"\6"), 1, id="wrong-kind"),
        pytest.param((SHORT, 2, b"\6\0\6\0"), 1, id="two-of-them"),
    ],
)
def test_orientation(value: Value, expected: int) -> None:
    """The orientation is 1 to 8, and 1 by default."""
    assert describe(jpeg(main((ORIENTATION, value)))) == Picture(orientation=expected)


def test_first_entry_counts() -> None:
    """The first of repeated entries counts, even if it is unusable."""
    other = (MODEL, ascii_("OTHER"))
    assert describe(jpeg(main((MODEL, ascii_("SAMSUNG")), other))) == SAMSUNG
    assert describe(jpeg(main((MODEL, short(1)), other))) == NOTHING


def test_limit_of_entries() -> None:
    """The limit on entries is exact; the next directory is still found."""
    filler = [(1, short(0))] * (MAX_ENTRIES - 1)
    model = (MODEL, ascii_("SAMSUNG"))
    assert describe(jpeg(main(*filler, model))) == SAMSUNG
    assert describe(jpeg(main(*filler, (1, short(0)), model))) == NOTHING
    file = photo([*filler, *filler])
    where = file.index(SMALL)
    assert describe(file) == Picture(thumbnail=(where, where + len(SMALL)))


# Directories.


def block(first: int, *, following: int = 8, at: int = 8) -> bytes:
    """One directory with any offsets."""
    entries = [(MODEL, ascii_("SAMSUNG"))]
    return (II + struct.pack("<I", first)).ljust(at, b"\0") + directory(entries, at, following)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(block(8), SAMSUNG, id="all-the-same-one"),
        pytest.param(block(40, at=40, following=40), SAMSUNG, id="elsewhere"),
        pytest.param(block(8, following=0xFFFFFFFF), SAMSUNG, id="thumbnail-far-away"),
        pytest.param(block(0xFFFFFFFF), NOTHING, id="far-away"),
    ],
)
def test_directories(data: bytes, expected: Picture) -> None:
    """Circular and wrong offsets do no harm."""
    assert describe(jpeg(exif(data))) == expected


# Thumbnails.


@pytest.mark.parametrize(
    ("shift", "surplus", "expected"),
    [
        pytest.param(0, 0, (56, 56 + len(SMALL)), id="exact"),
        pytest.param(0, -1, (56, 55 + len(SMALL)), id="shorter"),
        pytest.param(0, 2 - len(SMALL), None, id="two-bytes"),
        pytest.param(0, 1, None, id="longer-than-exif"),
        pytest.param(1, -1, None, id="no-start-of-image"),
        pytest.param(0xFFFFFF00, 0, None, id="offset-far-too-large"),
    ],
)
def test_thumbnail(shift: int, surplus: int, expected: tuple[int, int] | None) -> None:
    """A thumbnail is found if it is whole and begins like a JPEG."""
    entries = pointers(44 + shift, len(SMALL) + surplus)
    data = II + struct.pack("<I", 8) + directory([], 8, 14) + directory(entries, 14) + SMALL
    assert describe(jpeg(exif(data))) == Picture(thumbnail=expected)


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([(THUMBNAIL, long(8))], id="no-length"),
        pytest.param([(THUMBNAIL, ascii_("a")), (THUMBNAIL_LENGTH, ascii_("a"))], id="wrong-kind"),
    ],
)
def test_no_thumbnail(entries: Entries) -> None:
    """A directory without a usable thumbnail does no harm."""
    data = II + struct.pack("<I", 8) + directory([], 8, 14) + directory(entries, 14)
    assert describe(jpeg(exif(data))) == NOTHING


def test_every_cut() -> None:
    """A cut file has fewer values, and never other ones."""
    before = Picture()
    for length in range(3, len(EVERYTHING) + 1):
        after = describe(EVERYTHING[:length])
        for value, default, old in zip(after, Picture(), before, strict=True):
            assert value == old or old == default
        before = after
    assert before == describe(EVERYTHING)
