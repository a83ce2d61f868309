"""Model and thumbnail of photos, also damaged, cut and hostile ones."""

from __future__ import annotations

import struct
from base64 import b64decode
from collections.abc import Sequence
from typing import TypeAlias

import pytest

from nxparse.jpeg import MAX_ENTRIES, MAX_MODEL, MAX_SEGMENTS, model, thumbnail
from tests import pictures

# A writer of JPEG and little-endian Exif, from the standards. It uses nothing of nxparse.

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
    end = at + 2 + 12 * len(entries) + 4
    for tag, (kind, count, value) in entries:
        table += struct.pack("<HHI", tag, kind, count)
        if len(value) > 4:
            table += struct.pack("<I", end + len(values))
            values += value
        else:
            table += value.ljust(4, b"\0")
    return struct.pack("<H", len(entries)) + table + struct.pack("<I", following) + values


def pointers(at: int, length: int) -> Entries:
    """The entries with offset and length of the thumbnail."""
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


EVERYTHING = photo([(MODEL, ascii_("NX1"))])

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
    """A file that a well-known library has written is read correctly."""
    file = b64decode(PIEXIF)
    turned = thumbnail(file)
    assert model(file) == "NX mini"
    assert turned[:2] + turned[2 + 36 :] == file[184:325]


@pytest.mark.parametrize("orientation", range(10))
def test_orientation(orientation: int) -> None:
    """A thumbnail has the orientation of its photo in an Exif segment, and stays a JPEG."""
    found = thumbnail(pictures.photo(pictures.picture(16, 8), orientation=orientation))
    picture = pictures.picture(16, 8)
    value = struct.pack(">HHIHH", ORIENTATION, SHORT, 1, orientation, 0)
    block = exif(b"MM\0*\0\0\0\x08\0\1" + value + bytes(4))
    is_turned = 2 <= orientation <= 8
    assert found == (picture[:2] + block + picture[2:] if is_turned else picture)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xd8", id="start-of-image-alone"),
        pytest.param(b"\0" + EVERYTHING, id="shifted"),
    ],
)
def test_no_jpeg(head: bytes) -> None:
    """A file that does not begin like a JPEG has no metadata."""
    assert (model(head), thumbnail(head)) == ("", b"")


XMP = segment(APP1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>")
CAMERA = main((MODEL, ascii_("SAMSUNG")))
OTHER = main((MODEL, ascii_("OTHER")))


def block(first: int, *, following: int = 8, at: int = 8) -> bytes:
    """An Exif segment of one directory with any offsets."""
    entries = [(MODEL, ascii_("SAMSUNG"))]
    return exif(
        (II + struct.pack("<I", first)).ljust(at, b"\0") + directory(entries, at, following)
    )


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        pytest.param([SMALL[2:], CAMERA], "", id="exif-after-the-picture"),
        pytest.param([b"\xff\xd8", CAMERA], "", id="second-start"),
        pytest.param([b"\xff\xff\xff", CAMERA], "SAMSUNG", id="fill-bytes"),
        pytest.param([XMP, b"\0", CAMERA], "", id="no-marker"),
        pytest.param([b"\xff\xe1\0\0", CAMERA], "", id="length-0"),
        pytest.param([b"\xff\xe1\0\2", CAMERA], "SAMSUNG", id="length-2"),
        pytest.param([b"\xff\xe1\xff\xff", CAMERA], "", id="length-too-long"),
        pytest.param([XMP, CAMERA], "SAMSUNG", id="xmp-before-exif"),
        pytest.param([CAMERA, OTHER], "SAMSUNG", id="first-exif-counts"),
        pytest.param([exif(b"XX*\0"), CAMERA], "SAMSUNG", id="exif-without-byte-order"),
        pytest.param([exif(b"II*\0")], "", id="exif-byte-order-alone"),
        pytest.param([segment(COM, b"")] * (MAX_SEGMENTS - 1) + [CAMERA], "SAMSUNG", id="most"),
        pytest.param([segment(COM, b"")] * MAX_SEGMENTS + [CAMERA], "", id="too-many"),
        # The offsets of directories.
        pytest.param([block(8)], "SAMSUNG", id="all-the-same-one"),
        pytest.param([block(40, at=40, following=40)], "SAMSUNG", id="elsewhere"),
        pytest.param([block(8, following=0xFFFFFFFF)], "SAMSUNG", id="thumbnail-far-away"),
        pytest.param([block(0xFFFFFFFF)], "", id="far-away"),
    ],
)
def test_segments(segments: list[bytes], expected: str) -> None:
    """Segments are read up to the picture data. Circular and wrong offsets do no harm."""
    file = jpeg(*segments)
    assert (model(file), thumbnail(file)) == (expected, b"")


FILLER = [(1, short(0))] * (MAX_ENTRIES - 1)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(ascii_("NX300"), "NX300", id="as-written"),
        pytest.param((ASCII, 5, b"NX300"), "NX300", id="no-nul"),
        pytest.param((ASCII, 8, b"NX300  \0"), "NX300", id="blanks"),
        pytest.param((ASCII, 8, b"NX300\0XY"), "NX300", id="rubbish-after-nul"),
        pytest.param(ascii_("<S630  / VLUU S630>"), "S630", id="list-in-brackets"),
        pytest.param(ascii_("WB30F/WB31F/WB32F\0\0"), "WB30F", id="list"),
        pytest.param(ascii_(" \r\nNX\x1b\t300\x7f"), "NX 300", id="controls"),
        pytest.param(ascii_("NX\u00e9\u202e300"), "NX 300", id="not-ascii"),
        pytest.param((ASCII, 4, b"NX10"), "NX10", id="in-the-entry-no-nul"),
        pytest.param((ASCII, 2, b"NX1\0"), "NX", id="count-too-small"),
        pytest.param((ASCII, 0xFFFFFFFF, b"NX300\0"), "", id="count-too-large"),
        pytest.param((BYTE, 6, b"NX300\0"), "", id="wrong-kind"),
        pytest.param(ascii_("x" * MAX_MODEL), "x" * MAX_MODEL, id="limit"),
        pytest.param(ascii_("x" * 63 + " x"), "x" * 63, id="blank-at-the-limit"),
        pytest.param(ascii_("\x01x" * 20_000), ("x " * 32).rstrip(), id="many-controls"),
    ],
)
def test_model(value: Value, expected: str) -> None:
    """The model is one printable line. The first of repeated entries counts, up to a limit."""
    entry, other = (MODEL, value), (MODEL, ascii_("OTHER"))
    assert model(jpeg(main(entry, other))) == expected
    assert model(jpeg(main(*FILLER, entry))) == expected
    assert model(jpeg(main(*FILLER, (1, short(0)), entry))) == ""
    assert thumbnail(photo([*FILLER, *FILLER, entry])) == SMALL


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        pytest.param(pointers(44, len(SMALL)), SMALL, id="exact"),
        pytest.param(pointers(44, len(SMALL) - 1), SMALL[:-1], id="shorter"),
        pytest.param(pointers(44, 2), b"", id="two-bytes"),
        pytest.param(pointers(44, len(SMALL) + 1), b"", id="longer-than-exif"),
        pytest.param(pointers(45, len(SMALL) - 1), b"", id="no-start-of-image"),
        pytest.param(pointers(0xFFFFFF00, len(SMALL)), b"", id="offset-far-too-large"),
        pytest.param([(THUMBNAIL, long(44)), (0, short(1))], b"", id="no-length"),
        pytest.param([(THUMBNAIL, ascii_(",")), (THUMBNAIL_LENGTH, long(9))], b"", id="wrong-kind"),
        pytest.param(
            [(THUMBNAIL, (LONG, 2, b",\0\0\0")), (THUMBNAIL_LENGTH, long(9))], b"", id="two-of-them"
        ),
        pytest.param(
            [(THUMBNAIL, (SHORT, 1, b",\0\xff\xff")), (THUMBNAIL_LENGTH, short(9))],
            SMALL[:9],
            id="rubbish-after-short",
        ),
    ],
)
def test_thumbnail(entries: Entries, expected: bytes) -> None:
    """A thumbnail is found if it is whole and begins like a JPEG."""
    data = II + struct.pack("<I", 8) + directory([], 8, 14) + directory(entries, 14) + SMALL
    assert thumbnail(jpeg(exif(data))) == expected


def test_every_cut() -> None:
    """A cut file may have fewer values, but no wrong ones."""
    found = [
        (model(EVERYTHING[:size]), thumbnail(EVERYTHING[:size])) for size in range(len(EVERYTHING))
    ]
    seen = list(dict.fromkeys(found))
    assert seen == [("", b""), ("NX1", b""), ("NX1", SMALL)]
