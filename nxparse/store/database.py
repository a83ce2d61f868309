"""A SQLite file that survives a power cut, for all threads of this process.

It is written ahead (WAL) and synced at each commit, so that what a transaction
has stored is on the disk when it ends. The schema grows by migrations: the
number of those that a file has seen is its format (`user_version`), and a file
of a newer format than is known here is left alone.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Database:
    """An open file; readable for its owner only. All errors are OSErrors and sqlite3.Errors.

    An sqlite3.Error has the path of the file as its `filename`, as an OSError has. With `shrink`,
    a new file becomes smaller when rows are deleted.
    """

    def __init__(self, path: Path, migrations: Sequence[str], *, shrink: bool = False) -> None:
        self._path = path
        self._shrink = shrink
        self._lock = threading.Lock()
        # The file is made here, because SQLite would follow the umask.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            with self._named_errors():
                self._prepare(path, migrations)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def query(self, sql: str, *values: object) -> list[Any]:
        """All rows that a SELECT finds."""
        with self._lock, self._named_errors():
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """What is done in the with statement is done wholly and durably, or not at all."""
        with self._lock, self._named_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            error.filename = str(self._path)  # type: ignore[attr-defined]
            raise

    def _prepare(self, path: Path, migrations: Sequence[str]) -> None:
        if self._shrink:  # has an effect only before the first page is written
            self._connection.execute("PRAGMA auto_vacuum = FULL")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version > len(migrations):
            raise sqlite3.DatabaseError(
                f"{path} was written by a newer nx_addon (format {version}): "
                f"use that one, or another nx_dir"
            )
        for number, statements in enumerate(migrations[version:], version + 1):
            self._connection.executescript(
                f"BEGIN; {statements} PRAGMA user_version = {number}; COMMIT"
            )
        # A migration may have to take a table apart that others refer to.
        self._connection.execute("PRAGMA foreign_keys = ON")
