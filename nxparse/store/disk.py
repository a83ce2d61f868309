"""The file operations that durability rests on.

The order is that of Maildir (maildir(5)): create a file under a name that
nobody else uses, write, fsync it, give it its name without replacing anything,
fsync the folder. After that it survives a power cut.

A Folder is held open: what is done in it happens in that very folder, even if
somebody puts a symbolic link in its place meanwhile. Names are never followed
through links. Windows has none of these calls; there, paths are joined, and
folders cannot be fsynced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from nxparse.filename import MAX_NAME

_BY_DESCRIPTOR = os.open in os.supports_dir_fd
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_BINARY = getattr(os, "O_BINARY", 0)
# File systems without hard links: FAT, exFAT, some network shares.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
# copy_file_range cannot copy between these two files, or on this system.
_NO_KERNEL_COPY = {
    *(errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP),
    *(errno.EPERM, errno.EBADF),
}
# Bytes in a name: most file systems, eCryptfs, the versions of the Minix file system.
_NAME_LIMITS = (MAX_NAME, 143, 60, 30, 14)
CHUNK = 1 << 18

Result = TypeVar("Result")


class Folder:
    """An open folder; use it in a with statement. All errors are OSErrors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        if _BY_DESCRIPTOR:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _NOFOLLOW)

    @classmethod
    def make(cls, path: Path, mode: int = 0o777) -> Folder:
        """Open a folder, made if need be, durably. Its own name must not be a link."""
        missing = []
        ancestor = path
        while not ancestor.exists():
            missing.append(ancestor)
            ancestor = ancestor.parent
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode)
            with cls(folder.parent.resolve()) as parent:
                parent.sync()
        return cls(path)

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._fd is not None and self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def create(self, name: str, mode: int = 0o666) -> int:
        """A descriptor to write and read a new file with. FileExistsError if the name is taken."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _BINARY
        return os.open(self._at(name), flags, mode, dir_fd=self._fd)

    def open(self, name: str) -> int:
        """A descriptor to read a file with. Does not hang on a FIFO."""
        flags = os.O_RDONLY | _NOFOLLOW | _NONBLOCK | _BINARY
        return os.open(self._at(name), flags, dir_fd=self._fd)

    def publish(self, temporary: str, name: str) -> None:
        """Rename a file of this folder. FileExistsError if the name is taken."""
        try:
            os.link(
                self._at(temporary),
                self._at(name),
                src_dir_fd=self._fd,
                dst_dir_fd=self._fd,
                follow_symlinks=os.link not in os.supports_follow_symlinks,
            )
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # Reserve the name, then put the file in its place.
            reserved = self.create(name)
            try:
                os.close(reserved)
                self.move(temporary, self, name)
            except OSError:
                self.discard(name)
                raise
        else:
            self.unlink(temporary)

    def move(self, name: str, folder: Folder, new_name: str) -> None:
        """Rename a file into a folder of the same file system, replacing what is there."""
        source, target = self._at(name), folder._at(new_name)
        os.replace(source, target, src_dir_fd=self._fd, dst_dir_fd=folder._fd)

    def unlink(self, name: str) -> None:
        os.unlink(self._at(name), dir_fd=self._fd)

    def discard(self, name: str) -> None:
        """Unlink, if it is there and can be."""
        with contextlib.suppress(OSError):
            self.unlink(name)

    def stat(self, name: str) -> os.stat_result:
        """The state of a file, or of the link that is there."""
        return os.stat(self._at(name), dir_fd=self._fd, follow_symlinks=False)

    def status(self) -> os.stat_result:
        """The state of the folder itself."""
        return os.stat(self.path) if self._fd is None else os.fstat(self._checked(self._fd))

    def has(self, name: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            self.stat(name)
            return True
        return False

    def files(self) -> list[tuple[str, os.stat_result]]:
        """Name and state of all regular files, sorted by name."""
        found = []
        for name in sorted(os.listdir(self.path if self._fd is None else self._fd)):
            with contextlib.suppress(FileNotFoundError):
                state = self.stat(name)
                if stat.S_ISREG(state.st_mode):
                    found.append((name, state))
        return found

    def trim(self, size: int, count: int) -> tuple[list[str], int, int]:
        """Delete the files that come first by name until the rest fits.

        `size` is in bytes on the disk, of `count` files together. Returns the names
        deleted, and the size and count of what is left.
        """
        files = self.files()
        total, left = sum(disk_size(state) for _, state in files), len(files)
        deleted = []
        for name, state in files:
            if total <= size and left <= count:
                break
            with contextlib.suppress(OSError):
                self.unlink(name)
                total -= disk_size(state)
                left -= 1
                deleted.append(name)
        return deleted, total, left

    def is_in_place(self) -> bool:
        """Is this still the folder that its path leads to?"""
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return self._fd is None or os.path.samestat(found, os.fstat(self._checked(self._fd)))

    def lock(self) -> None:
        """Let no other process lock this folder while it is open. BlockingIOError if one has."""
        if self._fd is not None:
            import fcntl

            fcntl.flock(self._checked(self._fd), fcntl.LOCK_EX | fcntl.LOCK_NB)

    def sync(self) -> None:
        """Make the names in this folder durable, where the system can."""
        if self._fd is None:
            return
        try:
            os.fsync(self._checked(self._fd))
        except OSError as error:
            # Some network and FUSE file systems cannot, and do not need to.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise

    def _checked(self, fd: int) -> int:
        if fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), str(self.path))
        return fd

    def _at(self, name: str) -> str:
        return name if self._fd is not None else str(self.path / name)


def write_all(fd: int, data: bytes) -> None:
    """Write all of the data: one write() may take less."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def disk_size(state: os.stat_result) -> int:
    """Return the bytes that a file takes on the disk."""
    blocks: int | None = getattr(state, "st_blocks", None)  # Windows has none
    return -(-state.st_size // 4096) * 4096 if blocks is None else blocks * 512


def read_chunks(fd: int) -> Iterator[bytes]:
    """Read a file from its beginning, in pieces of at most 256 KiB."""
    os.lseek(fd, 0, os.SEEK_SET)
    while chunk := os.read(fd, CHUNK):
        yield chunk


def read_range(fd: int, start: int, end: int) -> bytes:
    """The bytes of a file between two offsets. OSError if it is shorter."""
    pieces = []
    while start < end:
        if hasattr(os, "pread"):
            piece = os.pread(fd, end - start, start)
        else:
            os.lseek(fd, start, os.SEEK_SET)
            piece = os.read(fd, end - start)
        if not piece:
            raise OSError(errno.EIO, f"the file ends at byte {start} instead of {end}")
        pieces.append(piece)
        start += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def copy_range(source: int, offset: int, size: int, destination: int) -> None:
    """Append `size` bytes of a file, from `offset` on, at the position of `destination`.

    The kernel copies if it can, and then shares the blocks of the file if the file system
    can. OSError if the source is shorter.
    """
    end = offset + size
    while offset < end and hasattr(os, "copy_file_range"):
        try:
            copied = os.copy_file_range(source, destination, end - offset, offset)
        except OSError as error:
            if error.errno not in _NO_KERNEL_COPY:
                raise
            break
        if not copied:
            break
        offset += copied
    for start in range(offset, end, CHUNK):
        write_all(destination, read_range(source, start, min(start + CHUNK, end)))


def with_name_limit(attempt: Callable[[int], Result]) -> Result:
    """Return `attempt(limit)`, with the largest limit for names that the file system accepts.

    The limit is in bytes. An attempt that fails with ENAMETOOLONG is repeated with a smaller one.
    """
    for limit in _NAME_LIMITS[:-1]:
        try:
            return attempt(limit)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
    return attempt(_NAME_LIMITS[-1])


def same_content(folder: Folder, name: str, size: int, chunks: Iterable[bytes]) -> bool:
    """Is this a regular file with this content? FileNotFoundError if there is nothing."""
    state = folder.stat(name)
    if not stat.S_ISREG(state.st_mode) or state.st_size != size:
        return False
    try:
        fd = folder.open(name)
    except PermissionError:
        return False  # not ours to read
    try:
        return all(os.read(fd, len(chunk)) == chunk for chunk in chunks)
    finally:
        os.close(fd)
