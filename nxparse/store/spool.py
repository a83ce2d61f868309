"""Durable uploads: raw bodies on disk, what they hold and where it goes in SQLite.

A body is stored as received, under an id of its own, in the folder `.nx`::

    spool/ID           being received, or accepted
    quarantine/ID      cut, or not readable: for the user to look at
    unknown/ID.mitm    a request without a known answer, as a flow of mitmproxy
    run-*/             copies of photos, for as long as a command needs them
    state.sqlite3      a row for each upload, each body, each file, each delivery

A post to a social site grows while photos with the same caption arrive. Targets that
take single photos get each at once; other deliveries wait until the post has been quiet
for a while, or has all photos that its caption mentions. When the first attempt to
deliver it as a whole begins it is closed, and grows no more.

A body is accepted, and the camera may get its 200, when it and its directory entry have
been fsynced and its rows committed. A body is unlinked before its row is deleted. After
a crash `Spool` finds, when it is opened again:

    body          row                              the camera            the body
    spool/ID      none                             got no 200            goes to quarantine
    spool/ID      none, and the body is empty      got no 200            is deleted
    spool/ID      with a waiting delivery          may have got it       is delivered
    spool/ID      without a waiting delivery       got it                is deleted
    none          with a waiting delivery          got it; a user has    the delivery fails:
                                                   deleted the body      "its body is gone"
    run-*/                                                               is deleted

The reply to an accepted body is open until the caller knows whether it has arrived
(`reply_confirmed`, `reply_lost`). The same body within the hour is a duplicate if the
reply was lost. A reply that was open at a crash counts as lost.

Everything here blocks and may be called from any thread; errors are OSErrors
and sqlite3.Errors.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from nxparse import upload
from nxparse.deviation import BodyError
from nxparse.multipart import Fetch, PartSpan
from nxparse.store import disk
from nxparse.store.body import Incoming, Room, SharedSync
from nxparse.store.database import Database
from nxparse.store.deliveries import MAX_WAIT, WAITED, Deliveries
from nxparse.store.disk import Folder
from nxparse.store.records import (
    NEEDED,
    SCHEMA,
    STORED_UPLOAD,
    Delivery,
    Post,
    StoredUpload,
    add_delivery,
    add_file,
    add_upload,
    targets_together,
)
from nxparse.upload import File, Source, Thumbnail, Upload

# Quarantine is there for the user to look at, not to fill the card.
MAX_QUARANTINE = 2 << 30  # bytes on the disk
MAX_QUARANTINED = 1000  # files
MAX_UNKNOWN = 100  # files
MAX_UNKNOWN_BYTES = 256 << 20
# A camera whose reply was lost repeats the upload within this time, in seconds.
REPEAT = 3600.0
# What a finished upload leaves in the database is kept for a while, as history.
HISTORY = 30 * 86400
# A camera never says how many photos it will post. After so many seconds without
# another one a post is delivered; after GAP a photo with the same caption is a
# new post. A post has no more photos than an upload by e-mail may have.
QUIET = 60.0
GAP = 600.0
MAX_PHOTOS = 64
# Threads for fsyncs that nobody waits for yet: a slow one must not hold up the others.
SYNCS = 32

logger = logging.getLogger(__name__)


class RepeatedError(Exception):
    """A body repeats the body `id` of the upload `upload`.

    `reply` is set if it is not known yet whether the reply to that has arrived.
    """

    def __init__(self, id: str, upload: str, reply: Future[bool] | None = None) -> None:
        super().__init__(f"it repeats {id}")
        self.id = id
        self.upload = upload
        self.reply = reply


class Spool(Deliveries):
    """The folder `.nx`, for one process alone: BlockingIOError if another process has it.

    Opening it recovers from a crash; see `recovered`. With `alone=False` it is opened
    beside that one process, to read and to settle deliveries. `threads` run the fsyncs
    that nobody waits for yet.
    """

    def __init__(
        self,
        root: Path,
        clock: Callable[[], float] = time.time,
        *,
        alone: bool = True,
        threads: Executor | None = None,
    ) -> None:
        self.recovered: list[Path] = []
        self._root = root
        self._clock = clock
        self._alone = alone
        self._reopening = threading.Lock()
        self._room = Room(self.free)
        # Replies whose arrival is not known yet, and those that have arrived but
        # are not in the database yet: that can wait for the next transaction.
        self._open_replies: dict[str, Future[bool]] = {}
        self._confirmed: set[str] = set()
        self._version = -1
        if not root.parent.is_dir():  # it may be a link to another disk
            Folder.make(root.parent).close()
        self._was_mounted = os.path.ismount(root.parent)
        self._threads = threads or ThreadPoolExecutor(SYNCS, "fsync")
        self._open()

    def _open(self) -> None:
        Folder.make(self._root, 0o700).close()
        with ExitStack() as opened:
            self._spool = opened.enter_context(Folder.make(self._root / "spool", 0o700))
            if self._alone:
                self._spool.lock()
            self._quarantine = opened.enter_context(Folder.make(self._root / "quarantine", 0o700))
            self._database = opened.enter_context(
                closing(Database(self._root / "state.sqlite3", SCHEMA))
            )
            self._entries = SharedSync(self._spool, self._threads)
            if self._alone:
                self._recover()
            _, *self._quarantined = self._quarantine.trim(1 << 62, 1 << 62)
            self._opened = opened.pop_all()

    def close(self) -> None:
        with suppress(sqlite3.Error):
            if self._confirmed:
                with self._transaction():
                    pass
        self._threads.shutdown()
        self._opened.close()

    def is_in_place(self) -> bool:
        """Is what was opened still what its path leads to?"""
        return self._spool.is_in_place()

    def reopen(self) -> None:
        """If the folder has been replaced, open the new one. Raises OSError if there is none."""
        with self._reopening:
            directory = self._root.parent
            if self.is_in_place():
                return
            if not directory.is_dir() or (self._was_mounted and not os.path.ismount(directory)):
                raise FileNotFoundError(errno.ENOENT, "it is gone: mount or create it again")
            old = self._opened
            self._open()
            old.close()
            logger.warning(f"{directory} was replaced while nx_addon runs: opened it again")

    def free(self) -> int:
        """Return the bytes that are free on the disk."""
        return shutil.disk_usage(self._spool.path).free

    def begin(self, length: int | None = None) -> Incoming:
        """Begin to receive a body of `length` bytes, if that is known.

        Raises OSError, with ENOSPC if there is too little room for it and its photos.
        """
        self._check_place(self._spool)
        return Incoming.open(
            self._new_id(), self._spool, self._entries, self._room, length, self._threads
        )

    def accept(
        self,
        incoming: Incoming,
        client: str,
        found: Upload,
        deliveries: Mapping[str, Sequence[str]],
        thumbnails: Sequence[Thumbnail | None] = (),
    ) -> StoredUpload:
        """Store an upload by e-mail durably. Its reply is open now.

        `deliveries` has the recipients for each target. Raises RepeatedError if the
        body repeats another one.
        """
        arrival = StoredUpload(incoming.id, self._clock(), client, found.sender)
        fingerprint = upload.fingerprint(found, incoming.size)

        def store(database: sqlite3.Connection) -> StoredUpload:
            self._refuse_repeated(database, fingerprint)
            add_upload(database, arrival, found.text)
            database.execute(
                "UPDATE upload SET sender_name = ?, recipients = ?, subject = ? WHERE id = ?",
                (found.sender_name, json.dumps(found.recipients), found.subject, arrival.id),
            )
            self._add_body(database, incoming, arrival, 0, fingerprint, found.source)
            for number, file in enumerate(found.files, 1):
                thumbnail = thumbnails[number - 1] if thumbnails else None
                add_file(database, arrival.id, number, file, thumbnail)
            for target, names in deliveries.items():
                recipients = json.dumps(list(names))
                add_delivery(database, arrival.id, target, 0, recipients, arrival.received)
            return arrival

        return self._stored(incoming, store)

    def append(
        self,
        incoming: Incoming,
        post: Post,
        file: File,
        resource: str,
        *,
        at_once: Sequence[str],
        together: Sequence[str],
        thumbnail: Thumbnail | None = None,
    ) -> StoredUpload:
        """Store a photo of a post durably. Its reply is open now.

        `resource` is the announcement that it came for. The targets in `together` get
        the post as a whole, those in `at_once` each photo. Raises RepeatedError if the
        body repeats another one.
        """
        now = self._clock()
        single = upload.posted(post.sender, post.site, post.album, post.caption, [file])
        fingerprint = upload.fingerprint(single, incoming.size)
        recipients = json.dumps([post.site])

        def store(database: sqlite3.Connection) -> StoredUpload:
            self._refuse_repeated(database, fingerprint, resource, post)
            arrival = _open_post(database, post, now)
            # With other targets than before it may need photos that are gone already.
            if arrival is None or targets_together(database, arrival.id) != set(together):
                arrival = StoredUpload(incoming.id, now, post.client, post.sender, post.site)
                add_upload(database, arrival, post.caption)
            query = "SELECT count(*) + 1 FROM body WHERE upload = ?"
            (number,) = database.execute(query, (arrival.id,)).fetchone()
            self._add_body(database, incoming, arrival, number, fingerprint, None, resource)
            add_file(database, arrival.id, number, file, thumbnail)
            complete = number >= min(post.photos or MAX_PHOTOS, MAX_PHOTOS)
            database.execute(
                "UPDATE upload SET session = ?, album = CASE album WHEN '' THEN ? ELSE album END,"
                " open = ?, latest = ? WHERE id = ?",
                (post.session, post.album, not complete, now, arrival.id),
            )
            for target in at_once:
                add_delivery(database, arrival.id, target, number, recipients, now)
            for target in together:
                when = now if complete else now + QUIET
                add_delivery(database, arrival.id, target, 0, recipients, when)
            return arrival

        return self._stored(incoming, store)

    def expect(self, post: Post, seconds: float) -> None:
        """Another photo of a post may come within `seconds`: do not deliver it before that."""
        now = self._clock()
        with self._transaction() as database:
            if arrival := _open_post(database, post, now):
                database.execute("UPDATE upload SET latest = ? WHERE id = ?", (now, arrival.id))
                database.execute(
                    "UPDATE delivery SET next_try = ? WHERE upload = ? AND file_number = 0"
                    " AND state = 'waiting' AND attempts = 0",
                    (now + min(seconds, MAX_WAIT), arrival.id),
                )

    def reply_confirmed(self, id: str) -> None:
        """The reply to the accepted body has arrived: the same again is a new upload."""
        self._confirmed.add(id)
        self._close_reply(id, True)

    def reply_lost(self, id: str) -> None:
        """The reply to the accepted body has not arrived: the same again is a duplicate."""
        self._close_reply(id, False)

    def discard(self, incoming: Incoming) -> None:
        """Delete a body that was not accepted."""
        incoming.close()
        incoming.folder.discard(incoming.id)
        self._room.release(incoming.id)

    def quarantine(self, incoming: Incoming) -> Path | None:
        """Move a body to quarantine. Returns its path there, None if it was empty."""
        if not incoming.size:
            self.discard(incoming)
            return None
        try:
            incoming.sync()
        finally:
            incoming.close()
            self._room.release(incoming.id)
            self._move_to_quarantine(incoming.folder, incoming.id)
        self._quarantine.sync()
        self._spool.sync()
        return self._quarantine.path / incoming.id

    def tidy(self) -> list[Path]:
        """Delete the oldest in quarantine until the rest fits. Returns what was deleted."""
        size, count = self._quarantined
        if size <= MAX_QUARANTINE and count <= MAX_QUARANTINED:
            return []
        deleted, *self._quarantined = self._quarantine.trim(MAX_QUARANTINE, MAX_QUARANTINED)
        return [self._quarantine.path / name for name in deleted]

    def keep_unknown(self, flow: bytes) -> Path:
        """Store the flow of an unknown request; the oldest ones make room."""
        with Folder.make(self._root / "unknown", 0o700) as folder:
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

    def version(self) -> int:
        """Return a number that changes when another process has changed something."""
        [(version,)] = self._database.query("PRAGMA data_version")
        if version != self._version:
            self._version = int(version)
            accepted = set(self._room.needs) - self._room.arriving
            for id in accepted - {id for id, _ in self._database.query(_WAITING)}:
                self._room.release(id)
        return self._version

    @contextmanager
    def read(self, delivery: Delivery) -> Iterator[tuple[Upload, Sequence[File]]]:
        """Open what is to be delivered: the upload, and its files that are meant.

        The files can be read inside the with statement; nothing is read before. A post
        is closed. Raises BodyError if a body is gone.
        """
        arrival, number = delivery.arrival, delivery.file_number
        self._close_post(delivery)
        with ExitStack() as opened:
            bodies = dict(self._opened_bodies(delivery, opened))
            rows = self._database.query(
                "SELECT number, name, content_type, size, start FROM file WHERE upload = ?"
                " ORDER BY number",
                arrival.id,
            )
            files = {}
            for n, name, content_type, size, start in rows:
                if body := bodies.get(n) or bodies.get(0):
                    source, fd = body
                    file = File(name, content_type, size, start, source.fetch)
                    files[n] = file.with_copy(partial(disk.copy_range, fd))
            [(sender_name, recipients, subject, text, album)] = self._database.query(
                "SELECT sender_name, recipients, subject, text, album FROM upload WHERE id = ?",
                arrival.id,
            )
            if arrival.site:
                whole = upload.posted(arrival.sender, arrival.site, album, text, [*files.values()])
            else:
                whole = Upload(
                    sender=arrival.sender,
                    sender_name=sender_name,
                    recipients=tuple(json.loads(recipients)),
                    subject=subject,
                    text=text,
                    files=tuple(files.values()),
                    source=bodies[0][0],
                )
            yield whole, [file for n, file in files.items() if number in (0, n)]

    def give_up(self, delivery: Delivery) -> list[Path]:
        """Move accepted bodies that cannot be read to quarantine. Returns where they are."""
        self._close_post(delivery)
        moved = []
        for id, *_ in self._bodies(delivery):
            try:
                self._move_to_quarantine(self._spool, id)
            except FileNotFoundError:
                if self._spool.has(id):
                    raise  # it is the quarantine that is gone
            else:
                moved.append(self._quarantine.path / id)
        self._quarantine.sync()
        self._spool.sync()
        return moved

    def _new_id(self) -> str:
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock()))
        return f"{now}-{secrets.token_hex(4)}"

    def _check_place(self, folder: Folder) -> None:
        if folder is not self._spool or not folder.is_in_place():
            raise OSError(errno.ESTALE, "it was removed or replaced while nx_addon runs")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        confirmed = set(self._confirmed)
        with self._database.transaction() as database:
            for id in confirmed:
                database.execute("UPDATE body SET reply_confirmed = 1 WHERE id = ?", (id,))
            yield database
        self._confirmed -= confirmed

    def _stored(
        self, incoming: Incoming, store: Callable[[sqlite3.Connection], StoredUpload]
    ) -> StoredUpload:
        incoming.sync()
        self._check_place(incoming.folder)
        try:
            arrival = self._database.store(store)
        except BaseException:
            self._open_replies.pop(incoming.id, None)
            raise
        incoming.close()
        self._room.accepted(incoming.id, incoming.size)
        return arrival

    def _refuse_repeated(
        self,
        database: sqlite3.Connection,
        fingerprint: str,
        resource: str = "",
        post: Post | None = None,
    ) -> None:
        """Raise RepeatedError if the reply to the same body was not confirmed.

        Or if the same body came for the same announcement.
        """
        site, caption = (post.site, post.caption) if post else ("", None)
        rows = database.execute(
            "SELECT body.id, upload, resource FROM body JOIN upload ON upload.id = upload"
            " WHERE fingerprint = ? AND (resource = ? AND resource != '' OR NOT reply_confirmed"
            " AND site = ? AND text = coalesce(?, text) AND abs(body.received - ?) <= ?)",
            (fingerprint, resource, site, caption, self._clock(), REPEAT),
        )
        for id, upload_id, came_for in rows:
            reply = self._open_replies.get(id)
            if resource and came_for == resource:
                reply = None
            elif id in self._confirmed:
                continue
            if reply is None:  # The reply to the repeat is open from now on.
                self._open_replies.setdefault(id, Future())
            raise RepeatedError(id, upload_id, reply)

    def _add_body(
        self,
        database: sqlite3.Connection,
        incoming: Incoming,
        arrival: StoredUpload,
        number: int,
        fingerprint: str,
        source: Source | None,
        resource: str = "",
    ) -> None:
        parts = source.parts if source else ()
        spans = [(one.name, one.filename, one.content_type, one.start, one.end) for one in parts]
        database.execute(
            "INSERT INTO body (id, upload, file_number, received, size, fingerprint, resource,"
            " parts) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(incoming.id, arrival.id, number, self._clock(), incoming.size),
                *(fingerprint, resource, json.dumps(spans)),
            ),
        )
        self._open_replies[incoming.id] = Future()

    def _close_reply(self, id: str, arrived: bool) -> None:
        if reply := self._open_replies.pop(id, None):
            reply.set_result(arrived)

    def _close_post(self, delivery: Delivery) -> None:
        arrival = delivery.arrival
        if not arrival.site or delivery.file_number:
            return
        with self._transaction() as database:
            query = "UPDATE upload SET open = 0 WHERE id = ? AND open"
            if database.execute(query, (arrival.id,)).rowcount:
                # No more photos come that another target would have to wait for.
                database.execute(
                    "UPDATE delivery SET next_try = min(next_try, ?) WHERE upload = ?"
                    " AND file_number = 0 AND attempts = 0 AND state = 'waiting'",
                    (self._clock(), arrival.id),
                )

    def _bodies(self, delivery: Delivery) -> list[Any]:
        return self._database.query(
            "SELECT id, file_number, size, parts FROM body WHERE upload = ?"
            " AND (file_number = 0 OR ? IN (0, file_number)) ORDER BY file_number",
            delivery.arrival.id,
            delivery.file_number,
        )

    def _opened_bodies(
        self, delivery: Delivery, opened: ExitStack
    ) -> Iterator[tuple[int, tuple[Source, int]]]:
        """Open the bodies that a delivery needs. Yields file number, source and descriptor."""
        for id, number, size, parts in self._bodies(delivery):
            try:
                fd = self._spool.open(id)
            except FileNotFoundError:
                raise BodyError("its body is gone") from None
            opened.callback(os.close, fd)
            if os.fstat(fd).st_size != size:
                raise BodyError("its body has another size than when it was accepted")
            fetch: Fetch = partial(disk.read_range, fd)
            spans = [
                PartSpan(name, file_name, content_type, (), start, end)
                for name, file_name, content_type, start, end in json.loads(parts)
            ]
            yield number, (Source(spans, fetch), fd)

    def _delete_bodies(self, ids: Sequence[str]) -> None:
        for id in ids:
            self._spool.discard(id)
            self._room.release(id)

    def _move_to_quarantine(self, folder: Folder, id: str) -> None:
        folder.move(id, self._quarantine, id)
        with suppress(OSError):
            size, count = self._quarantined
            self._quarantined = [size + disk.disk_size(self._quarantine.stat(id)), count + 1]

    def _recover(self) -> None:
        known = dict(self._database.query(f"SELECT id, {NEEDED} FROM body"))
        for name, state in self._spool.files():
            if known.get(name):
                continue
            if name in known or not state.st_size:
                self._spool.unlink(name)
            else:
                self._spool.move(name, self._quarantine, name)
                self.recovered.append(self._quarantine.path / name)
        self._quarantine.sync()
        self._spool.sync()
        now = self._clock()
        with self._database.transaction() as database:
            database.execute(
                "DELETE FROM upload WHERE received < ? AND NOT EXISTS"
                " (SELECT 1 FROM delivery WHERE upload = id AND state = 'waiting')",
                (now - HISTORY,),
            )
            # Whatever was in the way may be gone, and the clock may have been set. But
            # for a post that may grow, photos may be on their way.
            database.execute(
                f"UPDATE delivery SET {WAITED}, next_try = ? + CASE WHEN file_number = 0"
                " AND attempts = 0 AND upload IN (SELECT id FROM upload WHERE open)"
                " THEN ? ELSE 0 END WHERE state = 'waiting'",
                (now, now, now, now, QUIET),
            )
        self._room.needs.update(self._database.query(_WAITING))
        # Half a file that was being saved; the next attempt need not come that way again.
        for path in self._root.parent.glob("undelivered/*/.[0-9]*Z-*-*"):
            with suppress(OSError):
                path.unlink()
        with suppress(OSError):
            for path in self._root.glob("run-*"):
                shutil.rmtree(path, ignore_errors=True)  # does not follow links


_WAITING = f"SELECT id, size FROM body WHERE {NEEDED}"


def _open_post(database: sqlite3.Connection, post: Post, now: float) -> StoredUpload | None:
    """Return the upload that a photo belongs to, if there is one already."""
    row = database.execute(
        f"SELECT {STORED_UPLOAD} FROM upload WHERE open AND session = ? AND site = ? AND text = ?"
        " AND (album IN ('', ?) OR ? = '') AND abs(? - latest) <= ? ORDER BY latest DESC",
        (post.session, post.site, post.caption, post.album, post.album, now, GAP),
    ).fetchone()
    return StoredUpload(*row) if row else None
