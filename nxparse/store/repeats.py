"""Recognises repeated bodies: a camera whose reply was lost sends its upload again.

The reply to an accepted body is open until it is known to have arrived or to be lost.
A reply that was open when the process ended counts as lost.
"""

from __future__ import annotations

import sqlite3
from concurrent.futures import Future

# Seconds. A camera whose reply was lost repeats the upload within this time.
REPEAT = 3600.0


class RepeatedError(Exception):
    """A body repeats the body `id` of the upload `upload`.

    `reply` is set if it is not known yet whether the reply to that body has arrived.
    """

    def __init__(self, id: str, upload: str, reply: Future[bool] | None = None) -> None:
        super().__init__(f"it repeats {id}")
        self.id = id
        self.upload = upload
        self.reply = reply


class Repeats:
    """The open replies by the ids of their bodies.

    `confirmed` has the bodies whose replies have arrived, until that is stored.
    """

    def __init__(self) -> None:
        self.open: dict[str, Future[bool]] = {}
        self.confirmed: set[str] = set()

    def close(self, id: str, *, arrived: bool) -> None:
        """Close the reply to a body."""
        if arrived:
            self.confirmed.add(id)
        if reply := self.open.pop(id, None):
            reply.set_result(arrived)

    def refuse(
        self,
        database: sqlite3.Connection,
        fingerprint: str,
        site: str,
        text: str,
        now: float,
        resource: str | None,
    ) -> None:
        """Raise RepeatedError if the same body was accepted and its reply is not confirmed.

        The same body for the same announcement (`resource`) is always a repeat.
        """
        rows = database.execute(
            "SELECT body.id, upload, resource FROM body JOIN upload ON upload.id = upload"
            " WHERE fingerprint = ? AND (resource = ? OR NOT reply_confirmed"
            " AND site = ? AND text = ? AND abs(body.received - ?) <= ?)",
            (fingerprint, resource, site, text, now, REPEAT),
        )
        for id, upload, announced in rows:
            reply = None
            if announced is None or announced != resource:
                if id in self.confirmed:
                    continue
                reply = self.open.get(id)
            if reply is None:
                self.open.setdefault(id, Future())  # the reply to the repeat
            raise RepeatedError(id, upload, reply)
