"""The database of the spool: its schema, and its rows as frozen objects.

An upload by e-mail has one body, with the id of the upload, and all photos in it.
An upload to a social site, a post, has one body for each photo.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SCHEMA = """
CREATE TABLE upload (
    id TEXT PRIMARY KEY,
    received REAL NOT NULL,      -- Unix time
    client TEXT NOT NULL,        -- the camera's address
    sender TEXT NOT NULL,
    site TEXT NOT NULL,          -- '': by e-mail
    sender_name TEXT NOT NULL,
    recipients TEXT NOT NULL,    -- as in the message, or the site: JSON, a list
    subject TEXT NOT NULL,
    text TEXT NOT NULL,          -- of a post: the caption
    album TEXT NOT NULL,
    session TEXT NOT NULL DEFAULT '',  -- the login that posts it
    open INTEGER NOT NULL DEFAULT 0,   -- 1: a post that may get more photos
    latest REAL NOT NULL DEFAULT 0     -- Unix time of its last photo
);
CREATE INDEX upload_client ON upload (client, id);
CREATE INDEX upload_open ON upload (session) WHERE open;
CREATE TABLE body (
    id TEXT PRIMARY KEY,
    upload TEXT NOT NULL REFERENCES upload (id) ON DELETE CASCADE,
    file_number INTEGER NOT NULL,  -- 0: it holds all files; else only this one, from 1
    received REAL NOT NULL,      -- Unix time
    size INTEGER NOT NULL,       -- bytes
    fingerprint TEXT NOT NULL,
    announcement TEXT,           -- the one it belongs to, NULL if by e-mail
    parts TEXT NOT NULL,         -- of a multipart body: JSON, a list of PartSpans
    files TEXT NOT NULL,         -- JSON, a list: name, type, size, start of each
    reply_confirmed INTEGER NOT NULL DEFAULT 0,
    UNIQUE (upload, file_number)
);
CREATE INDEX body_fingerprint ON body (fingerprint);
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
    saved TEXT NOT NULL DEFAULT '[]',  -- JSON, a list: path and identity of each file
    PRIMARY KEY (upload, target, file_number)
);
CREATE INDEX delivery_waiting ON delivery (target, attempts > 0, next_try, upload, file_number)
    WHERE state = 'waiting';
"""
# True for a body that a waiting delivery needs.
NEEDED = (
    "EXISTS (SELECT 1 FROM delivery WHERE delivery.upload = body.upload AND state = 'waiting'"
    " AND (delivery.file_number IN (0, body.file_number) OR body.file_number = 0))"
)
STORED_UPLOAD = "id, received, client, sender, site"  # the fields of StoredUpload


class StoredUpload(NamedTuple):
    """An accepted upload. `received` is a Unix time, `client` the camera's address.

    `site` is empty for an upload by e-mail; `sender` is then an address, else the name
    of the user who has logged in.
    """

    id: str
    received: float
    client: str
    sender: str
    site: str = ""


class Post(NamedTuple):
    """The fields that all photos of one post share.

    A video names no album: `album` is then empty and matches any.
    """

    client: str
    sender: str
    session: str
    site: str
    album: str
    caption: str

    @property
    def photos(self) -> int:
        """The number of photos in the post, 0 if the caption does not reveal it.

        The caption `text~first~second` describes two (samsung-nx-emailservice, commit c3f8eb0).
        """
        return self.caption.count("~")


DeliveryKey = tuple[str, str, int]
"""The id of an upload, the target, and the number of the file (0: all files)."""


class LocalCopy(NamedTuple):
    """A copy of a file on this machine, as it was saved.

    While `identity` is the same, no link in the path leads elsewhere, and no other file is
    in its place.
    """

    path: Path
    identity: str

    def is_unchanged(self) -> bool:
        """Return whether the file is still there as it was saved."""
        with suppress(OSError, ValueError):
            return self.matches(os.lstat(self.path))
        return False

    def matches(self, state: os.stat_result) -> bool:
        """Return whether this is the state of the file as it was saved."""
        return bool(self.identity) and identity_of(state) == self.identity


def identity_of(state: os.stat_result) -> str:
    """Return the identity of a regular file and its content; empty for anything else."""
    if not stat.S_ISREG(state.st_mode):
        return ""
    return f"{state.st_dev} {state.st_ino} {state.st_size} {state.st_mtime_ns}"


class Delivery(NamedTuple):
    """The delivery of an upload, or of one file of it (`file_number`, from 1), to one target.

    `state` is "waiting", "done" or "failed". `recipients` are those not reached yet, or
    those reached if it is done. `waited` is the sum of its waits in seconds, which does not
    depend on a clock. `progress` lists the steps that earlier attempts completed; only the
    target reads it. `saved` are its files on this machine, in order.
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
    state: str = "waiting"
    saved: tuple[LocalCopy, ...] = ()

    @property
    def key(self) -> DeliveryKey:
        """The key in the database."""
        return self.arrival.id, self.target, self.file_number

    @property
    def id(self) -> str:
        """The same for each attempt, and unique among the deliveries to one target."""
        number = self.file_number
        return f"{self.arrival.id}.{number}" if number else self.arrival.id


class FileRecord(NamedTuple):
    """A file of an upload, for a list; it may have been deleted."""

    number: int
    name: str
    size: int
    saved: tuple[LocalCopy, ...] = ()  # its copies on this machine, as they were saved


class UploadRecord(NamedTuple):
    """An accepted upload with its files and deliveries."""

    arrival: StoredUpload
    files: tuple[FileRecord, ...]
    deliveries: tuple[Delivery, ...]
