from __future__ import annotations

import errno
import hashlib
import itertools
import os
import re
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nxparse import disk, spool
from nxparse.deviation import BodyError
from nxparse.disk import Folder
from nxparse.spool import Arrival, Delivery, Incoming, Spool
from tests.bodies import BOUNDARY, CONTENT_TYPE, RECIPIENT, SENDER, body, jpeg
from tests.faults import CALLS, STATEMENTS, Database, Faults, Kills, contents, make_lazy

NEW_YEAR = 1767225600.0  # 2026-01-01 00:00 UTC
PHOTO = jpeg(500)
BODY = body([("SAM_4371.JPG", PHOTO)])
SHA256 = hashlib.sha256(BODY).hexdigest()
CLIENT = "192.0.2.7"
SAVE = {"save": [RECIPIENT]}


class Clock:
    """A clock that stands still unless it is set."""

    def __init__(self, now: float = NEW_YEAR) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    make_lazy(monkeypatch)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the spool is."""
    return tmp_path / "uploads" / ".nx"


@pytest.fixture
def opened(root: Path, clock: Clock) -> Iterator[Spool]:
    """An empty spool."""
    found = Spool(root, clock)
    yield found
    found.close()


def receive(into: Spool, data: bytes = BODY) -> Incoming:
    """A body that has come in whole, in two pieces."""
    incoming = into.begin()
    incoming.write(data[:100])
    incoming.write(data[100:])
    return incoming


def accept(
    into: Spool, data: bytes = BODY, targets: tuple[str, ...] = ("save",), sender: str = SENDER
) -> Arrival:
    deliveries = {target: [RECIPIENT] for target in targets}
    return into.accept(receive(into, data), CLIENT, sender, CONTENT_TYPE, deliveries)


def to(arrival: Arrival, target: str, part: int = 0) -> Delivery:
    """An upload, or a file of it, on its way to a target."""
    return Delivery(arrival, target, part, (RECIPIENT,), 0, 0.0, arrival.received, "")


def due(found: Spool) -> list[tuple[Arrival, str, int]]:
    """What is due to any target: upload, target and number of attempts."""
    return [
        (one.arrival, one.target, one.attempts)
        for target in found.targets()
        for one in found.due(target)
    ]


def bodies(root: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What is in the folders `spool` and `quarantine`."""
    return contents(root / "spool"), contents(root / "quarantine")


def reopened(old: Spool, root: Path, clock: Clock) -> Spool:
    old.close()
    return Spool(root, clock)


class TestOpen:
    def test_new(self, opened: Spool, root: Path) -> None:
        """A new spool is empty."""
        assert opened.recovered == []
        assert due(opened) == []
        assert opened.next_try("save") is None
        assert opened.targets() == []
        assert opened.waiting() == []
        assert bodies(root) == ({}, {})

    @pytest.mark.skipif(os.name != "posix", reason="needs POSIX modes")
    def test_modes(self, root: Path, clock: Clock) -> None:
        """K14: nobody else gets in, however lenient the umask is; the photos' folder follows it."""
        before = os.umask(0)
        try:
            with_all = Spool(root, clock)
            accept(with_all)
            with_all.quarantine(receive(with_all))
            with_all.begin().close()
        finally:
            os.umask(before)
        modes = {
            re.sub(r"2026\w+-\w+", "ID", str(path.relative_to(root.parent.parent))): oct(
                stat.S_IMODE(path.stat().st_mode)
            )
            for path in [root.parent, root, *root.rglob("*")]
        }
        with_all.close()
        assert modes == {
            "uploads": "0o777",
            "uploads/.nx": "0o700",
            "uploads/.nx/quarantine": "0o700",
            "uploads/.nx/quarantine/ID": "0o600",
            "uploads/.nx/spool": "0o700",
            "uploads/.nx/spool/.ID": "0o600",
            "uploads/.nx/spool/ID": "0o600",
            "uploads/.nx/state.sqlite3": "0o600",
            "uploads/.nx/state.sqlite3-shm": "0o600",
            "uploads/.nx/state.sqlite3-wal": "0o600",
        }

    def test_photo_folder_is_a_link(self, tmp_path: Path, clock: Clock) -> None:
        """A user may put a link to another disk where the photos go."""
        (tmp_path / "disk").mkdir()
        (tmp_path / "uploads").symlink_to(tmp_path / "disk")
        Spool(tmp_path / "uploads" / ".nx", clock).close()
        assert sorted(os.listdir(tmp_path / "disk" / ".nx")) == [
            "quarantine",
            "spool",
            "state.sqlite3",
        ]

    def test_link_is_refused(self, tmp_path: Path, clock: Clock) -> None:
        """The state itself is not kept behind a link."""
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / ".nx").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match=r"Not a directory|symbolic link"):
            Spool(tmp_path / ".nx", clock)
        assert os.listdir(tmp_path / "elsewhere") == []

    @pytest.mark.parametrize(
        "error",
        [errno.EROFS, errno.EACCES, errno.EDQUOT, errno.ENOSPC],
        ids=errno.errorcode.__getitem__,
    )
    @pytest.mark.parametrize("call", ["mkdir", "open"])
    def test_failure(self, root: Path, clock: Clock, call: str, error: int) -> None:
        """K04: what cannot be opened is told at once."""
        with Faults((call,), error), pytest.raises(OSError, match=r"\w") as caught:
            Spool(root, clock)
        assert caught.value.errno == error

    def test_file_in_the_way(self, root: Path, clock: Clock) -> None:
        """K04: a file cannot be a spool."""
        root.parent.mkdir()
        root.touch()
        with pytest.raises(NotADirectoryError):
            Spool(root, clock)

    @pytest.mark.parametrize("version", [3, 99])
    def test_newer_format(self, root: Path, clock: Clock, version: int) -> None:
        """R06: what a newer version has written is refused in a sentence, and not touched."""
        Spool(root, clock).close()
        state = root / "state.sqlite3"
        with sqlite3.connect(state) as database:
            database.execute(f"PRAGMA user_version = {version}")
        database.close()
        before = state.read_bytes()
        with pytest.raises(sqlite3.DatabaseError) as caught:
            Spool(root, clock)
        assert str(caught.value) == (
            f"{state} was written by a newer nx_addon (format {version}): "
            f"use that one, or another nx_dir"
        )
        assert state.read_bytes() == before

    def test_garbled_state(self, root: Path, clock: Clock) -> None:
        """K07: a state file that is none is refused, and kept."""
        Spool(root, clock).close()
        (root / "state.sqlite3").write_bytes(b"garbage " * 1000)
        with pytest.raises(sqlite3.DatabaseError, match="file is not a database"):
            Spool(root, clock)
        assert (root / "state.sqlite3").read_bytes() == b"garbage " * 1000

    def test_empty_state(self, opened: Spool, root: Path, clock: Clock) -> None:
        """K07: without its state, what is in the spool is kept for a person to look at."""
        arrival = accept(opened)
        opened.close()
        (root / "state.sqlite3").write_bytes(b"")
        again = Spool(root, clock)
        assert due(again) == []
        assert again.recovered == [root / "quarantine" / arrival.id]
        again.close()
        assert bodies(root) == ({}, {arrival.id: BODY})

    def test_state_is_durable(
        self, root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What SQLite commits survives a power cut, and needs no copy of the database."""
        monkeypatch.setattr(Database, "lazy", False)
        settings: list[object] = []

        def look(database: sqlite3.Connection, sql: str) -> None:
            if sql.startswith("BEGIN"):
                for name in ("journal_mode", "synchronous", "foreign_keys"):
                    cursor = sqlite3.Connection.execute(database, f"PRAGMA {name}")
                    settings.append(*cursor.fetchone())

        Database.watchers.append(look)
        try:
            Spool(root, clock).close()
        finally:
            Database.watchers.remove(look)
        assert settings == ["wal", 2, 1]

    def test_two_at_once(self, opened: Spool, root: Path, clock: Clock) -> None:
        """K13: a second program on the same spool is refused; it would take the first one's."""
        incoming = receive(opened)
        with pytest.raises(BlockingIOError):
            Spool(root, clock)
        opened.accept(incoming, CLIENT, SENDER, CONTENT_TYPE, SAVE)
        assert bodies(root) == ({incoming.id: BODY}, {})

    def test_one_after_another(self, opened: Spool, root: Path, clock: Clock) -> None:
        """A closed spool may be opened again, by this program or another one."""
        again = reopened(opened, root, clock)
        with pytest.raises(BlockingIOError):
            Spool(root, clock)
        again.close()

    def test_opened_again_after_a_failure(self, root: Path, clock: Clock) -> None:
        """A spool that could not be opened can be as soon as what was wrong has been mended."""
        root.mkdir(parents=True)
        (root / "state.sqlite3").write_bytes(b"garbage " * 1000)
        with pytest.raises(sqlite3.DatabaseError):
            Spool(root, clock)
        (root / "state.sqlite3").unlink()
        Spool(root, clock).close()

    @pytest.mark.parametrize("state", ["open elsewhere", "garbled"])
    def test_failure_costs_no_descriptor(self, root: Path, clock: Clock, state: str) -> None:
        """K11: to try again and again does not use up what a process may have open."""
        other = Spool(root, clock)
        if state == "garbled":
            other.close()
            (root / "state.sqlite3").write_bytes(b"garbage " * 1000)
        free = []
        for _ in range(3):
            free.append(os.open(root, os.O_RDONLY))
            os.close(free[-1])
            with pytest.raises((OSError, sqlite3.Error)):
                Spool(root, clock)
        other.close()
        assert len(set(free)) == 1

    def test_free(self, opened: Spool) -> None:
        """The disk has room for something."""
        assert opened.free() > 0


class TestRecovery:
    """What a crash may leave, row by row of the table in spool.py."""

    def test_being_received(self, opened: Spool, root: Path, clock: Clock) -> None:
        """R11: a body that was being received goes into quarantine."""
        incoming = receive(opened)
        again = reopened(opened, root, clock)
        assert again.recovered == [root / "quarantine" / incoming.id]
        assert due(again) == []
        again.close()
        assert bodies(root) == ({}, {incoming.id: BODY})

    def test_nothing_received(self, opened: Spool, root: Path, clock: Clock) -> None:
        """A body of which nothing had come is deleted."""
        opened.begin()
        again = reopened(opened, root, clock)
        assert again.recovered == []
        again.close()
        assert bodies(root) == ({}, {})

    def test_without_a_row(self, opened: Spool, root: Path, clock: Clock) -> None:
        """A body that had its name, but no row, goes into quarantine."""
        (root / "spool" / "20260101T000000Z-00000000").write_bytes(BODY)
        again = reopened(opened, root, clock)
        assert again.recovered == [root / "quarantine" / "20260101T000000Z-00000000"]
        assert due(again) == []
        again.close()
        assert bodies(root) == ({}, {"20260101T000000Z-00000000": BODY})

    def test_empty_without_a_row(self, opened: Spool, root: Path, clock: Clock) -> None:
        """R04: a name without data, as a power cut may leave it, is deleted."""
        (root / "spool" / "20260101T000000Z-00000000").touch()
        again = reopened(opened, root, clock)
        assert again.recovered == []
        again.close()
        assert bodies(root) == ({}, {})

    def test_a_delivery_waiting(self, opened: Spool, root: Path, clock: Clock) -> None:
        """An accepted body is delivered."""
        arrival = accept(opened)
        again = reopened(opened, root, clock)
        assert again.recovered == []
        assert due(again) == [(arrival, "save", 0)]
        again.close()
        assert bodies(root) == ({arrival.id: BODY}, {})

    def test_one_of_two_deliveries_waiting(self, opened: Spool, root: Path, clock: Clock) -> None:
        """A body stays as long as one of its deliveries waits, and that one is made."""
        arrival = accept(opened, targets=("mail", "save"))
        opened.done(to(arrival, "mail"))
        again = reopened(opened, root, clock)
        assert due(again) == [(arrival, "save", 0)]
        again.close()
        assert bodies(root) == ({arrival.id: BODY}, {})

    def test_no_delivery_waiting(self, opened: Spool, root: Path, clock: Clock) -> None:
        """A delivered body is deleted."""
        arrival = accept(opened)
        with Faults(("unlink",), errno.EIO):
            opened.done(to(arrival, "save"))
        assert bodies(root) == ({arrival.id: BODY}, {})
        again = reopened(opened, root, clock)
        assert again.recovered == []
        again.close()
        assert bodies(root) == ({}, {})

    def test_nothing_else_is_touched(self, opened: Spool, root: Path, clock: Clock) -> None:
        """What is no file stays where it is."""
        (root / "spool" / "lost+found").mkdir()
        again = reopened(opened, root, clock)
        assert again.recovered == []
        again.close()
        assert os.listdir(root / "spool") == ["lost+found"]

    def test_next_try_is_now(self, opened: Spool, root: Path, clock: Clock) -> None:
        """After a restart everything is due: what was in the way may be gone."""
        arrival = accept(opened)
        opened.postpone(to(arrival, "save"), 3600, "No space left on device", [RECIPIENT])
        again = reopened(opened, root, clock)
        assert due(again) == [(arrival, "save", 1)]
        again.close()

    @pytest.mark.parametrize(
        ("state", "age", "kept"),
        [
            ("done", spool.HISTORY, True),
            ("done", spool.HISTORY + 1, False),
            ("failed", spool.HISTORY + 1, False),
            ("waiting", spool.HISTORY + 1, True),
            ("waiting", 10 * 365 * 86400, True),
            ("waiting", -10 * 365 * 86400, True),
        ],
    )
    def test_history(
        self, opened: Spool, root: Path, clock: Clock, state: str, age: float, kept: bool
    ) -> None:
        """R07: old uploads are forgotten with their deliveries, but never one that waits."""
        arrival = accept(opened)
        delivery = to(arrival, "save")
        if state == "done":
            opened.done(delivery)
        elif state == "failed":
            opened.failed(delivery, "it cannot be read")
        clock.now += age
        reopened(opened, root, clock).close()
        with sqlite3.connect(root / "state.sqlite3") as database:
            rows = [
                database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
                for table in ("upload", "delivery")
            ]
        database.close()
        assert rows == [kept, kept]
        assert (arrival.id in contents(root / "spool")) is (state == "waiting")


class TestIncoming:
    def test_id(self, opened: Spool) -> None:
        """An id begins with the UTC time and is never used twice."""
        ids = {opened.begin().id for _ in range(100)}
        assert len(ids) == 100
        assert {re.sub(r"[0-9a-f]{8}\Z", "*", id) for id in ids} == {"20260101T000000Z-*"}

    def test_write_and_fetch(self, opened: Spool) -> None:
        """What has been written can be read back at any time."""
        incoming = opened.begin()
        incoming.write(b"01234")
        seen = [incoming.fetch(1, 4), incoming.size]
        incoming.write(b"56789")
        seen += [incoming.fetch(3, 10), incoming.size]
        incoming.close()
        assert seen == [b"123", 5, b"3456789", 10]

    def test_being_received(self, opened: Spool, root: Path) -> None:
        """A body that is being received has a name that begins with a dot."""
        incoming = receive(opened)
        assert bodies(root) == ({f".{incoming.id}": BODY}, {})

    def test_close_twice(self, opened: Spool) -> None:
        """To close a body again does nothing."""
        incoming = opened.begin()
        incoming.close()
        incoming.close()

    def test_discard(self, opened: Spool, root: Path) -> None:
        """A discarded body leaves nothing, even if its file cannot be closed."""
        incoming = receive(opened)
        with Faults(("close",), errno.EIO):
            opened.discard(incoming)
        assert bodies(root) == ({}, {})


class TestAccept:
    def test_accepted(self, opened: Spool, root: Path, clock: Clock) -> None:
        """An accepted body is in the spool, and due at once for each target."""
        incoming = receive(opened)
        clock.now += 60
        deliveries = {"save": [RECIPIENT], "mail": ["a", "b"]}
        arrival = opened.accept(incoming, CLIENT, SENDER, CONTENT_TYPE, deliveries)
        now = NEW_YEAR + 60
        assert arrival == Arrival(incoming.id, now, CLIENT, SENDER)
        assert opened.waiting() == [
            Delivery(arrival, "mail", 0, ("a", "b"), 0, 0.0, now, ""),
            Delivery(arrival, "save", 0, (RECIPIENT,), 0, 0.0, now, ""),
        ]
        assert due(opened) == [(arrival, "mail", 0), (arrival, "save", 0)]
        assert bodies(root) == ({arrival.id: BODY}, {})

    def test_order(self, opened: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        """fsync of the body, rename, fsync of the folder, commit: in this order."""
        incoming = receive(opened)
        seen: list[str] = []
        fsync, replace = os.fsync, os.replace

        def fsynced(fd: int) -> None:
            kind = "folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "body"
            seen.append(f"fsync of the {kind}")
            fsync(fd)

        def renamed(source: str, target: str, **folders: int) -> None:
            seen.append("rename")
            replace(source, target, **folders)

        def watched(database: sqlite3.Connection, sql: str) -> None:
            if sql == "COMMIT":
                seen.append("commit")

        monkeypatch.setattr(os, "fsync", fsynced)
        monkeypatch.setattr(os, "replace", renamed)
        monkeypatch.setattr(Database, "watchers", [watched])
        opened.accept(incoming, CLIENT, SENDER, CONTENT_TYPE, SAVE)
        assert seen == ["fsync of the body", "rename", "fsync of the folder", "commit"]

    def test_failed_fsync_is_final(self, opened: Spool, root: Path) -> None:
        """K02: a failed fsync is not tried again, and the body is not accepted."""
        incoming = receive(opened)
        with (
            Faults(("fsync",), errno.EIO) as faults,
            pytest.raises(OSError, match="Input/output error"),
        ):
            opened.accept(incoming, CLIENT, SENDER, CONTENT_TYPE, SAVE)
        assert faults.failed == 1
        assert due(opened) == []
        assert list(contents(root / "spool")) == [f".{incoming.id}"]

    @pytest.mark.parametrize("rolled_back", [False, True], ids=["open", "rolled back by SQLite"])
    def test_failed_commit(self, opened: Spool, root: Path, rolled_back: bool) -> None:
        """Whether SQLite has rolled back or not: the body is not accepted, and the next one is."""
        incoming = receive(opened)

        def fail(database: sqlite3.Connection, sql: str) -> None:
            if sql == "COMMIT":
                if rolled_back:
                    sqlite3.Connection.execute(database, "ROLLBACK")
                raise sqlite3.OperationalError("database or disk is full")

        Database.watchers.append(fail)
        try:
            with pytest.raises(sqlite3.OperationalError, match="database or disk is full"):
                opened.accept(incoming, CLIENT, SENDER, CONTENT_TYPE, SAVE)
        finally:
            Database.watchers.remove(fail)
        assert due(opened) == []
        assert bodies(root) == ({f".{incoming.id}": BODY}, {})
        opened.discard(incoming)
        arrival = accept(opened)
        assert due(opened) == [(arrival, "save", 0)]

    def test_state_cannot_grow(self, opened: Spool, root: Path) -> None:
        """K01: when SQLite has no room, the body is not accepted; with room the next one is."""
        resource = pytest.importorskip("resource")
        size = (root / "state.sqlite3-wal").stat().st_size
        incoming = receive(opened)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            with pytest.raises(sqlite3.OperationalError, match=r"disk I/O error|disk is full"):
                opened.accept(incoming, CLIENT, SENDER, CONTENT_TYPE, SAVE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert due(opened) == []
        assert bodies(root) == ({f".{incoming.id}": BODY}, {})
        arrival = accept(opened, body([("OTHER.JPG", PHOTO)]))
        assert due(opened) == [(arrival, "save", 0)]

    def test_two_threads(self, opened: Spool) -> None:
        """C08: bodies that come at the same time do not mix."""
        sent = {f"192.0.2.{n}": body([(f"{n}.JPG", jpeg(20000, seed=n))]) for n in range(8)}
        together = threading.Barrier(len(sent))

        def send(client: str, data: bytes) -> None:
            incoming = opened.begin()
            together.wait()
            for start in range(0, len(data), 1000):
                incoming.write(data[start : start + 1000])
            opened.accept(incoming, client, SENDER, CONTENT_TYPE, SAVE)

        threads = [threading.Thread(target=send, args=item) for item in sent.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        came = {}
        for arrival, _, _ in due(opened):
            with opened.read(to(arrival, "save")) as (upload, _):
                came[arrival.client] = [(f.name, f.data) for f in upload.files]
        assert came == {
            f"192.0.2.{n}": [(f"{n}.JPG", jpeg(20000, seed=n))] for n in range(len(sent))
        }


EVERYTHING = (*CALLS, *STATEMENTS)
FAULTS = {
    "open": (("open",), errno.ENOSPC),
    "write": (("write",), errno.ENOSPC),
    "fsync": (("fsync",), errno.EIO),
    "close": (("close",), errno.EIO),
    "rename": (("replace",), errno.EROFS),
    "SQLite": (STATEMENTS, errno.EIO),
    "everything": (EVERYTHING, errno.EIO),
}


def try_to_accept(into: Spool, data: bytes) -> bool:
    """Receive a body as a Receiver does. Tells whether it was accepted."""
    incoming = None
    try:
        incoming = receive(into, data)
        into.accept(incoming, CLIENT, SENDER, CONTENT_TYPE, SAVE)
    except (OSError, sqlite3.Error):
        if incoming:
            into.discard(incoming)
        return False
    return True


class TestFailures:
    @pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
    @pytest.mark.parametrize(("names", "error"), FAULTS.values(), ids=FAULTS)
    def test_accept(
        self, tmp_path: Path, clock: Clock, names: tuple[str, ...], error: int, persistent: bool
    ) -> None:
        """K01, K02: whichever call fails, what was accepted is there, and nothing else waits.

        The next upload works, and a restart finds no half of one.
        """
        other = body([("NEXT.JPG", PHOTO)])
        for first in itertools.count(1):
            root = tmp_path / str(first) / ".nx"
            opened = Spool(root, clock)
            with Faults(names, error, first, persistent=persistent) as faults:
                accepted = [BODY] if try_to_accept(opened, BODY) else []
            accepted += [other] if try_to_accept(opened, other) else []
            again = reopened(opened, root, clock)
            waiting = [_raw(root, arrival) for arrival, _, _ in due(again)]
            again.close()
            spooled, quarantined = bodies(root)
            assert (first, sorted(waiting)) == (first, sorted(accepted))
            assert (first, sorted(spooled.values())) == (first, sorted(accepted))
            assert (first, other in accepted) == (first, True)
            # A body that was refused may be kept, whole or cut, but not twice.
            assert (first, len(quarantined) <= 1) == (first, True)
            assert (first, all(map(BODY.startswith, quarantined.values()))) == (first, True)
            if not faults.failed:
                break
        assert accepted == [BODY, other]

    @pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
    def test_quarantine(self, tmp_path: Path, clock: Clock, persistent: bool) -> None:
        """Whichever call fails, a cut body is in quarantine after a restart at the latest."""
        for first in itertools.count(1):
            root = tmp_path / str(first) / ".nx"
            opened = Spool(root, clock)
            incoming = receive(opened)
            with Faults(EVERYTHING, errno.EIO, first, persistent=persistent) as faults:
                try:
                    told = opened.quarantine(incoming)
                except OSError:
                    told = None
            reopened(opened, root, clock).close()
            assert (first, bodies(root)) == (first, ({}, {incoming.id: BODY}))
            if not faults.failed:
                break
        assert told == root / "quarantine" / incoming.id


def _raw(root: Path, arrival: Arrival) -> bytes:
    return (root / "spool" / arrival.id).read_bytes()


class TestKills:
    def test_accept(self, tmp_path: Path, clock: Clock) -> None:
        """R01: after a kill at any step the upload is there whole, waiting or in quarantine.

        What was told to be accepted waits, and is the only thing that does.
        """
        root = tmp_path / ".nx"
        opened = Spool(root, clock)
        with Kills(root, tmp_path / "copies") as kills:
            arrival = accept(opened)
        opened.close()
        found = {}
        for number, step in enumerate(kills.steps):
            again = Spool(kills.copy(number), clock)
            waiting = due(again)
            again.close()
            spooled, quarantined = bodies(kills.copy(number))
            whole = [data == BODY for data in (*spooled.values(), *quarantined.values())]
            found[f"{number}: {step}"] = (len(waiting), len(spooled), whole)
        assert found == {
            "0: open": (0, 0, []),
            "1: write": (0, 0, [False]),
            "2: write": (0, 0, [True]),
            "3: fsync": (0, 0, [True]),
            "4: close": (0, 0, [True]),
            "5: replace": (0, 0, [True]),
            "6: fsync": (0, 0, [True]),
            "7: before BEGIN": (0, 0, [True]),
            "8: before INSERT": (0, 0, [True]),
            "9: before INSERT": (0, 0, [True]),
            "10: before INSERT": (0, 0, [True]),
            "11: before COMMIT": (0, 0, [True]),
            "12: the end": (1, 1, [True]),
        }
        assert waiting == [(arrival, "save", 0)]

    def test_split(self, tmp_path: Path, clock: Clock) -> None:
        """After a kill at any step either all files wait together, or each by itself."""
        root = tmp_path / ".nx"
        opened = Spool(root, clock)
        arrival = accept(opened)
        with Kills(root, tmp_path / "copies") as kills:
            opened.split(to(arrival, "save"), 3)
        opened.close()
        found = {}
        for number, step in enumerate(kills.steps):
            again = Spool(kills.copy(number), clock)
            found[step] = [one.part for one in again.due("save")]
            again.close()
        assert found.pop("the end") == [1, 2, 3]
        assert set(map(tuple, found.values())) == {(0,)}
        assert {"before BEGIN", "before DELETE", "before INSERT", "before COMMIT"} <= set(found)

    @pytest.mark.parametrize(
        ("settle", "quarantined"),
        [
            (lambda opened, delivery: opened.done(delivery), False),
            (lambda opened, delivery: opened.failed(delivery, "it cannot be read"), False),
            (lambda opened, delivery: opened.give_up(delivery), True),
        ],
        ids=["done", "failed", "given up"],
    )
    def test_settle(
        self,
        tmp_path: Path,
        clock: Clock,
        settle: Callable[[Spool, Delivery], object],
        quarantined: bool,
    ) -> None:
        """R10: after a kill at any step the body is still there as long as its delivery waits."""
        root = tmp_path / ".nx"
        opened = Spool(root, clock)
        arrival = accept(opened)
        with Kills(root, tmp_path / "copies") as kills:
            settle(opened, to(arrival, "save"))
        opened.close()
        for number, step in enumerate(kills.steps):
            again = Spool(kills.copy(number), clock)
            waiting = bool(due(again))
            again.close()
            left = [data for kind in bodies(kills.copy(number)) for data in kind.values()]
            expected = [BODY] if waiting or quarantined else []
            assert (number, step, left) == (number, step, expected)


class TestQuarantine:
    def test_kept(self, opened: Spool, root: Path) -> None:
        """A cut body is kept as it came."""
        incoming = receive(opened, BODY[:300])
        assert opened.quarantine(incoming) == root / "quarantine" / incoming.id
        assert bodies(root) == ({}, {incoming.id: BODY[:300]})

    def test_empty(self, opened: Spool, root: Path) -> None:
        """A body of which nothing came is not kept."""
        assert opened.quarantine(opened.begin()) is None
        assert bodies(root) == ({}, {})

    @pytest.mark.parametrize(
        ("room", "deleted"),
        [(9999, 0), (300, 0), (299, 1), (200, 1), (199, 2), (0, 3)],
    )
    def test_tidy(
        self,
        opened: Spool,
        root: Path,
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
        room: int,
        deleted: int,
    ) -> None:
        """When quarantine is full, the oldest in it are deleted, and no more than needed."""
        monkeypatch.setattr(spool, "MAX_QUARANTINE", room)
        paths = []
        for _ in range(3):
            paths.append(opened.quarantine(receive(opened, b"x" * 100)))
            clock.now += 1
        waiting = accept(opened)
        assert opened.tidy() == paths[:deleted]
        assert [root / "quarantine" / name for name in bodies(root)[1]] == paths[deleted:]
        assert list(bodies(root)[0]) == [waiting.id]

    def test_tidied_by_somebody_else(self, opened: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        """A person who deletes a file at the same moment is no error."""
        monkeypatch.setattr(spool, "MAX_QUARANTINE", 0)
        path = opened.quarantine(receive(opened))
        files = Folder.files

        def late(folder: Folder) -> list[tuple[str, os.stat_result]]:
            found = files(folder)
            if path and path.exists():
                path.unlink()
            return found

        monkeypatch.setattr(Folder, "files", late)
        assert opened.tidy() == []

    def test_tidy_what_can_be(
        self, opened: Spool, root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that cannot be deleted stays, and the next oldest go in its place."""
        monkeypatch.setattr(spool, "MAX_QUARANTINE", 200)
        paths = []
        for _ in range(4):
            paths.append(opened.quarantine(receive(opened, b"x" * 100)))
            clock.now += 1
        with Faults(("unlink",), errno.EPERM):
            assert opened.tidy() == paths[1:3]
        assert [root / "quarantine" / name for name in bodies(root)[1]] == [paths[0], paths[3]]

    def test_give_up(self, opened: Spool, root: Path) -> None:
        """An accepted body that cannot be read is kept in quarantine."""
        arrival = accept(opened, b"not multipart")
        assert opened.give_up(to(arrival, "save")) == [root / "quarantine" / arrival.id]
        assert opened.give_up(to(arrival, "save")) == []
        assert bodies(root) == ({}, {arrival.id: b"not multipart"})


class TestDeliveries:
    def test_oldest_first(self, opened: Spool, clock: Clock) -> None:
        """Deliveries wait in the order in which their uploads came, then by target and file."""
        expected = []
        for _ in range(3):
            arrival = accept(opened, targets=("save", "mail"))
            opened.split(to(arrival, "mail"), 2)
            expected += [(arrival, "mail", 1), (arrival, "mail", 2), (arrival, "save", 0)]
            clock.now += 1
        found = {
            target: [(one.arrival, target, one.part) for one in opened.due(target)]
            for target in ("mail", "save")
        }
        assert [(one.arrival, one.target, one.part) for one in opened.waiting()] == expected
        assert found == {
            target: [one for one in expected if one[1] == target] for target in ("mail", "save")
        }
        assert opened.targets() == ["mail", "save"]

    def test_without_targets(self, opened: Spool, root: Path, clock: Clock) -> None:
        """An upload for nobody is never due, and gone at the next start."""
        accept(opened, targets=())
        assert due(opened) == []
        reopened(opened, root, clock).close()
        assert bodies(root) == ({}, {})

    def test_postpone(self, opened: Spool, clock: Clock) -> None:
        """A postponed delivery is due again when its time has come, with one more attempt."""
        arrival = accept(opened)
        opened.postpone(to(arrival, "save"), 15, "No space left on device", [RECIPIENT])
        seen: list[object] = [opened.next_try("save"), due(opened)]
        clock.now += 14.9
        seen.append(due(opened))
        clock.now += 0.1
        seen.append(due(opened))
        assert seen == [NEW_YEAR + 15, [], [], [(arrival, "save", 1)]]

    @pytest.mark.parametrize(
        ("seconds", "expected"),
        [
            (0, True),
            (1, False),
            (2 * spool.MAX_WAIT, False),
            (2 * spool.MAX_WAIT + 1, True),
            (56 * 365 * 86400, True),
        ],
    )
    def test_clock_set_back(
        self, opened: Spool, clock: Clock, seconds: float, expected: bool
    ) -> None:
        """R07: what came while the clock was wrong does not wait until that time comes."""
        arrival = accept(opened)
        clock.now -= seconds
        assert due(opened) == ([(arrival, "save", 0)] if expected else [])

    def test_next_try(self, opened: Spool, clock: Clock) -> None:
        """The next try is that of the delivery which is due first; what is settled has none."""
        late, early, never = accept(opened), accept(opened), accept(opened)
        opened.postpone(to(late, "save"), 60, "", [RECIPIENT])
        opened.postpone(to(early, "save"), 30, "", [RECIPIENT])
        opened.failed(to(never, "save"), "")
        seen = [opened.next_try("save")]
        opened.done(to(early, "save"))
        seen.append(opened.next_try("save"))
        opened.done(to(late, "save"))
        seen.append(opened.next_try("save"))
        assert seen == [NEW_YEAR + 30, NEW_YEAR + 60, None]

    def test_done(self, opened: Spool, root: Path) -> None:
        """The body is deleted after the last delivery."""
        arrival = accept(opened, targets=("save", "mail"))
        seen = []
        for target in ("save", "mail"):
            opened.done(to(arrival, target))
            seen.append((bodies(root), due(opened)))
        assert seen == [
            (({arrival.id: BODY}, {}), [(arrival, "mail", 0)]),
            (({}, {}), []),
        ]

    def test_history(self, opened: Spool, root: Path) -> None:
        """What became of each delivery stands in the database."""
        arrival = accept(opened, targets=("a", "b", "c"))
        opened.done(to(arrival, "a"))
        opened.failed(to(arrival, "b"), "it cannot be read")
        opened.postpone(to(arrival, "c"), 15, "No space left on device", [RECIPIENT])
        with sqlite3.connect(root / "state.sqlite3") as database:
            rows = database.execute(
                "SELECT target, state, attempts, waited, next_try, reason FROM delivery"
            ).fetchall()
        database.close()
        assert rows == [
            ("a", "done", 1, 0, NEW_YEAR, ""),
            ("b", "failed", 1, 0, NEW_YEAR, "it cannot be read"),
            ("c", "waiting", 1, 15, NEW_YEAR + 15, "No space left on device"),
        ]

    def test_postponed_again(self, opened: Spool, clock: Clock) -> None:
        """What a delivery has waited is added up from its waits, whatever the clock does."""
        arrival = accept(opened, targets=("mail",))
        opened.postpone(to(arrival, "mail"), 15, "421 later", ["a", "b"])
        clock.now -= 86400
        opened.postpone(to(arrival, "mail"), 30, "450 busy", ["b"])
        when = NEW_YEAR - 86400 + 30
        assert opened.waiting() == [Delivery(arrival, "mail", 0, ("b",), 2, 45.0, when, "450 busy")]

    def test_split(self, opened: Spool, root: Path, clock: Clock) -> None:
        """One delivery for each file: each has its id, and those recipients that were left."""
        arrival = accept(opened, targets=("mail", "save"))
        opened.postpone(to(arrival, "mail"), 15, "450 busy", ["b"])
        clock.now += 15
        [delivery] = opened.due("mail")
        opened.split(delivery, 3)
        assert [(one.id, one.target, one.recipients, one.waited) for one in opened.waiting()] == [
            (f"{arrival.id}.1", "mail", ("b",), 0),
            (f"{arrival.id}.2", "mail", ("b",), 0),
            (f"{arrival.id}.3", "mail", ("b",), 0),
            (arrival.id, "save", (RECIPIENT,), 0),
        ]
        assert [one.part for one in opened.due("mail")] == [1, 2, 3]
        for one in opened.waiting():
            assert list(contents(root / "spool")) == [arrival.id]
            opened.done(one)
        assert contents(root / "spool") == {}

    def test_split_when_dropped(self, opened: Spool) -> None:
        """What a person has dropped meanwhile does not come back in pieces."""
        arrival = accept(opened, targets=("mail", "save"))
        opened.failed(to(arrival, "mail"), "dropped by hand")
        opened.split(to(arrival, "mail"), 2)
        assert [one.target for one in opened.waiting()] == ["save"]

    def test_part(self, opened: Spool) -> None:
        """A delivery is for all files, or for one, counted from 1."""
        arrival = accept(opened, body([("A.JPG", PHOTO), ("B.JPG", jpeg(600))]))
        names = []
        for part in range(3):
            with opened.read(to(arrival, "mail", part)) as (upload, files):
                names.append([file.name for file in files])
            assert len(upload.files) == 2
        assert names == [["A.JPG", "B.JPG"], ["A.JPG"], ["B.JPG"]]

    def test_hurry(self, opened: Spool, clock: Clock) -> None:
        """All that waits of an upload is due now; what has ended, or is another's, is not."""
        arrival, other = accept(opened, targets=("a", "b", "c")), accept(opened, targets=("a",))
        opened.split(to(arrival, "b"), 2)
        opened.done(to(arrival, "c"))
        for one in opened.waiting():
            opened.postpone(one, 3600, "450 busy", one.recipients)
        clock.now += 1
        assert opened.hurry(arrival.id) == 3
        assert {(one[0].id, one[1]) for one in due(opened)} == {
            (arrival.id, "a"),
            (arrival.id, "b"),
        }
        assert [opened.hurry(other.id), opened.hurry("nobody")] == [1, 0]

    def test_start_with_many(self, opened: Spool, root: Path, clock: Clock) -> None:
        """K12: a long outage does not make the next start slow."""
        opened.close()
        count = 5_000
        with sqlite3.connect(root / "state.sqlite3") as database:
            database.executemany(
                "INSERT INTO upload (id, received, client, sender) VALUES (?, ?, '', '')",
                ((f"id-{number}", NEW_YEAR) for number in range(count)),
            )
            database.execute(
                "INSERT INTO delivery (upload, target, part, recipients, state, next_try)"
                " SELECT id, 'save', 0, '[]', 'waiting', received FROM upload"
            )
        database.close()
        begun = time.monotonic()
        again = Spool(root, clock)
        found = len(again.due("save"))
        again.close()
        assert found == count
        assert time.monotonic() - begun < 5


class TestRepeats:
    @pytest.mark.parametrize(
        ("sender", "data", "later", "found"),
        [
            (SENDER, BODY, 0, True),
            (SENDER, BODY, spool.REPEAT, True),
            (SENDER, BODY, -spool.REPEAT, True),
            (SENDER, BODY, spool.REPEAT + 1, False),
            (SENDER, BODY, 10 * 365 * 86400, False),
            (SENDER, BODY, -10 * 365 * 86400, False),
            ("other@example.org", BODY, 0, False),
            ("", BODY, 0, False),
            (SENDER, BODY + b"x", 0, False),
        ],
        ids=[
            "at once",
            "within the hour",
            "clock set back a little",
            "later",
            "clock set forward",
            "clock set back",
            "other sender",
            "no sender",
            "other bytes",
        ],
    )
    def test_unheard(
        self, opened: Spool, clock: Clock, sender: str, data: bytes, later: float, found: bool
    ) -> None:
        """The same bytes of the same sender within the hour are a repeat."""
        arrival = accept(opened)
        opened.unheard(arrival.id)
        clock.now += later
        repeated = opened.repeated(sender, receive(opened, data).sha256)
        assert repeated == (arrival.id if found else None)

    def test_heard(self, opened: Spool) -> None:
        """Who has heard that an upload is accepted, and sends it again, means it."""
        arrival = accept(opened)
        assert opened.repeated(SENDER, SHA256) is None

    def test_once(self, opened: Spool) -> None:
        """A repeat is answered once, or as often as that answer is not heard either."""
        arrival = accept(opened)
        seen = []
        for unheard in (True, False, True, False):
            if unheard:
                opened.unheard(arrival.id)
            seen.append(opened.repeated(SENDER, SHA256))
        assert seen == [arrival.id, None, arrival.id, None]

    def test_after_a_restart(self, opened: Spool, root: Path, clock: Clock) -> None:
        """A repeat is known after a restart, and when the upload has been delivered already."""
        arrival = accept(opened)
        opened.unheard(arrival.id)
        opened.done(to(arrival, "save"))
        again = reopened(opened, root, clock)
        assert again.repeated(SENDER, SHA256) == arrival.id
        again.close()

    def test_unknown(self, opened: Spool) -> None:
        """An upload that nobody knows is no error."""
        opened.unheard("nobody")
        assert opened.repeated(SENDER, SHA256) is None


class TestBeside:
    """A second one, opened with `alone=False` beside the one that delivers."""

    @pytest.fixture
    def beside(self, opened: Spool, root: Path, clock: Clock) -> Iterator[Spool]:
        found = Spool(root, clock, alone=False)
        yield found
        found.close()

    def test_sees_what_waits(self, opened: Spool, beside: Spool) -> None:
        """What waits is seen there, too."""
        arrival = accept(opened)
        assert due(beside) == [(arrival, "save", 0)]
        with beside.read(to(arrival, "save")) as (upload, _):
            assert upload.files[0].data == PHOTO

    def test_touches_nothing(self, opened: Spool, root: Path, clock: Clock) -> None:
        """It recovers nothing: what looks left over is being received this moment."""
        incoming, arrival = receive(opened), accept(opened)
        opened.postpone(to(arrival, "save"), 60, "450 busy", [RECIPIENT])
        found = Spool(root, clock, alone=False)
        assert (found.recovered, due(found)) == ([], [])
        found.close()
        assert bodies(root) == ({f".{incoming.id}": BODY, arrival.id: BODY}, {})

    @pytest.mark.parametrize(
        "change",
        [
            lambda found, arrival: found.hurry(arrival.id),
            lambda found, arrival: found.failed(to(arrival, "save"), "dropped by hand"),
        ],
        ids=["hurry", "failed"],
    )
    def test_is_noticed(
        self, opened: Spool, beside: Spool, change: Callable[[Spool, Arrival], object]
    ) -> None:
        """What another one changes changes the version; what it does itself does not."""
        arrival = accept(opened)
        before = opened.version()
        opened.postpone(to(arrival, "save"), 60, "450 busy", [RECIPIENT])
        seen = [opened.version() == before]
        beside.waiting()
        seen.append(opened.version() == before)
        change(beside, arrival)
        seen.append(opened.version() == before)
        assert seen == [True, True, False]

    def test_first_one_may_end(self, opened: Spool, beside: Spool, root: Path) -> None:
        """It keeps nobody from being the one that delivers."""
        opened.close()
        Spool(root).close()
        assert due(beside) == []


class TestRead:
    def test_read(self, opened: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        """An accepted upload can be read as often as needed, whatever the size of a piece."""
        arrival = accept(opened)
        monkeypatch.setattr(disk, "CHUNK", 7)
        for _ in range(2):
            with opened.read(to(arrival, "save")) as (upload, _):
                assert [(f.name, f.data) for f in upload.files] == [("SAM_4371.JPG", PHOTO)]

    def test_gone(self, opened: Spool, root: Path) -> None:
        """A body that is gone cannot be read."""
        arrival = accept(opened)
        (root / "spool" / arrival.id).unlink()
        with pytest.raises(BodyError, match="its body is gone"), opened.read(to(arrival, "save")):
            pass

    @pytest.mark.parametrize(
        "where",
        [b"SAM_4371", b"Samsung Camera", PHOTO[200:210], BOUNDARY],
        ids=["name", "text", "photo", "boundary"],
    )
    def test_flipped_bit(self, opened: Spool, root: Path, where: bytes) -> None:
        """K06: a body of which one bit has changed is not delivered."""
        arrival = accept(opened)
        path = root / "spool" / arrival.id
        data = bytearray(path.read_bytes())
        data[BODY.index(where)] ^= 1
        path.write_bytes(data)
        with pytest.raises(BodyError), opened.read(to(arrival, "save")):
            pass

    @pytest.mark.parametrize("size", [0, 1, 500, len(BODY) - 1, len(BODY) + 1])
    def test_other_size(self, opened: Spool, root: Path, size: int) -> None:
        """R04: a body that has been cut, or has grown, is not delivered."""
        arrival = accept(opened)
        (root / "spool" / arrival.id).write_bytes((BODY + b"x")[:size])
        with pytest.raises(BodyError), opened.read(to(arrival, "save")):
            pass

    def test_not_readable(self, opened: Spool) -> None:
        """A body that makes no sense cannot be read."""
        arrival = accept(opened, b"not multipart")
        with pytest.raises(BodyError, match="never appears"), opened.read(to(arrival, "save")):
            pass

    @pytest.mark.parametrize("content_type", [CONTENT_TYPE, "", "text/plain"])
    def test_content_type_is_kept(self, opened: Spool, content_type: str) -> None:
        """A body is read again with the type with which it came, whatever that is."""
        arrival = opened.accept(receive(opened), CLIENT, SENDER, content_type, SAVE)
        with opened.read(to(arrival, "save")) as (upload, _):
            assert upload.files[0].data == PHOTO

    def test_failure(self, opened: Spool) -> None:
        """K06: a disk that fails for a moment is no reason to give up."""
        arrival = accept(opened)
        with (
            Faults(("open",), errno.EMFILE),
            pytest.raises(OSError, match="Too many open files"),
            opened.read(to(arrival, "save")),
        ):
            pass
