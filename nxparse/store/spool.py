"""Durable uploads: raw bodies on disk, what became of them in SQLite.

A body is kept as it came, under an id of its own, in the folder `.nx`::

    spool/.ID          being received
    spool/ID           received whole
    quarantine/ID      cut, or not to be read: for a person to look at
    unknown/ID.mitm    a request that nobody could answer, as a flow of mitmproxy
    run-*/             copies of photos, for as long as a command is given them
    state.sqlite3      a row for each upload, each body, each file, each delivery

An upload by e-mail has one body, with the id of the upload, and all photos in
it. An upload to a social site, a post, has one body for each photo, and grows
while photos with the same caption come. What can go photo by photo is
delivered at once; other deliveries wait until the post has been quiet for a
while, or has all photos that its caption speaks of. When the first attempt to
deliver it as a whole begins it is closed, and grows no more.

A body is accepted, and the camera may hear 200, when it has been fsynced and
renamed, the folder fsynced, and its rows committed, in this order. What a
crash may leave, and what `Spool` makes of it when it is opened again:

    spool/.ID                      the camera never heard 200    to quarantine
    spool/ID without a row         the camera never heard 200    to quarantine
    spool/ID, a delivery waiting   accepted                      is delivered
    spool/ID, no delivery waiting  delivered                     is deleted
    run-*/                         copies                        are deleted

A large body is fsynced again and again while it comes in, so that at its end
the camera does not have to wait for all of it.

A failed fsync is never tried again, be it the last one or not: the kernel may
have dropped the data and would report success the next time (PostgreSQL wiki,
"Fsync Errors").

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
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nxparse import upload
from nxparse.deviation import BodyError
from nxparse.multipart import Fetch
from nxparse.store import disk
from nxparse.store.database import Database
from nxparse.store.disk import Folder
from nxparse.upload import File, Preview, Upload

# Quarantine is there for a person to look at, not to fill the card.
MAX_QUARANTINE = 2 << 30
MAX_UNKNOWN = 100  # files
MAX_UNKNOWN_BYTES = 256 << 20
# After so many bytes, which a slow card writes in a second, what has come of a body is fsynced.
STRIDE = 8 << 20
# No delivery is made to wait for longer, in seconds.
MAX_WAIT = 3600.0
# The next try of what a person wants to be tried at once: long ago.
HURRIED = 0.0
# A camera whose reply was lost sends again within this time, in seconds.
REPEAT = 3600.0
# What a finished upload leaves in the database is kept for a while, as history.
HISTORY = 30 * 86400
# So many uploads are shown as the last ones; thumbnails of older ones are forgotten.
RECENT = 20
# A camera never says how many photos it will post. After so many seconds without
# another one a post is delivered; after GAP a photo with the same caption is a
# new post. A post has no more photos than an upload by e-mail may have.
QUIET = 60.0
GAP = 600.0
MAX_PHOTOS = 64

_MIGRATIONS = (
    """
CREATE TABLE upload (
    id TEXT PRIMARY KEY,
    received REAL NOT NULL,      -- Unix time
    client TEXT NOT NULL,        -- the camera's address
    sender TEXT NOT NULL,
    content_type TEXT NOT NULL,
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    heard INTEGER NOT NULL DEFAULT 1
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
""",
    """
ALTER TABLE upload ADD COLUMN site TEXT NOT NULL DEFAULT '';     -- '': by e-mail
ALTER TABLE upload ADD COLUMN album TEXT NOT NULL DEFAULT '';
ALTER TABLE upload ADD COLUMN caption TEXT NOT NULL DEFAULT '';
ALTER TABLE upload ADD COLUMN session TEXT NOT NULL DEFAULT '';  -- whose post it is
ALTER TABLE upload ADD COLUMN open INTEGER NOT NULL DEFAULT 0;   -- 1: it may grow
ALTER TABLE upload ADD COLUMN latest REAL NOT NULL DEFAULT 0;    -- when it has grown
CREATE INDEX upload_open ON upload (session) WHERE open;
CREATE TABLE body (
    id TEXT PRIMARY KEY,
    upload TEXT NOT NULL REFERENCES upload (id) ON DELETE CASCADE,
    part INTEGER NOT NULL,       -- 0: it holds all files; else it is this one, from 1
    received REAL NOT NULL,      -- Unix time
    name TEXT,                   -- as announced, if it was
    content_type TEXT NOT NULL,  -- as on the wire
    size INTEGER NOT NULL,       -- bytes
    sha256 TEXT NOT NULL,
    resource TEXT NOT NULL DEFAULT '',  -- the announcement that it came for
    heard INTEGER NOT NULL DEFAULT 1,   -- 0: the camera had gone before the reply
    UNIQUE (upload, part)
);
INSERT INTO body (id, upload, part, received, content_type, size, sha256, heard)
    SELECT id, id, 0, received, content_type, size, sha256, heard FROM upload;
CREATE INDEX body_sha256 ON body (sha256);
DROP INDEX upload_unheard;
ALTER TABLE upload DROP COLUMN content_type;
ALTER TABLE upload DROP COLUMN size;
ALTER TABLE upload DROP COLUMN sha256;
ALTER TABLE upload DROP COLUMN heard;
DROP INDEX delivery_waiting;
CREATE INDEX delivery_waiting ON delivery (target, next_try, upload, part)
    WHERE state = 'waiting';
""",
    """
CREATE TABLE file (
    upload TEXT NOT NULL REFERENCES upload (id) ON DELETE CASCADE,
    part INTEGER NOT NULL,       -- from 1
    name TEXT NOT NULL,          -- a safe one
    size INTEGER NOT NULL,       -- bytes
    thumbnail BLOB,              -- a JPEG, if it is to be shown
    turn INTEGER NOT NULL,       -- by how many degrees, clockwise, it has to be turned
    PRIMARY KEY (upload, part)
);
CREATE INDEX file_thumbnail ON file (upload) WHERE thumbnail IS NOT NULL;
CREATE INDEX upload_received ON upload (received);
CREATE INDEX upload_client ON upload (client, received);
CREATE INDEX delivery_new ON delivery (target, next_try, upload, part)
    WHERE state = 'waiting' AND attempts = 0;
CREATE INDEX delivery_tried ON delivery (target, next_try, upload, part)
    WHERE state = 'waiting' AND attempts > 0;
ALTER TABLE delivery ADD COLUMN progress TEXT NOT NULL DEFAULT '[]';  -- JSON, a list
""",
)
# Does a waiting delivery need a body?
_NEEDED = (
    "EXISTS (SELECT 1 FROM delivery WHERE delivery.upload = body.upload AND state = 'waiting'"
    " AND (delivery.part = body.part OR delivery.part = 0 OR body.part = 0))"
)


@dataclass(frozen=True, slots=True)
class StoredUpload:
    """An accepted upload: when it came (Unix time), and from whom.

    `site` is empty for an upload by e-mail; `sender` is then an address, else
    the name that somebody has logged in with.
    """

    id: str
    received: float
    client: str
    sender: str
    site: str = ""
    album: str = ""
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Post:
    """What the photos of one post have in common.

    `session` is what they came in. A video names no album: then it is empty,
    and fits any. `photos` is how many there will be, 0 if nobody knows.
    """

    client: str
    sender: str
    session: str
    site: str
    album: str
    caption: str
    photos: int = 0


@dataclass(frozen=True, slots=True)
class Delivery:
    """An upload, or one file of it (`part`, from 1), on its way to one target.

    `recipients` are those that have not been reached yet. `waited` is how long
    it has been made to wait, in seconds: what a clock says does not count.
    `progress` is what earlier attempts have done already, as the target has put it.
    """

    arrival: StoredUpload
    target: str
    part: int
    recipients: tuple[str, ...]
    attempts: int
    waited: float
    next_try: float
    reason: str
    progress: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The same for each attempt, and for no other delivery of the same upload's files."""
        return f"{self.arrival.id}.{self.part}" if self.part else self.arrival.id


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """What has become of an upload, or of one file of it (`part`, from 1), for one target.

    `state` is "waiting", "done" or "failed".
    """

    target: str
    part: int
    recipients: tuple[str, ...]
    state: str
    next_try: float
    reason: str


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file of an upload that may be gone by now: what a list says of it."""

    part: int
    name: str
    size: int
    has_thumbnail: bool
    turn: int


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """An upload that has been accepted, and what has become of it."""

    arrival: StoredUpload
    files: tuple[FileRecord, ...]
    fates: tuple[DeliveryStatus, ...]


@dataclass(frozen=True, slots=True)
class _Body:
    id: str
    part: int
    name: str | None
    content_type: str
    size: int
    sha256: str


class RepeatedError(Exception):
    """What comes has come before, as the body `id`."""

    def __init__(self, id: str) -> None:
        super().__init__(f"it repeats {id}")
        self.id = id


class Incoming:
    """A body on its way in. `size` is what has been written, in bytes.

    After each STRIDE a thread fsyncs what has come. If that fails, the next
    `write` or `sync` raises its OSError.
    """

    def __init__(self, id: str, folder: Folder, threads: Executor) -> None:
        self.id = id
        self.size = 0
        self._folder = folder
        self._threads = threads
        self._early: Future[None] = Future()  # the last fsync that nobody waited for
        self._early.set_result(None)
        self._next = STRIDE  # at this size there is another one
        self._digest = hashlib.sha256()
        self._fd: int | None = folder.create(f".{id}", 0o600)

    def write(self, chunk: bytes) -> None:
        assert self._fd is not None
        disk.write_all(self._fd, chunk)
        self._digest.update(chunk)
        self.size += len(chunk)
        if self.size >= self._next and self._early.done():
            self._early.result()
            self._early = self._threads.submit(_sync_and_close, os.dup(self._fd))
            self._next = self.size + STRIDE

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
        self._early.result()
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
        if not root.parent.is_dir():  # it may be a link to another disk
            Folder.make(root.parent).close()
        Folder.make(root, 0o700).close()
        with ExitStack() as opened:
            self._spool = opened.enter_context(Folder.make(root / "spool", 0o700))
            if alone:
                self._spool.lock()
            self._quarantine = opened.enter_context(Folder.make(root / "quarantine", 0o700))
            self._threads = opened.enter_context(ThreadPoolExecutor())
            state = Database(root / "state.sqlite3", _MIGRATIONS)
            self._database = opened.enter_context(closing(state))
            if alone:
                self._recover()
            self._opened = opened.pop_all()

    def close(self) -> None:
        self._opened.close()

    def free(self) -> int:
        """The bytes that are free on the disk."""
        return shutil.disk_usage(self._spool.path).free

    def begin(self) -> Incoming:
        """Begin to receive a body."""
        return Incoming(self._new_id(), self._spool, self._threads)

    def accept(
        self,
        incoming: Incoming,
        client: str,
        sender: str,
        content_type: str,
        deliveries: Mapping[str, Sequence[str]],
        previews: Sequence[Preview] = (),
    ) -> StoredUpload:
        """Keep the body of an e-mail upload, to be delivered. Now it survives a power cut.

        `deliveries` has the recipients for each target, `previews` its files for `recent`.
        """
        now = self._clock()
        arrival = StoredUpload(incoming.id, now, client, sender)
        body = _Body(incoming.id, 0, None, content_type, incoming.size, incoming.sha256)
        with self._kept(incoming) as database:
            _insert_upload(database, arrival)
            _insert_body(database, arrival.id, body, now)
            for number, preview in enumerate(previews, 1):
                _insert_file(database, arrival.id, number, preview)
            for target, recipients in deliveries.items():
                _insert_delivery(database, arrival.id, target, 0, recipients, now)
        return arrival

    def append(
        self,
        incoming: Incoming,
        post: Post,
        name: str | None,
        content_type: str,
        resource: str,
        *,
        at_once: Sequence[str],
        together: Sequence[str],
        preview: Preview | None = None,
    ) -> StoredUpload:
        """Keep a photo of a post, to be delivered. Now it survives a power cut.

        `resource` says which announcement it came for. The targets in
        `together` get the post as a whole, those in `at_once` each photo.
        Raises RepeatedError if the same has come for that announcement.
        """
        now = self._clock()
        with self._kept(incoming) as database:
            query = "SELECT id FROM body WHERE resource = ? AND resource != '' AND sha256 = ?"
            if row := database.execute(query, (resource, incoming.sha256)).fetchone():
                raise RepeatedError(row[0])
            arrival = _open_post(database, post, now)
            # With other targets than before it may need photos that are gone already.
            if arrival is None or _together(database, arrival.id) != set(together):
                arrival = StoredUpload(
                    incoming.id, now, post.client, post.sender, post.site, post.album, post.caption
                )
                _insert_upload(database, arrival)
            query = "SELECT count(*) + 1 FROM body WHERE upload = ?"
            (part,) = database.execute(query, (arrival.id,)).fetchone()
            body = _Body(incoming.id, part, name, content_type, incoming.size, incoming.sha256)
            _insert_body(database, arrival.id, body, now, resource)
            if preview:
                _insert_file(database, arrival.id, part, preview)
            complete = part >= min(post.photos or MAX_PHOTOS, MAX_PHOTOS)
            database.execute(
                "UPDATE upload SET session = ?, album = CASE album WHEN '' THEN ? ELSE album END,"
                " open = ?, latest = ? WHERE id = ?",
                (post.session, post.album, not complete, now, arrival.id),
            )
            for target in at_once:
                _insert_delivery(database, arrival.id, target, part, [post.site], now)
            for target in together:
                when = now if complete else now + QUIET
                _insert_delivery(database, arrival.id, target, 0, [post.site], when)
        return arrival

    def expect(self, post: Post, seconds: float) -> None:
        """Another photo of a post may come within `seconds`: deliver it not before that."""
        now = self._clock()
        with self._database.transaction() as database:
            if arrival := _open_post(database, post, now):
                database.execute("UPDATE upload SET latest = ? WHERE id = ?", (now, arrival.id))
                database.execute(
                    "UPDATE delivery SET next_try = ? WHERE upload = ? AND part = 0"
                    " AND state = 'waiting' AND attempts = 0",
                    (now + min(seconds, MAX_WAIT), arrival.id),
                )

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
        return [self._quarantine.path / name for name in self._quarantine.trim(MAX_QUARANTINE)]

    def keep_unknown(self, flow: bytes) -> Path:
        """Keep the flow of a request that nobody knows how to answer; the oldest make room."""
        with Folder.make(self._spool.path.parent / "unknown", 0o700) as folder:
            name = f"{self._new_id()}.mitm"
            fd = folder.create(f".{name}", 0o600)
            try:
                disk.write_all(fd, flow)
                folder.move(f".{name}", folder, name)
            except OSError:
                folder.discard(f".{name}")
                raise
            finally:
                os.close(fd)
            folder.trim(MAX_UNKNOWN_BYTES, MAX_UNKNOWN)
            return folder.path / name

    def waiting(self) -> list[Delivery]:
        """All deliveries that have not ended, the oldest uploads first."""
        return self._deliveries("state = 'waiting'")

    def since(self, when: float, state: str) -> list[Delivery]:
        """The deliveries in a state, of uploads that came at a Unix time or later."""
        return self._deliveries("state = ? AND received >= ?", state, when)

    def recent(self, client: str | None = None, limit: int = RECENT) -> list[UploadRecord]:
        """The last uploads, of one client or of all; the latest first."""
        # With `OR` in it, no index would find those of one client.
        where, values = ("", []) if client is None else ("WHERE client = ?", [client])
        rows = self._database.query(
            f"SELECT {_ARRIVAL} FROM upload {where} ORDER BY received DESC, id DESC LIMIT ?",
            *(*values, limit),
        )
        return [self._past(StoredUpload(*row)) for row in rows]

    def thumbnail(self, id: str, part: int) -> bytes | None:
        """The thumbnail of a file of an upload, a JPEG, if it is kept."""
        query = "SELECT thumbnail FROM file WHERE upload = ? AND part = ?"
        rows = self._database.query(query, id, part)
        return rows[0][0] if rows else None

    def due(self, target: str) -> list[Delivery]:
        """The deliveries to a target whose time has come, the oldest uploads first.

        Those that would have to wait for longer than anything ever does, too:
        the clock has been set back.
        """
        return self._deliveries(*_due(target, self._clock()))

    def first_due(self, target: str, *, new: bool) -> Delivery | None:
        """Of the deliveries that are due: the first that is new, or that has failed before."""
        where, *values = _due(target, self._clock())
        tried = "attempts = 0" if new else "attempts > 0"
        order = "next_try, upload, part LIMIT 1"
        found = self._deliveries(f"{where} AND {tried}", *values, order=order)
        return found[0] if found else None

    def targets(self) -> list[str]:
        """The targets that deliveries wait for."""
        query = "SELECT DISTINCT target FROM delivery WHERE state = 'waiting' ORDER BY target"
        return [target for (target,) in self._database.query(query)]

    def next_try(self, target: str) -> float | None:
        """When the next delivery to a target is due, in Unix time; None if nothing waits."""
        query = "SELECT min(next_try) FROM delivery WHERE state = 'waiting' AND target = ?"
        [(when,)] = self._database.query(query, target)
        return None if when is None else float(when)

    def version(self) -> int:
        """A number that changes when another process has changed something (the command line)."""
        [(version,)] = self._database.query("PRAGMA data_version")
        return int(version)

    def done(self, delivery: Delivery, reason: str = "") -> None:
        """The delivery has succeeded. After the last one of an upload its body is deleted.

        The recipients of `delivery` are those reached; `reason` names the others.
        """
        self._settle(delivery, "done", reason)

    def failed(self, delivery: Delivery, reason: str) -> None:
        """The delivery will not be tried again."""
        self._settle(delivery, "failed", reason)

    def postpone(
        self,
        delivery: Delivery,
        wait: float,
        reason: str,
        recipients: Sequence[str],
        progress: Sequence[str] = (),
    ) -> None:
        """The delivery, to these of its recipients, is to be tried again in `wait` seconds.

        `progress` takes the place of what is known of that, unless there is none.
        """
        done = progress or delivery.progress
        with self._database.transaction() as database:
            database.execute(
                "UPDATE delivery SET attempts = attempts + 1, waited = waited + ?, next_try = ?,"
                f" reason = ?, recipients = ?, progress = ? WHERE {_KEY}",
                (
                    *(wait, self._clock() + wait, reason),
                    *(json.dumps(list(recipients)), json.dumps(list(done))),
                    *_key(delivery),
                ),
            )

    def split(self, delivery: Delivery, files: int) -> None:
        """Make of a delivery of all files one for each, if it still waits."""
        with self._database.transaction() as database:
            query = f"DELETE FROM delivery WHERE state = 'waiting' AND {_KEY}"
            if not database.execute(query, _key(delivery)).rowcount:
                return
            now = self._clock()
            for part in range(1, files + 1):
                _insert_delivery(
                    database, delivery.arrival.id, delivery.target, part, delivery.recipients, now
                )

    def rest(self, target: str, wait: float, reason: str, but: Delivery | None = None) -> int:
        """Let what is due for a target, or would be within `wait` seconds, wait as long as that.

        What has not been due yet, or is hurried, is left alone, and so is `but`.
        Returns how many it were.
        """
        now = self._clock()
        until = now + wait
        key = _key(but) if but else ("", "", 0)
        with self._database.transaction() as database:
            return database.execute(
                "UPDATE delivery SET attempts = attempts + 1, reason = ?, next_try = ?,"
                " waited = waited + ? - max(?, min(next_try, ?)) WHERE state = 'waiting'"
                " AND target = ? AND (next_try NOT BETWEEN ? AND ? OR attempts > 0)"
                " AND next_try NOT BETWEEN ? AND ?"
                f" AND next_try != ? AND NOT ({_KEY})",
                (
                    *(reason, until, until, now, until, target),
                    *(math.nextafter(now, math.inf), now + 2 * MAX_WAIT),
                    *(until, now + 2 * MAX_WAIT),
                    *(HURRIED, *key),
                ),
            ).rowcount

    def hurry(self, id: str) -> int:
        """Let the waiting deliveries of an upload be due now. Returns how many there are."""
        with self._database.transaction() as database:
            return database.execute(
                f"UPDATE delivery SET {_WAITED}, next_try = ?"
                " WHERE upload = ? AND state = 'waiting'",
                (*_now(self._clock()), HURRIED, id),
            ).rowcount

    def unheard(self, id: str) -> None:
        """The camera had gone before it could hear that this body is accepted."""
        with self._database.transaction() as database:
            database.execute("UPDATE body SET heard = 0 WHERE id = ?", (id,))

    def repeated(
        self, sender: str, sha256: str, resource: str = "", post: Post | None = None
    ) -> str | None:
        """The id of the body of which this one is a repeat.

        Either its reply was not heard; that is answered only once, since who
        sends the same again after a reply that arrived means it. Or it comes
        for the same announcement.
        """
        now = self._clock()
        site, caption = (post.site, post.caption) if post else ("", "")
        with self._database.transaction() as database:
            row = database.execute(
                "SELECT body.id FROM body JOIN upload ON upload.id = body.upload"
                " WHERE sha256 = ? AND sender = ? AND (resource = ? AND resource != ''"
                " OR NOT heard AND site = ? AND caption = ? AND abs(body.received - ?) <= ?)",
                (sha256, sender, resource, site, caption, now, REPEAT),
            ).fetchone()
            if row is None:
                return None
            database.execute("UPDATE body SET heard = 1 WHERE id = ?", row)
        return str(row[0])

    def upload_of(self, id: str) -> str:
        """The id of the upload that a body belongs to."""
        rows = self._database.query("SELECT upload FROM body WHERE id = ?", id)
        return str(rows[0][0]) if rows else id

    @contextmanager
    def read(self, delivery: Delivery) -> Iterator[tuple[Upload, Sequence[File]]]:
        """Read what is to be delivered: the upload, and its files that are meant.

        The files can be read inside the with statement. A post is closed.
        Raises BodyError if a body cannot be read, or is gone.
        """
        arrival = delivery.arrival
        bodies = self._bodies(delivery)
        with ExitStack() as opened:
            descriptors = []
            for body in bodies:
                try:
                    descriptors.append(self._spool.open(body.id))
                except FileNotFoundError:
                    raise BodyError("its body is gone") from None
                opened.callback(os.close, descriptors[-1])
            if arrival.site:
                files = [_photo(fd, body) for fd, body in zip(descriptors, bodies, strict=True)]
                yield (
                    upload.posted(
                        arrival.sender, arrival.site, arrival.album, arrival.caption, files
                    ),
                    files,
                )
            else:
                [fd], [body] = descriptors, bodies
                fetch: Fetch = partial(disk.read_range, fd)
                digest = hashlib.sha256()
                found = upload.read_chunks(_digested(fd, digest.update), body.content_type, fetch)
                _check(digest.hexdigest(), body)
                copy = partial(disk.copy_range, fd)
                found = replace(found, files=tuple(one.with_copy(copy) for one in found.files))
                part = slice(delivery.part - 1, delivery.part) if delivery.part else slice(None)
                yield found, found.files[part]

    def give_up(self, delivery: Delivery) -> list[Path]:
        """Put accepted bodies that cannot be read into quarantine. Returns where they are."""
        kept = []
        for body in self._bodies(delivery):
            try:
                self._spool.move(body.id, self._quarantine, body.id)
            except FileNotFoundError:
                if self._spool.has(body.id):
                    raise  # it is the quarantine that is gone
            else:
                kept.append(self._quarantine.path / body.id)
        self._quarantine.sync()
        self._spool.sync()
        return kept

    def _new_id(self) -> str:
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock()))
        return f"{now}-{secrets.token_hex(4)}"

    @contextmanager
    def _kept(self, incoming: Incoming) -> Iterator[sqlite3.Connection]:
        """Make a body durable, and then what is stored in the with statement."""
        incoming.sync()
        incoming.close()
        self._spool.move(f".{incoming.id}", self._spool, incoming.id)
        try:
            self._spool.sync()
            with self._database.transaction() as database:
                yield database
        except BaseException:
            self._spool.move(incoming.id, self._spool, f".{incoming.id}")
            raise

    def _deliveries(
        self, where: str, *values: object, order: str = "received, id, target, part"
    ) -> list[Delivery]:
        rows = self._database.query(
            f"SELECT {_ARRIVAL}, target, part, recipients, attempts, waited, next_try, reason,"
            f" progress FROM delivery JOIN upload ON id = upload WHERE {where} ORDER BY {order}",
            *values,
        )
        count = _ARRIVAL.count(",") + 1
        return [
            Delivery(
                StoredUpload(*row[:count]), row[count], row[count + 1], *_rest(row[count + 2 :])
            )
            for row in rows
        ]

    def _past(self, arrival: StoredUpload) -> UploadRecord:
        files = self._database.query(
            "SELECT part, name, size, thumbnail IS NOT NULL, turn FROM file WHERE upload = ?"
            " ORDER BY part",
            arrival.id,
        )
        fates = self._database.query(
            "SELECT target, part, recipients, state, next_try, reason FROM delivery"
            " WHERE upload = ? ORDER BY target, part",
            arrival.id,
        )
        return UploadRecord(
            arrival,
            tuple(
                FileRecord(part, name, size, bool(has), turn)
                for part, name, size, has, turn in files
            ),
            tuple(
                DeliveryStatus(target, part, tuple(json.loads(recipients)), *rest)
                for target, part, recipients, *rest in fates
            ),
        )

    def _bodies(self, delivery: Delivery) -> list[_Body]:
        """The bodies that a delivery needs; a post that is to be delivered whole is closed."""
        arrival, part = delivery.arrival, delivery.part
        if arrival.site and not part:
            with self._database.transaction() as database:
                query = "UPDATE upload SET open = 0 WHERE id = ? AND open"
                if database.execute(query, (arrival.id,)).rowcount:
                    # Nothing more comes that another target would have to wait for.
                    database.execute(
                        "UPDATE delivery SET next_try = min(next_try, ?) WHERE upload = ?"
                        " AND part = 0 AND attempts = 0 AND state = 'waiting'",
                        (self._clock(), arrival.id),
                    )
        rows = self._database.query(
            f"SELECT {_BODY} FROM body WHERE upload = ? AND (part = 0 OR ? IN (0, part))"
            " ORDER BY part",
            arrival.id,
            part,
        )
        return [_Body(*row) for row in rows]

    def _settle(self, delivery: Delivery, state: str, reason: str) -> None:
        with self._database.transaction() as database:
            database.execute(
                "UPDATE delivery SET attempts = attempts + 1, state = ?, reason = ?,"
                f" recipients = ? WHERE {_KEY}",
                (state, reason, json.dumps(list(delivery.recipients)), *_key(delivery)),
            )
            if not delivery.part:
                query = "UPDATE upload SET open = 0 WHERE id = ? AND open"
                database.execute(query, (delivery.arrival.id,))
            unneeded = database.execute(
                "SELECT id FROM body WHERE upload = ? AND (part = 0 OR ? IN (0, part))"
                f" AND NOT {_NEEDED}",
                (delivery.arrival.id, delivery.part),
            ).fetchall()
        for (id,) in unneeded:
            self._spool.discard(id)

    def _recover(self) -> None:
        with self._database.transaction() as database:
            database.execute(
                "DELETE FROM upload WHERE received < ? AND NOT EXISTS"
                " (SELECT 1 FROM delivery WHERE upload = id AND state = 'waiting')",
                (self._clock() - HISTORY,),
            )
            # Whatever was in the way may be gone, and the clock may have been set. But
            # for a post that may grow, photos may be on their way.
            database.execute(
                f"UPDATE delivery SET {_WAITED}, next_try = ? + CASE WHEN part = 0"
                " AND attempts = 0 AND upload IN (SELECT id FROM upload WHERE open)"
                " THEN ? ELSE 0 END WHERE state = 'waiting'",
                (*_now(self._clock()), self._clock(), QUIET),
            )
            known = dict(database.execute(f"SELECT id, {_NEEDED} FROM body"))
        for name, state in self._spool.files():
            if known.get(name):
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
        with suppress(OSError):
            for path in self._spool.path.parent.glob("run-*"):
                shutil.rmtree(path, ignore_errors=True)  # does not follow links


_ARRIVAL = "id, received, client, sender, site, album, caption"
_BODY = "id, part, name, content_type, size, sha256"
_KEY = "upload = ? AND target = ? AND part = ?"
# For an UPDATE that ends a wait early: the whole wait was added to `waited` when it began.
_WAITED = (
    "waited = CASE WHEN attempts > 0 AND next_try BETWEEN ? AND ?"
    " THEN max(0, waited - (next_try - ?)) ELSE waited END"
)


def _sync_and_close(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _key(delivery: Delivery) -> tuple[str, str, int]:
    return delivery.arrival.id, delivery.target, delivery.part


def _due(target: str, now: float) -> tuple[str, object, object, object]:
    return (
        "state = 'waiting' AND target = ? AND next_try NOT BETWEEN ? AND ?",
        target,
        math.nextafter(now, math.inf),
        now + 2 * MAX_WAIT,
    )


def _now(now: float) -> tuple[float, float, float]:
    """The values for _WAITED. A time that is further away means that the clock was set back."""
    return now, now + 2 * MAX_WAIT, now


def _rest(
    row: Sequence[Any],
) -> tuple[tuple[str, ...], int, float, float, str, tuple[str, ...]]:
    recipients, attempts, waited, next_try, reason, progress = row
    known = tuple(json.loads(progress))
    return tuple(json.loads(recipients)), attempts, waited, next_try, reason, known


def _insert_upload(database: sqlite3.Connection, arrival: StoredUpload) -> None:
    database.execute(
        f"INSERT INTO upload ({_ARRIVAL}) VALUES (?, ?, ?, ?, ?, ?, ?)", astuple(arrival)
    )


def _insert_body(
    database: sqlite3.Connection, id: str, body: _Body, received: float, resource: str = ""
) -> None:
    database.execute(
        f"INSERT INTO body ({_BODY}, upload, received, resource)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*astuple(body), id, received, resource),
    )


def _insert_file(database: sqlite3.Connection, id: str, part: int, preview: Preview) -> None:
    database.execute(
        "INSERT INTO file (upload, part, name, size, thumbnail, turn) VALUES (?, ?, ?, ?, ?, ?)",
        (id, part, preview.name, preview.size, preview.thumbnail, preview.turn),
    )
    if preview.thumbnail:
        database.execute(
            "UPDATE file SET thumbnail = NULL WHERE thumbnail IS NOT NULL AND upload NOT IN"
            " (SELECT id FROM upload ORDER BY received DESC, id DESC LIMIT ?)",
            (RECENT,),
        )


def _insert_delivery(
    database: sqlite3.Connection,
    id: str,
    target: str,
    part: int,
    recipients: Sequence[str],
    when: float,
) -> None:
    """A delivery that waits; if it does so already, what changes is until when."""
    database.execute(
        "INSERT INTO delivery (upload, target, part, recipients, state, next_try)"
        " VALUES (?, ?, ?, ?, 'waiting', ?)"
        " ON CONFLICT (upload, target, part) DO UPDATE SET next_try = excluded.next_try"
        " WHERE attempts = 0",
        (id, target, part, json.dumps(list(recipients)), when),
    )


def _open_post(database: sqlite3.Connection, post: Post, now: float) -> StoredUpload | None:
    """The upload that a photo belongs to, if there is one already."""
    row = database.execute(
        f"SELECT {_ARRIVAL} FROM upload WHERE open AND session = ? AND site = ? AND caption = ?"
        " AND (album IN ('', ?) OR ? = '') AND abs(? - latest) <= ? ORDER BY latest DESC",
        (post.session, post.site, post.caption, post.album, post.album, now, GAP),
    ).fetchone()
    return StoredUpload(*row) if row else None


def _together(database: sqlite3.Connection, id: str) -> set[str]:
    """The targets that get a post as a whole."""
    query = "SELECT target FROM delivery WHERE upload = ? AND part = 0"
    return {target for (target,) in database.execute(query, (id,))}


def _photo(fd: int, body: _Body) -> File:
    """The one file that a body is, if it is still what came."""
    digest = hashlib.sha256()
    for chunk in disk.read_chunks(fd):
        digest.update(chunk)
    _check(digest.hexdigest(), body)
    photo = upload.whole(body.name, body.content_type, body.size, partial(disk.read_range, fd))
    return photo.with_copy(partial(disk.copy_range, fd))


def _check(sha256: str, body: _Body) -> None:
    if sha256 != body.sha256:
        raise BodyError("its body has changed on the disk")


def _digested(fd: int, update: Callable[[bytes], None]) -> Iterator[bytes]:
    for chunk in disk.read_chunks(fd):
        update(chunk)
        yield chunk
