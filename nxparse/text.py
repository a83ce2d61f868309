"""Text for one line of a log: strings from the network, sizes, times and errors.

Strings from the network are shortened, and control characters are replaced, so that they cannot
forge log lines or control the terminal.
"""

from __future__ import annotations

import errno
import glob
import shlex
import sqlite3
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from nxparse.deviation import Deviation
from nxparse.upload import Upload

MAX_TEXT = 80  # characters
MAX_REASON = 200  # characters


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """Return text from the network on one line, printable and at most `limit` characters."""
    clean = text[: limit + 1]
    if not clean.isprintable():  # stricter than _printable, and fast
        clean = "".join(char if _printable(char) else "?" for char in clean)
    return clean if len(clean) <= limit else f"{clean[: limit - 1]}…"


def _printable(char: str) -> bool:
    category = unicodedata.category(char)
    return category[0] != "C" and category not in ("Zl", "Zp")


def format_size(size: int) -> str:
    """Format a number of bytes, such as `1.2 MB`."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= 0.99995 * factor:
            return f"{size / factor:.1f} {unit}"
    return format_count(size, "byte")


def format_count(number: int, noun: str) -> str:
    """Return "1 file" or "2 files"."""
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"


def format_list(items: Sequence[str], limit: int = 5) -> str:
    """Join the first items; the rest become a number."""
    shown = ", ".join(items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def format_recipients(recipients: Sequence[str]) -> str:
    """Join recipients from the network, printable and at most five."""
    return format_list([printable(one) for one in recipients])


def format_deviations(found: Iterable[Deviation]) -> str:
    """Join the names of deviations, each once."""
    return ", ".join(dict.fromkeys(str(deviation) for deviation in found)) or "none"


def describe_upload(found: Upload) -> str:
    """Describe an upload with its deviations."""
    return f"{describe_contents(found)}; tolerated: {format_deviations(found.deviations)}"


def describe_contents(found: Upload) -> str:
    """Describe the sender, recipients and files of an upload."""
    names = [printable(file.name or "(no name)") for file in found.files]
    sender = printable(found.sender) or "(no sender)"
    return (
        f"from {sender} to {format_recipients(found.recipients)}: "
        f"{format_list(names) or 'no files'}, {format_size(found.size)}"
    )


def format_duration(seconds: float) -> str:
    """Format a duration, such as `5 minutes`."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    count = f"{max(seconds, 0):.0f}"
    return "1 second" if count == "1" else f"{count} seconds"


def describe_refused_sender(sender: str) -> str:
    """Describe why a sender is refused, with the option that would allow it."""
    shown = printable(sender)
    if not sender:
        return "the upload names no sender: set one on the camera"
    if shown != sender:
        return f"{shown} may not send"
    # The name may be `*`, `$(reboot)` or `${HOME}`.
    pattern = glob.escape(sender).replace("${", "[$]{")
    option = shlex.quote(f"nx_senders={pattern}")
    return f"{shown} may not send; to allow it, use --set {option}"


def error_reason(error: BaseException) -> str:
    """Return the reason of an error, and the file if it has one."""
    filename = getattr(error, "filename", None)
    return f"{_words(error)} ({filename})" if filename else _words(error)


def _words(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def describe_disk_error(error: BaseException, path: Path) -> str:
    """Describe a failure to write below `path`, with a remedy."""
    code = getattr(error, "errno", None) or 0
    if isinstance(error, sqlite3.Error):
        # The low byte is the primary result code.
        code = _SQLITE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, 0)
    where = (getattr(error, "filename", None) or path) if code == _GARBLED else path
    return f"{_words(error)} ({where}){_REMEDIES.get(code, '')}"


_GARBLED = -1
_SQLITE = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_IOERR: errno.EIO,
    sqlite3.SQLITE_NOTADB: _GARBLED,
    sqlite3.SQLITE_CORRUPT: _GARBLED,
}
_ELSEWHERE = "or choose another folder with --set nx_dir=FOLDER"
_REMEDIES = {
    errno.ENOSPC: ": make room there",
    errno.EDQUOT: ": make room there",
    errno.EACCES: f": make it writable, {_ELSEWHERE}",
    errno.EPERM: f": make it writable, {_ELSEWHERE}",
    errno.EROFS: f": make it writable, {_ELSEWHERE}",
    errno.EIO: f": the disk is failing, see dmesg, {_ELSEWHERE}",
    errno.ENOTDIR: f": a file with that name is in the way, move it away, {_ELSEWHERE}",
    errno.EAGAIN: f": another nx_addon is using it, stop that one, {_ELSEWHERE}",
    _GARBLED: f": move that file away, {_ELSEWHERE}",
}
