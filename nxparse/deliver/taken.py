"""The names taken in a folder of photos, cached between deliveries.

A photo is called NAME, or NAME-1, NAME-2, ... if that is taken, and is not stored if one of
these files contains the same bytes. A check of all of them for each photo would take quadratic
time if all photos had one name. The cache has the count of taken numbers and the digests of
files that were read. Other programs may change the folder, and a stale entry is harmless:
no file is replaced, and bytes are compared before a photo counts as already saved. A changed
modification time of the folder invalidates the counts.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from nxparse.filename import numbered
from nxparse.store import disk
from nxparse.store.disk import Folder
from nxparse.upload import File

FEW = 16  # up to this count, names are looked up each time
MAX_CACHED = 20_000  # files in all folders, at most 500 bytes of memory for each

_Identity = tuple[int, int, int]
"""Inode, size, and modification time in nanoseconds."""


@dataclass(slots=True)
class _SameSize:
    """The numbers of files that have one size."""

    by_digest: dict[bytes, int] = field(default_factory=dict)
    unread: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Names:
    """The files NAME, NAME-1, ...: the first `count` of these names are taken."""

    count: int = 0
    sizes: dict[int, _SameSize] = field(default_factory=dict)
    digests: dict[_Identity, bytes] = field(default_factory=dict)

    def add(self, state: os.stat_result, digests: dict[_Identity, bytes]) -> None:
        """Add the file with the next number. `digests` are those of an older cache entry."""
        if stat.S_ISREG(state.st_mode):
            same = self.sizes.setdefault(state.st_size, _SameSize())
            identity = _identity(state)
            if identity in digests:
                self.digests[identity] = digests[identity]
                same.by_digest[digests[identity]] = self.count
            else:
                same.unread.append(self.count)
        self.count += 1


@dataclass(slots=True)
class _Known:
    """The cache entry of a folder."""

    modified: int = -1  # nanoseconds
    names: dict[str, _Names] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(one.count for one in self.names.values())


class Memory:
    """A cache of folders with at most `limit` files; it drops the oldest folders."""

    def __init__(self, limit: int = MAX_CACHED) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._folders: dict[tuple[int, int], _Known] = {}

    def take(self, folder: tuple[int, int]) -> _Known:
        """Remove and return the entry of a folder."""
        with self._lock:
            return self._folders.pop(folder, None) or _Known()

    def put(self, folder: tuple[int, int], known: _Known) -> None:
        """Store the entry of a folder."""
        with self._lock:
            self._folders[folder] = known
            total = sum(one.count for one in self._folders.values())
            while total > self._limit:
                total -= self._folders.pop(next(iter(self._folders))).count


_MEMORY = Memory()


class TakenNames:
    """The taken names in an open folder."""

    def __init__(self, folder: Folder, known: _Known, *, changed: bool) -> None:
        self._folder = folder
        self._known = known
        self._unsure = set(known.names) if changed else set()

    def place(self, file: File, limit: int) -> tuple[str, bool]:
        """Return a name for a file, and whether the same file is already saved under it.

        The name has at most `limit` bytes. Raises OSError.
        """
        wanted = numbered(file.safe_name, 0, limit)
        names = self._look_up(wanted, limit)
        if same := names.sizes.get(file.size):
            self._read(wanted, limit, names, same)
            digest = _digest(file.chunks())
            if digest in same.by_digest:
                name = numbered(wanted, same.by_digest[digest], limit)
                with suppress(FileNotFoundError):
                    if disk.same_content(self._folder, name, file.size, file.chunks()):
                        return name, True
                # Another program has changed or deleted it.
                same.unread.append(same.by_digest.pop(digest))
        return numbered(wanted, names.count, limit), False

    def _look_up(self, wanted: str, limit: int) -> _Names:
        names = self._known.names.get(wanted, _Names())
        digests = names.digests
        if names.count <= FEW or wanted in self._unsure:
            names = _Names()
        with suppress(FileNotFoundError):
            while True:
                names.add(self._folder.stat(numbered(wanted, names.count, limit)), digests)
        self._known.names[wanted] = names
        self._unsure.discard(wanted)
        return names

    def _read(self, wanted: str, limit: int, names: _Names, same: _SameSize) -> None:
        """Compute the missing digests of the files of one size."""
        while same.unread:
            number = same.unread.pop()
            # The file may be deleted, or belong to another user.
            with suppress(FileNotFoundError, PermissionError):
                fd = self._folder.open(numbered(wanted, number, limit))
                try:
                    digest = _digest(disk.read_chunks(fd))
                    names.digests[_identity(os.fstat(fd))] = digest
                    same.by_digest[digest] = number
                finally:
                    os.close(fd)


@contextmanager
def taken_names(folder: Folder, memory: Memory = _MEMORY) -> Iterator[TakenNames]:
    """Yield the taken names in a folder. Photos are saved inside the with statement."""
    state = folder.status()
    key = (state.st_dev, state.st_ino)
    known = memory.take(key)
    try:
        yield TakenNames(folder, known, changed=known.modified != state.st_mtime_ns)
    finally:
        known.names = {name: names for name, names in known.names.items() if names.count}
        with suppress(OSError):
            known.modified = folder.status().st_mtime_ns
            memory.put(key, known)


def _identity(state: os.stat_result) -> _Identity:
    return state.st_ino, state.st_size, state.st_mtime_ns


def _digest(chunks: Iterator[bytes]) -> bytes:
    # A collision is harmless: the bytes are compared, too.
    digest = hashlib.blake2b(digest_size=16)
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()
