"""Durable uploads: raw bodies as files, everything else in SQLite.

A body is stored as received, under an id of its own, in the folder `.nx`::

    spool/ID           being received, or accepted
    quarantine/ID      cut, or cannot be parsed: for the user to look at
    unknown/ID.mitm    an unknown request, as a flow of mitmproxy
    run-*/             copies of photos while a command needs them
    state.sqlite3      a row for each upload, body, file and delivery

A post to a social site is open, and gets more photos, while photos with the same caption
arrive. Some targets get each photo at once, the others the whole post when no photo has
come for a while, or when it has all photos that its caption announces. The first attempt
to deliver the whole post closes it.

A body is accepted, and the camera may get its 200, when the body and its directory entry
have been fsynced and its rows are committed. A body is unlinked before its row is
deleted. When `Spool` is opened after a crash, it finds:

    body          row                              the camera            the body
    spool/ID      none                             got no 200            goes to quarantine
    spool/ID      none, and the body is empty      got no 200            is deleted
    spool/ID      with a waiting delivery          may have got it       is delivered
    spool/ID      without a waiting delivery       got it                is deleted
    none          with a waiting delivery          got it; a user has    the delivery fails:
                                                   deleted the body      "its body is gone"
    run-*/                                                               is deleted

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
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from nxparse import upload
from nxparse.deviation import BodyError
from nxparse.framing import PartSpan
from nxparse.store import disk
from nxparse.store.body import Background, Incoming, Room
from nxparse.store.database import Database, insert
from nxparse.store.deliveries import MAX_WAIT, WAITED, Deliveries, add_delivery
from nxparse.store.disk import Folder
from nxparse.store.records import (
    NEEDED,
    RECENT,
    SCHEMA,
    STORED_UPLOAD,
    Delivery,
    Post,
    StoredUpload,
)
from nxparse.upload import Copy, File, Source, Thumbnail, Upload

# Limits on the bodies in quarantine and on the unknown requests.
MAX_QUARANTINE = 2 << 30  # bytes on the disk
MAX_QUARANTINED = 1000  # files
MAX_UNKNOWN_BYTES = 256 << 20
MAX_UNKNOWN = 100  # files
# Settled uploads stay in the database as history for this time, in seconds.
HISTORY = 30 * 86400
# Seconds after which a photo with the same caption begins a new post.
GAP = 600.0
# Cameras do not announce the end of a post: it is delivered after this many seconds
# without another photo.
QUIET = 60.0
# A post has no more photos than an upload by e-mail may have.
MAX_PHOTOS = 64

_NEEDED_BODIES = f"SELECT id, size FROM body WHERE {NEEDED}"

logger = logging.getLogger(__name__)


class Spool(Deliveries):
    """The open folder `.nx`. Only one process may have it: BlockingIOError in a second one.

    Opening it recovers from a crash; `recovered` lists the bodies moved to quarantine. With
    `alone=False` another process may have it; deliveries can then be read and ended, but no
    uploads received. `background` is that of `Incoming`.
    """

    def __init__(
        self,
        root: Path,
        clock: Callable[[], float] = time.time,
        *,
        alone: bool = True,
        background: Background = lambda work: None,
    ) -> None:
        super().__init__(clock, Room(lambda: shutil.disk_usage(root / "spool").free))
        self.recovered: list[Path] = []
        self._root = root
        self._alone = alone
        self._background = background
        self._reopening = threading.Lock()
        self._version = -1
        if not root.parent.is_dir():  # it may be a link to another disk
            Folder.make(root.parent).close()
        self._was_mounted = os.path.ismount(root.parent)
        self._open()

    def _open(self) -> None:
        Folder.make(self._root, 0o700).close()
        # Sizes of the bodies moved to quarantine since it was listed; at first it may be full.
        self._added = [MAX_QUARANTINE]
        with ExitStack() as opened:
            self._spool = opened.enter_context(Folder.make(self._root / "spool", 0o700))
            if self._alone:
                self._spool.lock()
            self._quarantine = opened.enter_context(Folder.make(self._root / "quarantine", 0o700))
            database = Database(self._root / "state.sqlite3", SCHEMA)
            self._database = opened.enter_context(closing(database))
            if self._alone:
                self._recover()
            self._opened = opened.pop_all()

    def close(self) -> None:
        with suppress(sqlite3.Error), self._transaction():
            pass  # stores the confirmed replies
        self._opened.close()

    def is_in_place(self) -> bool:
        """Return whether the open folder is still the one at its path."""
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
            logger.warning(f"{directory} was replaced while nx_addon is running: reopened it")

    def begin(self, length: int | None = None) -> Incoming:
        """Begin to receive a body of `length` bytes, None if that is unknown.

        Raises OSError, with ENOSPC if there is too little space for it and its photos.
        """
        self._check_place(self._spool)
        return Incoming(self._new_id(), self._spool, self._room, length, self._background)

    def accept(
        self,
        incoming: Incoming,
        client: str,
        found: Upload,
        deliveries: Mapping[str, Sequence[str]],
        thumbnails: Sequence[Thumbnail | None] = (),
    ) -> StoredUpload:
        """Store an upload by e-mail durably. Its reply is then open.

        `deliveries` has the recipients for each target. Raises RepeatedError if the
        body is a duplicate.
        """
        arrival = StoredUpload(incoming.id, self._clock(), client, found.sender)
        with self._storing(incoming, found) as (database, fingerprint):
            insert(
                database,
                "upload",
                **arrival._asdict(),
                sender_name=found.sender_name,
                recipients=json.dumps(found.recipients),
                subject=found.subject,
                text=found.text,
            )
            self._add_body(database, incoming, arrival.id, 0, fingerprint, found, thumbnails)
            for target, recipients in deliveries.items():
                add_delivery(database, arrival.id, target, 0, recipients, arrival.received)
        return arrival

    def append(
        self,
        incoming: Incoming,
        post: Post,
        file: File,
        resource: str,
        targets: Mapping[str, bool],
        thumbnail: Thumbnail | None = None,
    ) -> StoredUpload:
        """Store a photo of a post durably. Its reply is then open.

        `resource` is the announcement that the photo belongs to. `targets` says for each
        target whether it gets the whole post, or else each photo at once. Raises
        RepeatedError if the body is a duplicate.
        """
        now = self._clock()
        found = upload.posted(post.sender, post.site, post.album, post.caption, [file])
        with self._storing(incoming, found, resource, post) as (database, fingerprint):
            arrival = _open_post(database, post, now)
            # A target that was added since may need photos that are deleted already.
            whole = {target for target, together in targets.items() if together}
            if arrival is None or _targets_together(database, arrival.id) != whole:
                arrival = StoredUpload(incoming.id, now, post.client, post.sender, post.site)
                insert(database, "upload", **arrival._asdict(), text=post.caption)
            query = "SELECT count(*) + 1 FROM body WHERE upload = ?"
            (number,) = database.execute(query, (arrival.id,)).fetchone()
            self._add_body(
                *(database, incoming, arrival.id, number, fingerprint, found, [thumbnail]),
                resource,
            )
            complete = number >= min(post.photos or MAX_PHOTOS, MAX_PHOTOS)
            database.execute(
                "UPDATE upload SET session = ?, album = CASE album WHEN '' THEN ? ELSE album END,"
                " open = ?, latest = ? WHERE id = ?",
                (post.session, post.album, not complete, now, arrival.id),
            )
            for target, together in targets.items():
                when = now + QUIET if together and not complete else now
                file_number = 0 if together else number
                add_delivery(database, arrival.id, target, file_number, [post.site], when)
        return arrival

    def expect(self, post: Post, seconds: float) -> None:
        """Postpone an open post by `seconds`, because another photo of it may arrive."""
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
        """Record that a reply has arrived: the same body again is a new upload."""
        self._replies.close(id, arrived=True)

    def reply_lost(self, id: str) -> None:
        """Record that a reply was lost: the same body again is a duplicate."""
        self._replies.close(id, arrived=False)

    def quarantine(self, incoming: Incoming) -> Path | None:
        """Move a body to quarantine. Returns its path there, None if it was empty."""
        if not incoming.size:
            incoming.discard()
            return None
        try:
            incoming.sync()
        finally:
            incoming.close()
            self._room.release(incoming.id)
            path = self._move_to_quarantine(incoming.folder, incoming.id, incoming.size)
        self._quarantine.sync()
        self._spool.sync()
        return path

    def tidy(self) -> list[Path]:
        """If quarantine may be full, delete the oldest bodies in it. Returns their paths.

        A tenth of the limits is left free, and the folder is listed again when half of that
        has been used, so that a full one is not listed for each further body.
        """
        if len(self._added) <= MAX_QUARANTINED // 20 and sum(self._added) <= MAX_QUARANTINE // 20:
            return []
        self._added.clear()
        deleted = self._quarantine.trim(MAX_QUARANTINE * 9 // 10, MAX_QUARANTINED * 9 // 10)
        return [self._quarantine.path / name for name in deleted]

    def save_unknown(self, flow: bytes) -> Path:
        """Store the flow of an unknown request, and delete the oldest flows above the limits."""
        name = f"{self._new_id()}.mitm"
        with Folder.make(self._root / "unknown", 0o700) as folder:
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
        """Return a number that changes when another process has changed the database."""
        [(version,)] = self._database.query("PRAGMA data_version")
        if version != self._version:
            self._version = int(version)
            accepted = set(self._room.accepted)
            for id in accepted - {id for id, _ in self._database.query(_NEEDED_BODIES)}:
                self._room.release(id)
        return self._version

    @contextmanager
    def read(self, delivery: Delivery) -> Iterator[tuple[Upload, Sequence[File]]]:
        """Open an upload and those of its files that a delivery is for. Closes a post.

        The files can be read inside the with statement; nothing is read before. Raises
        BodyError if a body is gone.
        """
        arrival = delivery.arrival
        self._close_post(delivery)
        with ExitStack() as opened:
            bodies = self._open_bodies(delivery, opened)
            files = {}
            for number, name, content_type, size, start in self._database.query(
                "SELECT number, name, content_type, size, start FROM file WHERE upload = ?"
                " ORDER BY number",
                arrival.id,
            ):
                if body := bodies.get(number) or bodies.get(0):
                    source, copy = body
                    files[number] = File(name, content_type, size, start, source.fetch, copy)
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
            wanted = delivery.file_number
            yield whole, [file for number, file in files.items() if wanted in (0, number)]

    def quarantine_delivery(self, delivery: Delivery) -> list[Path]:
        """Move the bodies of a delivery to quarantine. Returns their paths there."""
        self._close_post(delivery)
        moved = []
        for id, _, size, _ in self._bodies(delivery):
            try:
                moved.append(self._move_to_quarantine(self._spool, id, size))
            except FileNotFoundError:
                if self._spool.has(id):
                    raise  # the quarantine folder is gone
        self._quarantine.sync()
        self._spool.sync()
        return moved

    def _move_to_quarantine(self, folder: Folder, id: str, size: int) -> Path:
        """Move a body to quarantine. Syncing the folders makes that durable."""
        folder.move(id, self._quarantine, id)
        self._added.append(size)
        return self._quarantine.path / id

    def _new_id(self) -> str:
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock()))
        return f"{now}-{secrets.token_hex(4)}"

    def _check_place(self, folder: Folder) -> None:
        if folder is not self._spool or not folder.is_in_place():
            raise OSError(errno.ESTALE, "it was removed or replaced while nx_addon is running")

    @contextmanager
    def _storing(
        self, incoming: Incoming, found: Upload, resource: str = "", post: Post | None = None
    ) -> Iterator[tuple[sqlite3.Connection, str]]:
        """Make a body durable, then its rows: the with statement is the transaction.

        Yields the database and the fingerprint. Raises RepeatedError.
        """
        fingerprint = upload.fingerprint(found, incoming.size)
        incoming.sync()
        self._check_place(incoming.folder)
        try:
            with self._transaction() as database:
                now = self._clock()
                self._replies.refuse_repeated(database, fingerprint, now, resource, post)
                yield database, fingerprint
        except BaseException:
            self._replies.open.pop(incoming.id, None)
            raise
        incoming.close()
        self._room.accept(incoming.id, incoming.size)

    def _add_body(
        self,
        database: sqlite3.Connection,
        incoming: Incoming,
        id: str,
        file_number: int,
        fingerprint: str,
        found: Upload,
        thumbnails: Sequence[Thumbnail | None],
        resource: str = "",
    ) -> None:
        """Insert a body of the upload `id`, and its files."""
        parts = found.source.parts if found.source else ()
        insert(
            database,
            "body",
            id=incoming.id,
            upload=id,
            file_number=file_number,
            received=self._clock(),
            size=incoming.size,
            fingerprint=fingerprint,
            resource=resource,
            parts=json.dumps([part._replace(headers=()) for part in parts]),
        )
        first = file_number or 1
        shown = dict(enumerate(thumbnails, first))
        for number, file in enumerate(found.files, first):
            thumbnail = shown.get(number)
            insert(
                database,
                "file",
                upload=id,
                number=number,
                name=file.name,
                content_type=file.content_type,
                start=file.start,
                size=file.size,
                thumbnail=thumbnail and thumbnail.data,
                turn=thumbnail.turn if thumbnail else 0,
            )
        if any(thumbnails):
            database.execute(
                "UPDATE file SET thumbnail = NULL WHERE thumbnail IS NOT NULL AND upload NOT IN"
                " (SELECT id FROM upload ORDER BY received DESC, id DESC LIMIT ?)",
                (RECENT,),
            )
        self._replies.open[incoming.id] = Future()

    def _close_post(self, delivery: Delivery) -> None:
        arrival = delivery.arrival
        if not arrival.site or delivery.file_number:
            return
        with self._transaction() as database:
            query = "UPDATE upload SET open = 0 WHERE id = ? AND open"
            if database.execute(query, (arrival.id,)).rowcount:
                # The other targets need not wait for more photos either.
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

    def _open_bodies(self, delivery: Delivery, opened: ExitStack) -> dict[int, tuple[Source, Copy]]:
        """Open the bodies of a delivery until `opened` is closed. Returns them by file number."""
        found: dict[int, tuple[Source, Copy]] = {}
        for id, number, size, parts in self._bodies(delivery):
            try:
                fd = self._spool.open(id)
            except FileNotFoundError:
                raise BodyError("its body is gone") from None
            opened.callback(os.close, fd)
            if os.fstat(fd).st_size != size:
                raise BodyError("its body has another size than when it was accepted")
            source = Source(
                [PartSpan(*part) for part in json.loads(parts)], partial(disk.read_range, fd)
            )
            found[number] = source, partial(disk.copy_range, fd)
        return found

    def _recover(self) -> None:
        known = dict(self._database.query(f"SELECT id, {NEEDED} FROM body"))
        for name, state in self._spool.files():
            if known.get(name):
                continue
            if name in known or not state.st_size:
                self._spool.unlink(name)
            else:
                self.recovered.append(self._move_to_quarantine(self._spool, name, state.st_size))
        self._quarantine.sync()
        self._spool.sync()
        now = self._clock()
        with self._database.transaction() as database:
            database.execute(
                "DELETE FROM upload WHERE received < ? AND NOT EXISTS"
                " (SELECT 1 FROM delivery WHERE upload = id AND state = 'waiting')",
                (now - HISTORY,),
            )
            # Retry everything now: the cause may be gone, and the clock may have been set.
            # But photos for an open post may be on their way.
            database.execute(
                f"UPDATE delivery SET {WAITED}, next_try = :now + CASE WHEN file_number = 0"
                " AND attempts = 0 AND upload IN (SELECT id FROM upload WHERE open)"
                " THEN :quiet ELSE 0 END WHERE state = 'waiting'",
                {"now": now, "quiet": QUIET},
            )
        self._room.accepted = dict(self._database.query(_NEEDED_BODIES))
        # A file that was being saved. The next attempt may use another folder.
        for path in self._root.parent.glob("undelivered/*/.[0-9]*Z-*-*"):
            with suppress(OSError):
                path.unlink()
        with suppress(OSError):
            for path in self._root.glob("run-*"):
                shutil.rmtree(path, ignore_errors=True)  # does not follow links


def _open_post(database: sqlite3.Connection, post: Post, now: float) -> StoredUpload | None:
    """Return the upload that a photo of a post belongs to, if there is one."""
    row = database.execute(
        f"SELECT {STORED_UPLOAD} FROM upload WHERE open AND session = ? AND site = ? AND text = ?"
        " AND (album IN ('', ?) OR ? = '') AND abs(? - latest) <= ? ORDER BY latest DESC",
        (post.session, post.site, post.caption, post.album, post.album, now, GAP),
    ).fetchone()
    return StoredUpload(*row) if row else None


def _targets_together(database: sqlite3.Connection, id: str) -> set[str]:
    """Return the targets that get a post as a whole."""
    query = "SELECT target FROM delivery WHERE upload = ? AND file_number = 0"
    return {target for (target,) in database.execute(query, (id,))}
