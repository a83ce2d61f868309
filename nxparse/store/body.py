"""A body that is being received, and the disk space that uploads have reserved.

A body has its final name from the start. A failed fsync is never retried: the kernel
may have dropped the data and would report success (PostgreSQL wiki, "Fsync Errors").
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from nxparse.store import disk
from nxparse.store.disk import Folder
from nxparse.text import format_size

# After this many bytes the free space is checked again, and the bytes so far are fsynced.
STRIDE = 8 << 20
# This much stays free for SQLite and for other programs.
MIN_FREE = 64 << 20

Background = Callable[[Callable[[], None]], object]
"""Calls a function in another thread, or not at all."""


class Room:
    """The bytes that uploads still need on the disk: `needed`, by the ids of their bodies.

    An arriving body needs its remaining bytes and a copy of its photos, an accepted one
    only the copy. `free` returns the bytes that are free on the disk.
    """

    def __init__(self, free: Callable[[], int]) -> None:
        self.needed: dict[str, int] = {}
        self._free = free

    def reserve(self, id: str, size: int, length: int | None) -> None:
        """Reserve space for an arriving body of which `size` of `length` bytes are written.

        Raises OSError (ENOSPC) if less than MIN_FREE would remain.
        """
        # Without a length, reserve what may arrive until the next check.
        whole = max(length, size) if length is not None else size + STRIDE
        needed = self.needed[id] = 2 * whole - size
        # The needs of other uploads were added when this one began. Adding them again would
        # count a copy that is being saved at this moment twice.
        if not size or length is None:
            needed = sum([*self.needed.values()])  # a copy: other threads change it
        free = self._free()
        if free < needed + MIN_FREE:
            raise OSError(
                errno.ENOSPC,
                f"only {format_size(free)} are free, too little for this upload "
                f"and those that are not delivered yet",
            )

    def release(self, id: str) -> None:
        """Release the space reserved for a body, if any."""
        self.needed.pop(id, None)


class Incoming:
    """A body that is being received. `size` is the number of bytes written.

    `background` calls a function in another thread: the bytes so far and the directory
    entry are fsynced there while the body arrives, so that little is left at its end.
    """

    def __init__(
        self, id: str, folder: Folder, room: Room, length: int | None, background: Background
    ) -> None:
        """Create the body of an upload of `length` bytes, None if that is unknown."""
        self.id = id
        self.folder = folder
        self.size = 0
        self._room = room
        self._length = length
        self._background = background
        self._checked = 0  # bytes when the free space was last checked
        self._lock = threading.Lock()  # held during an fsync
        self._error: OSError | None = None  # of an fsync
        self._entry_synced = False
        self._fd = folder.create(id, 0o600)
        try:
            room.reserve(id, 0, length)
        except OSError:
            self.discard()
            raise
        background(partial(self._sync_early, None))

    def write(self, chunk: bytes) -> None:
        """Append a chunk. Raises OSError."""
        disk.write_all(self._fd, chunk)
        self.size += len(chunk)
        needed = self._room.needed
        if self.id in needed:  # not if the spool has been reopened since
            needed[self.id] -= len(chunk)
        if self.size - self._checked >= STRIDE:
            self._checked = self.size
            self._room.reserve(self.id, self.size, self._length)
            if not self._lock.locked():
                # A descriptor of its own: this one may be closed at any time.
                self._background(partial(self._sync_early, os.dup(self._fd)))

    def fetch(self, start: int, end: int) -> bytes:
        """Return the written bytes between two offsets."""
        return disk.read_range(self._fd, start, end)

    def sync(self) -> None:
        """Make the body and its directory entry durable. If that fails, the body is lost."""
        self._sync(self._fd)

    def close(self) -> None:
        """Close the file. Its errors do not matter: `sync` has reported them."""
        fd, self._fd = self._fd, -1
        with suppress(OSError):
            os.close(fd)

    def discard(self) -> None:
        """Delete the body."""
        self.close()
        self.folder.discard(self.id)
        self._room.release(self.id)

    def _sync_early(self, fd: int | None) -> None:
        try:
            with suppress(OSError):  # `sync` raises it again
                self._sync(fd)
        finally:
            if fd is not None:
                os.close(fd)

    def _sync(self, fd: int | None) -> None:
        with self._lock:
            if self._error:
                raise self._error
            try:
                if fd is not None:
                    os.fsync(fd)
                if not self._entry_synced:
                    self.folder.sync()
                    self._entry_synced = True
            except OSError as error:
                self._error = error
                raise
