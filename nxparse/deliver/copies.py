"""Copies of files, for what wants a path: they are there for as long as it takes."""

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
    """The paths of copies, each under its own name, in a new folder within `folder`.

    They are gone when the with statement ends, as far as they can be deleted.
    Raises OSError.
    """
    place = tempfile.TemporaryDirectory(prefix="run-", dir=folder, ignore_cleanup_errors=True)
    try:
        with Folder(Path(place.name).resolve()) as opened:
            paths = [_copied(file, opened) for file in files]
        yield paths
    finally:
        # It does not ignore all errors. What has been done must not be done again for one.
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
