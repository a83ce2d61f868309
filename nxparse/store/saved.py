"""The files that deliveries saved, to be shown again.

A saved file is recorded with its path and its identity: device, inode, size and time
of the last change. It is opened only while all of these are the same, so a symbolic
link anywhere in the path, or another file in its place, is never read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nxparse.store import disk


class LocalCopy(NamedTuple):
    """A copy of a file on this machine, as it was saved. `identity` is that of `identity_of`."""

    path: Path
    identity: str

    def is_unchanged(self) -> bool:
        """Return whether the file is still there as it was saved."""
        with suppress(OSError, ValueError):
            return self.matches(os.lstat(self.path))
        return False

    def matches(self, state: os.stat_result) -> bool:
        """Return whether this is the state of the file as it was saved."""
        return bool(self.identity) and identity_of(state) == self.identity


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


def identity_of(state: os.stat_result) -> str:
    """Return the identity of a regular file and its content; empty for anything else."""
    if not stat.S_ISREG(state.st_mode):
        return ""
    return f"{state.st_dev} {state.st_ino} {state.st_size} {state.st_mtime_ns}"


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
