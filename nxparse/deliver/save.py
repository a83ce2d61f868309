"""Photos as files: nx_dir/YYYY-MM-DD/NAME.

Nothing is overwritten: a name that is taken gets `-1`, `-2`, ... before its
extension. The same bytes under the same name are not stored twice, which also
makes it harmless to deliver an upload again after a crash.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nxparse.filename import numbered
from nxparse.store import disk
from nxparse.store.disk import Folder
from nxparse.text import format_list, format_size
from nxparse.upload import File


@dataclass(frozen=True, slots=True)
class Saved:
    """A file that is there now; `new` unless the same one had been there before."""

    path: Path
    size: int
    new: bool


def folder_for(directory: Path, received: float) -> Path:
    """The folder for an upload that came at a Unix time: its local date."""
    return directory / time.strftime("%Y-%m-%d", time.localtime(received))


def save(files: Sequence[File], directory: Path, received: float, id: str) -> list[Saved]:
    """Store files of an upload that came at a Unix time durably, in the folder of its day."""
    return store(files, folder_for(directory, received), id)


def store(files: Sequence[File], path: Path, id: str) -> list[Saved]:
    """Store files durably in a folder, which is made if need be.

    `id` names the delivery; a second try with the same id clears away what the
    first one left. Raises OSError; what is stored by then stays.
    """
    saved = []
    try:
        with Folder.make(path) as folder:
            for index, file in enumerate(files):
                name, new = _store(folder, file, f".{id}-{index}")
                saved.append(Saved(path / name, file.size, new))
            folder.sync()
    except OSError as error:
        # The name in the error is one inside the folder, and says nothing to anybody.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    return saved


def _store(folder: Folder, file: File, temporary: str) -> tuple[str, bool]:
    folder.discard(temporary)
    number, same = _place(folder, file, 0)
    if same:
        return numbered(file.safe_name, number), False
    fd = folder.create(temporary)
    try:
        try:
            file.copy_to(fd)
            os.fsync(fd)
        finally:
            os.close(fd)
        while not same:
            name = numbered(file.safe_name, number)
            try:
                folder.publish(temporary, name)
            except FileExistsError:
                number, same = _place(folder, file, number)
            else:
                return name, True
    finally:
        folder.discard(temporary)
    return numbered(file.safe_name, number), False


def _place(folder: Folder, file: File, first: int) -> tuple[int, bool]:
    """The first number, from `first` on, under which the file can stand or already does."""
    number = first
    while True:
        try:
            name = numbered(file.safe_name, number)
            if disk.same_content(folder, name, file.size, file.chunks()):
                return number, True
        except FileNotFoundError:
            return number, False
        number += 1


def describe_saved(files: Sequence[Saved]) -> str:
    """Where the files of an upload are."""

    def one(file: Saved) -> str:
        return f"{file.path} ({format_size(file.size)}{'' if file.new else ', there already'})"

    return (
        f"saved as {format_list([one(file) for file in files])}"
        if files
        else "has no files to save"
    )
