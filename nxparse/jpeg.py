"""Metadata in the headers of a JPEG file: camera, orientation and thumbnail.

Sources: ITU-T T.81 annex B, and JEITA CP-3451 (Exif 2.3) section 4. The Exif segment is a small
TIFF file: IFD0 has model and orientation, and IFD1 points to the thumbnail. An IFD is the number
of its entries, the entries, and the offset of the next IFD.

The beginning of a file is enough; it may be cut anywhere and contain anything. No other pointers
are followed, and the time is linear.
"""

from __future__ import annotations

import re
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
    base, tiff = _exif(head)
    main, following = tiff.directory(tiff.number(4, 4))
    second, _ = tiff.directory(following)
    orientation = tiff.integer(main.get(_ORIENTATION))
    start = tiff.integer(second.get(_THUMBNAIL))
    size = tiff.integer(second.get(_THUMBNAIL_LENGTH))
    has_thumbnail = tiff.at(start, size).startswith(START)
    return Picture(
        model=_line(tiff.text(main.get(_MODEL))),
        orientation=orientation if 1 <= orientation <= 8 else 1,
        thumbnail=(base + start, base + start + size) if has_thumbnail else None,
    )


def _exif(head: bytes) -> tuple[int, _Tiff]:
    """Return the offset and content of the first Exif segment with a byte order, or an empty one.

    It comes before the picture data.
    """
    position = 2
    for _ in range(MAX_SEGMENTS if head.startswith(START) else 0):
        match = _SEGMENT.match(head, position)
        length = int.from_bytes(match[2], "big") if match else 0  # includes its own two bytes
        if not match or length < 2:
            break
        start = match.end() + len(_EXIF)
        position = match.end() - 2 + length
        order = _ORDERS.get(head[start : min(start + 4, position)])
        if order and match[1][0] == _APP1 and head.startswith(_EXIF, match.end()):
            return start, _Tiff(head[start:position], order)
    return 0, _Tiff(b"", "little")


class _Entry(NamedTuple):
    """An entry of a directory. `value` holds the value, or its offset."""

    kind: int
    length: int
    value: bytes


class _Tiff(NamedTuple):
    """The TIFF structure in Exif. Bytes that are cut off read as none, or as 0."""

    data: bytes
    order: Literal["little", "big"]

    def at(self, offset: int, size: int) -> bytes:
        end = offset + size
        return self.data[offset:end] if end <= len(self.data) else b""

    def number(self, offset: int, size: int) -> int:
        return int.from_bytes(self.at(offset, size), self.order)

    def directory(self, offset: int) -> tuple[dict[int, _Entry], int]:
        """Return the entries by tag (the first of a tag counts), and the next directory."""
        entries: dict[int, _Entry] = {}
        if not offset:
            return entries, 0
        count = self.number(offset, 2)
        offset += 2
        for start in range(offset, offset + 12 * min(count, MAX_ENTRIES), 12):
            value = self.at(start + 8, 4)
            if value:  # it is the last field, so the whole entry is there
                entry = _Entry(self.number(start + 2, 2), self.number(start + 4, 4), value)
                entries.setdefault(self.number(start, 2), entry)
        return entries, self.number(offset + 12 * count, 4)

    def integer(self, entry: _Entry | None) -> int:
        if entry is None or entry.kind not in _INTEGERS or entry.length != 1:
            return 0
        return int.from_bytes(entry.value[: _INTEGERS[entry.kind]], self.order)

    def text(self, entry: _Entry | None) -> bytes:
        """Return a text up to its NUL."""
        if entry is None or entry.kind != _ASCII:
            return b""
        if entry.length <= 4:
            value = entry.value[: entry.length]
        else:
            value = self.at(int.from_bytes(entry.value, self.order), entry.length)
        return value.partition(b"\0")[0]


def _line(text: bytes) -> str:
    """Return one line of printable ASCII, up to the first slash.

    Some firmware lists all models it runs on: `<KENOX S630  / Samsung S630>`.
    """
    text = text.partition(b"/")[0].lstrip(b"<")
    line = _UNPRINTABLE.sub(b" ", text, count=MAX_TEXT).strip()[:MAX_TEXT]
    return line.rstrip().decode("ascii")
