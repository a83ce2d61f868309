"""Text for one line of a log: strings from the network, sizes, times and errors.

Strings from the network are shortened and stripped of control characters, so that they
cannot forge log lines or reach the terminal.
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

MAX_TEXT = 80


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """Text from the network as it may stand in a line: printable, and not too long."""
    clean = "".join(char if _printable(char) else "?" for char in text[: limit + 1])
    return clean if len(clean) <= limit else f"{clean[: limit - 1]}…"


def _printable(char: str) -> bool:
    category = unicodedata.category(char)
    return category[0] != "C" and category not in ("Zl", "Zp")


def format_size(size: int) -> str:
    """A number of bytes as people write it."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= 0.99995 * factor:
            return f"{size / factor:.1f} {unit}"
    return "1 byte" if size == 1 else f"{size} bytes"


def format_list(items: Sequence[str], limit: int = 5) -> str:
    """Some items in a row, the rest as a number."""
    shown = ", ".join(items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def format_recipients(recipients: Sequence[str]) -> str:
    """Recipients as a camera wrote them, printable and not too many."""
    return format_list([printable(one) for one in recipients])


def format_deviations(found: Iterable[Deviation]) -> str:
    """The names of the deviations, each once."""
    return ", ".join(dict.fromkeys(str(deviation) for deviation in found)) or "none"


def describe_upload(found: Upload) -> str:
    """Who sent what to whom, and what had to be tolerated."""
    return f"{describe_contents(found)}; tolerated: {format_deviations(found.deviations)}"


def describe_contents(found: Upload) -> str:
    """Who sent what to whom."""
    names = [printable(file.name or "(no name)") for file in found.files]
    return (
        f"from {printable(found.sender) or '(nobody)'} to {format_recipients(found.recipients)}: "
        f"{format_list(names) or 'no files'}, {format_size(found.size)}"
    )


def format_duration(seconds: float) -> str:
    """A time that has passed or will pass, as people say it."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    count = f"{max(seconds, 0):.0f}"
    return "1 second" if count == "1" else f"{count} seconds"


def describe_refused_sender(sender: str) -> str:
    """That somebody may not send, and the option that would change it."""
    shown = printable(sender)
    if not sender:
        return "(nobody) may not send; it names no sender: set one on the camera"
    if shown != sender:
        return f"{shown} may not send"
    # A sender is free to call himself *, $(reboot), or ${HOME}.
    pattern = glob.escape(sender).replace("${", "[$]{")
    option = shlex.quote(f"nx_senders={pattern}")
    return f"{shown} may not send; to allow it, use --set {option}"


def error_reason(error: BaseException) -> str:
    """Why something failed, and where, as far as the error tells."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    filename = getattr(error, "filename", None)
    return f"{text} ({filename})" if filename else text


def describe_disk_error(error: BaseException, path: Path) -> str:
    """What a failure to write below `path` means, and what to do about it."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    code = getattr(error, "errno", None) or 0
    if isinstance(error, sqlite3.Error):
        # The lowest byte is the kind of the error, the rest details.
        code = _SQLITE.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, 0)
    where = (getattr(error, "filename", None) or path) if code == _GARBLED else path
    return f"{text} ({where}){_REMEDIES.get(code, '')}"


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
    errno.EACCES: f": let it be written to, {_ELSEWHERE}",
    errno.EPERM: f": let it be written to, {_ELSEWHERE}",
    errno.EROFS: f": let it be written to, {_ELSEWHERE}",
    errno.EIO: f": the disk is failing, see dmesg, {_ELSEWHERE}",
    errno.ENOTDIR: f": something that is no folder is in its way, move it away, {_ELSEWHERE}",
    errno.EAGAIN: f": another nx_addon is working there, end that, {_ELSEWHERE}",
    _GARBLED: f": move that file away, {_ELSEWHERE}",
}
