"""Durable uploads: raw bodies on disk, what became of them in SQLite.

A body is kept as it came, under the id of its upload, in the folder `.nx`::

    spool/.ID          being received
    spool/ID           received whole
    quarantine/ID      cut, or not to be read: for a person to look at
    state.sqlite3      a row for each upload, and one for each of its deliveries

An upload is accepted, and the camera may hear 200, when its body has been
fsynced and renamed, the folder fsynced, and its rows committed, in this order.
What a crash may leave, and what `Spool` makes of it when it is opened again:

    spool/.ID                      the camera never heard 200    to quarantine
    spool/ID without a row         the camera never heard 200    to quarantine
    spool/ID, a delivery waiting   accepted                      is delivered
    spool/ID, no delivery waiting  delivered                     is deleted

A failed fsync is never tried again: the kernel may have dropped the data and
would report success the next time (PostgreSQL wiki, "Fsync Errors").

Everything here blocks and may be called from any thread; errors are OSErrors
and sqlite3.Errors.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nxparse import disk
from nxparse.deviation import BodyError
from nxparse.disk import Folder
from nxparse.upload import Fetch, Upload, read_chunks

# Quarantine is there for a person to look at, not to fill the card.
MAX_QUARANTINE = 2 << 30
# No delivery is made to wait for longer, in seconds.
MAX_WAIT = 3600.0
# What a finished upload leaves in the database is kept for a while, as history.
HISTORY = 30 * 86400

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE upload (
    id TEXT PRIMARY KEY,
    received REAL NOT NULL,      -- Unix time
    client TEXT NOT NULL,        -- the camera's address
    content_type TEXT NOT NULL,  -- of the body, as on the wire
    size INTEGER NOT NULL        -- of the body, in bytes
);
CREATE TABLE delivery (
    upload TEXT NOT NULL REFERENCES upload (id) ON DELETE CASCADE,
    target TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'done', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,
    next_try REAL NOT NULL,      -- Unix time
    reason TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (upload, target)
);
CREATE INDEX delivery_waiting ON delivery (next_try) WHERE state = 'waiting';
"""


@dataclass(frozen=True, slots=True)
class Arrival:
    """An accepted upload: when it came (Unix time), from whom, and how to read its body."""

    id: str
    received: float
    client: str
    content_type: str
    size: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """An upload on its way to one target."""

    arrival: Arrival
    target: str
    attempts: int


class Incoming:
    """A body on its way in. `size` is what has been written, in bytes."""

    def __init__(self, id: str, folder: Folder) -> None:
        self.id = id
        self.size = 0
        self._folder = folder
        self._fd: int | None = folder.create(f".{id}", 0o600)

    def write(self, chunk: bytes) -> None:
        assert self._fd is not None
        disk.write_all(self._fd, chunk)
        self.size += len(chunk)

    def fetch(self, start: int, end: int) -> bytes:
        """Read back what has been written between two offsets."""
        assert self._fd is not None
        return disk.read_range(self._fd, start, end)

    def sync(self) -> None:
        """fsync. If that fails, the body is lost, whatever a second try would say."""
        assert self._fd is not None
        os.fsync(self._fd)

    def close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)


class Spool:
    """The folder `.nx`, for one process alone.

    Opening it puts in order what a crash has left; see `recovered`. Raises
    BlockingIOError if another process has it.
    """

    def __init__(self, root: Path, clock: Callable[[], float] = time.time) -> None:
        self.recovered: list[Path] = []
        self._clock = clock
        self._lock = threading.Lock()
        if not root.parent.is_dir():  # it may be a link to another disk
            Folder.make(root.parent).close()
        Folder.make(root, 0o700).close()
        with ExitStack() as opened:
            self._spool = opened.enter_context(Folder.make(root / "spool", 0o700))
            self._spool.lock()
            self._quarantine = opened.enter_context(Folder.make(root / "quarantine", 0o700))
            self._database = opened.enter_context(closing(_database(root / "state.sqlite3")))
            self._recover()
            self._opened = opened.pop_all()

    def close(self) -> None:
        with self._lock:
            self._opened.close()

    def free(self) -> int:
        """The bytes that are free on the disk."""
        return shutil.disk_usage(self._spool.path).free

    def begin(self) -> Incoming:
        """Begin to receive a body."""
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock()))
        return Incoming(f"{now}-{secrets.token_hex(4)}", self._spool)

    def accept(
        self, incoming: Incoming, client: str, content_type: str, targets: Sequence[str]
    ) -> Arrival:
        """Keep a body, to be delivered to the targets. After this it survives a power cut."""
        now = self._clock()
        arrival = Arrival(incoming.id, now, client, content_type, incoming.size)
        incoming.sync()
        incoming.close()
        self._spool.move(f".{incoming.id}", self._spool, incoming.id)
        try:
            self._spool.sync()
            with self._transaction() as database:
                database.execute(
                    "INSERT INTO upload VALUES (?, ?, ?, ?, ?)",
                    (arrival.id, arrival.received, client, content_type, arrival.size),
                )
                database.executemany(
                    "INSERT INTO delivery (upload, target, state, next_try)"
                    " VALUES (?, ?, 'waiting', ?)",
                    [(arrival.id, target, now) for target in targets],
                )
        except BaseException:
            self._spool.move(incoming.id, self._spool, f".{incoming.id}")
            raise
        return arrival

    def discard(self, incoming: Incoming) -> None:
        """Forget a body that the camera knows was not accepted."""
        with suppress(OSError):
            incoming.close()
        self._spool.discard(f".{incoming.id}")

    def quarantine(self, incoming: Incoming) -> Path | None:
        """Keep a body for a person to look at. Returns where it is, None if it was empty."""
        if not incoming.size:
            self.discard(incoming)
            return None
        try:
            incoming.sync()
        finally:
            incoming.close()
            self._spool.move(f".{incoming.id}", self._quarantine, incoming.id)
        self._quarantine.sync()
        self._spool.sync()
        return self._quarantine.path / incoming.id

    def tidy(self) -> list[Path]:
        """Delete the oldest in quarantine until the rest fits, and tell which."""
        files = self._quarantine.files()
        total = sum(state.st_size for _, state in files)
        deleted = []
        for name, state in files:
            if total <= MAX_QUARANTINE:
                break
            with suppress(OSError):
                self._quarantine.unlink(name)
                total -= state.st_size
                deleted.append(self._quarantine.path / name)
        return deleted

    def due(self) -> list[Delivery]:
        """The deliveries whose time has come, the oldest uploads first.

        Those that would have to wait for longer than anything ever does, too:
        the clock has been set back.
        """
        now = self._clock()
        with self._lock:
            rows = self._database.execute(
                "SELECT upload.*, target, attempts FROM delivery"
                " JOIN upload ON upload.id = delivery.upload"
                " WHERE state = 'waiting' AND next_try NOT BETWEEN ? AND ?"
                " ORDER BY received, upload.id, target",
                (math.nextafter(now, math.inf), now + MAX_WAIT),
            ).fetchall()
        return [Delivery(Arrival(*row[:5]), *row[5:]) for row in rows]

    def next_try(self) -> float | None:
        """When the next delivery is due, in Unix time; None if nothing waits."""
        with self._lock:
            query = "SELECT min(next_try) FROM delivery WHERE state = 'waiting'"
            (when,) = self._database.execute(query).fetchone()
        return None if when is None else float(when)

    def done(self, delivery: Delivery) -> None:
        """The delivery has succeeded. After the last one of an upload its body is deleted."""
        self._settle(delivery, "done", "")

    def failed(self, delivery: Delivery, reason: str) -> None:
        """The delivery will not be tried again."""
        self._settle(delivery, "failed", reason)

    def postpone(self, delivery: Delivery, until: float, reason: str) -> None:
        """The delivery is to be tried again at a Unix time."""
        with self._transaction() as database:
            database.execute(
                "UPDATE delivery SET attempts = attempts + 1, next_try = ?, reason = ?"
                " WHERE upload = ? AND target = ?",
                (until, reason, delivery.arrival.id, delivery.target),
            )

    @contextmanager
    def read(self, arrival: Arrival) -> Iterator[Upload]:
        """Read an upload again. Its files can be read inside the with statement.

        Raises BodyError if it cannot be read, or is gone.
        """
        try:
            fd = self._spool.open(arrival.id)
        except FileNotFoundError:
            raise BodyError("its body is gone") from None
        try:
            fetch: Fetch = partial(disk.read_range, fd)
            yield read_chunks(disk.read_chunks(fd), arrival.content_type, fetch)
        finally:
            os.close(fd)

    def give_up(self, arrival: Arrival) -> Path | None:
        """Put an accepted body that cannot be read into quarantine. None if it is gone."""
        try:
            self._spool.move(arrival.id, self._quarantine, arrival.id)
        except FileNotFoundError:
            if self._spool.has(arrival.id):
                raise  # it is the quarantine that is gone
            return None
        self._quarantine.sync()
        self._spool.sync()
        return self._quarantine.path / arrival.id

    def _settle(self, delivery: Delivery, state: str, reason: str) -> None:
        id = delivery.arrival.id
        with self._transaction() as database:
            database.execute(
                "UPDATE delivery SET attempts = attempts + 1, state = ?, reason = ?"
                " WHERE upload = ? AND target = ?",
                (state, reason, id, delivery.target),
            )
            query = "SELECT count(*) FROM delivery WHERE upload = ? AND state = 'waiting'"
            (waiting,) = database.execute(query, (id,)).fetchone()
        if not waiting:
            self._spool.discard(id)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def _recover(self) -> None:
        with self._transaction() as database:
            database.execute(
                "DELETE FROM upload WHERE received < ? AND NOT EXISTS"
                " (SELECT 1 FROM delivery WHERE upload = id AND state = 'waiting')",
                (self._clock() - HISTORY,),
            )
            # Whatever was in the way may be gone, and the clock may have been set.
            database.execute(
                "UPDATE delivery SET next_try = ? WHERE state = 'waiting'", (self._clock(),)
            )
            known = {row[0] for row in database.execute("SELECT id FROM upload")}
            waiting = {
                row[0]
                for row in database.execute("SELECT upload FROM delivery WHERE state = 'waiting'")
            }
        for name, state in self._spool.files():
            if name in waiting:
                continue
            if name in known or not state.st_size:
                self._spool.unlink(name)
            else:
                id = name.removeprefix(".")
                self._spool.move(name, self._quarantine, id)
                self.recovered.append(self._quarantine.path / id)
        self._quarantine.sync()
        self._spool.sync()


def _database(path: Path) -> sqlite3.Connection:
    # The file is made here, because SQLite would follow the umask.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > _SCHEMA_VERSION:
            raise sqlite3.DatabaseError(
                f"{path} was written by a newer nx_addon (format {version}): "
                f"use that one, or another nx_dir"
            )
        if version < _SCHEMA_VERSION:
            database.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT"
            )
    except BaseException:
        database.close()
        raise
    return database
