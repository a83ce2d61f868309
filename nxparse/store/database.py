"""A SQLite database that survives a power cut, shared by all threads of this process.

The write-ahead log (WAL) is fsynced at each commit, so a transaction is durable when it
has ended. A file has one schema, whose checksum is its `user_version`; a file with
another schema is refused.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class Database:
    """An open database file that only its owner can read.

    Errors are OSErrors and sqlite3.Errors; both have the path as `filename`. With `shrink`,
    a new file becomes smaller when rows are deleted.
    """

    def __init__(self, path: Path, schema: str, *, shrink: bool = False) -> None:
        self._path = path
        self._shrink = shrink
        self._lock = threading.Lock()
        # Create the file here, because SQLite would follow the umask.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._state = os.stat(path)
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            with self._named_errors():
                self._prepare(path, schema)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        with self._lock:
            if self._is_replaced():
                import ctypes  # slow, and rarely needed

                # At its end SQLite deletes the log, by its path: that of the file there now. So
                # this connection must not end, not even with the process.
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))
            else:
                self._connection.close()

    def _is_replaced(self) -> bool:
        """Return whether there is another file in place of this one, on a disk mounted since."""
        with suppress(OSError):
            return not os.path.samestat(os.stat(self._path), self._state)
        return False

    def query(self, sql: str, *values: object, **named: object) -> list[Any]:
        """Return all rows of a SELECT. Its parameters are positional or named."""
        with self._lock, self._named_errors():
            return self._connection.execute(sql, named or values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the with statement as a transaction, which is durable when it has ended."""
        with self._lock, self._named_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # After some errors SQLite has rolled back already.
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

    def _prepare(self, path: Path, schema: str) -> None:
        version = zlib.crc32(schema.encode()) & 0x7FFFFFFF
        ((found,),) = self._connection.execute("PRAGMA user_version")
        ((tables,),) = self._connection.execute("SELECT count(*) FROM sqlite_master")
        is_new = not found and not tables
        if not is_new and found != version:
            raise sqlite3.DatabaseError(
                f"{path} was written by another version of nx_addon: "
                f"use that one, or another nx_dir"
            )
        if self._shrink:  # has an effect only before the first page is written
            self._connection.execute("PRAGMA auto_vacuum = FULL")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        if is_new:
            self._connection.executescript(
                f"BEGIN; {schema} PRAGMA user_version = {version}; COMMIT"
            )


def insert(database: sqlite3.Connection, table: str, **row: object) -> None:
    """Insert a row."""
    marks = ", ".join(f":{name}" for name in row)
    database.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", row)
