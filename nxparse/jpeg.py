"""Metadata in the headers of a JPEG file: camera, orientation and thumbnail.

Sources: ITU-T T.81 annex B, and JEITA CP-3451 (Exif 2.3) section 4. The Exif segment is a small
TIFF file: IFD0 has model and orientation, and IFD1 points to the thumbnail. An IFD is the number
of its entries, the entries, and the offset of the next IFD.

The beginning of a file is enough; it may be cut anywhere and contain anything. No other pointers
are followed, and the time is linear.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

MAX_SEGMENTS = 64  # Exif comes first; before the frame there are only tables
MAX_ENTRIES = 64  # the entries we need have low tags, so they are among the first
MAX_TEXT = 64  # some models are a list: `ES65, ES67 / VLUU ES65, ES67 / SL50`

START = b"\xff\xd8\xff"
# Every marker that has a length, except those inside the picture data.
_SEGMENT = re.compile(rb"\xff++([\xc0-\xcf\xdb-\xfe])(..)", re.DOTALL)
_APP1 = 0xE1
_EXIF = b"Exif\0\0"
_ORDERS: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}

_MODEL = 0x0110
_ORIENTATION = 0x0112
_THUMBNAIL = 0x0201  # JPEGInterchangeFormat
_THUMBNAIL_LENGTH = 0x0202

_ASCII = 2
_INTEGERS = {3: 2, 4: 4}  # SHORT and LONG, and their sizes
_UNPRINTABLE = re.compile(rb"[^!-~]+")


class Picture(NamedTuple):
    """The metadata of a JPEG file. A default means that the value is missing.

    `model` is printable ASCII, not trustworthy. `orientation` is 1 to 8, as in Exif. `thumbnail`
    is the range of the embedded JPEG in the bytes given.
    """

    model: str = ""
    orientation: int = 1
    thumbnail: tuple[int, int] | None = None


def describe(head: bytes) -> Picture:
    """Read the beginning of a file; 128 KiB are enough. A file that is no JPEG has no metadata."""
    if not head.startswith(START):
        return Picture()
    tiff = _exif(head)
    main, next_ifd = tiff.directory(tiff.number(4, 4))
    second, _ = tiff.directory(next_ifd)
    orientation = tiff.integer(main.get(_ORIENTATION))
    return Picture(
        model=_line(tiff.text(main.get(_MODEL))),
        orientation=orientation if 1 <= orientation <= 8 else 1,
        thumbnail=tiff.jpeg(
            tiff.integer(second.get(_THUMBNAIL)), tiff.integer(second.get(_THUMBNAIL_LENGTH))
        ),
    )


def _segments(head: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of the data of each segment before the picture data."""
    position = 2
    for _ in range(MAX_SEGMENTS):
        match = _SEGMENT.match(head, position)
        length = int.from_bytes(match[2], "big") if match else 0  # includes its own two bytes
        if not match or length < 2:
            return
        position = match.end() - 2 + length
        yield match[1][0], match.end(), min(position, len(head))


def _exif(head: bytes) -> _Tiff:
    """Return the first Exif segment with a byte order, else an empty one."""
    for marker, start, end in _segments(head):
        if marker == _APP1 and head.startswith(_EXIF, start, end):
            base = start + len(_EXIF)
            order = _ORDERS.get(head[base : min(base + 4, end)])
            if order:
                return _Tiff(head, base, end, order)
    return _Tiff(head, 0, 0, "little")


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of a directory. `value` holds the value, or its offset."""

    kind: int
    count: int
    value: bytes


class _Tiff(NamedTuple):
    """The TIFF structure in Exif, with offsets from `base`, up to `end`.

    Missing bytes read as no bytes, as 0, or as a directory without entries.
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
        """Return the entries by tag (the first of a tag counts), and the next directory."""
        if not offset:
            return {}, 0
        count = self.number(offset, 2)
        offset += 2
        entries: dict[int, _Entry] = {}
        for start in range(offset, offset + 12 * min(count, MAX_ENTRIES), 12):
            value = self.at(start + 8, 4)
            if value:  # it is the last field, so the whole entry is there
                entry = _Entry(self.number(start + 2, 2), self.number(start + 4, 4), value)
                entries.setdefault(self.number(start, 2), entry)
        return entries, self.number(offset + 12 * count, 4)

    def integer(self, entry: _Entry | None) -> int:
        if entry is None or entry.kind not in _INTEGERS or entry.count != 1:
            return 0
        return int.from_bytes(entry.value[: _INTEGERS[entry.kind]], self.order)

    def text(self, entry: _Entry | None) -> bytes:
        """Return a text up to its NUL, without trailing blanks."""
        if entry is None or entry.kind != _ASCII:
            return b""
        if entry.count <= 4:
            value = entry.value[: entry.count]
        else:
            value = self.at(int.from_bytes(entry.value, self.order), entry.count)
        return value.partition(b"\0")[0].rstrip()

    def jpeg(self, offset: int, size: int) -> tuple[int, int] | None:
        """Return the range of an embedded JPEG in `head`."""
        if not self.at(offset, size).startswith(START):
            return None
        return self.base + offset, self.base + offset + size


def _line(text: bytes) -> str:
    """Return one line of printable ASCII, up to the first slash.

    Some firmware lists all models it runs on: `<KENOX S630  / Samsung S630>`.
    """
    text = text.partition(b"/")[0].lstrip(b"<")
    line = _UNPRINTABLE.sub(b" ", text, count=MAX_TEXT).strip()[:MAX_TEXT]
    return line.rstrip().decode("ascii")
