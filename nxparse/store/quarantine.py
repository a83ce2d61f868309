"""Bodies and requests that are stored for the user to look at, within limits."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from nxparse.store import disk
from nxparse.store.disk import Folder

MAX_QUARANTINE = 2 << 30  # bytes on the disk
MAX_QUARANTINED = 1000  # files
MAX_UNKNOWN = 100  # files
MAX_UNKNOWN_BYTES = 256 << 20


class Quarantine:
    """The folder for bodies that were cut or cannot be parsed, exactly as received."""

    def __init__(self, path: Path) -> None:
        self._folder = Folder.make(path, 0o700)
        _, self._size, self._count = self._folder.trim(1 << 62, 1 << 62)

    def close(self) -> None:
        self._folder.close()

    def take(self, source: Folder, id: str) -> Path:
        """Move a body here. `sync` makes that durable."""
        source.move(id, self._folder, id)
        with suppress(OSError):
            self._size += disk.disk_size(self._folder.stat(id))
            self._count += 1
        return self._folder.path / id

    def sync(self) -> None:
        self._folder.sync()

    def tidy(self) -> list[Path]:
        """Delete the oldest bodies until the rest fits. Returns their paths."""
        if self._size <= MAX_QUARANTINE and self._count <= MAX_QUARANTINED:
            return []
        deleted, self._size, self._count = self._folder.trim(MAX_QUARANTINE, MAX_QUARANTINED)
        return [self._folder.path / name for name in deleted]


def save_unknown(path: Path, name: str, flow: bytes) -> Path:
    """Store a flow in a folder, and delete the oldest flows above the limits."""
    with Folder.make(path, 0o700) as folder:
        fd = folder.create(f".{name}", 0o600)
        try:
            disk.write_all(fd, flow)
            folder.move(f".{name}", folder, name)
        except OSError:
            folder.discard(f".{name}")
            raise
        finally:
            os.close(fd)
        folder.trim(MAX_UNKNOWN_BYTES, MAX_UNKNOWN)
        return folder.path / name
