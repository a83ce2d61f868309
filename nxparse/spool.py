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

import hashlib
import json
import math
import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path

from nxparse import disk
from nxparse.deviation import BodyError
from nxparse.disk import Folder
from nxparse.upload import Fetch, File, Upload, read_chunks

# Quarantine is there for a person to look at, not to fill the card.
MAX_QUARANTINE = 2 << 30
# No delivery is made to wait for longer, in seconds.
MAX_WAIT = 3600.0
# A camera whose reply was lost sends again within this time, in seconds.
REPEAT = 3600.0
# What a finished upload leaves in the database is kept for a while, as history.
HISTORY = 30 * 86400

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE upload (
    id TEXT PRIMARY KEY,
    received REAL NOT NULL,      -- Unix time
    client TEXT NOT NULL,        -- the camera's address
    sender TEXT NOT NULL,
    content_type TEXT NOT NULL,  -- of the body, as on the wire
    size INTEGER NOT NULL,       -- of the body, in bytes
    sha256 TEXT NOT NULL,        -- of the body
    heard INTEGER NOT NULL DEFAULT 1  -- 0: the camera had gone before the reply
);
CREATE INDEX upload_unheard ON upload (sha256) WHERE NOT heard;
CREATE TABLE delivery (
    upload TEXT NOT NULL REFERENCES upload (id) ON DELETE CASCADE,
    target TEXT NOT NULL,        -- as written in nx_route
    part INTEGER NOT NULL,       -- 0: all files; else only this one, from 1
    recipients TEXT NOT NULL,    -- those that it still has to reach: JSON, a list
    state TEXT NOT NULL CHECK (state IN ('waiting', 'done', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,
    waited REAL NOT NULL DEFAULT 0,  -- seconds, between the attempts
    next_try REAL NOT NULL,      -- Unix time
    reason TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (upload, target, part)
);
CREATE INDEX delivery_waiting ON delivery (next_try) WHERE state = 'waiting';
"""


@dataclass(frozen=True, slots=True)
class Arrival:
    """An accepted upload: when it came (Unix time), from whom, and how to read its body."""

    id: str
    received: float
    client: str
    sender: str
    content_type: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """An upload, or one file of it (`part`, from 1), on its way to one target.

    `recipients` are those that have not been reached yet. `waited` is how long
    it has been made to wait, in seconds: what a clock says does not count.
    """

    arrival: Arrival
    target: str
    part: int
    recipients: tuple[str, ...]
    attempts: int
    waited: float
    next_try: float
    reason: str

    def of(self, files: Sequence[File]) -> Sequence[File]:
        """Which files of the upload are to be delivered."""
        return files[self.part - 1 : self.part] if self.part else files

    @property
    def id(self) -> str:
        """The same for each attempt, and for no other delivery of the same upload's files."""
        return f"{self.arrival.id}.{self.part}" if self.part else self.arrival.id


class Incoming:
    """A body on its way in. `size` is what has been written, in bytes."""

    def __init__(self, id: str, folder: Folder) -> None:
        self.id = id
        self.size = 0
        self._folder = folder
        self._digest = hashlib.sha256()
        self._fd: int | None = folder.create(f".{id}", 0o600)

    def write(self, chunk: bytes) -> None:
        assert self._fd is not None
        disk.write_all(self._fd, chunk)
        self._digest.update(chunk)
        self.size += len(chunk)

    @property
    def sha256(self) -> str:
        """Of what has been written, in hexadecimal digits."""
        return self._digest.hexdigest()

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
    """The folder `.nx`, for one process alone: BlockingIOError if another one has it.

    Opening it puts in order what a crash has left; see `recovered`. With
    `alone=False` it is opened beside that one process, to look and to settle.
    """

    def __init__(
        self, root: Path, clock: Callable[[], float] = time.time, *, alone: bool = True
    ) -> None:
        self.recovered: list[Path] = []
        self._clock = clock
        self._lock = threading.Lock()
        if not root.parent.is_dir():  # it may be a link to another disk
            Folder.make(root.parent).close()
        Folder.make(root, 0o700).close()
        with ExitStack() as opened:
            self._spool = opened.enter_context(Folder.make(root / "spool", 0o700))
            if alone:
                self._spool.lock()
            self._quarantine = opened.enter_context(Folder.make(root / "quarantine", 0o700))
            self._database = opened.enter_context(closing(_database(root / "state.sqlite3")))
            if alone:
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
        self,
        incoming: Incoming,
        client: str,
        sender: str,
        content_type: str,
        deliveries: Mapping[str, Sequence[str]],
    ) -> Arrival:
        """Keep a body, to be delivered. After this it survives a power cut.

        `deliveries` has the recipients for each target.
        """
        now = self._clock()
        arrival = Arrival(
            incoming.id, now, client, sender, content_type, incoming.size, incoming.sha256
        )
        incoming.sync()
        incoming.close()
        self._spool.move(f".{incoming.id}", self._spool, incoming.id)
        try:
            self._spool.sync()
            with self._transaction() as database:
                database.execute(
                    f"INSERT INTO upload ({_ARRIVAL}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    astuple(arrival),
                )
                database.executemany(
                    "INSERT INTO delivery (upload, target, part, recipients, state, next_try)"
                    " VALUES (?, ?, 0, ?, 'waiting', ?)",
                    [
                        (arrival.id, target, json.dumps(list(recipients)), now)
                        for target, recipients in deliveries.items()
                    ],
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

    def waiting(self) -> list[Delivery]:
        """All deliveries that have not ended, the oldest uploads first."""
        with self._lock:
            return _deliveries(self._database, "state = 'waiting'")

    def due(self, target: str) -> list[Delivery]:
        """The deliveries to a target whose time has come, the oldest uploads first.

        Those that would have to wait for longer than anything ever does, too:
        the clock has been set back.
        """
        with self._lock:
            return _deliveries(self._database, *_due(target, self._clock()))

    def first_due(self, target: str, *, new: bool) -> Delivery | None:
        """Of the deliveries that are due: the first that is new, or that has failed before."""
        where, *values = _due(target, self._clock())
        tried = "attempts = 0" if new else "attempts > 0"
        order = "next_try, upload, part LIMIT 1"
        with self._lock:
            found = _deliveries(self._database, f"{where} AND {tried}", *values, order=order)
        return found[0] if found else None

    def targets(self) -> list[str]:
        """The targets that deliveries wait for."""
        query = "SELECT DISTINCT target FROM delivery WHERE state = 'waiting' ORDER BY target"
        with self._lock:
            return [row[0] for row in self._database.execute(query)]

    def next_try(self, target: str) -> float | None:
        """When the next delivery to a target is due, in Unix time; None if nothing waits."""
        query = "SELECT min(next_try) FROM delivery WHERE state = 'waiting' AND target = ?"
        with self._lock:
            (when,) = self._database.execute(query, (target,)).fetchone()
        return None if when is None else float(when)

    def version(self) -> int:
        """A number that changes when another process has changed something (the command line)."""
        with self._lock:
            (version,) = self._database.execute("PRAGMA data_version").fetchone()
        return int(version)

    def done(self, delivery: Delivery) -> None:
        """The delivery has succeeded. After the last one of an upload its body is deleted."""
        self._settle(delivery, "done", "")

    def failed(self, delivery: Delivery, reason: str) -> None:
        """The delivery will not be tried again."""
        self._settle(delivery, "failed", reason)

    def postpone(
        self, delivery: Delivery, wait: float, reason: str, recipients: Sequence[str]
    ) -> None:
        """The delivery, to these of its recipients, is to be tried again in `wait` seconds."""
        with self._transaction() as database:
            database.execute(
                "UPDATE delivery SET attempts = attempts + 1, waited = waited + ?, next_try = ?,"
                f" reason = ?, recipients = ? WHERE {_KEY}",
                (
                    wait,
                    self._clock() + wait,
                    reason,
                    json.dumps(list(recipients)),
                    *_key(delivery),
                ),
            )

    def split(self, delivery: Delivery, files: int) -> None:
        """Make of a delivery of all files one for each, if it still waits."""
        with self._transaction() as database:
            query = f"DELETE FROM delivery WHERE state = 'waiting' AND {_KEY}"
            if not database.execute(query, _key(delivery)).rowcount:
                return
            database.executemany(
                "INSERT INTO delivery (upload, target, part, recipients, state, next_try)"
                " VALUES (?, ?, ?, ?, 'waiting', ?)",
                [
                    (
                        delivery.arrival.id,
                        delivery.target,
                        part,
                        json.dumps(list(delivery.recipients)),
                        self._clock(),
                    )
                    for part in range(1, files + 1)
                ],
            )

    def rest(self, target: str, wait: float, reason: str) -> int:
        """Let what is due for a target, or would be within `wait` seconds, wait as long as that.

        What has not been due yet is left alone. Returns how many it were.
        """
        now = self._clock()
        until = now + wait
        with self._transaction() as database:
            return database.execute(
                "UPDATE delivery SET attempts = attempts + 1, reason = ?, next_try = ?,"
                " waited = waited + ? - max(?, min(next_try, ?)) WHERE state = 'waiting'"
                " AND target = ? AND (next_try <= ? OR attempts > 0) AND next_try < ?",
                (reason, until, until, now, until, target, now, until),
            ).rowcount

    def hurry(self, id: str) -> int:
        """Let the waiting deliveries of an upload be due now. Returns how many there are."""
        with self._transaction() as database:
            return database.execute(
                "UPDATE delivery SET next_try = ? WHERE upload = ? AND state = 'waiting'",
                (self._clock(), id),
            ).rowcount

    def unheard(self, id: str) -> None:
        """The camera had gone before it could hear that this upload is accepted."""
        with self._transaction() as database:
            database.execute("UPDATE upload SET heard = 0 WHERE id = ?", (id,))

    def repeated(self, sender: str, sha256: str) -> str | None:
        """The id of the upload of which this one is a repeat, because its reply was not heard.

        That is answered only once: who sends the same again after a reply that
        arrived means it.
        """
        with self._transaction() as database:
            row = database.execute(
                "SELECT id FROM upload WHERE NOT heard AND sha256 = ? AND sender = ?"
                " AND abs(received - ?) <= ?",
                (sha256, sender, self._clock(), REPEAT),
            ).fetchone()
            if row is None:
                return None
            database.execute("UPDATE upload SET heard = 1 WHERE id = ?", row)
        return str(row[0])

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
            digest = hashlib.sha256()
            upload = read_chunks(_digested(fd, digest.update), arrival.content_type, fetch)
            if digest.hexdigest() != arrival.sha256:
                raise BodyError("its body has changed on the disk")
            yield upload
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
                f"UPDATE delivery SET attempts = attempts + 1, state = ?, reason = ? WHERE {_KEY}",
                (state, reason, *_key(delivery)),
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
        # Half a file that was being kept; the next attempt need not come that way again.
        for path in self._spool.path.parent.parent.glob("undelivered/*/.[0-9]*Z-*-*"):
            with suppress(OSError):
                path.unlink()


_ARRIVAL = "id, received, client, sender, content_type, size, sha256"
_KEY = "upload = ? AND target = ? AND part = ?"


def _key(delivery: Delivery) -> tuple[str, str, int]:
    return delivery.arrival.id, delivery.target, delivery.part


def _due(target: str, now: float) -> tuple[str, object, object, object]:
    return (
        "state = 'waiting' AND target = ? AND next_try NOT BETWEEN ? AND ?",
        target,
        math.nextafter(now, math.inf),
        now + 2 * MAX_WAIT,
    )


def _deliveries(
    database: sqlite3.Connection,
    where: str,
    *values: object,
    order: str = "received, id, target, part",
) -> list[Delivery]:
    rows = database.execute(
        f"SELECT {_ARRIVAL}, target, part, recipients, attempts, waited, next_try, reason"
        f" FROM delivery JOIN upload ON id = upload WHERE {where}"
        f" ORDER BY {order}",
        values,
    ).fetchall()
    return [
        Delivery(
            arrival=Arrival(*row[:7]),
            target=row[7],
            part=row[8],
            recipients=tuple(json.loads(row[9])),
            attempts=row[10],
            waited=row[11],
            next_try=row[12],
            reason=row[13],
        )
        for row in rows
    ]


def _digested(fd: int, update: Callable[[bytes], None]) -> Iterator[bytes]:
    for chunk in disk.read_chunks(fd):
        update(chunk)
        yield chunk


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
