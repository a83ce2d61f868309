"""Durable uploads: raw bodies as files, everything else in SQLite.

A body is stored as received, under an id of its own, in the folder `.nx`::

    spool/ID           being received, or accepted
    quarantine/ID      cut, or cannot be parsed: for the user to look at
    unknown/ID.mitm    an unknown request, as a flow of mitmproxy
    run-*/             copies of photos while a target needs them
    state.sqlite3      a row for each upload, body and delivery
    sessions.sqlite3   logins and announcements (nxparse.server.sessions)

A post to a social site gets more photos while it is open. The first attempt to deliver
the whole post closes it.

A body is accepted when it and its directory entry have been fsynced, and its rows are
committed. A body is unlinked before its row is deleted. After a crash, opening finds:

    body          row                              the camera            the body
    spool/ID      none                             got no 200            goes to quarantine
    spool/ID      none, and the body is empty      got no 200            is deleted
    spool/ID      with a waiting delivery          may have got it       is delivered
    spool/ID      without a waiting delivery       got it                is deleted
    none          with a waiting delivery          got it; a user has    the delivery fails:
                                                   deleted the body      "its body is gone"
    run-*/                                                               is deleted

Everything here blocks and may be called from any thread; errors are OSErrors,
sqlite3.Errors, RepeatedError and BodyError.
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
from nxparse.store.deliveries import WAITED, Deliveries, add_delivery
from nxparse.store.disk import Folder
from nxparse.store.records import NEEDED, SCHEMA, STORED_UPLOAD, Delivery, Post, StoredUpload
from nxparse.upload import File, Source, Upload

# Limits on the bodies in quarantine and on the unknown requests. The bytes are those on the
# disk. One body may have more: the newest is always kept.
MAX_QUARANTINE_BYTES = 3 << 30
MAX_QUARANTINE_FILES = 1000
MAX_UNKNOWN_BYTES = 256 << 20
MAX_UNKNOWN_FILES = 100
# Settled uploads are kept as history for this many seconds, at most this many.
HISTORY = 30 * 86400
MAX_HISTORY = 2000
# A camera whose reply was lost repeats the upload within this time, in seconds.
REPEAT = 3600.0
# A post waits for an announced photo for this many seconds. A photo that arrives later
# begins a new post.
GAP = 600.0
# Cameras do not announce the end of a post: it is delivered after this many seconds
# without another photo.
QUIET = 60.0
# About as many photos as an upload by e-mail may have.
MAX_PHOTOS = 64

UNDELIVERED = "undelivered"  # the folder in nx_dir for the files of failed deliveries

logger = logging.getLogger(__name__)


class RepeatedError(Exception):
    """A body repeats the body `id` of the upload `upload`.

    `reply` is set if it is not known yet whether the reply to that body has arrived.
    """

    def __init__(self, id: str, upload: str, reply: Future[bool] | None) -> None:
        super().__init__(f"it repeats {id}")
        self.id = id
        self.upload = upload
        self.reply = reply


class Spool(Deliveries):
    """The open folder `.nx`. Only one process may open it; a second gets BlockingIOError.

    Opening it recovers from a crash; `recovered` lists the bodies moved to quarantine. With
    `alone=False` another process may have opened it; deliveries can then be read and ended, but no
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
        # The replies, by the ids of their bodies, until it is known whether they have arrived.
        self._replies: dict[str, Future[bool]] = {}
        self._accepted = 0  # bodies accepted since the history was last trimmed
        self._version = -1
        if not root.parent.is_dir():  # it may be a link to another disk
            Folder.make(root.parent).close()
        self._was_mounted = os.path.ismount(root.parent)
        self._open()

    def _open(self) -> None:
        Folder.make(self._root, 0o700).close()
        # Sizes of the bodies moved to quarantine since it was listed; the first value forces a
        # listing at the first move.
        self._added = [MAX_QUARANTINE_BYTES]
        with ExitStack() as opened:
            self._body_folder = opened.enter_context(Folder.make(self._root / "spool", 0o700))
            if self._alone:
                self._body_folder.lock()
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
        return self._body_folder.is_in_place()

    def reopen(self) -> bool:
        """If the folder has been replaced, open the new one, and return True.

        Raises OSError if there is none.
        """
        with self._reopening:
            directory = self._root.parent
            if self.is_in_place():
                return False
            if not directory.is_dir() or (self._was_mounted and not os.path.ismount(directory)):
                raise FileNotFoundError(errno.ENOENT, "it is gone: mount or create it again")
            old = self._opened
            self._open()
            old.close()
            logger.warning(f"{directory} was replaced while nx_addon is running: reopened it")
            return True

    def begin(self, length: int | None = None) -> Incoming:
        """Begin to receive a body of `length` bytes, None if that is unknown.

        Raises OSError, with ENOSPC if there is too little space for it and its photos.
        """
        self._require_in_place(self._body_folder)
        return Incoming(self._new_id(), self._body_folder, self._room, length, self._background)

    def accept(
        self,
        incoming: Incoming,
        client: str,
        found: Upload,
        deliveries: Mapping[str, Sequence[str]],
    ) -> StoredUpload:
        """Store an upload by e-mail durably.

        Whether its reply has arrived is unknown until `reply_confirmed` or `reply_lost`.

        `deliveries` has the recipients for each target. Raises RepeatedError if the
        body is a duplicate.
        """
        arrival = StoredUpload(incoming.id, self._clock(), client, found.sender)
        with self._storing(incoming, found) as (database, body):
            _add_upload(database, arrival, found)
            insert(database, "body", **body, upload=arrival.id, file_number=0)
            for target, recipients in deliveries.items():
                add_delivery(database, arrival.id, target, 0, recipients, arrival.received)
        return arrival

    def append(
        self,
        incoming: Incoming,
        post: Post,
        file: File,
        announcement: str,
        targets: Mapping[str, bool],
    ) -> StoredUpload:
        """Store a photo of a post durably.

        Whether its reply has arrived is unknown until `reply_confirmed` or `reply_lost`.

        `announcement` is the id of the one that the photo belongs to. `targets` maps each target
        to True (whole post) or False (each photo at once). Raises RepeatedError if the body
        is a duplicate.
        """
        now = self._clock()
        found = upload.posted(post.sender, post.site, post.album, post.caption, [file])
        with self._storing(incoming, found, post.site, announcement) as (database, body):
            arrival = _open_post(database, post, now)
            # A target that was added since may need photos that are deleted already.
            whole = {target for target, together in targets.items() if together}
            if arrival is None or _targets_together(database, arrival.id) != whole:
                arrival = StoredUpload(incoming.id, now, post.client, post.sender, post.site)
                _add_upload(database, arrival, found, session=post.session)
            query = "SELECT count(*) + 1 FROM body WHERE upload = ?"
            (number,) = database.execute(query, (arrival.id,)).fetchone()
            insert(database, "body", **body, upload=arrival.id, file_number=number)
            complete = number >= min(post.photos or MAX_PHOTOS, MAX_PHOTOS)
            query = "UPDATE upload SET open = ?, latest = ? WHERE id = ?"
            database.execute(query, (not complete, now, arrival.id))
            if post.album:  # a post that began with a video had none
                query = "UPDATE upload SET album = ?, subject = ? WHERE id = ?"
                database.execute(query, (found.album, found.subject, arrival.id))
            for target, together in targets.items():
                when = now + QUIET if together and not complete else now
                file_number = 0 if together else number
                add_delivery(database, arrival.id, target, file_number, [post.site], when)
        return arrival

    def expect(self, post: Post) -> None:
        """Postpone an open post by GAP, because another photo of it is announced."""
        now = self._clock()
        with self._transaction() as database:
            if arrival := _open_post(database, post, now):
                database.execute("UPDATE upload SET latest = ? WHERE id = ?", (now, arrival.id))
                database.execute(
                    "UPDATE delivery SET next_try = ? WHERE upload = ? AND file_number = 0"
                    " AND state = 'waiting' AND attempts = 0",
                    (now + GAP, arrival.id),
                )

    def reply_confirmed(self, id: str) -> None:
        """Record that the reply to a body has arrived.

        The same body again is a new upload, unless it has the same announcement.
        """
        self._confirmed.add(id)
        self._close_reply(id, True)

    def reply_lost(self, id: str) -> None:
        """Record that the reply to a body was lost: the same body again is a duplicate."""
        self._close_reply(id, False)

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
        self._sync_quarantine([path])
        return path

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
            folder.trim(MAX_UNKNOWN_BYTES, MAX_UNKNOWN_FILES, [name])
            return folder.path / name

    def notice_changes(self) -> bool:
        """Return whether another process has changed the database since the last call.

        If so, release the space of bodies that are no longer needed.
        """
        [(version,)] = self._database.query("PRAGMA data_version")
        if version == self._version:
            return False
        self._version = int(version)
        for (id,) in self._database.query(f"SELECT id FROM body WHERE NOT {NEEDED}"):
            self._room.release(id)
        return True

    @contextmanager
    def read(self, delivery: Delivery) -> Iterator[tuple[Upload, Sequence[File]]]:
        """Open an upload and those of its files that a delivery is for. Closes a post.

        The files can be read inside the with statement; nothing is read before. Raises
        BodyError if a body is gone.
        """
        self._close_post(delivery)
        with ExitStack() as opened:
            files: dict[int, File] = {}
            source = None
            for id, first, length, parts, listed in self._bodies(delivery):
                fd = self._open_body(id, length)
                opened.callback(os.close, fd)
                fetch, copy = partial(disk.read_range, fd), partial(disk.copy_range, fd)
                for number, (name, kind, size, start) in enumerate(json.loads(listed), first or 1):
                    files[number] = File(name, kind, size, start, fetch, copy)
                if not first:
                    source = Source([PartSpan(*part) for part in json.loads(parts)], fetch)
            query = "SELECT recipients, subject, text, sender_name, album FROM upload WHERE id = ?"
            [(to, subject, text, name, album)] = self._database.query(query, delivery.arrival.id)
            found = Upload(
                delivery.arrival.sender,
                tuple(json.loads(to)),
                subject,
                text,
                tuple(files.values()),
                sender_name=name,
                album=album,
                source=source,
            )
            wanted = delivery.file_number
            yield found, [file for number, file in files.items() if wanted in (0, number)]

    def quarantine_delivery(self, delivery: Delivery) -> list[Path]:
        """Move the bodies of a delivery to quarantine. Returns their paths there."""
        present = dict(self._body_folder.files())
        bodies = [(id, size) for id, _, size, *_ in self._bodies(delivery) if id in present]
        moved = [self._move_to_quarantine(self._body_folder, id, size) for id, size in bodies]
        self._sync_quarantine(moved)
        return moved

    def _move_to_quarantine(self, folder: Folder, id: str, size: int) -> Path:
        """Move a body to quarantine. `_sync_quarantine` makes that durable."""
        folder.move(id, self._quarantine, id)
        self._added.append(size)
        return self._quarantine.path / id

    def _sync_quarantine(self, moved: Sequence[Path]) -> None:
        """Make the moves to quarantine durable. If it may be full, delete the oldest other bodies.

        A tenth of the limits is left free, and the folder is listed again when half of that
        has been used. A full folder is thus listed rarely.
        """
        self._quarantine.sync()
        self._body_folder.sync()
        if (
            len(self._added) <= MAX_QUARANTINE_FILES // 20
            and sum(self._added) <= MAX_QUARANTINE_BYTES // 20
        ):
            return
        with suppress(OSError):  # it is listed again at the next move
            for name in self._quarantine.trim(
                MAX_QUARANTINE_BYTES * 9 // 10,
                MAX_QUARANTINE_FILES * 9 // 10,
                [path.name for path in moved],
            ):
                path = self._quarantine.path / name
                logger.warning(f"quarantine is full: deleted the oldest in it, {path}")
            self._added.clear()

    def _new_id(self) -> str:
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock()))
        return f"{now}-{secrets.token_hex(4)}"

    def _require_in_place(self, folder: Folder) -> None:
        if folder is not self._body_folder or not folder.is_in_place():
            raise OSError(errno.ESTALE, "it was removed or replaced while nx_addon is running")

    @contextmanager
    def _storing(
        self, incoming: Incoming, found: Upload, site: str = "", announcement: str | None = None
    ) -> Iterator[tuple[sqlite3.Connection, dict[str, object]]]:
        """Make a body durable, then its rows: the with statement is the transaction.

        Yields the database, and the fields of the body's row. Raises RepeatedError.
        """
        parts = found.source.parts if found.source else ()
        fingerprint = upload.fingerprint(found, incoming.size)
        body = {
            "id": incoming.id,
            "received": self._clock(),
            "size": incoming.size,
            "fingerprint": fingerprint,
            "announcement": announcement,
            "parts": json.dumps([part._replace(headers=()) for part in parts]),
            "files": json.dumps([(f.name, f.content_type, f.size, f.start) for f in found.files]),
        }
        incoming.sync()
        self._require_in_place(incoming.folder)
        try:
            with self._transaction() as database:
                self._refuse_repeated(database, fingerprint, site, found.text, announcement)
                self._accepted += 1
                if self._accepted >= MAX_HISTORY // 20:
                    self._trim_history(database)
                self._replies[incoming.id] = Future()
                yield database, body
                # Reserve space for a copy: the files may be delivered as soon as this commits.
                self._room.needed[incoming.id] = incoming.size
        except BaseException:
            self._replies.pop(incoming.id, None)
            raise
        incoming.close()

    def _refuse_repeated(
        self,
        database: sqlite3.Connection,
        fingerprint: str,
        site: str,
        text: str,
        announcement: str | None,
    ) -> None:
        """Raise RepeatedError if the same body was accepted and its reply is not confirmed.

        The same body for the same announcement is always a repeat.
        """
        rows = database.execute(
            "SELECT body.id, upload, announcement FROM body JOIN upload ON upload.id = upload"
            " WHERE fingerprint = ? AND (announcement = ? OR NOT reply_confirmed"
            " AND site = ? AND text = ? AND abs(body.received - ?) <= ?)",
            (fingerprint, announcement, site, text, self._clock(), REPEAT),
        )
        for id, upload_id, announced in rows:
            reply = None
            if announcement is None or announced != announcement:
                # Read `_replies` first: `reply_confirmed` changes it last.
                reply = self._replies.get(id)
                if id in self._confirmed:
                    continue
            if reply is None:
                self._replies.setdefault(id, Future())  # the reply to the repeat
            raise RepeatedError(id, upload_id, reply)

    def _trim_history(self, database: sqlite3.Connection) -> None:
        self._accepted = 0
        database.execute(
            "DELETE FROM upload WHERE (received < ? OR id <= (SELECT id FROM upload"
            " ORDER BY id DESC LIMIT 1 OFFSET ?)) AND NOT EXISTS"
            " (SELECT 1 FROM delivery WHERE upload = id AND state = 'waiting')",
            (self._clock() - HISTORY, MAX_HISTORY),
        )

    def _close_reply(self, id: str, arrived: bool) -> None:
        if reply := self._replies.pop(id, None):
            reply.set_result(arrived)

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
        """Return id, number of the file (0: all), size, parts and files of each body."""
        return self._database.query(
            "SELECT id, file_number, size, parts, files FROM body WHERE upload = ?"
            " AND (file_number = 0 OR ? IN (0, file_number)) ORDER BY file_number",
            delivery.arrival.id,
            delivery.file_number,
        )

    def _open_body(self, id: str, size: int) -> int:
        try:
            fd = self._body_folder.open(id)
        except FileNotFoundError:
            raise BodyError("its body is gone") from None
        if os.fstat(fd).st_size == size:
            return fd
        os.close(fd)
        raise BodyError("its body has another size than when it was accepted")

    def _recover(self) -> None:
        known = dict(self._database.query(f"SELECT id, {NEEDED} FROM body"))
        for name, state in self._body_folder.files():
            if known.get(name):
                continue
            if name in known or not state.st_size:
                self._body_folder.unlink(name)
            else:
                self.recovered.append(
                    self._move_to_quarantine(self._body_folder, name, state.st_size)
                )
        self._sync_quarantine(self.recovered[-1:])
        now = self._clock()
        with self._database.transaction() as database:
            self._trim_history(database)
            # Retry everything now: the cause may be gone, and the clock may have been set.
            # But photos for an open post may be on their way.
            database.execute(
                f"UPDATE delivery SET {WAITED}, next_try = :now + CASE WHEN file_number = 0"
                " AND attempts = 0 AND upload IN (SELECT id FROM upload WHERE open)"
                " THEN :quiet ELSE 0 END WHERE state = 'waiting'",
                {"now": now, "quiet": QUIET},
            )
        self._room.needed = dict(self._database.query(f"SELECT id, size FROM body WHERE {NEEDED}"))
        # Temporary files of `save.store`, left by a crash. The next attempt may use another folder.
        for path in self._root.parent.glob(f"{UNDELIVERED}/*/.[0-9]*Z-*-*"):
            with suppress(OSError):
                path.unlink()
        with suppress(OSError):
            for path in self._root.glob("run-*"):
                shutil.rmtree(path, ignore_errors=True)  # does not follow links


def _add_upload(
    database: sqlite3.Connection, arrival: StoredUpload, found: Upload, session: str = ""
) -> None:
    insert(
        database,
        "upload",
        **arrival._asdict(),
        sender_name=found.sender_name,
        recipients=json.dumps(found.recipients),
        subject=found.subject,
        text=found.text,
        album=found.album,
        session=session,
    )


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
