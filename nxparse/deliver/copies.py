"""Temporary copies of files, for programs and libraries that need a path."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from nxparse.filename import numbered
from nxparse.store import disk
from nxparse.store.disk import Folder
from nxparse.upload import File


@contextmanager
def copies(files: Sequence[File], folder: Path) -> Iterator[list[Path]]:
    """Copy files to a new folder in `folder`, and yield the paths.

    The copies are deleted at the end of the with statement if possible. Raises OSError.
    """
    place = tempfile.TemporaryDirectory(prefix="run-", dir=folder, ignore_cleanup_errors=True)
    try:
        with Folder(Path(place.name).resolve()) as opened:
            paths = [_copied(file, opened) for file in files]
        yield paths
    finally:
        # ignore_cleanup_errors does not cover all of these, and the delivery has succeeded.
        with suppress(OSError, RecursionError):
            place.cleanup()


def _copied(file: File, folder: Folder) -> Path:
    name = disk.with_name_limit(partial(_free_name, file.safe_name, folder))
    fd = folder.create(name, 0o600)
    try:
        file.copy_to(fd)
    finally:
        os.close(fd)
    return folder.path / name


def _free_name(wanted: str, folder: Folder, limit: int) -> str:
    names = (numbered(wanted, number, limit) for number in itertools.count())
    return next(name for name in names if not folder.has(name))
