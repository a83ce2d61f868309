"""System calls that fail, and kills.

Everything happens on real files. `Faults` makes chosen calls fail, `Kills` copies a folder
at each step of a program, as a kill at that step would leave it.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

CALLS: tuple[str, ...]
CALLS = ("open", "write", "fsync", "close", "link", "replace", "unlink", "mkdir")
if hasattr(os, "copy_file_range"):
    CALLS = (*CALLS, "copy_file_range")
ENDLESS = 1000  # failures in one program, which then retries for ever


class Database(sqlite3.Connection):
    """A connection to SQLite that calls `watchers` before each statement, and `after` it.

    `after` gets the first word of the statement. If it is `lazy`, nothing is fsynced; if it
    is `alone`, no other connection may open the file, which saves locks and shared memory.
    """

    watchers: ClassVar[list[Callable[[sqlite3.Connection, str], None]]] = []
    after: ClassVar[list[Callable[[str], None]]] = []
    lazy: ClassVar[bool] = False
    alone: ClassVar[bool] = False

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        for watcher in list(self.watchers):
            watcher(self, sql)
        if self.alone and "journal_mode" in sql:
            super().execute("PRAGMA locking_mode = EXCLUSIVE")
        if self.lazy and "journal_mode" in sql:
            super().execute("PRAGMA synchronous = OFF")
        if self.lazy:
            sql = sql.replace("synchronous = FULL", "synchronous = OFF")
        return self._executed(sql.split()[0], super().execute(sql, *parameters))

    def executescript(self, sql: str) -> sqlite3.Cursor:
        return self._executed("the schema", super().executescript(sql))

    def _executed(self, statement: str, cursor: sqlite3.Cursor) -> sqlite3.Cursor:
        for call in list(self.after):
            call(statement)
        return cursor


def make_lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk. Only a power cut would show the difference."""
    monkeypatch.setattr(os, "fsync", os.fstat)
    monkeypatch.setattr(sqlite3, "connect", Database)
    monkeypatch.setattr(Database, "lazy", True)


class _Calls:
    """Replaces calls of `os`, and watches SQL statements, inside a with statement."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = names
        self._patches = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        for name in self._names:
            self._patches.setattr(os, name, self._wrapped(name, getattr(os, name)))
        Database.watchers.append(self._watch)
        return self

    def __exit__(self, *_: object) -> None:
        Database.watchers.remove(self._watch)
        self._patches.undo()

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function that replaces `call`."""
        raise NotImplementedError

    def _watch(self, database: sqlite3.Connection, sql: str) -> None:
        """Called before each statement."""


class Faults(_Calls):
    """Makes calls of `os`, or SQL statements, fail.

    The calls in `names` are counted together. Call number `first` fails, and with
    `persistent` all calls after it. `calls` is their number, `failed` that of failed ones.
    """

    def __init__(
        self, names: tuple[str, ...], error: int, first: int = 1, *, persistent: bool = False
    ) -> None:
        super().__init__(set(names).intersection(CALLS))
        self.failed = 0
        self.calls = 0
        self._statements = names
        self._error = error
        self._first = first
        self._persistent = persistent

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*positional: Any, **named: Any) -> Any:
            if not self._fails():
                return call(*positional, **named)
            if name == "close":
                call(*positional, **named)  # Linux closes it all the same
            raise OSError(self._error, os.strerror(self._error))

        return wrapper

    def _watch(self, database: sqlite3.Connection, sql: str) -> None:
        if sql.split()[0] in self._statements and self._fails():
            raise sqlite3.OperationalError("disk I/O error")

    def _fails(self) -> bool:
        self.calls += 1
        fails = self.calls == self._first or (self._persistent and self.calls > self._first)
        self.failed += fails
        assert self.failed < ENDLESS, "it is retried for ever"
        return fails


class ShortNames(_Calls):
    """Limits the names of files to `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(("open", "stat", "link", "unlink", "replace", "mkdir"))
        self._limit = limit

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*positional: Any, **named: Any) -> Any:
            paths = [one for one in positional[:2] if isinstance(one, str | Path)]
            for path in paths:
                if len(os.fsencode(Path(path).name)) > self._limit:
                    raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
            return call(*positional, **named)

        return wrapper


class Kills(_Calls):
    """Copies the folder `root` into `copies` after each call.

    `steps` has the last call before each copy.
    """

    def __init__(self, root: Path, copies: Path) -> None:
        super().__init__(CALLS)
        self.steps: list[str] = []
        self._root = root
        self._copies = copies
        self._copying = False

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._copy("the end")

    def copy(self, number: int) -> Path:
        """The copy with this number in `steps`."""
        return self._copies / str(number)

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*positional: Any, **named: Any) -> Any:
            result = call(*positional, **named)
            self._copy(name)
            return result

        return wrapper

    def _watch(self, database: sqlite3.Connection, sql: str) -> None:
        self._copy(f"before {sql.split()[0]}")

    def _copy(self, step: str) -> None:
        if self._copying:
            return
        self._copying = True
        shutil.copytree(self._root, self.copy(len(self.steps)), symlinks=True)
        self._copying = False
        self.steps.append(step)


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    """Mount a small file system. This needs root."""
    place.mkdir(exist_ok=True)
    size = f"size={megabytes}m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the contents of all files in a folder by name; nothing without the folder."""
    if not folder.exists():
        return {}
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
