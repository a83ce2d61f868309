"""The deliveries in the spool's database: which are due, and how they end.

Clocks jump: a Raspberry Pi starts in 1970 and sets its clock when it reaches the network.
So a time in the future counts only if it is no further away than twice the longest
wait (`is_ahead`, and `_AHEAD` in SQL). A time beyond that comes from a wrong clock.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nxparse import filename
from nxparse.store.body import Room
from nxparse.store.database import Database
from nxparse.store.disk import Folder
from nxparse.store.records import (
    NEEDED,
    STORED_UPLOAD,
    Delivery,
    FileRecord,
    LocalCopy,
    StoredUpload,
    UploadRecord,
)

# No delivery is postponed for longer, in seconds.
MAX_WAIT = 3600.0
# `next_try` of a delivery that the user retries: in the past.
AT_ONCE = 0.0

_AHEAD = f"(next_try > :now AND next_try <= :now + {2 * MAX_WAIT})"
# For an UPDATE that ends a wait early: the whole wait was added to `waited` when it began.
WAITED = (
    f"waited = CASE WHEN attempts > 0 AND {_AHEAD}"
    " THEN max(0, waited - (next_try - :now)) ELSE waited END"
)
_DUE = f"state = 'waiting' AND NOT {_AHEAD}"
_KEY = "upload = ? AND target = ? AND file_number = ?"


def is_ahead(when: float, now: float) -> bool:
    """Return whether `when` is in the future, but not beyond twice the longest wait."""
    return now < when <= now + 2 * MAX_WAIT


class Deliveries:
    """Reads and changes the deliveries. Blocks; errors are OSErrors and sqlite3.Errors.

    The part of `Spool` that knows how deliveries proceed, but not how uploads arrive.
    """

    _database: Database
    _body_folder: Folder

    def __init__(self, clock: Callable[[], float], room: Room) -> None:
        self._clock = clock
        self._room = room
        self._confirmed: set[str] = set()  # bodies whose replies have arrived: to be stored

    def waiting(self) -> list[Delivery]:
        """Return all deliveries that have not ended, the oldest uploads first."""
        return self._deliveries("state = 'waiting'")

    def due(self, target: str) -> list[Delivery]:
        """Return the deliveries to a target that are due, the oldest uploads first."""
        return self._deliveries(f"{_DUE} AND target = :target", target=target, now=self._clock())

    def first_due(self, target: str) -> Delivery | None:
        """Return the due delivery to be made next: new ones come before those tried before."""
        order = "attempts > 0, next_try, upload, file_number LIMIT 1"
        where = f"{_DUE} AND target = :target"
        found = self._deliveries(where, order, target=target, now=self._clock())
        return found[0] if found else None

    def due_targets(self) -> list[str]:
        """Return the targets that have a due delivery."""
        query = f"SELECT DISTINCT target FROM delivery WHERE {_DUE} ORDER BY target"
        return [target for (target,) in self._database.query(query, now=self._clock())]

    def recent(
        self, client: str | None = None, limit: int = 20, before: str = ""
    ) -> list[UploadRecord]:
        """Return the latest uploads of one client or of all, the latest first.

        With `before`, those that began before the upload with this id.
        """
        # Conditions that are always true would keep SQLite from using an index.
        conditions = {"client = :client": client is not None, "id < :before": bool(before)}
        where = " AND ".join(one for one, needed in conditions.items() if needed) or "TRUE"
        rows = self._database.query(
            f"SELECT {STORED_UPLOAD} FROM upload WHERE {where} ORDER BY id DESC LIMIT :limit",
            client=client,
            before=before,
            limit=limit,
        )
        return [self._record(StoredUpload(*row)) for row in rows]

    def record(self, id: str) -> UploadRecord | None:
        """Return an upload with its files and deliveries. None if it is not known."""
        rows = self._database.query(f"SELECT {STORED_UPLOAD} FROM upload WHERE id = ?", id)
        return self._record(StoredUpload(*rows[0])) if rows else None

    def done(self, delivery: Delivery, reason: str = "", saved: Sequence[LocalCopy] = ()) -> None:
        """Record that the delivery succeeded for its recipients; `reason` names the others.

        `saved` are its files, if they were saved on this machine. A body is deleted with
        the last delivery that needs it.
        """
        self._settle(delivery, "done", reason, saved)

    def failed(self, delivery: Delivery, reason: str, saved: Sequence[LocalCopy] = ()) -> None:
        """Record that the delivery failed for good; `saved` are its files in undelivered/."""
        self._settle(delivery, "failed", reason, saved)

    def postpone(
        self,
        delivery: Delivery,
        wait: float,
        reason: str,
        recipients: Sequence[str],
        progress: Sequence[str] = (),
    ) -> None:
        """Retry the delivery, to these of its recipients, in `wait` seconds.

        `progress` replaces that of earlier attempts, unless it is empty.
        """
        left, progress = json.dumps(recipients), json.dumps(progress or delivery.progress)
        with self._transaction() as database:
            database.execute(
                "UPDATE delivery SET attempts = attempts + 1, waited = waited + ?, next_try = ?,"
                f" reason = ?, recipients = ?, progress = ? WHERE {_KEY}",
                (wait, self._clock() + wait, reason, left, progress, *delivery.key),
            )

    def split(self, delivery: Delivery, files: int) -> None:
        """Replace a waiting delivery of all files by one for each file."""
        with self._transaction() as database:
            query = f"DELETE FROM delivery WHERE state = 'waiting' AND {_KEY}"
            if database.execute(query, delivery.key).rowcount:
                id, target, now = delivery.arrival.id, delivery.target, self._clock()
                for number in range(1, files + 1):
                    add_delivery(database, id, target, number, delivery.recipients, now)

    def back_off(
        self, target: str, wait: float, reason: str, *, except_for: Delivery | None = None
    ) -> int:
        """Postpone all deliveries to `target` that are due within `wait` seconds.

        New deliveries that are not due yet, and those the user asked to retry at once,
        keep their time. Returns the number of deliveries postponed.
        """
        now = self._clock()
        upload, _, file_number = except_for.key if except_for else ("", "", 0)
        with self._transaction() as database:
            return database.execute(
                "UPDATE delivery SET attempts = attempts + 1, reason = :reason, next_try = :until,"
                " waited = waited + :until - max(:now, min(next_try, :until))"
                " WHERE state = 'waiting' AND target = :target"
                f" AND (NOT {_AHEAD} OR attempts > 0) AND NOT (next_try >= :until AND {_AHEAD})"
                " AND next_try != :at_once AND NOT (upload = :upload AND file_number = :number)",
                {
                    "reason": reason,
                    "now": now,
                    "until": now + wait,
                    "target": target,
                    "at_once": AT_ONCE,
                    "upload": upload,
                    "number": file_number,
                },
            ).rowcount

    def retry_now(self, id: str) -> int:
        """Make the waiting deliveries of an upload due now. Returns their number."""
        with self._transaction() as database:
            return database.execute(
                f"UPDATE delivery SET {WAITED}, next_try = :at_once"
                " WHERE upload = :id AND state = 'waiting'",
                {"now": self._clock(), "at_once": AT_ONCE, "id": id},
            ).rowcount

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the with statement as a transaction, which also stores the confirmed replies."""
        with self._database.transaction() as database:
            confirmed = set(self._confirmed)
            for id in confirmed:
                database.execute("UPDATE body SET reply_confirmed = 1 WHERE id = ?", (id,))
            yield database
        self._confirmed -= confirmed

    def _settle(
        self, delivery: Delivery, state: str, reason: str, saved: Sequence[LocalCopy]
    ) -> None:
        id, _, file_number = delivery.key
        with self._transaction() as database:
            paths = [(str(one.path.absolute()), one.identity) for one in saved]
            recipients = json.dumps(delivery.recipients)
            database.execute(
                "UPDATE delivery SET state = ?, reason = ?, recipients = ?, saved = ?"
                f" WHERE {_KEY}",
                (state, reason, recipients, json.dumps(paths), *delivery.key),
            )
            unneeded = database.execute(
                "SELECT id FROM body WHERE upload = ?"
                f" AND (file_number = 0 OR ? IN (0, file_number)) AND NOT {NEEDED}",
                (id, file_number),
            ).fetchall()
        for (body,) in unneeded:
            self._body_folder.discard(body)
            self._room.release(body)

    def _deliveries(
        self, where: str, order: str = "received, id, target, file_number", **values: object
    ) -> list[Delivery]:
        rows = self._database.query(
            f"SELECT {STORED_UPLOAD}, target, file_number, delivery.recipients, attempts, waited,"
            " next_try, reason, progress, state, saved FROM delivery JOIN upload ON id = upload"
            f" WHERE {where} ORDER BY {order}",
            **values,
        )
        found = []
        for row in rows:
            target, number, recipients, attempts, waited, when, reason, progress, state = row[5:-1]
            to, steps = tuple(json.loads(recipients)), tuple(json.loads(progress))
            saved = tuple(LocalCopy(Path(path), identity) for path, identity in json.loads(row[-1]))
            fields = target, number, to, attempts, waited, when, reason, steps, state, saved
            found.append(Delivery(StoredUpload(*row[:5]), *fields))
        return found

    def _record(self, arrival: StoredUpload) -> UploadRecord:
        deliveries = self._deliveries("upload = :id", "target, file_number", id=arrival.id)
        copies: dict[int, list[LocalCopy]] = defaultdict(list)
        for one in deliveries:
            for number, saved in enumerate(one.saved, one.file_number or 1):
                copies[number].append(saved)
        query = "SELECT file_number, files FROM body WHERE upload = ? ORDER BY file_number"
        files = [
            FileRecord(number, filename.safe(name, kind), size, tuple(copies[number]))
            for first, listed in self._database.query(query, arrival.id)
            for number, (name, kind, size, _) in enumerate(json.loads(listed), first or 1)
        ]
        return UploadRecord(arrival, tuple(files), tuple(deliveries))


def add_delivery(
    database: sqlite3.Connection,
    upload: str,
    target: str,
    file_number: int,
    recipients: Sequence[str],
    when: float,
) -> None:
    """Insert a waiting delivery. If there is an untried one, change only when it is due."""
    database.execute(
        "INSERT INTO delivery (upload, target, file_number, recipients, state, next_try)"
        " VALUES (?, ?, ?, ?, 'waiting', ?)"
        " ON CONFLICT (upload, target, file_number) DO UPDATE SET next_try = excluded.next_try"
        " WHERE attempts = 0",
        (upload, target, file_number, json.dumps(recipients), when),
    )
