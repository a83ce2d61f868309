"""Bodies and requests as the cameras write them, for the tests.

They follow the capture of an NX300 (wiki page "Email-service" of
ge0rg/samsung-nx-hacks), and are built without nxparse, so that they can
reveal its errors. No I/O here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from random import Random

from nxparse import multipart
from nxparse.framing import boundary_of

CRLF = b"\r\n"
BOUNDARY = b"-" * 27 + b"7d93b9550d4a"
CONTENT_TYPE = "multipart/form-data; boundary=" + BOUNDARY.decode("ascii")
PATH = "/social/columbus/email?DUID=123456789033"

SENDER = "Camera@samsungcamera.com"
RECIPIENT = "photos@example.org"
TITLE = "[Samsung Smart Camera] sent you files."
TEXT = "Sent from Samsung Camera."
MARKER = "language_sh100_utf8"

SMALLEST_JPEG = 48
"""The smallest size for `jpeg`."""


def message_xml(
    *,
    sender: str = SENDER,
    recipients: Sequence[str] = (RECIPIENT,),
    title: str = TITLE,
    text: str = TEXT,
) -> bytes:
    """The message, with the marker after the text."""
    noted = f"{text}\n{MARKER}"
    receivers = "".join(f"<receiver>{escape(name, quote=False)}</receiver>" for name in recipients)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<email><sender>{escape(sender, quote=False)}</sender>"
        f"<receiverList>{receivers}</receiverList>"
        f"<title>{_cdata(title)}</title>"
        f"<body>{_cdata(noted)}</body></email>"
    ).encode()


def _cdata(text: str) -> str:
    return "<![CDATA[" + text.replace("]]>", "]]]]><![CDATA[>") + "]]>"


def part_head(name: str, filename: str, content_type: str) -> bytes:
    """The headers of a part and the blank line, spelled as a camera spells them."""
    return (
        f'content-disposition: form-data; name="{name}"; fileName="{filename}"\r\n'
        f"content-Type: {content_type};\r\n"
        "\r\n"
    ).encode()


def body(
    photos: Sequence[tuple[str, bytes]],
    *,
    message: bytes | None = None,
    surplus: bool = True,
    ending: bytes | None = None,
    boundary: bytes = BOUNDARY,
) -> bytes:
    """A body with a message (`message_xml()` if None) and photos, each a name and its bytes.

    With `surplus`, the data of each part is followed by an extra line end, as in
    the capture. `ending` follows the last part; None stands for the delimiter of an
    NX300, which is neither marked as the last one nor followed by a line end. See
    `endings` for others.
    """
    gap = CRLF if surplus else b""
    delimiter = b"--" + boundary + CRLF
    pieces = [
        delimiter,
        part_head("message", "sample.txt", "multipart/form-data"),
        message_xml() if message is None else message,
        gap,
    ]
    for name, data in photos:
        pieces += [CRLF, delimiter, part_head("binary", name, "image/jpeg"), data, gap]
    pieces.append(CRLF + b"--" + boundary if ending is None else ending)
    return b"".join(pieces)


def endings(boundary: bytes = BOUNDARY) -> dict[str, bytes]:
    """The possible ends of a body after the last photo, from complete down to nothing."""
    delimiter = CRLF + b"--" + boundary
    return {
        "complete": delimiter + b"--\r\n",
        "complete-without-newline": delimiter + b"--",
        "one-dash": delimiter + b"-",
        "unmarked": delimiter,
        "unmarked-cr": delimiter + b"\r",
        "unmarked-newline": delimiter + b"\r\n",
        "unmarked-blank-newline": delimiter + b" \r\n",
        "unmarked-blank-line": delimiter + b"\r\n\r\n",
        **{
            f"boundary-cut-at-{length}": CRLF + b"--" + boundary[:length]
            for length in reversed(range(len(boundary)))
        },
        "dash": CRLF + b"-",
        "newline": CRLF,
        "cr": b"\r",
        "nothing": b"",
    }


ENDINGS = endings()


def request(
    body: bytes,
    *,
    host: str = "www.ospserver.net",
    content_type: str = CONTENT_TYPE,
) -> bytes:
    """The request that carries `body`, its head byte for byte as an NX300 sends it.

    That includes two blanks before the HTTP version, headers without a
    blank after the colon, and User-Agent twice.
    """
    agent = "Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1; SV1"
    head = (
        f"POST {PATH}  HTTP/1.0",
        'Authorization:OAuth oauth_consumer_key="censored",oauth_nonce="censored"'
        ',oauth_signature="censored=",oauth_signature_method="HmacSHA1"'
        ',oauth_timestamp="9717886885",oauth_version="1.0"',
        "x-osp-version:v1",
        "User-Agent: sdeClient",
        f"Content-Type: {content_type}",
        "Accept: image/gif, image/x-xbitmap, image/jpeg, image/pjpeg"
        ", application/x-shockwave-flash, application/vnd.ms-excel"
        ", application/vnd.ms-powerpoint, application/msword, */*",
        "Pragma: no-cache",
        "Accept-Language: ko",
        f"User-Agent: {agent}; {agent}) ; .NET CLR 1.1.4322; InfoPath.2; .NET CLR 2.0.50727)",
        f"Host: {host}",
        f"Content-Length: {len(body)}",
    )
    return "".join(f"{line}\r\n" for line in head).encode() + CRLF + body


def jpeg(size: int, seed: int = 0) -> bytes:
    """`size` bytes that resemble a photo, always the same for a `seed`.

    They have the difficulties of real photos: a thumbnail with its own start and end
    of image, and consecutive line ends in the picture data.
    """
    if size < SMALLEST_JPEG:
        raise ValueError(f"a photo of {size} bytes is too small; the minimum is {SMALLEST_JPEG}")
    random = Random(seed)
    exif = b"Exif\0\0\xff\xd8" + _picture_data(random, 8) + b"\xff\xd9"
    app1 = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    head = b"\xff\xd8" + app1 + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0"
    return head + _picture_data(random, size - len(head) - 2) + b"\xff\xd9"


def _picture_data(random: Random, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += b"".join(random.choices(_PIECES, k=1 + size // 8))
    return bytes(data[:size])


def _pieces() -> Iterator[bytes]:
    random = Random(0)
    for start, length in itertools.product(
        (CRLF, CRLF * 3, b"\n", b"\r", b"\r\n--", b"\xff\0"), range(16)
    ):
        for _ in range(4):
            yield start + random.randbytes(length).replace(b"\xff", b"")


_PIECES = tuple(_pieces())

Choose = Callable[[int], int]
"""Chooses a number from 0 to below its argument; 0 is the choice of a camera."""

_TEXT = b"This is a multi-part message in MIME format."
_NAMES = ("binary", "message", "other", "", None)


@dataclass(frozen=True)
class Faulty:
    """A body with faults in its structure.

    `photos` has the name and the bytes of each photo in it, in order, even those outside of
    parts. The last one may be cut. `readable` is false if the photos cannot all be separated,
    or if there is no photo or no message.
    """

    body: bytes
    photos: tuple[tuple[str, bytes], ...]
    readable: bool


def faulty(choose: Choose, boundary: bytes = BOUNDARY) -> Faulty:
    """Build a body in which any part of the framing may be wrong."""
    newline = b"\n" if choose(12) == 11 else CRLF
    gap = b"" if choose(2) else newline
    dashed = b"--" + boundary
    readable = True

    def delimiter() -> bytes:
        """The end of a part: its surplus line end, a line end, and the boundary."""
        match choose(10):
            case 9:
                return dashed
            case 8:
                return gap + b"\n" + dashed
            case _:
                return gap + newline + dashed

    def head(name: str | None, filename: str, content_type: str) -> bytes:
        named = "" if name is None else f'name="{name}"; '
        lines = f'content-disposition: form-data; {named}fileName="{filename}"\r\n'
        if choose(5) < 4:
            lines += f"content-Type: {content_type};\r\n"
        end = b"" if choose(12) == 11 else newline
        return lines.encode().replace(CRLF, newline) + end

    photos = [
        (f"{number}.jpg", _photo_like_framing(choose, number, dashed, newline))
        for number in range((1, 2, 3, 0)[choose(4)])
    ]
    named = [head(_NAMES[choose(len(_NAMES))], name, "image/jpeg") for name, _ in photos]
    parts = [one + photo for one, (_, photo) in zip(named, photos, strict=True)]
    ends_with_photo = bool(photos)
    message = head("message", "sample.txt", "multipart/form-data") + message_xml()
    match choose(10):
        case 9:
            parts.append(message)
            ends_with_photo = False
        case 8:
            parts.insert(len(parts) // 2, message)
            ends_with_photo = len(parts) > 1
        case 7:
            readable = False
        case _:
            parts.insert(0, message)
    match choose(10):
        case 9:
            parts.insert(
                choose(len(parts) + 1), head("binary", "", "text/plain").rstrip() + newline * 2
            )
            ends_with_photo = False
        case 8:
            parts.insert(choose(len(parts) + 1), newline)
            ends_with_photo = False
    if len(photos) == 0 or not parts:
        readable = False

    body = (b"", b"", b"", CRLF, b"  \r\n", _TEXT + CRLF)[choose(6)]
    if choose(20) == 19:
        body, readable = body + jpeg(100) + CRLF, False
        photos.insert(0, ("", jpeg(100)))
    body += dashed
    for number, part in enumerate(parts):
        if choose(12) == 11 and number:
            # The body is closed here, but continues as if it were not.
            between = [newline, b"", newline * 2, b"\0\0" + newline]
            if body.endswith(newline + dashed):
                between.append(newline + _TEXT)
            body += b"--" + between[choose(len(between))]
            body += (newline, b"\n", b"")[choose(3)] + dashed
        body += (newline, newline, newline, b" " + newline, b"\n")[choose(5)] + part
        if number < len(parts) - 1:
            # A delimiter without its line end is recognised by the headers after it.
            body += delimiter() if parts[number + 1] != newline else gap + newline + dashed
    match choose(10):
        case 9 if ends_with_photo and readable:
            name, photo = photos[-1]
            # The end must not resemble a cut delimiter.
            cut = photo[: SMALLEST_JPEG - choose(12)].rstrip(b"\r\n-")
            body = body[: len(body) - len(photo) + len(cut)]
            photos[-1] = name, cut
        case 8 if parts and choose(2):
            # Cut in the headers of another part.
            body += gap + newline + dashed + newline + b"Content-Dis"
            readable = False
        case 7:
            end = dashed + (b"--", b"--\r\n", b"", b"\r\n")[choose(4)]
            if padding := choose(3):
                body += end + bytes(padding * 1000)
            else:
                # Two hyphens alone could belong to the photo.
                body += end[: max(3, len(end) - choose(len(end)))]
        case 6:
            body += gap + newline + dashed + b"--\r\n" + (b"\r\n\0\0", _TEXT)[choose(2)]
        case 5:
            body += gap + newline + dashed + b"--\r\n" + jpeg(100)
            readable = False
            photos.append(("", jpeg(100)))
        case _:
            end = list(endings(boundary).values())[choose(len(endings(boundary)))]
            body += gap + (end if newline == CRLF else end.replace(b"\r", b""))
    return Faulty(body, tuple(photos), readable)


def _photo_like_framing(choose: Choose, number: int, dashed: bytes, newline: bytes) -> bytes:
    """A photo that may contain false delimiters."""
    photo = jpeg(SMALLEST_JPEG + 8 + choose(400), number)
    inside = (
        b"",
        newline + dashed + b"x",
        dashed + CRLF,
        dashed + b"--",
        dashed + b"--\r\n",
        dashed + b"\r\nContent-Type: image/jpeg\r\n\r\n",
        b"\r" + dashed + b"\r\nContent-Disposition\r\n",
    )[choose(14) % 7]
    return photo[:-6] + b"\xfe" + inside + b"\xfe" + photo[-6:]


def repaired(body: bytes, content_type: str, boundary: str) -> tuple[str, bytes]:
    """Content-Type and body as `multipart.repair` makes them, with another boundary."""
    found, data = multipart.repair(body, content_type)
    old = boundary_of(found)
    assert old
    new = data.replace(b"--" + old, b"--" + boundary.encode())
    return f"multipart/form-data; boundary={boundary}", new
