"""Replies to accepted bodies, and the repeats of bodies whose replies were lost.

The reply to an accepted body is open until it is known to have arrived or to be lost.
If it is lost, the camera sends the same body again, which is a duplicate. A reply that
was open when the process ended counts as lost.
"""

from __future__ import annotations

import sqlite3
from concurrent.futures import Future

from nxparse.store.records import Post

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


class Replies:
    """Open replies by the ids of their bodies, and confirmed ones that are not stored yet."""

    def __init__(self) -> None:
        self._open: dict[str, Future[bool]] = {}
        self._confirmed: set[str] = set()

    def open(self, id: str) -> None:
        """Open the reply to a body, unless it is open."""
        self._open.setdefault(id, Future())

    def forget(self, id: str) -> None:
        """Forget the open reply to a body that was not accepted after all."""
        self._open.pop(id, None)

    def close(self, id: str, *, arrived: bool) -> None:
        """Close the reply to a body."""
        if arrived:
            self._confirmed.add(id)
        if reply := self._open.pop(id, None):
            reply.set_result(arrived)

    def save(self, database: sqlite3.Connection) -> set[str]:
        """Store the confirmed replies. Call `saved` with the result after the commit."""
        confirmed = set(self._confirmed)
        for id in confirmed:
            database.execute("UPDATE body SET reply_confirmed = 1 WHERE id = ?", (id,))
        return confirmed

    def saved(self, confirmed: set[str]) -> None:
        self._confirmed -= confirmed

    def refuse_repeated(
        self,
        database: sqlite3.Connection,
        fingerprint: str,
        now: float,
        resource: str = "",
        post: Post | None = None,
    ) -> None:
        """Raise RepeatedError if the same body was accepted and its reply is not confirmed.

        The same body for the same announcement (`resource`) is always a repeat.
        """
        site, caption = (post.site, post.caption) if post else ("", None)
        rows = database.execute(
            "SELECT body.id, upload, resource FROM body JOIN upload ON upload.id = upload"
            " WHERE fingerprint = ? AND (resource = ? AND resource != '' OR NOT reply_confirmed"
            " AND site = ? AND text = coalesce(?, text) AND abs(body.received - ?) <= ?)",
            (fingerprint, resource, site, caption, now, REPEAT),
        )
        for id, upload, announced in rows:
            reply = self._open.get(id)
            if resource and announced == resource:
                reply = None
            elif id in self._confirmed:
                continue
            if reply is None:
                self.open(id)  # for the reply to the repeat
            raise RepeatedError(id, upload, reply)
