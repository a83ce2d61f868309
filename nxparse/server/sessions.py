"""Logins to social sites and announced files, in SQLite.

A camera keeps its key and uses it again, perhaps after weeks and after a restart of this
program (ge0rg/samsung-nx-emailservice, commit 90a8193). A key is valid for one client
address and for a month after its last use. Only digests of keys and tokens are stored.

A damaged file is moved aside, and cameras log in again. Everything here blocks and may be
called from any thread; errors are OSErrors and sqlite3.Errors.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from nxparse.server.social import Announcement
from nxparse.store.database import Database, insert
from nxparse.store.records import Post

# The phones of that time asked for 43,200 minutes (decompiled SnsProvider, 2012).
SESSION_LIFE = 30 * 86400.0  # seconds without use
MAX_SESSIONS = 1000
# A file follows its announcement at once, but a video may take hours.
ANNOUNCEMENT_LIFE = 86400.0  # seconds
MAX_ANNOUNCEMENTS = 1000

# Errors of SQLite that mean that the contents are damaged; 0 is another schema.
_DAMAGE = {0, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

logger = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE session (
    id TEXT PRIMARY KEY,     -- digest of the key
    client TEXT NOT NULL,    -- the camera's address
    user TEXT NOT NULL,
    used REAL NOT NULL       -- Unix time
);
CREATE TABLE announcement (
    id TEXT PRIMARY KEY,     -- digest of the token
    session TEXT NOT NULL REFERENCES session (id) ON DELETE CASCADE,
    made REAL NOT NULL,      -- Unix time
    site TEXT NOT NULL,
    name TEXT,
    album TEXT NOT NULL,
    caption TEXT NOT NULL
);
CREATE INDEX announcement_session ON announcement (session);
"""


class AnnouncedFile(NamedTuple):
    """A file that a camera has announced, with its post. `id` is no secret."""

    id: str
    post: Post
    name: str | None


class Sessions:
    """The open database of sessions and announcements."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._database = _open(path)

    def close(self) -> None:
        self._database.close()

    def reopen(self) -> None:
        """Open the file that is at the path now."""
        old, self._database = self._database, _open(self._path)
        old.close()

    def begin(self, client: str, user: str) -> str:
        """Log a user of a client in. Returns the key, which is not stored."""
        key = secrets.token_hex(16)
        now = self._clock()
        with self._database.transaction() as database:
            # Delete the oldest. A time in the future is no reason: the clock may be wrong.
            database.execute(
                "DELETE FROM session WHERE used < ? OR id IN"
                " (SELECT id FROM session ORDER BY used DESC LIMIT -1 OFFSET ?)",
                (now - SESSION_LIFE, MAX_SESSIONS - 1),
            )
            insert(database, "session", id=_digest(key), client=client, user=user, used=now)
        return key

    def user(self, client: str, key: str) -> str | None:
        """Return the user of a session; None if `key` is that of no session of this client."""
        rows = self._database.query(
            "SELECT user FROM session WHERE id = ? AND client = ? AND used >= ?",
            _digest(key),
            client,
            self._clock() - SESSION_LIFE,
        )
        return rows[0][0] if rows else None

    def announce(
        self, client: str, user: str, site: str, announcement: Announcement
    ) -> tuple[str, Post]:
        """Store an announcement in a session of `user`, which is prolonged.

        Returns the token to send the file under, and its post.
        """
        token = secrets.token_hex(16)
        session, now = _digest(announcement.session_key), self._clock()
        album, caption = announcement.album, announcement.caption
        with self._database.transaction() as database:
            database.execute("UPDATE session SET used = ? WHERE id = ?", (now, session))
            database.execute(
                "DELETE FROM announcement WHERE made < ? OR id IN"
                " (SELECT id FROM announcement ORDER BY made DESC, rowid DESC LIMIT -1 OFFSET ?)",
                (now - ANNOUNCEMENT_LIFE, MAX_ANNOUNCEMENTS - 1),
            )
            insert(
                database,
                "announcement",
                id=_digest(token),
                session=session,
                made=now,
                site=site,
                name=announcement.name,
                album=album,
                caption=caption,
            )
        return token, Post(client, user, session, site, album, caption)

    def announced(self, client: str, token: str) -> AnnouncedFile | None:
        """Return the file that this client has announced under this token."""
        rows = self._database.query(
            "SELECT announcement.id, name, client, user, session, site, album, caption"
            " FROM announcement JOIN session ON session.id = session"
            " WHERE announcement.id = ? AND client = ? AND made >= ?",
            _digest(token),
            client,
            self._clock() - ANNOUNCEMENT_LIFE,
        )
        return AnnouncedFile(rows[0][0], Post(*rows[0][2:]), rows[0][1]) if rows else None


def _open(path: Path) -> Database:
    """Open the database; move a damaged one aside."""
    try:
        return _open_whole(path)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DAMAGE:
            raise
        aside = _set_aside(path)
        logger.warning(
            f"cannot use {path} ({error}): moved it to {aside}; "
            f"cameras have to log in to social sites again"
        )
        return _open_whole(path)


def _open_whole(path: Path) -> Database:
    database = Database(path, _SCHEMA, shrink=True)
    try:
        ((found,),) = database.query("PRAGMA quick_check(1)")
        if found != "ok":
            raise sqlite3.DatabaseError("database disk image is malformed")
    except BaseException:
        database.close()
        raise
    return database


def _set_aside(path: Path) -> Path:
    """Rename the file, replacing an older damaged one, and delete its journal."""
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    return path.replace(path.with_name(f"{path.name}.damaged"))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()[:32]
