"""Small real JPEG files that a browser can show (ITU-T T.81, baseline; Exif 2.3)."""

from __future__ import annotations

import struct

MAKE, MODEL, ORIENTATION = 0x010F, 0x0110, 0x0112
_ASCII, _SHORT, _LONG = 2, 3, 4
_GREY = 100  # the step from dark to bright, in units of the quantization table


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def picture(width: int = 160, height: int = 120) -> bytes:
    """A grey picture, bright on the left, dark on the right. Width and height in pixels."""
    columns, rows = -(-width // 8), -(-height // 8)
    values = [
        _GREY if 2 * column < columns else 0 for _ in range(rows) for column in range(columns)
    ]
    bits = ""
    for value, last in zip(values, [0, *values], strict=False):
        # One code for "as the block before", one for a step of seven bits; then: no detail.
        step = value - last
        bits += ("0" if not step else f"10{step if step > 0 else step + 127:07b}") + "0"
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    counts = bytes([1, 1]) + bytes(14)
    return (
        b"\xff\xd8"
        + _segment(0xDB, b"\0" + bytes([8]) * 64)
        + _segment(0xC0, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0")
        + _segment(0xC4, b"\x00" + counts + b"\0\7")
        + _segment(0xC4, b"\x10" + bytes([1]) + bytes(15) + b"\0")
        + _segment(0xDA, b"\1\1\0\0\x3f\0")
        + data
        + b"\xff\xd9"
    )


def photo(thumbnail: bytes = b"", *, model: str = "NX300", orientation: int = 1) -> bytes:
    """A photo as a camera writes it: EXIF with a thumbnail in it, and the picture."""
    text = model.encode() + b"\0"
    first = 8 + 2 + 2 * 12 + 4
    second = first + len(text)
    end = second + 2 + 2 * 12 + 4
    tiff = (
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", 2)
        + struct.pack("<HHII", MODEL, _ASCII, len(text), first)
        + struct.pack("<HHIHH", ORIENTATION, _SHORT, 1, orientation, 0)
        + struct.pack("<I", second if thumbnail else 0)
        + text
        + struct.pack("<H", 2)
        + struct.pack("<HHII", 0x0201, _LONG, 1, end)
        + struct.pack("<HHII", 0x0202, _LONG, 1, len(thumbnail))
        + struct.pack("<I", 0)
        + thumbnail
    )
    return b"\xff\xd8" + _segment(0xE1, b"Exif\0\0" + tiff) + picture(640, 480)[2:]
