"""A SQLite database that survives a power cut, shared by all threads of this process.

It uses a write-ahead log (WAL) that is synced at each commit: what a transaction
has stored is on the disk when the transaction has ended. A file has one schema,
whose checksum is its `user_version`; a file with another schema is refused.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


class Database:
    """An open file that only its owner can read. All errors are OSErrors and sqlite3.Errors.

    An sqlite3.Error has the path of the file as its `filename`, as an OSError has. With `shrink`,
    a new file becomes smaller when rows are deleted.
    """

    def __init__(self, path: Path, schema: str, *, shrink: bool = False) -> None:
        self._path = path
        self._shrink = shrink
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Callable[[sqlite3.Connection], Any], Future[Any]]] = deque()
        # The file is made here, because SQLite would follow the umask.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            with self._named_errors():
                self._prepare(path, schema)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def query(self, sql: str, *values: object) -> list[Any]:
        """Return all rows that a SELECT finds."""
        with self._lock, self._named_errors():
            return self._connection.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the with statement as a transaction: wholly and durably, or not at all."""
        with self._lock, self._transaction() as database:
            yield database

    def store(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` as a transaction, whose commit is shared with other threads that wait.

        An error that `work` raises undoes only its own statements.
        """
        future: Future[T] = Future()
        self._waiting.append((work, future))
        with self._lock:
            # Another thread may have done it while this one waited for the lock.
            if not future.done():
                self._store_all([self._waiting.popleft() for _ in range(len(self._waiting))])
        return future.result()

    def _store_all(
        self, batch: list[tuple[Callable[[sqlite3.Connection], Any], Future[Any]]]
    ) -> None:
        done = []
        try:
            with self._transaction() as database:
                for work, future in batch:
                    database.execute("SAVEPOINT work")
                    try:
                        done.append((future, work(database)))
                    except Exception as error:
                        # Some errors of SQLite end the whole transaction.
                        if not database.in_transaction:
                            raise
                        database.execute("ROLLBACK TO work")
                        future.set_exception(error)
                    database.execute("RELEASE work")
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for future, result in done:
                future.set_result(result)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._named_errors():
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

    def _prepare(self, path: Path, schema: str) -> None:
        if self._shrink:  # has an effect only before the first page is written
            self._connection.execute("PRAGMA auto_vacuum = FULL")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        version = zlib.crc32(schema.encode()) & 0x7FFFFFFF
        ((found,),) = self._connection.execute("PRAGMA user_version")
        ((tables,),) = self._connection.execute("SELECT count(*) FROM sqlite_master")
        if not found and not tables:
            self._connection.executescript(
                f"BEGIN; {schema} PRAGMA user_version = {version}; COMMIT"
            )
        elif found != version:
            raise sqlite3.DatabaseError(
                f"{path} was written by another version of nx_addon: "
                f"use that one, or another nx_dir"
            )
