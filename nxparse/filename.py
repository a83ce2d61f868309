"""Safe file names and media types for uploaded files.

A camera sends `SAM_4371.JPG`; other clients may send anything. `safe` returns a name for a file in
one folder that works on Linux, macOS, Windows and network shares: no path, no control or
invisible characters, no special characters of Windows or a shell, at most MAX_NAME bytes.
"""

from __future__ import annotations

import re
import unicodedata
from posixpath import splitext

HEAD = 16  # bytes of a file that determine its type
MAX_NAME = 143  # bytes of UTF-8, the limit of eCryptfs; most file systems allow 255

# Files on a camera's card. Every other extension is replaced.
_MEDIA = {
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "jpe": "image/jpeg",
    "mpo": "image/jpeg",
    "png": "image/png",
    "gif": "image/gif",
    "bmp": "image/bmp",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "heic": "image/heic",
    "srw": "image/x-samsung-srw",
    "dng": "image/x-adobe-dng",
    "mp4": "video/mp4",
    "m4v": "video/mp4",
    "mov": "video/quicktime",
    "avi": "video/x-msvideo",
    "3gp": "video/3gpp",
    "wav": "audio/x-wav",
}
_EXTENSIONS = {media_type: extension for extension, media_type in reversed(_MEDIA.items())}
_PICTURE = re.compile(r"(?:image|video)/[a-z0-9!#$&^_.+-]{1,127}")  # RFC 6838 section 4.2
_HARMFUL = re.compile(r'[<>:"/\\|?*$`]')
_DEVICES = re.compile(
    r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[0-9¹²³])[ ]*(?:\.|\Z)", re.I
)


def safe(name: str | None, media_type: str) -> str:
    """Return a safe name for a file called `name` whose content is of `media_type`.

    The extension of a picture, video or sound stays. Otherwise the extension of the media type
    is added (`.bin` for an unknown type).
    """
    name = re.split(r"[/\\]", name or "")[-1]
    name = "".join(char for char in name if unicodedata.category(char)[0] != "C")
    name = unicodedata.normalize("NFC", name)
    name = " ".join(_HARMFUL.sub("_", name).split()).strip(". ")
    if name.startswith(("-", "~")):
        name = f"_{name[1:]}"
    stem, dot, extension = name.rpartition(".")
    fitting = _EXTENSIONS.get(media_type, "bin")
    if not dot or extension.lower() not in (*_MEDIA, fitting):
        stem, extension = name or "photo", fitting
    stem = stem.strip()
    if _DEVICES.match(f"{stem}.{extension}"):
        stem = f"_{stem}"
    return _fitted(stem, f".{extension}")


def numbered(name: str, number: int) -> str:
    """Insert `-NUMBER` before the extension of a safe name, unless `number` is 0."""
    stem, extension = splitext(name)
    return _fitted(stem, f"-{number}{extension}" if number else extension)


def _fitted(stem: str, ending: str) -> str:
    """Join stem and ending; cut the stem between characters to at most MAX_NAME bytes in all."""
    room = MAX_NAME - len(ending.encode())
    return stem.encode()[:room].decode("utf-8", "ignore").rstrip(" ") + ending


def is_media(head: bytes) -> bool:
    """Return whether these first `HEAD` bytes are those of a picture or video."""
    return sniff(head) != "application/octet-stream"


def sniff(head: bytes, claimed: str | None = None) -> str:
    """Return the media type of a file, judged by its first `HEAD` bytes.

    If these are inconclusive, a claimed picture or video type is used, else
    `application/octet-stream`. `image/pjpeg` from some cameras becomes `image/jpeg`
    (samsung-nx-emailservice, commit 18ae460).
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith((b"II*\0", b"MM\0*")):
        return claimed if claimed == "image/x-samsung-srw" else "image/tiff"
    if head.startswith(b"\0\0") and head[4:8] == b"ftyp":
        return "image/heic" if head[8:12] in (b"heic", b"heix", b"mif1") else "video/mp4"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "video/x-msvideo"
    if head.startswith(b"MZ") or claimed is None:
        return "application/octet-stream"
    if claimed == "image/pjpeg":
        return "image/jpeg"
    if _PICTURE.fullmatch(claimed) and claimed != "image/svg+xml":
        return claimed
    return "application/octet-stream"
