"""The deliveries in the spool's database: which are due, and how they end.

Clocks jump: a Raspberry Pi starts in 1970 and sets its clock when it reaches the network.
So a time in the future counts only if it is no further away than the longest wait
(`is_ahead`, and `_AHEAD` in SQL). A time beyond that comes from a wrong clock.
"""

from __future__ import annotations

import json
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from nxparse import filename
from nxparse.store.database import Database
from nxparse.store.records import (
    NEEDED,
    RECENT,
    STORED_UPLOAD,
    Delivery,
    DeliveryStatus,
    FileRecord,
    StoredUpload,
    UploadRecord,
    add_delivery,
)
from nxparse.store.saved import SavedFile, record_saved, saved_files

# No delivery is postponed for longer, in seconds.
MAX_WAIT = 3600.0
# The next try of a delivery that the user retries: long ago.
AT_ONCE = 0.0

_AHEAD = f"(next_try > ? AND next_try <= ? + {2 * MAX_WAIT})"
# For an UPDATE that ends a wait early: the whole wait was added to `waited` when it began.
WAITED = (
    f"waited = CASE WHEN attempts > 0 AND {_AHEAD}"
    " THEN max(0, waited - (next_try - ?)) ELSE waited END"
)
_KEY = "upload = ? AND target = ? AND file_number = ?"


def is_ahead(when: float, now: float) -> bool:
    """Return whether `when` is in the future, but not beyond the longest wait."""
    return now < when <= now + 2 * MAX_WAIT


class Deliveries(ABC):
    """Reads and changes the deliveries. Blocks; errors are OSErrors and sqlite3.Errors."""

    _database: Database
    _clock: Callable[[], float]

    def waiting(self) -> list[Delivery]:
        """Return all deliveries that have not ended, the oldest uploads first."""
        return self._deliveries("state = 'waiting'")

    def due(self, target: str) -> list[Delivery]:
        """Return the deliveries to a target that are due, the oldest uploads first."""
        return self._deliveries(*_due(target, self._clock()))

    def first_due(self, target: str, *, new: bool) -> Delivery | None:
        """Return the first due delivery that is new, or else one that was tried before."""
        where, *values = _due(target, self._clock())
        tried = "attempts = 0" if new else "attempts > 0"
        order = "next_try, upload, file_number LIMIT 1"
        found = self._deliveries(f"{where} AND {tried}", *values, order=order)
        return found[0] if found else None

    def targets(self) -> list[str]:
        """Return the targets of all waiting deliveries."""
        query = "SELECT DISTINCT target FROM delivery WHERE state = 'waiting' ORDER BY target"
        return [target for (target,) in self._database.query(query)]

    def next_try(self, target: str) -> float | None:
        """Return the Unix time at which the next delivery to a target is due, None without one."""
        query = "SELECT min(next_try) FROM delivery WHERE state = 'waiting' AND target = ?"
        [(when,)] = self._database.query(query, target)
        return None if when is None else float(when)

    def recent(
        self, client: str | None = None, limit: int = RECENT, before: str = ""
    ) -> list[UploadRecord]:
        """Return the latest uploads of one client or of all, the latest first.

        With `before`, those that arrived before the upload with this id.
        """
        # One query for both cases, with OR, would use no index.
        where, values = "WHERE 1", [] if client is None else [client]
        if client is not None:
            where = "WHERE client = ?"
        if before:
            where += " AND (received, id) < (SELECT received, id FROM upload WHERE id = ?)"
            values.append(before)
        rows = self._database.query(
            f"SELECT {STORED_UPLOAD} FROM upload {where} ORDER BY received DESC, id DESC LIMIT ?",
            *(*values, limit),
        )
        return [self._record(StoredUpload(*row)) for row in rows]

    def record(self, id: str) -> UploadRecord | None:
        """Return an upload with its files and deliveries. None if it is not known."""
        rows = self._database.query(f"SELECT {STORED_UPLOAD} FROM upload WHERE id = ?", id)
        return self._record(StoredUpload(*rows[0])) if rows else None

    def thumbnail(self, id: str, file_number: int) -> bytes | None:
        """Return the thumbnail of a file of an upload as a JPEG, None without one."""
        query = "SELECT thumbnail FROM file WHERE upload = ? AND number = ?"
        rows = self._database.query(query, id, file_number)
        return rows[0][0] if rows else None

    def done(self, delivery: Delivery, reason: str = "", saved: Sequence[SavedFile] = ()) -> None:
        """The delivery has succeeded for its recipients; `reason` names the others.

        `saved` are its files, if they were saved on this machine. A body is deleted with
        the last delivery that needs it.
        """
        self._settle(delivery, "done", reason, saved)

    def failed(self, delivery: Delivery, reason: str) -> None:
        """The delivery will not be retried."""
        self._settle(delivery, "failed", reason)

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
        with self._transaction() as database:
            database.execute(
                "UPDATE delivery SET attempts = attempts + 1, waited = waited + ?, next_try = ?,"
                f" reason = ?, recipients = ?, progress = ? WHERE {_KEY}",
                (
                    *(wait, self._clock() + wait, reason, json.dumps(list(recipients))),
                    *(json.dumps(list(progress or delivery.progress)), *_key(delivery)),
                ),
            )

    def split(self, delivery: Delivery, files: int) -> None:
        """Replace a waiting delivery of all files by one for each file."""
        with self._transaction() as database:
            query = f"DELETE FROM delivery WHERE state = 'waiting' AND {_KEY}"
            if database.execute(query, _key(delivery)).rowcount:
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
        until = now + wait
        key = _key(except_for) if except_for else ("", "", 0)
        with self._transaction() as database:
            return database.execute(
                "UPDATE delivery SET attempts = attempts + 1, reason = ?, next_try = ?,"
                " waited = waited + ? - max(?, min(next_try, ?)) WHERE state = 'waiting'"
                f" AND target = ? AND (NOT {_AHEAD} OR attempts > 0)"
                f" AND NOT (next_try >= ? AND {_AHEAD}) AND next_try != ? AND NOT ({_KEY})",
                (
                    *(reason, until, until, now, until, target, now, now),
                    *(until, now, now, AT_ONCE, *key),
                ),
            ).rowcount

    def retry_now(self, id: str) -> int:
        """Make the waiting deliveries of an upload due now. Returns their number."""
        now = self._clock()
        with self._transaction() as database:
            return database.execute(
                f"UPDATE delivery SET {WAITED}, next_try = ?"
                " WHERE upload = ? AND state = 'waiting'",
                (now, now, now, AT_ONCE, id),
            ).rowcount

    @abstractmethod
    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """Run the with statement as a transaction."""

    @abstractmethod
    def _delete_bodies(self, ids: Sequence[str]) -> None:
        """Delete bodies that no delivery needs."""

    def _settle(
        self, delivery: Delivery, state: str, reason: str, saved: Sequence[SavedFile] = ()
    ) -> None:
        with self._transaction() as database:
            record_saved(database, delivery.arrival.id, delivery.file_number, saved)
            database.execute(
                f"UPDATE delivery SET state = ?, reason = ?, recipients = ? WHERE {_KEY}",
                (state, reason, json.dumps(list(delivery.recipients)), *_key(delivery)),
            )
            if not delivery.file_number:
                query = "UPDATE upload SET open = 0 WHERE id = ? AND open"
                database.execute(query, (delivery.arrival.id,))
            unneeded = database.execute(
                "SELECT id FROM body WHERE upload = ?"
                f" AND (file_number = 0 OR ? IN (0, file_number)) AND NOT {NEEDED}",
                (delivery.arrival.id, delivery.file_number),
            ).fetchall()
        self._delete_bodies([id for (id,) in unneeded])

    def _deliveries(
        self, where: str, *values: object, order: str = "received, id, target, file_number"
    ) -> list[Delivery]:
        rows = self._database.query(
            f"SELECT {STORED_UPLOAD}, target, file_number, delivery.recipients, attempts, waited,"
            f" next_try, reason, progress FROM delivery JOIN upload ON id = upload WHERE {where}"
            f" ORDER BY {order}",
            *values,
        )
        found = []
        for *upload, target, number, recipients, attempts, waited, when, reason, progress in rows:
            fields = target, number, _list(recipients), attempts, waited, when, reason
            found.append(Delivery(StoredUpload(*upload), *fields, _list(progress)))
        return found

    def _record(self, arrival: StoredUpload) -> UploadRecord:
        files = self._database.query(
            "SELECT number, name, content_type, size, thumbnail IS NOT NULL, turn FROM file"
            " WHERE upload = ? ORDER BY number",
            arrival.id,
        )
        deliveries = self._database.query(
            "SELECT target, file_number, recipients, state, next_try, reason FROM delivery"
            " WHERE upload = ? ORDER BY target, file_number",
            arrival.id,
        )
        copies: dict[int, list[tuple[bytes, str]]] = {}
        query = "SELECT number, path, identity FROM saved_file WHERE upload = ?"
        for number, *copy in self._database.query(query, arrival.id):
            copies.setdefault(number, []).append((copy[0], copy[1]))
        return UploadRecord(
            arrival,
            tuple(
                FileRecord(
                    *(number, filename.safe(name, content_type), size, bool(has), turn),
                    saved_files(copies.get(number, ())),
                )
                for number, name, content_type, size, has, turn in files
            ),
            tuple(
                DeliveryStatus(target, number, _list(recipients), *rest)
                for target, number, recipients, *rest in deliveries
            ),
        )


def _key(delivery: Delivery) -> tuple[str, str, int]:
    return delivery.arrival.id, delivery.target, delivery.file_number


def _due(target: str, now: float) -> tuple[str, Any, Any, Any]:
    return f"state = 'waiting' AND target = ? AND NOT {_AHEAD}", target, now, now


def _list(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))
