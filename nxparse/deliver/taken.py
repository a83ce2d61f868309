"""The names taken in a folder of photos, cached between deliveries.

A photo is called NAME, or NAME-1, NAME-2, ... if that is taken, and is not stored if one of
these files contains the same bytes. A check of all of them for each photo would take quadratic
time if all photos had one name. The cache is dropped if another program has changed the folder.
A stale entry is harmless: no file is replaced, and bytes are compared before a photo counts as
already saved.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from nxparse.filename import numbered
from nxparse.store import disk
from nxparse.store.disk import Folder
from nxparse.upload import File

MAX_CACHED = 20_000  # files in all folders, at most 500 bytes of memory for each


@dataclass(slots=True)
class _Names:
    """The files NAME, NAME-1, ...: the first `count` of these names are taken.

    `numbers` are those of the files by digest, `unread` those of the other files by size.
    """

    count: int = 0
    numbers: dict[bytes, int] = field(default_factory=dict)
    unread: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))


class TakenNames:
    """The taken names in an open folder."""

    def __init__(self, folder: Folder, names: dict[str, _Names]) -> None:
        self._folder = folder
        self._names = names

    def place(self, file: File) -> tuple[str, bool]:
        """Return a name for a file, and whether the same file is already saved under it.

        Raises OSError.
        """
        wanted = file.safe_name
        names = self._look_up(wanted)
        if file.size in names.unread:
            self._read(wanted, names, file.size)
            digest = _digest(file.chunks())
            if digest in names.numbers:
                number = names.numbers[digest]
                name = numbered(wanted, number)
                with suppress(FileNotFoundError):
                    if _same_content(self._folder, name, file.size, file.chunks()):
                        return name, True
                # Another program has changed or deleted it.
                del names.numbers[digest]
                names.unread[file.size].append(number)
        return numbered(wanted, names.count), False

    def _look_up(self, wanted: str) -> _Names:
        names = self._names.setdefault(wanted, _Names())
        with suppress(FileNotFoundError):
            while True:
                state = self._folder.stat(numbered(wanted, names.count))
                if stat.S_ISREG(state.st_mode):
                    names.unread[state.st_size].append(names.count)
                names.count += 1
        return names

    def _read(self, wanted: str, names: _Names, size: int) -> None:
        """Compute the missing digests of the files of one size."""
        while names.unread[size]:
            number = names.unread[size].pop()
            # The file may be deleted, or belong to another user.
            with suppress(FileNotFoundError, PermissionError):
                fd = self._folder.open(numbered(wanted, number))
                try:
                    names.numbers[_digest(_chunks(fd))] = number
                finally:
                    os.close(fd)


class _Cache:
    """The taken names in folders. A key is the device and inode of a folder."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Modification times in nanoseconds, and names.
        self._folders: dict[tuple[int, int], tuple[int, dict[str, _Names]]] = {}
        self._files = 0  # in all folders

    def take(self, key: tuple[int, int], modified: int) -> dict[str, _Names]:
        """Remove and return the names in a folder; nothing if it was modified since."""
        with self._lock:
            then, names = self._folders.pop(key, (0, {}))
            self._files -= _count(names)
        return names if then == modified else {}

    def put(self, key: tuple[int, int], modified: int, names: dict[str, _Names]) -> None:
        """Store the names in a folder. A full cache is emptied."""
        with self._lock:
            _, replaced = self._folders.get(key, (0, {}))
            self._folders[key] = modified, names
            self._files += _count(names) - _count(replaced)
            if self._files > MAX_CACHED:
                self._folders.clear()
                self._files = 0


_cache = _Cache()


@contextmanager
def taken_names(folder: Folder) -> Iterator[TakenNames]:
    """Yield the taken names in a folder. Photos are saved inside the with statement."""
    state = folder.status()
    key = (state.st_dev, state.st_ino)
    names = _cache.take(key, state.st_mtime_ns)
    try:
        yield TakenNames(folder, names)
    finally:
        with suppress(OSError):
            taken = {name: one for name, one in names.items() if one.count}
            _cache.put(key, folder.status().st_mtime_ns, taken)


def _count(names: dict[str, _Names]) -> int:
    """Return the number of files with these names."""
    return sum(one.count for one in names.values())


def _same_content(folder: Folder, name: str, size: int, chunks: Iterable[bytes]) -> bool:
    """Return whether a file has this content. FileNotFoundError without it."""
    if folder.stat(name).st_size != size:
        return False
    try:
        fd = folder.open(name)
    except PermissionError:
        return False  # it belongs to another user
    try:
        return all(os.read(fd, len(chunk)) == chunk for chunk in chunks)
    finally:
        os.close(fd)


def _chunks(fd: int) -> Iterator[bytes]:
    while chunk := os.read(fd, disk.CHUNK):
        yield chunk


def _digest(chunks: Iterator[bytes]) -> bytes:
    # A collision is harmless: the bytes are compared, too.
    digest = hashlib.blake2b(digest_size=16)
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()
