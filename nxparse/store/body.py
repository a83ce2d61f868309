"""A body on its way to the disk, and the room that uploads need there.

A body has its final name from the beginning. Its directory entry is synced while it
arrives, and a large body is fsynced again and again, so that at its end the camera
does not have to wait for all of it. A failed fsync is never retried: the kernel may
have dropped the data and would report success (PostgreSQL wiki, "Fsync Errors").
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress

from nxparse.store import disk
from nxparse.store.disk import Folder
from nxparse.text import format_size

# An fsync for so many bytes, which a slow card writes in a second.
STRIDE = 8 << 20
# What stays free, so that SQLite, and other programs, can go on.
MIN_FREE = 64 << 20


class Room:
    """The bytes that uploads will still need, by the ids of their bodies.

    `needs` has what bodies will grow by and what saving their photos will take; for
    accepted bodies, those not in `arriving`, only the latter. `free` returns what is
    free on the disk.
    """

    def __init__(self, free: Callable[[], int]) -> None:
        self.needs: dict[str, int] = {}
        self.arriving: set[str] = set()
        self._free = free

    def reserve(self, id: str, size: int, length: int | None) -> None:
        """Reserve what a body still needs, of which `size` of `length` bytes are there.

        Raises OSError (ENOSPC) if with that, less than MIN_FREE would remain.
        """
        # Without a length, what may come until the next call counts.
        whole = max(length, size) if length is not None else size + STRIDE
        self.arriving.add(id)
        self.needs[id] = 2 * whole - size
        free = self._free()
        # What was reserved at the beginning is not asked for again: a copy that is being
        # saved at this moment would count twice.
        growing = not size or length is None
        if free < (sum(list(self.needs.values())) if growing else self.needs[id]) + MIN_FREE:
            self.release(id)
            raise OSError(
                errno.ENOSPC,
                f"only {format_size(free)} are free, too little for this upload "
                f"and what else is to be stored",
            )

    def accepted(self, id: str, size: int) -> None:
        """The body is there; its photos are still to be saved."""
        self.needs[id] = size
        self.arriving.discard(id)

    def release(self, id: str) -> None:
        """Nothing is needed for this body any more."""
        self.needs.pop(id, None)
        self.arriving.discard(id)


class SharedSync:
    """Syncs a folder in a thread: one fsync for all callers until it begins."""

    def __init__(self, folder: Folder, threads: Executor) -> None:
        self._folder = folder
        self._threads = threads
        self._lock = threading.Lock()
        self._next: Future[None] | None = None

    def start(self) -> Future[None]:
        """Return what ends when everything that is in the folder now is durable."""
        with self._lock:
            if self._next:
                return self._next
            self._next = future = Future[None]()
        self._threads.submit(self._sync, future)
        return future

    def _sync(self, future: Future[None]) -> None:
        with self._lock:
            self._next = None
        try:
            self._folder.sync()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)


class Incoming:
    """A body that is being received. `size` is the number of bytes written."""

    def __init__(
        self,
        id: str,
        folder: Folder,
        fd: int,
        entry: Future[None],
        room: Room,
        length: int | None,
        threads: Executor,
    ) -> None:
        self.id = id
        self.folder = folder
        self.size = 0
        self._fd = fd
        self._entry = entry
        self._room = room
        self._length = length
        self._threads = threads
        self._next_check = self._next_sync = STRIDE  # at these sizes
        self._early: Future[None] = Future()  # the last fsync of a part of the body
        self._early.set_result(None)
        self._synced = False

    @classmethod
    def open(
        cls,
        id: str,
        folder: Folder,
        entry: SharedSync,
        room: Room,
        length: int | None,
        threads: Executor,
    ) -> Incoming:
        """Create the body of an upload of `length` bytes, if that is known."""
        room.reserve(id, 0, length)
        try:
            fd = folder.create(id, 0o600)
        except OSError:
            room.release(id)
            raise
        return cls(id, folder, fd, entry.start(), room, length, threads)

    def write(self, chunk: bytes) -> None:
        """Append. Raises OSError, also for an fsync that has failed meanwhile."""
        disk.write_all(self._fd, chunk)
        self.size += len(chunk)
        self._room.needs[self.id] -= len(chunk)
        if self.size >= self._next_check:
            self._room.reserve(self.id, self.size, self._length)
            self._next_check = self.size + STRIDE
        if self.size >= self._next_sync and self._early.done():
            self._early.result()
            self._early = self._threads.submit(_sync_and_close, os.dup(self._fd))
            self._next_sync = self.size + STRIDE

    def fetch(self, start: int, end: int) -> bytes:
        """Read back what has been written between two offsets."""
        return disk.read_range(self._fd, start, end)

    def sync(self) -> None:
        """Make the body and its directory entry durable. If that fails, the body is lost."""
        if self._synced:
            return
        if self._early.done():
            self._early.result()
        os.fsync(self._fd)
        self._early.result()
        self._entry.result()
        self._synced = True

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # what matters has been synced
                os.close(fd)


def _sync_and_close(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
