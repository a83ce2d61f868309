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
            is_same_resource = bool(resource) and announced == resource
            if id in self.confirmed and not is_same_resource:
                continue
            reply = None if is_same_resource else self.open.get(id)
            if reply is None:
                self.open.setdefault(id, Future())  # the reply to the repeat
            raise RepeatedError(id, upload, reply)
