"""What a JPEG file tells of itself in its own headers: size, camera, time, thumbnail.

How a camera writes it (ITU-T T.81 annex B, JEITA CP-3451 = Exif 2.3 section 4)::

    FF D8                     start of image
    FF E1  length  Exif 00 00 TIFF      the first APP1; within its 64 KiB:
        II*0 or MM0*          the byte order of everything below
        IFD0                  make, model, orientation; points to the Exif IFD
        Exif IFD              DateTimeOriginal, and how the picture was taken
        IFD1                  points to the thumbnail
        FF D8 FF ... FF D9    the thumbnail, a complete JPEG of its own
    FF xx  length ...         APP2 (MPF), DQT, DHT, in any order
    FF C0  length  precision height width ...
    FF DA                     the picture itself: nothing is read from here on

A directory (IFD) is the number of its entries, the entries in the order of
their tags, and where the next directory is. An entry is a tag, a kind, a count
and four bytes: the value, or where it is if it does not fit. All offsets count
from the byte order mark.

Only the beginning of a file is looked at, and it may be cut anywhere. What is
not wholly there is not told; what is told stays true when more is read.

Tolerated: fill bytes before a marker, either byte order, APP1 of another kind
(XMP) before or behind EXIF, directories out of order, entries repeated (the
first one counts), text without its NUL or with rubbish behind it. Bytes that
are no marker where one belongs are the end; so is the 65th segment. Offsets
lead only from IFD0 to the Exif IFD and to IFD1, so there is no circle to walk,
and never out of the segment. The time is linear in the bytes given, most of
which are skipped.

What a file tells is a claim: whoever made it may have written any text. Honest
cameras do so, too: one calls itself `<KENOX S630  / Samsung S630>`. Of such a
list of models, the first counts.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

MAX_SEGMENTS = 64  # Exif wants to be first; before the frame there are only tables
MAX_ENTRIES = 64  # those wanted have low tags, so they are among the first
MAX_TEXT = 64  # a model may be a list: `ES65, ES67 / VLUU ES65, ES67 / SL50`

START = b"\xff\xd8\xff"
# Every marker that a length follows, without those of the picture data.
_SEGMENT = re.compile(rb"\xff++([\xc0-\xcf\xdb-\xfe])(..)", re.DOTALL)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF, not DHT, JPG, DAC
_APP1 = 0xE1
_EXIF = b"Exif\0\0"
_ORDERS: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}

_MAKE = 0x010F
_MODEL = 0x0110
_ORIENTATION = 0x0112
_THUMBNAIL = 0x0201  # JPEGInterchangeFormat
_THUMBNAIL_LENGTH = 0x0202
_EXIF_IFD = 0x8769
_TAKEN = 0x9003  # DateTimeOriginal

_ASCII = 2
_INTEGERS = {3: 2, 4: 4}  # SHORT and LONG, and their sizes
_TIME = re.compile(rb"[0-9]{4}:[0-9]{2}:[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")
_BLANKS = re.compile(rb"[^!-~]+")


@dataclass(frozen=True, slots=True)
class Picture:
    """What a JPEG file tells of itself; each default means that it does not tell.

    `make` and `model` are one line of printable ASCII each, to be escaped like
    any text from outside. `taken` is `YYYY:MM:DD HH:MM:SS` on the camera's
    clock, which may never have been set: the digits need not be a date.
    `orientation` is 1 to 8, as in Exif. `thumbnail` is where the embedded JPEG
    begins and ends in the bytes given.
    """

    width: int = 0
    height: int = 0
    make: str = ""
    model: str = ""
    taken: str = ""
    orientation: int = 1
    thumbnail: tuple[int, int] | None = None


def describe(head: bytes) -> Picture | None:
    """Read the beginning of a file, 128 KiB are plenty. None if it is no JPEG. Never raises."""
    if not head.startswith(START):
        return None
    segments = tuple(_segments(head))
    width, height = _size(head, segments)
    tiff = _exif(head, segments)
    main, behind = tiff.directory(tiff.number(4, 4))
    detail, _ = tiff.directory(tiff.integer(main.get(_EXIF_IFD)))
    second, _ = tiff.directory(behind)
    taken = tiff.text(detail.get(_TAKEN))
    orientation = tiff.integer(main.get(_ORIENTATION))
    return Picture(
        width=width,
        height=height,
        make=_line(tiff.text(main.get(_MAKE))),
        model=_line(tiff.text(main.get(_MODEL))),
        taken=taken.decode("ascii") if _TIME.fullmatch(taken) else "",
        orientation=orientation if 1 <= orientation <= 8 else 1,
        thumbnail=tiff.jpeg(
            tiff.integer(second.get(_THUMBNAIL)), tiff.integer(second.get(_THUMBNAIL_LENGTH))
        ),
    )


@dataclass(frozen=True, slots=True)
class _Segment:
    """A segment's marker and where its data are in the file, as far as they are there."""

    marker: int
    start: int
    end: int


def _segments(head: bytes) -> Iterator[_Segment]:
    """The segments before the picture data."""
    position = 2
    for _ in range(MAX_SEGMENTS):
        match = _SEGMENT.match(head, position)
        if not match:
            return
        length = int.from_bytes(match[2], "big")  # counts its own two bytes
        if length < 2:
            return
        position = match.end() - 2 + length
        yield _Segment(match[1][0], match.end(), min(position, len(head)))


def _size(head: bytes, segments: tuple[_Segment, ...]) -> tuple[int, int]:
    """Width and height, from the first frame header."""
    for segment in segments:
        if segment.marker in _FRAMES and segment.end - segment.start >= 5:
            height, width = struct.unpack_from(">HH", head, segment.start + 1)
            return width, height
    return 0, 0


def _exif(head: bytes, segments: tuple[_Segment, ...]) -> _Tiff:
    """The first EXIF that has a byte order, else an empty one."""
    for segment in segments:
        if segment.marker == _APP1 and head.startswith(_EXIF, segment.start, segment.end):
            base = segment.start + len(_EXIF)
            order = _ORDERS.get(head[base : min(base + 4, segment.end)])
            if order:
                return _Tiff(head, base, segment.end, order)
    return _Tiff(head, 0, 0, "little")


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of a directory. `value` holds the value, or where it is."""

    kind: int
    count: int
    value: bytes


@dataclass(frozen=True, slots=True)
class _Tiff:
    """The TIFF structure inside of EXIF. Its offsets count from `base`, nothing is behind `end`.

    What is missing, in part or as a whole, reads as no bytes, as 0, as a
    directory without entries.
    """

    head: bytes
    base: int
    end: int
    order: Literal["little", "big"]

    def at(self, offset: int, size: int) -> bytes:
        start = self.base + offset
        return self.head[start : start + size] if start + size <= self.end else b""

    def number(self, offset: int, size: int) -> int:
        return int.from_bytes(self.at(offset, size), self.order)

    def directory(self, offset: int) -> tuple[dict[int, _Entry], int]:
        """The entries by tag, and where the next directory is."""
        if not offset:
            return {}, 0
        count = self.number(offset, 2)
        offset += 2
        entries: dict[int, _Entry] = {}
        for start in range(offset, offset + 12 * min(count, MAX_ENTRIES), 12):
            value = self.at(start + 8, 4)
            if value:  # it comes last: the whole entry is there
                entry = _Entry(self.number(start + 2, 2), self.number(start + 4, 4), value)
                entries.setdefault(self.number(start, 2), entry)
        return entries, self.number(offset + 12 * count, 4)

    def integer(self, entry: _Entry | None) -> int:
        """The value of an entry that is a single number."""
        if entry is None or entry.kind not in _INTEGERS or entry.count != 1:
            return 0
        return int.from_bytes(entry.value[: _INTEGERS[entry.kind]], self.order)

    def text(self, entry: _Entry | None) -> bytes:
        """The value of an entry that is text, up to its NUL, without blanks behind it."""
        if entry is None or entry.kind != _ASCII:
            return b""
        if entry.count <= 4:
            value = entry.value[: entry.count]
        else:
            value = self.at(int.from_bytes(entry.value, self.order), entry.count)
        return value.partition(b"\0")[0].rstrip()

    def jpeg(self, offset: int, size: int) -> tuple[int, int] | None:
        """Where this JPEG is in `head`, if it is one."""
        if not self.at(offset, size).startswith(START):
            return None
        return self.base + offset, self.base + offset + size


def _line(text: bytes) -> str:
    """One line of printable ASCII, up to the first slash.

    Many compacts name every model that has their firmware: `WB30F/WB31F/WB32F`.
    """
    text = text.partition(b"/")[0].lstrip(b"<")
    # As many runs of blanks as characters: what stands behind them is cut off.
    line = _BLANKS.sub(b" ", text, count=MAX_TEXT).strip()[:MAX_TEXT]
    return line.rstrip().decode("ascii")
