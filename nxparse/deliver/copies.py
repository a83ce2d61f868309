"""Temporary copies of files, for programs and libraries that need a path."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nxparse.store.disk import write_file
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


def _copied(file: File, folder: Path) -> Path:
    folder.mkdir()
    path = folder / file.safe_name
    with path.open("xb") as copy:
        write_file(file, copy.fileno())
    return path
