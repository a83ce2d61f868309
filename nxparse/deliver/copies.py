"""Temporary copies of files, for programs and libraries that need a path."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from nxparse.filename import numbered
from nxparse.store import disk
from nxparse.store.disk import Folder
from nxparse.upload import File


@contextmanager
def copies(files: Sequence[File], folder: Path) -> Iterator[list[Path]]:
    """Copy files to new private folders in `folder`, and yield the paths.

    The copies are deleted at the end of the with statement if possible. Raises OSError.
    """
    place = Path(tempfile.mkdtemp(prefix="run-", dir=folder)).resolve()
    try:
        yield [_copied(file, place / str(number)) for number, file in enumerate(files)]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _copied(file: File, path: Path) -> Path:
    path.mkdir()
    with Folder(path) as folder:
        return disk.with_name_limit(partial(_copy, file, folder))


def _copy(file: File, folder: Folder, limit: int) -> Path:
    name = numbered(file.safe_name, 0, limit)
    fd = folder.create(name)
    try:
        file.copy_to(fd)
    finally:
        os.close(fd)
    return folder.path / name
