"""File operations for durable storage.

A file is created under a unique temporary name, written, fsynced, and renamed without
replacing anything; then its folder is fsynced (the order of maildir(5)).

Operations in a Folder use its descriptor, so a symbolic link put in its place later has no
effect. Windows has no such calls: paths are joined there, and folders are not fsynced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from nxparse.upload import File

_BY_DESCRIPTOR = os.open in os.supports_dir_fd
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
# The flags to open a file for reading. Links are not followed, and a FIFO does not block.
READ = os.O_RDONLY | _NOFOLLOW | _BINARY | getattr(os, "O_NONBLOCK", 0)
# File systems without hard links: FAT, exFAT, some network shares.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
CHUNK = 1 << 18
# No descriptor has this number: calls with it fail with EBADF.
_CLOSED = (1 << 31) - 1


class Folder:
    """An open folder; use it in a with statement. All errors are OSErrors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        if _BY_DESCRIPTOR:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _NOFOLLOW)

    @classmethod
    def make(cls, path: Path, mode: int = 0o777) -> Folder:
        """Open a folder. If it is missing, create it durably. It must not be a link itself."""
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

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._fd not in (None, _CLOSED):
            fd, self._fd = self._fd, _CLOSED
            os.close(fd)

    def create(self, name: str, mode: int = 0o666) -> int:
        """Create a file and return its descriptor. FileExistsError if the name is taken."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _BINARY
        return os.open(self._at(name), flags, mode, dir_fd=self._fd)

    def open(self, name: str) -> int:
        """Open a file for reading and return its descriptor."""
        return os.open(self._at(name), READ, dir_fd=self._fd)

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
        """Rename a file into a folder of the same file system, replacing a file there."""
        source, target = self._at(name), folder._at(new_name)
        os.replace(source, target, src_dir_fd=self._fd, dst_dir_fd=folder._fd)

    def unlink(self, name: str) -> None:
        os.unlink(self._at(name), dir_fd=self._fd)

    def discard(self, name: str) -> None:
        """Unlink a file. Errors are ignored."""
        with contextlib.suppress(OSError):
            self.unlink(name)

    def stat(self, name: str) -> os.stat_result:
        """Return the status of a file, or of the link with that name."""
        return os.stat(self._at(name), dir_fd=self._fd, follow_symlinks=False)

    def status(self) -> os.stat_result:
        """Return the status of the folder itself."""
        return os.stat(self.path) if self._fd is None else os.fstat(self._fd)

    def files(self) -> list[tuple[str, os.stat_result]]:
        """Return name and status of all regular files, sorted by name."""
        found = []
        for name in sorted(os.listdir(self.path if self._fd is None else self._fd)):
            with contextlib.suppress(FileNotFoundError):
                state = self.stat(name)
                if stat.S_ISREG(state.st_mode):
                    found.append((name, state))
        return found

    def trim(self, size: int, count: int, keep: Sequence[str] = ()) -> list[str]:
        """Delete files in the order of their names until the rest fits. Returns their names.

        The rest has at most `count` files that take at most `size` bytes on the disk, unless
        those in `keep` alone are more.
        """
        files = self.files()
        total, left = sum(_disk_size(state) for _, state in files), len(files)
        deleted = []
        for name, state in files:
            if total <= size and left <= count:
                break
            if name in keep:
                continue
            with contextlib.suppress(OSError):
                self.unlink(name)
                total -= _disk_size(state)
                left -= 1
                deleted.append(name)
        return deleted

    def is_in_place(self) -> bool:
        """Return whether this is still the folder at its path."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.lstat(self.path), self.status())
        return False

    def lock(self) -> None:
        """Lock this folder until it is closed. BlockingIOError if another process has locked it."""
        if self._fd is not None:
            import fcntl

            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def sync(self) -> None:
        """Make the names in this folder durable, where the system supports that."""
        if self._fd is None:
            return
        try:
            os.fsync(self._fd)
        except OSError as error:
            # Some network and FUSE file systems do not support it, nor need it.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise

    def _at(self, name: str) -> str:
        return name if self._fd is not None else str(self.path / name)


def write_all(fd: int, data: bytes) -> None:
    """Write all of the data; a single write() may write less."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read_range(fd: int, start: int, end: int) -> bytes:
    """Return the bytes of a file between two offsets. OSError if it is shorter."""
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
    """Copy `size` bytes of a file, from `offset` on, to the position of `destination`.

    The kernel copies where it can, and shares blocks where the file system supports that.
    OSError if the source is shorter.
    """
    end = offset + size
    if hasattr(os, "copy_file_range"):
        # It may not support these files. Real errors come back from read and write.
        with contextlib.suppress(OSError):
            while copied := os.copy_file_range(source, destination, end - offset, offset):
                offset += copied
    for start in range(offset, end, CHUNK):
        write_all(destination, read_range(source, start, min(start + CHUNK, end)))


def write_file(file: File, destination: int) -> None:
    """Write the content of a file at the position of a descriptor."""
    if file.copy:
        file.copy(file.start, file.size, destination)
        return
    for chunk in file.chunks():
        write_all(destination, chunk)


def _disk_size(state: os.stat_result) -> int:
    """Return the number of bytes that a file takes on the disk."""
    blocks: int | None = getattr(state, "st_blocks", None)  # Windows has none
    return -(-state.st_size // 4096) * 4096 if blocks is None else blocks * 512
