"""What the spool's database stores: the schema, and the rows as frozen objects.

An upload by e-mail has one body, with the id of the upload, and all photos in it.
An upload to a social site, a post, has one body for each photo.
"""

from __future__ import annotations

import sqlite3
from dataclasses import astuple, dataclass

from nxparse.store.saved import SavedFile
from nxparse.upload import File, Thumbnail

SCHEMA = """
CREATE TABLE upload (
    id TEXT PRIMARY KEY,
    received REAL NOT NULL,      -- Unix time
    client TEXT NOT NULL,        -- the camera's address
    sender TEXT NOT NULL,
    site TEXT NOT NULL,          -- '': by e-mail
    sender_name TEXT NOT NULL DEFAULT '',
    recipients TEXT NOT NULL DEFAULT '[]',  -- as in the message: JSON, a list
    subject TEXT NOT NULL DEFAULT '',
    text TEXT NOT NULL,          -- of a post: the caption
    album TEXT NOT NULL DEFAULT '',
    session TEXT NOT NULL DEFAULT '',  -- whose post it is
    open INTEGER NOT NULL DEFAULT 0,   -- 1: a post that may grow
    latest REAL NOT NULL DEFAULT 0     -- when it has grown
);
CREATE INDEX upload_received ON upload (received);
CREATE INDEX upload_client ON upload (client, received);
CREATE INDEX upload_open ON upload (session) WHERE open;
CREATE TABLE body (
    id TEXT PRIMARY KEY,
    upload TEXT NOT NULL REFERENCES upload (id) ON DELETE CASCADE,
    file_number INTEGER NOT NULL,  -- 0: it holds all files; else it is this one, from 1
    received REAL NOT NULL,      -- Unix time
    size INTEGER NOT NULL,       -- bytes
    fingerprint TEXT NOT NULL,
    resource TEXT NOT NULL,      -- the announcement that it came for
    parts TEXT NOT NULL,         -- of a multipart body: JSON, see `_source`
    reply_confirmed INTEGER NOT NULL DEFAULT 0,
    UNIQUE (upload, file_number)
);
CREATE INDEX body_fingerprint ON body (fingerprint);
CREATE TABLE file (
    upload TEXT NOT NULL REFERENCES upload (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,     -- from 1
    name TEXT,                   -- as on the wire
    content_type TEXT NOT NULL,
    start INTEGER NOT NULL,      -- its offset in its body
    size INTEGER NOT NULL,       -- bytes
    thumbnail BLOB,              -- a JPEG, if it is to be shown
    turn INTEGER NOT NULL,       -- degrees clockwise to turn the thumbnail
    PRIMARY KEY (upload, number)
);
CREATE INDEX file_thumbnail ON file (upload) WHERE thumbnail IS NOT NULL;
CREATE TABLE delivery (
    upload TEXT NOT NULL REFERENCES upload (id) ON DELETE CASCADE,
    target TEXT NOT NULL,        -- as written in nx_route
    file_number INTEGER NOT NULL,  -- 0: all files; else only this one, from 1
    recipients TEXT NOT NULL,    -- those still to be reached: JSON, a list
    state TEXT NOT NULL CHECK (state IN ('waiting', 'done', 'failed')),
    attempts INTEGER NOT NULL DEFAULT 0,
    waited REAL NOT NULL DEFAULT 0,  -- seconds, between the attempts
    next_try REAL NOT NULL,      -- Unix time
    reason TEXT NOT NULL DEFAULT '',
    progress TEXT NOT NULL DEFAULT '[]',  -- JSON, a list
    PRIMARY KEY (upload, target, file_number)
);
CREATE INDEX delivery_waiting ON delivery (target, next_try, upload, file_number)
    WHERE state = 'waiting';
CREATE INDEX delivery_new ON delivery (target, next_try, upload, file_number)
    WHERE state = 'waiting' AND attempts = 0;
CREATE INDEX delivery_tried ON delivery (target, next_try, upload, file_number)
    WHERE state = 'waiting' AND attempts > 0;
CREATE TABLE saved_file (
    upload TEXT NOT NULL REFERENCES upload (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,     -- from 1
    path BLOB NOT NULL,          -- absolute
    identity TEXT NOT NULL,      -- device, inode, size, mtime: see `identity_of`
    PRIMARY KEY (upload, number, path)
);
"""
# Does a waiting delivery need a body?
NEEDED = (
    "EXISTS (SELECT 1 FROM delivery WHERE delivery.upload = body.upload AND state = 'waiting'"
    " AND (delivery.file_number IN (0, body.file_number) OR body.file_number = 0))"
)
# So many uploads are shown as the last ones; thumbnails of older ones are forgotten.
RECENT = 20
STORED_UPLOAD = "id, received, client, sender, site"  # the fields of StoredUpload


@dataclass(frozen=True, slots=True)
class StoredUpload:
    """An accepted upload. `received` is a Unix time, `client` the camera's address.

    `site` is empty for an upload by e-mail; `sender` is then an address, else the name
    of the user who has logged in.
    """

    id: str
    received: float
    client: str
    sender: str
    site: str = ""


@dataclass(frozen=True, slots=True)
class Post:
    """What the photos of one post have in common.

    A video names no album: then `album` is empty, and fits any. `photos` is how many
    there will be, 0 if that is unknown.
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
    """An upload, or one file of it (`file_number`, from 1), on its way to one target.

    `recipients` have not been reached yet. `waited` is the sum of its waits in seconds,
    which does not depend on a clock. `progress` is what earlier attempts have done
    already, in the words of the target.
    """

    arrival: StoredUpload
    target: str
    file_number: int
    recipients: tuple[str, ...]
    attempts: int
    waited: float
    next_try: float
    reason: str
    progress: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The same for each attempt, and for no other delivery of the same upload's files."""
        number = self.file_number
        return f"{self.arrival.id}.{number}" if number else self.arrival.id


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """What has become of an upload, or of one file of it (`file_number`, from 1), for one target.

    `state` is "waiting", "done" or "failed".
    """

    target: str
    file_number: int
    recipients: tuple[str, ...]
    state: str
    next_try: float
    reason: str


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file of an upload, for a list: the file itself may be gone by now. `turn` in degrees."""

    number: int
    name: str
    size: int
    has_thumbnail: bool
    turn: int
    saved: tuple[SavedFile, ...] = ()  # its copies on this machine, as they were saved


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """An accepted upload, and what has become of it."""

    arrival: StoredUpload
    files: tuple[FileRecord, ...]
    deliveries: tuple[DeliveryStatus, ...]


def add_delivery(
    database: sqlite3.Connection,
    upload: str,
    target: str,
    file_number: int,
    recipients: str,
    when: float,
) -> None:
    """Insert a waiting delivery. If it is there and untried, change only when it is due."""
    database.execute(
        "INSERT INTO delivery (upload, target, file_number, recipients, state, next_try)"
        " VALUES (?, ?, ?, ?, 'waiting', ?)"
        " ON CONFLICT (upload, target, file_number) DO UPDATE SET next_try = excluded.next_try"
        " WHERE attempts = 0",
        (upload, target, file_number, recipients, when),
    )


def add_upload(database: sqlite3.Connection, arrival: StoredUpload, text: str) -> None:
    """Insert an upload."""
    database.execute(
        f"INSERT INTO upload ({STORED_UPLOAD}, text) VALUES (?, ?, ?, ?, ?, ?)",
        (*astuple(arrival), text),
    )


def add_file(
    database: sqlite3.Connection, id: str, number: int, file: File, thumbnail: Thumbnail | None
) -> None:
    """Insert a file of an upload; thumbnails of older uploads are forgotten."""
    data, turn = (thumbnail.data, thumbnail.turn) if thumbnail else (None, 0)
    database.execute(
        "INSERT INTO file (upload, number, name, content_type, start, size, thumbnail, turn)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (id, number, file.name, file.content_type, file.start, file.size, data, turn),
    )
    if thumbnail:
        database.execute(
            "UPDATE file SET thumbnail = NULL WHERE thumbnail IS NOT NULL AND upload NOT IN"
            " (SELECT id FROM upload ORDER BY received DESC, id DESC LIMIT ?)",
            (RECENT,),
        )


def targets_together(database: sqlite3.Connection, id: str) -> set[str]:
    """Return the targets that get a post as a whole."""
    query = "SELECT target FROM delivery WHERE upload = ? AND file_number = 0"
    return {target for (target,) in database.execute(query, (id,))}
