"""The model of the camera and the thumbnail in the Exif data of a photo.

Sources: ITU-T T.81 annex B, and JEITA CP-3451 (Exif 2.3) section 4. The Exif segment is a small
TIFF file: IFD0 has model and orientation, and IFD1 points to the thumbnail. An IFD is the number
of its entries, the entries, and the offset of the next IFD.

The first `HEAD` bytes of a file are enough. They may be cut anywhere and contain anything.
"""

from __future__ import annotations

import re
import struct
from typing import Literal, NamedTuple

HEAD = 1 << 17
MAX_SEGMENTS = 64  # Exif comes first; before the frame there are only tables
MAX_ENTRIES = 64  # the entries we need have low tags, so they are among the first
MAX_MODEL = 64  # some models are a list: `ES65, ES67 / VLUU ES65, ES67 / SL50`

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

_ASCII, _SHORT, _LONG = 2, 3, 4
_SIZES = {_SHORT: 2, _LONG: 4}
_UNPRINTABLE = re.compile(rb"[^!-~]+")


def model(head: bytes) -> str:
    """Return the model of the camera in printable ASCII, or "".

    Some firmware lists all models it runs on, such as `<KENOX S630  / Samsung S630>`: the first
    one counts.
    """
    exif = _find_exif(head)
    entries, _ = exif.directory(exif.first)
    text = exif.text(entries.get(_MODEL, b"")).partition(b"/")[0].lstrip(b"<")
    line = _UNPRINTABLE.sub(b" ", text, count=MAX_MODEL).strip()[:MAX_MODEL]
    return line.rstrip().decode("ascii")


def thumbnail(head: bytes) -> bytes:
    """Return the embedded thumbnail, a JPEG with the orientation of the photo, or b""."""
    exif = _find_exif(head)
    main, following = exif.directory(exif.first)
    second, _ = exif.directory(following)
    start = exif.integer(second.get(_THUMBNAIL, b""))
    data = exif.read(start, exif.integer(second.get(_THUMBNAIL_LENGTH, b"")))
    if not data.startswith(START):
        return b""
    orientation = exif.integer(main.get(_ORIENTATION, b""))
    return _oriented(data, orientation) if 1 < orientation <= 8 else data


def _oriented(data: bytes, orientation: int) -> bytes:
    """Insert an Exif segment with an orientation, which browsers follow."""
    directory = struct.pack(">HHHIHHI", 1, _ORIENTATION, _SHORT, 1, orientation, 0, 0)
    segment = _EXIF + b"MM\0*\0\0\0\x08" + directory
    return data[:2] + struct.pack(">BBH", 0xFF, _APP1, len(segment) + 2) + segment + data[2:]


def _find_exif(head: bytes) -> _Exif:
    """Return the first Exif segment that has a byte order, or an empty one.

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
            return _Exif(head[start:position], order)
    return _Exif(b"", "little")


class _Exif(NamedTuple):
    """The TIFF file in an Exif segment. Bytes that are cut off read as none."""

    data: bytes
    order: Literal["little", "big"]

    def read(self, offset: int, size: int) -> bytes:
        end = offset + size
        return self.data[offset:end] if end <= len(self.data) else b""

    def number(self, data: bytes) -> int:
        return int.from_bytes(data, self.order)

    @property
    def first(self) -> int:
        """The offset of IFD0."""
        return self.number(self.read(4, 4))

    def directory(self, offset: int) -> tuple[dict[int, bytes], int]:
        """Return the entries by tag (the first of a tag counts), and the next directory."""
        entries: dict[int, bytes] = {}
        if not offset:
            return entries, 0
        count = self.number(self.read(offset, 2))
        start = offset + 2
        for position in range(start, start + 12 * min(count, MAX_ENTRIES), 12):
            entry = self.read(position, 12)
            entries.setdefault(self.number(entry[:2]), entry)
        return entries, self.number(self.read(start + 12 * count, 4))

    def integer(self, entry: bytes) -> int:
        """Return a SHORT or LONG, or 0."""
        kind, count = self.number(entry[2:4]), self.number(entry[4:8])
        return self.number(entry[8 : 8 + _SIZES.get(kind, 0)]) if count == 1 else 0

    def text(self, entry: bytes) -> bytes:
        """Return a text up to its NUL."""
        if self.number(entry[2:4]) != _ASCII:
            return b""
        length = self.number(entry[4:8])
        in_place = entry[8 : 8 + length]
        text = in_place if length <= 4 else self.read(self.number(entry[8:]), length)
        return text.partition(b"\0")[0]
