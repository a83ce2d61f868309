"""Photos as files: nx_dir/YYYY-MM-DD/NAME.

Nothing is overwritten: a name that is taken gets `-1`, `-2`, ... before its extension. The same
bytes under the same name are stored once, so that an upload can be delivered again after a crash.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nxparse.deliver.errors import Outcome
from nxparse.deliver.taken import TakenNames, taken_names
from nxparse.store.disk import Folder, write_file
from nxparse.store.records import Delivery, LocalCopy, identity_of
from nxparse.text import format_list, format_size
from nxparse.upload import File, Upload


@dataclass(frozen=True, slots=True)
class Saved:
    """A stored file; not `new` if the same file was there before."""

    path: Path
    size: int
    new: bool
    identity: str = field(default="", compare=False)  # see `identity_of`


def parse_path(text: str) -> Path:
    """Parse a path; `~` is expanded. Raises ValueError."""
    try:
        if text.strip() and "\0" not in text:
            return Path(text).expanduser()
    except RuntimeError:  # ~ of an unknown user
        pass
    raise ValueError("not a path; for example /srv/photos")


def folder_for(directory: Path, received: float) -> Path:
    """Return the folder for an upload received at a Unix time, named after the local date."""
    return directory / time.strftime("%Y-%m-%d", time.localtime(received))


def deliver(directory: Path, upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
    """Store files of an upload in the folder of its day. Raises OSError."""
    saved = store(files, folder_for(directory, delivery.arrival.received), delivery.id)
    found = tuple(LocalCopy(one.path, one.identity) for one in saved)
    return Outcome(describe_saved(saved), saved=found)


def store(files: Sequence[File], path: Path, id: str) -> list[Saved]:
    """Store files durably in a folder, which is created if it is missing.

    `id` is that of the delivery: a retry removes temporary files of the attempt before it.
    Raises OSError; files stored before the error stay.
    """
    saved = []
    try:
        with Folder.make(path) as folder, taken_names(folder) as taken:
            for index, file in enumerate(files):
                saved.append(_store(folder, taken, file, f".{id}-{index}"))
            folder.sync()
    except OSError as error:
        # The error has only the name inside the folder.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    return saved


def _store(folder: Folder, taken: TakenNames, file: File, temporary: str) -> Saved:
    """Store a file, through one with a temporary name."""
    folder.discard(temporary)
    name, same = taken.place(file)
    identity = ""
    try:
        if not same:
            identity = _write(folder, temporary, file)
        while not same:
            try:
                folder.publish(temporary, name)
            except FileExistsError:
                name, same = taken.place(file)
            else:
                return Saved(folder.path / name, file.size, True, identity)
    finally:
        folder.discard(temporary)
    return Saved(folder.path / name, file.size, False, identity_of(folder.stat(name)))


def _write(folder: Folder, name: str, file: File) -> str:
    """Create a file durably. Returns its identity."""
    fd = folder.create(name)
    try:
        write_file(file, fd)
        os.fsync(fd)
        return identity_of(os.fstat(fd))
    finally:
        os.close(fd)


def describe_saved(files: Sequence[Saved]) -> str:
    """Return the paths and sizes of saved files."""

    def one(file: Saved) -> str:
        return f"{file.path} ({format_size(file.size)}{'' if file.new else ', already there'})"

    return f"saved as {format_list([one(file) for file in files])}" if files else "no files to save"
