"""HTTP replies with a saved photo or video.

A file is opened only while it is the one that was saved. Its type is judged by its content.
Only what the cameras send is shown by the browser; everything else is offered as a download.
Browsers play a video from any position with the Range header: single ranges are supported
(RFC 9110, section 14).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.client import responses
from typing import NamedTuple
from urllib.parse import quote

from nxparse import filename
from nxparse.server.reply import PRIVATE, Reply
from nxparse.store import disk
from nxparse.store.records import LocalCopy

# MOV files are MP4 for the decoder, and no browser plays video/quicktime.
SHOWN = ("image/jpeg", "video/mp4")
# Chromium shows a video in a document of its own, which loads it as another request:
# that needs media-src, the style of its player, and the same origin.
POLICY = (
    "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'; sandbox allow-same-origin"
)
_RANGE = re.compile(r"bytes=[ \t,]*([0-9]{0,30})-([0-9]{0,30})[ \t,]*", re.I)


@dataclass(slots=True)
class OpenFile:
    """An open saved file. The caller closes it."""

    name: str
    size: int  # bytes
    etag: str  # strong, with its quotes (RFC 9110, section 8.8.3)
    _fd: int = field(repr=False)

    def read(self, start: int, size: int) -> bytes:
        """Return up to `size` bytes from an offset; fewer only at the end of the file."""
        return disk.read_range(self._fd, start, min(start + size, self.size))

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def open_unchanged(copies: Iterable[LocalCopy]) -> OpenFile | None:
    """Open the first of these copies of a file that is unchanged. None if there is none."""
    for saved in copies:
        with suppress(OSError, ValueError):
            fd = os.open(saved.path, disk.READ)
            state = os.fstat(fd)
            if saved.matches(state):
                etag = f'"{state.st_mtime_ns:x}-{state.st_size:x}"'
                return OpenFile(saved.path.name, state.st_size, etag, fd)
            os.close(fd)
    return None


class FileReply(NamedTuple):
    """A reply with `length` bytes of an open file, from `start`. Its owner closes the file."""

    status: int
    headers: tuple[tuple[str, str], ...]
    file: OpenFile
    start: int
    length: int

    def head(self, now: float) -> bytes:
        """Return the status line and the headers. `now` is the Unix time for Date."""
        fields = (("Date", formatdate(now, usegmt=True)), *self.headers, ("Connection", "close"))
        lines = [f"HTTP/1.1 {self.status} {responses[self.status]}"]
        lines += [f"{name}: {value}" for name, value in fields]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def reply_with(
    file: OpenFile, method: str, headers: Sequence[tuple[str, str]], *, download: bool
) -> FileReply | Reply:
    """Return the reply to a GET or HEAD request for a file. A `Reply` has closed the file.

    With `download` the browser saves the file, whatever its type. Raises OSError.
    """
    try:
        media_type = filename.sniff(file.read(0, filename.HEAD))
    except OSError:
        file.close()
        raise
    is_shown = media_type in SHOWN
    fields = [
        ("Content-Type", media_type if is_shown else "application/octet-stream"),
        ("Content-Disposition", disposition(file.name, inline=is_shown and not download)),
        ("Content-Security-Policy", POLICY),
        ("Accept-Ranges", "bytes"),
        ("ETag", file.etag),
        *PRIVATE,
    ]
    sent = {name.lower(): value.strip() for name, value in headers}
    # A date in If-Range never matches, since no reply has a Last-Modified.
    is_partial = method == "GET" and sent.get("if-range", file.etag) == file.etag
    found = parse_range(sent.get("range", ""), file.size) if is_partial else None
    start, end = found or (0, file.size)
    if found and start >= end:
        file.close()
        return Reply(416, headers=(("Content-Range", f"bytes */{file.size}"), *PRIVATE))
    if found:
        fields.append(("Content-Range", f"bytes {start}-{end - 1}/{file.size}"))
    fields.append(("Content-Length", str(end - start)))
    length = end - start if method == "GET" else 0
    return FileReply(206 if found else 200, tuple(fields), file, start, length)


def parse_range(value: str, size: int) -> tuple[int, int] | None:
    """Return the start and end of the range that a Range header requests of `size` bytes.

    The range is empty if it begins after the end of the file. None stands for the whole file:
    without a range, with several ones, and with a header that is invalid (RFC 9110, section 14.2).
    """
    match = _RANGE.fullmatch(value.strip())
    if match is None or not (match[1] or match[2]):
        return None
    first, last = (int(digits) if digits else None for digits in match.groups())
    if first is None:
        return max(size - (last or 0), 0), size
    if last is not None and last < first:
        return None
    return first, size if last is None else min(last + 1, size)


def disposition(name: str, *, inline: bool) -> str:
    """Return a Content-Disposition header (RFC 6266). The name may contain any characters."""
    plain = re.sub(r"[^A-Za-z0-9 ._()+-]", "_", name)
    encoded = quote(name.encode("utf-8", "replace"), safe="")
    kind = "inline" if inline else "attachment"
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{encoded}"
