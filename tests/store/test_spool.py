from __future__ import annotations

import errno
import itertools
import os
import re
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from nxparse import upload
from nxparse.deliver import mail
from nxparse.deviation import BodyError
from nxparse.store import body as store_body
from nxparse.store import quarantine, spool
from nxparse.store.body import Incoming
from nxparse.store.deliveries import MAX_WAIT
from nxparse.store.disk import Folder
from nxparse.store.records import (
    RECENT,
    Delivery,
    DeliveryStatus,
    FileRecord,
    Post,
    StoredUpload,
)
from nxparse.store.records import GAP
from nxparse.store.replies import REPEAT, RepeatedError
from nxparse.store.spool import MAX_PHOTOS, QUIET, Spool
from nxparse.upload import File, Thumbnail
from tests.arrivals import parsed
from tests.bodies import RECIPIENT, SENDER, body, jpeg, message_xml
from tests.clock import NEW_YEAR, Clock
from tests.faults import (
    CALLS,
    STATEMENTS,
    AtOnce,
    Database,
    Faults,
    Kills,
    contents,
    make_lazy,
)

PHOTO = jpeg(500)
BODY = body([("SAM_4371.JPG", PHOTO)])
CLIENT = "192.0.2.7"
SAVE = {"save": [RECIPIENT]}

SITE = "facebook"
MAIL, OTHER = "mail:me@example.org", "mail:you@example.org"
POST = Post(CLIENT, "anna", "a session", SITE, "NX300", "At the sea")
YEARS = 10 * 365 * 86400.0


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
    incoming = into.begin(len(data))
    incoming.write(data[:100])
    incoming.write(data[100:])
    return incoming


UPLOAD = parsed(BODY)


def accept(
    into: Spool, data: bytes = BODY, targets: tuple[str, ...] = ("save",), sender: str = SENDER
) -> StoredUpload:
    """An upload has been accepted, and the camera has its reply."""
    deliveries = {target: [RECIPIENT] for target in targets}
    arrival = into.accept(receive(into, data), CLIENT, parsed(data, sender), deliveries)
    into.reply_confirmed(arrival.id)
    return arrival


def to(arrival: StoredUpload, target: str, part: int = 0) -> Delivery:
    """An upload, or a file of it, on its way to a target."""
    return Delivery(arrival, target, part, (RECIPIENT,), 0, 0.0, arrival.received, "")


def due(found: Spool) -> list[tuple[StoredUpload, str, int]]:
    """What is due to any target: upload, target and number of attempts."""
    return [
        (one.arrival, one.target, one.attempts)
        for target in found.targets()
        for one in found.due(target)
    ]


def photo(number: int) -> bytes:
    """One of the photos of a post."""
    return jpeg(300 + number, number)


NUMBERS = {photo(number): number for number in range(1, 81)}


def whole(incoming: Incoming, name: str | None = "SAM.JPG", kind: str = "image/jpeg") -> File:
    """The file that a body is."""
    return upload.whole(name, kind, incoming.size, incoming.fetch)


def append(
    into: Spool,
    number: int,
    post: Post = POST,
    *,
    at_once: Sequence[str] = ("save",),
    together: Sequence[str] = (MAIL,),
    resource: str = "",
    thumbnail: Thumbnail | None = None,
    confirmed: bool = True,
) -> StoredUpload:
    """A photo of a post has been accepted, and the camera has its reply."""
    incoming = receive(into, photo(number))
    arrival = into.append(
        incoming,
        post,
        whole(incoming, f"{number}.JPG"),
        resource,
        at_once=at_once,
        together=together,
        thumbnail=thumbnail,
    )
    if confirmed:
        into.reply_confirmed(incoming.id)
    return arrival


def append_all(
    into: Spool,
    *numbers: int,
    at_once: Sequence[str] = ("save",),
    together: Sequence[str] = (MAIL,),
) -> StoredUpload:
    """Several photos of a post have come in."""
    first, *_ = [append(into, one, at_once=at_once, together=together) for one in numbers]
    return first


def numbers(found: Spool, delivery: Delivery) -> list[int]:
    """The numbers of the photos that are delivered."""
    with found.read(delivery) as (_, files):
        return [NUMBERS[file.data] for file in files]


def posts(found: Spool, target: str = MAIL) -> list[list[int]]:
    """The photos of each delivery that waits for a target."""
    return sorted(numbers(found, one) for one in found.waiting() if one.target == target)


def waits(found: Spool, clock: Clock) -> list[tuple[str, int, float]]:
    """What waits: target, part, and for how long yet."""
    return sorted(
        (one.target, one.file_number, one.next_try - clock.now) for one in found.waiting()
    )


def spooled(root: Path) -> list[int]:
    """The numbers of the photos in the spool."""
    return sorted(NUMBERS[data] for data in contents(root / "spool").values())


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

    def test_other_schema(self, root: Path, clock: Clock) -> None:
        """R06: what another version has written is refused in a sentence, and not touched."""
        Spool(root, clock).close()
        state = root / "state.sqlite3"
        with sqlite3.connect(state) as database:
            database.execute("PRAGMA user_version = 4")
        database.close()
        before = state.read_bytes()
        with pytest.raises(sqlite3.DatabaseError) as caught:
            Spool(root, clock)
        assert str(caught.value) == (
            f"{state} was written by another version of nx_addon: use that one, or another nx_dir"
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
        opened.accept(incoming, CLIENT, UPLOAD, SAVE)
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

    def test_half_kept(self, opened: Spool, root: Path, clock: Clock) -> None:
        """Half a file in `undelivered` is deleted; whole ones, and what is not ours, stay."""
        day = root.parent / "undelivered" / "2026-01-01"
        day.mkdir(parents=True)
        names = ("SAM_4371.JPG", ".20260101T000000Z-00000000-0", ".hidden")
        for name in names:
            (day / name).touch()
        reopened(opened, root, clock).close()
        assert sorted(os.listdir(day)) == [".hidden", "SAM_4371.JPG"]

    def test_copies(self, opened: Spool, root: Path, clock: Clock) -> None:
        """Copies for a command that a crash has cut off are deleted, and nothing else is."""
        elsewhere = root.parent / "elsewhere"
        for place in (root / "run-1", root / "run-2" / "deep", elsewhere):
            place.mkdir(parents=True)
            (place / "SAM_4371.JPG").write_bytes(PHOTO)
        (root / "run-link").symlink_to(elsewhere)
        beside = Spool(root, clock, alone=False)  # a command may be at work with them
        beside.close()
        assert len(list(root.glob("run-*"))) == 3
        reopened(opened, root, clock).close()
        assert [path.name for path in root.glob("run-*")] == ["run-link"]
        assert contents(elsewhere) == {"SAM_4371.JPG": PHOTO}

    @pytest.mark.parametrize("call", ["unlink", "rmdir", "scandir"])
    def test_copies_that_stay(
        self,
        opened: Spool,
        root: Path,
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
        call: str,
    ) -> None:
        """Copies that cannot be deleted keep nobody from opening it."""
        (root / "run-1").mkdir()
        (root / "run-1" / "SAM_4371.JPG").write_bytes(PHOTO)
        arrival = accept(opened)
        opened.close()

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            again = Spool(root, clock)
        assert due(again) == [(arrival, "save", 0)]
        assert (root / "run-1").exists()
        again.close()

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

    def test_close_twice(self, opened: Spool) -> None:
        """To close a body again does nothing."""
        incoming = opened.begin()
        incoming.close()
        incoming.close()

    def test_discard(self, opened: Spool, root: Path) -> None:
        """A discarded body leaves nothing, even if its file cannot be closed."""
        incoming = receive(opened)
        with Faults(("close",), errno.EIO):
            incoming.discard()
        assert bodies(root) == ({}, {})


class TestEarlyFsync:
    """What has come of a large body is fsynced while more comes."""

    @pytest.fixture(autouse=True)
    def _stride(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store_body, "STRIDE", 1000)

    @pytest.fixture
    def at_once(self, root: Path) -> Iterator[Spool]:
        """A spool whose early fsyncs are over when `write` returns."""
        found = Spool(root)
        yield found
        found.close()

    @pytest.fixture
    def sizes(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """How large the file was at each fsync."""
        found: list[int] = []

        def fsync(fd: int) -> None:
            state = os.fstat(fd)
            if stat.S_ISREG(state.st_mode):
                found.append(state.st_size)

        monkeypatch.setattr(os, "fsync", fsync)
        return found

    def test_strides(self, at_once: Spool, sizes: list[int]) -> None:
        """There is one after each stride, counted from the last one."""
        incoming = at_once.begin()
        for size in (999, 1, 999, 500, 501, 999, 5000):
            incoming.write(bytes(size))
        incoming.sync()
        incoming.close()
        assert sizes == [1000, 2499, 3999, 8999, 8999]

    def test_descriptors(self, at_once: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is made with a descriptor of its own, which is closed, whether it fails or not."""
        used: list[int] = []

        def fsync(fd: int) -> None:
            used.append(fd)
            if len(used) == 2:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        incoming = at_once.begin()
        monkeypatch.setattr(os, "fsync", fsync)
        incoming.write(bytes(1000))
        incoming.write(bytes(1000))
        own = incoming._fd
        assert own not in used
        for fd in used:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
        incoming.discard()

    def test_nobody_waits(self, opened: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        """More can be written meanwhile, without another one; `sync` makes the last, and waits."""
        begun, end = threading.Event(), threading.Event()
        calls: list[str] = []

        def fsync(fd: int) -> None:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                return
            early = threading.current_thread() is not threading.main_thread()
            calls.append("early" if early else "last")
            begun.set()
            assert end.wait(30)
            calls.append("over")

        monkeypatch.setattr(os, "fsync", fsync)
        incoming = opened.begin()
        incoming.write(bytes(1000))
        assert begun.wait(30)
        incoming.write(bytes(5000))
        assert calls == ["early"]
        threading.Timer(0.02, end.set).start()
        incoming.sync()
        incoming.close()
        assert sorted(calls) == ["early", "last", "over", "over"]

    @pytest.mark.parametrize(
        "notice",
        [
            lambda found, incoming: incoming.write(bytes(1000)),
            lambda found, incoming: found.accept(incoming, CLIENT, UPLOAD, SAVE),
            lambda found, incoming: found.quarantine(incoming),
        ],
        ids=["write", "accept", "quarantine"],
    )
    def test_failure_is_final(
        self, at_once: Spool, notice: Callable[[Spool, Incoming], object]
    ) -> None:
        """K02: when it has failed, the body is lost, whatever the next fsync would say."""
        incoming = at_once.begin()
        with Faults(("fsync",), errno.EIO) as faults:
            incoming.write(bytes(1000))
            with pytest.raises(OSError, match="Input/output error"):
                notice(at_once, incoming)
        assert (faults.calls, faults.failed) == (1, 1)
        assert due(at_once) == []
        incoming.discard()


class TestAccept:
    def test_accepted(self, opened: Spool, root: Path, clock: Clock) -> None:
        """An accepted body is in the spool, and due at once for each target."""
        incoming = receive(opened)
        clock.now += 60
        deliveries = {"save": [RECIPIENT], "mail": ["a", "b"]}
        arrival = opened.accept(incoming, CLIENT, UPLOAD, deliveries)
        now = NEW_YEAR + 60
        assert arrival == StoredUpload(incoming.id, now, CLIENT, SENDER)
        assert opened.waiting() == [
            Delivery(arrival, "mail", 0, ("a", "b"), 0, 0.0, now, ""),
            Delivery(arrival, "save", 0, (RECIPIENT,), 0, 0.0, now, ""),
        ]
        assert due(opened) == [(arrival, "mail", 0), (arrival, "save", 0)]
        assert bodies(root) == ({arrival.id: BODY}, {})

    def test_order(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The entry of the body is synced while it arrives; then fsync of the body, and commit."""
        seen: list[str] = []
        fsync, write = os.fsync, os.write

        def fsynced(fd: int) -> None:
            kind = "folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "body"
            seen.append(f"fsync of the {kind}")
            fsync(fd)

        def written(fd: int, data: bytes) -> int:
            seen.append("write")
            return write(fd, data)

        def watched(database: sqlite3.Connection, sql: str) -> None:
            if sql == "COMMIT":
                seen.append("commit")

        with closing(Spool(root)) as opened:
            monkeypatch.setattr(os, "fsync", fsynced)
            monkeypatch.setattr(os, "write", written)
            monkeypatch.setattr(Database, "watchers", [watched])
            opened.accept(receive(opened), CLIENT, UPLOAD, SAVE)
        assert seen == ["fsync of the folder", "write", "write", "fsync of the body", "commit"]

    def test_entry_is_waited_for(self, opened: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        """An upload is not accepted before its directory entry is durable."""
        end = threading.Event()
        begun = threading.Event()

        def fsync(fd: int) -> None:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                begun.set()
                assert end.wait(30)

        monkeypatch.setattr(os, "fsync", fsync)
        incoming = receive(opened)
        assert begun.wait(30)
        with ThreadPoolExecutor() as threads:
            accepted = threads.submit(opened.accept, incoming, CLIENT, UPLOAD, SAVE)
            with pytest.raises(TimeoutError):
                accepted.result(0.1)
            assert opened.waiting() == []
            end.set()
            assert accepted.result(30).id == incoming.id

    def test_entry_that_cannot_be_synced(self, root: Path) -> None:
        """K02: without its directory entry a body would be lost: it is not accepted."""
        with closing(Spool(root)) as opened:
            with Faults(("fsync",), errno.EIO):
                incoming = receive(opened)
            for _ in range(2):
                with pytest.raises(OSError, match="Input/output error"):
                    opened.accept(incoming, CLIENT, UPLOAD, SAVE)
            assert due(opened) == []

    def test_failed_fsync_is_final(self, opened: Spool, root: Path) -> None:
        """K02: a failed fsync is not tried again, and the body is not accepted."""
        incoming = receive(opened)
        with (
            Faults(("fsync",), errno.EIO) as faults,
            pytest.raises(OSError, match="Input/output error"),
        ):
            opened.accept(incoming, CLIENT, UPLOAD, SAVE)
        assert faults.failed == 1
        assert due(opened) == []
        assert list(contents(root / "spool")) == [incoming.id]

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
                opened.accept(incoming, CLIENT, UPLOAD, SAVE)
        finally:
            Database.watchers.remove(fail)
        assert due(opened) == []
        assert bodies(root) == ({incoming.id: BODY}, {})
        incoming.discard()
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
                opened.accept(incoming, CLIENT, UPLOAD, SAVE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert due(opened) == []
        assert bodies(root) == ({incoming.id: BODY}, {})
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
            opened.accept(incoming, client, parsed(data), SAVE)

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


EVERYTHING = (*CALLS, *STATEMENTS, "SELECT", "UPDATE")
FAULTS = {
    "open": (("open",), errno.ENOSPC),
    "write": (("write",), errno.ENOSPC),
    "fsync": (("fsync",), errno.EIO),
    "close": (("close",), errno.EIO),
    "rename": (("replace",), errno.EROFS),
    "SQLite": ((*STATEMENTS, "SELECT", "UPDATE"), errno.EIO),
    "everything": (EVERYTHING, errno.EIO),
}


def try_to_append(into: Spool, number: int) -> bool:
    """Receive a photo of a post as a FileReceiver does. Tells whether it was accepted."""
    incoming = None
    try:
        incoming = receive(into, photo(number))
        into.append(incoming, POST, whole(incoming), "", at_once=["save"], together=[MAIL])
    except (OSError, sqlite3.Error):
        if incoming:
            incoming.discard()
        return False
    return True


def try_to_accept(into: Spool, data: bytes) -> bool:
    """Receive a body as a Receiver does. Tells whether it was accepted."""
    incoming = None
    try:
        incoming = receive(into, data)
        into.accept(incoming, CLIENT, UPLOAD, SAVE)
    except (OSError, sqlite3.Error):
        if incoming:
            incoming.discard()
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
    @pytest.mark.parametrize(("names", "error"), FAULTS.values(), ids=FAULTS)
    def test_append(
        self, tmp_path: Path, clock: Clock, names: tuple[str, ...], error: int, persistent: bool
    ) -> None:
        """K01, K02: whichever call fails, a photo joins its post, for all its targets, or does not.

        The photo before it and the next one are there in any case.
        """
        for first in itertools.count(1):
            root = tmp_path / str(first) / ".nx"
            opened = Spool(root, clock)
            append(opened, 1)
            with Faults(names, error, first, persistent=persistent) as faults:
                accepted = [1, 2] if try_to_append(opened, 2) else [1]
            accepted += [3] if try_to_append(opened, 3) else []
            again = reopened(opened, root, clock)
            waiting = posts(again), posts(again, "save")
            again.close()
            quarantined = bodies(root)[1]
            assert (first, waiting) == (first, ([accepted], [[one] for one in accepted]))
            assert (first, spooled(root)) == (first, accepted)
            assert (first, 3 in accepted) == (first, True)
            assert (first, len(quarantined) <= 1) == (first, True)
            assert (first, all(map(photo(2).startswith, quarantined.values()))) == (first, True)
            if not faults.failed:
                break
        assert accepted == [1, 2, 3]

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


def _raw(root: Path, arrival: StoredUpload) -> bytes:
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
            "1: fsync": (0, 0, []),
            "2: write": (0, 0, [False]),
            "3: write": (0, 0, [True]),
            "4: fsync": (0, 0, [True]),
            "5: before BEGIN": (0, 0, [True]),
            "6: before SAVEPOINT": (0, 0, [True]),
            "7: before SELECT": (0, 0, [True]),
            "8: before INSERT": (0, 0, [True]),
            "9: before UPDATE": (0, 0, [True]),
            **{f"{step}: before INSERT": (0, 0, [True]) for step in (10, 11, 12)},
            "13: before RELEASE": (0, 0, [True]),
            "14: before COMMIT": (0, 0, [True]),
            "15: close": (1, 1, [True]),
            "16: the end": (1, 1, [True]),
        }
        assert waiting == [(arrival, "save", 0)]

    def test_append(self, tmp_path: Path, clock: Clock) -> None:
        """R01: after a kill at any step a photo has joined its post, or is in quarantine.

        What was told to be accepted waits, for all its targets; nothing is mixed.
        """
        root = tmp_path / ".nx"
        opened = Spool(root, clock)
        append(opened, 1)
        with Kills(root, tmp_path / "copies") as kills:
            append(opened, 2)
        opened.close()
        found = {}
        for number, step in enumerate(kills.steps):
            again = Spool(kills.copy(number), clock)
            waiting = posts(again), posts(again, "save")
            again.close()
            left = [data == photo(2) for data in bodies(kills.copy(number))[1].values()]
            found[f"{number}: {step}"] = (*waiting, spooled(kills.copy(number)), left)
        alone, both = ([[1]], [[1]], [1]), ([[1, 2]], [[1], [2]], [1, 2])
        *before, closed, last = found.values()
        assert closed == last == (*both, [])
        assert [one[:3] for one in before] == [alone] * len(before)
        # What has come of it is in quarantine, whole from the moment when it was fsynced.
        steps = list(found)
        fsynced = [number for number, step in enumerate(steps) if "fsync" in step][1]
        assert all(one[3] == [True] for one in before[fsynced:])
        assert {"before BEGIN", "before INSERT", "before COMMIT"} <= {
            step.partition(": ")[2] for step in steps
        }

    @pytest.mark.parametrize(
        ("target", "part"), [(MAIL, 0), ("save", 2)], ids=["whole post", "one photo"]
    )
    @pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
    def test_settle_post(
        self, tmp_path: Path, clock: Clock, target: str, part: int, last: bool
    ) -> None:
        """R10: after a kill at any step each photo that a waiting delivery needs is there."""
        root = tmp_path / ".nx"
        opened = Spool(root, clock)
        arrival = append_all(opened, 1, 2)
        if last:
            for one in opened.waiting():
                if (one.target, one.file_number) != (target, part):
                    opened.done(one)
        with Kills(root, tmp_path / "copies") as kills:
            opened.done(to(arrival, target, part))
        opened.close()
        for number, step in enumerate(kills.steps):
            again = Spool(kills.copy(number), clock)
            needed = {one for delivery in again.waiting() for one in numbers(again, delivery)}
            again.close()
            assert (number, step, spooled(kills.copy(number))) == (number, step, sorted(needed))
            assert bodies(kills.copy(number))[1] == {}

    def test_close_post(self, tmp_path: Path, clock: Clock) -> None:
        """After a kill at any step a post is still delivered as it was read the first time."""
        root = tmp_path / ".nx"
        opened = Spool(root, clock)
        arrival = append(opened, 1)
        with Kills(root, tmp_path / "copies") as kills, opened.read(to(arrival, MAIL)):
            begun = len(kills.steps)
        opened.close()
        found = []
        for number in range(len(kills.steps)):
            again = Spool(kills.copy(number), clock)
            append(again, 2)
            found.append(posts(again))
            again.close()
        assert found[0] == [[1, 2]]
        assert all(waiting in ([[1, 2]], [[1], [2]]) for waiting in found)
        assert all(waiting == [[1], [2]] for waiting in found[begun:])

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
            found[step] = [one.file_number for one in again.due("save")]
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
        ("limit", "room", "deleted"),
        [
            *[
                ("MAX_QUARANTINE", room * 4096, deleted)
                for room, deleted in ((3, 0), (2, 1), (0, 3))
            ],
            ("MAX_QUARANTINE", 2 * 4096 + 4095, 1),
            *[("MAX_QUARANTINED", count, 3 - count) for count in range(4)],
        ],
    )
    def test_tidy(
        self,
        opened: Spool,
        root: Path,
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
        limit: str,
        room: int,
        deleted: int,
    ) -> None:
        """When quarantine is full, the oldest in it are deleted, and no more than needed.

        Files of one byte take a block of 4 KiB each, and an inode.
        """
        monkeypatch.setattr(quarantine, limit, room)
        paths = []
        for _ in range(3):
            paths.append(opened.quarantine(receive(opened, b"x")))
            clock.now += 1
        if (paths[0].stat().st_blocks) != 8:  # type: ignore[union-attr]
            pytest.skip("another block size")
        waiting = accept(opened)
        assert opened.tidy() == paths[:deleted]
        assert [root / "quarantine" / name for name in bodies(root)[1]] == paths[deleted:]
        assert list(bodies(root)[0]) == [waiting.id]
        assert opened.tidy() == []

    def test_folder_is_not_listed_again_and_again(
        self, opened: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is in quarantine is counted, not looked at each time."""
        listed: list[object] = []
        listdir = os.listdir
        opened.quarantine(receive(opened))
        monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or listdir(path))
        for _ in range(3):
            assert opened.tidy() == []
        assert listed == []

    def test_counted_at_start(
        self, opened: Spool, root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is in quarantine at the start counts, too."""
        path = opened.quarantine(receive(opened))
        monkeypatch.setattr(quarantine, "MAX_QUARANTINED", 0)
        again = reopened(opened, root, clock)
        assert again.tidy() == [path]
        again.close()

    def test_tidied_by_somebody_else(self, opened: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        """A person who deletes a file at the same moment is no error."""
        monkeypatch.setattr(quarantine, "MAX_QUARANTINE", 0)
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
        monkeypatch.setattr(quarantine, "MAX_QUARANTINED", 2)
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


class TestUnknown:
    """Requests that nobody knew how to answer."""

    def test_kept(self, opened: Spool, root: Path) -> None:
        """A flow is kept as it is, for its owner only, and nothing else is there."""
        paths = [opened.keep_unknown(flow) for flow in (b"one", b"two")]
        assert sorted(paths) == sorted((root / "unknown").iterdir())
        assert [path.read_bytes() for path in paths] == [b"one", b"two"]
        assert all(re.fullmatch(r"20260101T000000Z-[0-9a-f]{8}\.mitm", path.name) for path in paths)
        assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
        assert stat.S_IMODE((root / "unknown").stat().st_mode) == 0o700

    @pytest.mark.parametrize(
        ("limits", "left"),
        [
            ({"MAX_UNKNOWN": 2}, [3, 4]),
            ({"MAX_UNKNOWN_BYTES": 3 * 4096}, [2, 3, 4]),
            ({}, [1, 2, 3, 4]),
        ],
        ids=["files", "bytes", "neither"],
    )
    def test_limits(
        self,
        opened: Spool,
        root: Path,
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
        limits: dict[str, int],
        left: list[int],
    ) -> None:
        """The card does not fill up: the oldest make room."""
        for name, limit in limits.items():
            monkeypatch.setattr(quarantine, name, limit)
        for number in (1, 2, 3, 4):
            opened.keep_unknown(b"%10d" % number)
            clock.now += 1
        assert [int(flow) for flow in contents(root / "unknown").values()] == left

    @pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
    def test_failure(self, opened: Spool, root: Path, persistent: bool) -> None:
        """K01: whichever call fails, no half of a flow has a name, and the next one is kept."""
        for first in itertools.count(1):
            with (
                Faults(
                    ("open", "write", "replace"), errno.ENOSPC, first, persistent=persistent
                ) as faults,
                suppress(OSError),
            ):
                opened.keep_unknown(b"a flow")
            opened.keep_unknown(b"a flow")
            assert set(contents(root / "unknown").values()) == {b"a flow"}
            assert not [name for name in contents(root / "unknown") if name.startswith(".")]
            if not faults.failed:
                break


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
            target: [(one.arrival, target, one.file_number) for one in opened.due(target)]
            for target in ("mail", "save")
        }
        assert [(one.arrival, one.target, one.file_number) for one in opened.waiting()] == expected
        assert found == {
            target: [one for one in expected if one[1] == target] for target in ("mail", "save")
        }
        assert opened.targets() == ["mail", "save"]

    def test_since(self, opened: Spool, clock: Clock) -> None:
        """What has ended can be looked for by how and from when on."""
        arrivals = []
        for _ in range(3):
            arrivals.append(accept(opened))
            clock.now += 1
        opened.done(to(arrivals[0], "save"))
        opened.done(to(arrivals[1], "save"))
        later = arrivals[1].received
        assert [
            [one.arrival for one in opened.since(when, state)]
            for when, state in ((0, "done"), (later, "done"), (later + 0.5, "done"), (0, "waiting"))
        ] == [arrivals[:2], arrivals[1:2], [], arrivals[2:]]

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
            (2 * MAX_WAIT, False),
            (2 * MAX_WAIT + 1, True),
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

    @pytest.mark.parametrize(
        ("said", "known"),
        [
            ([], []),
            ([["a"]], ["a"]),
            ([["a"], []], ["a"]),
            ([["a"], ["a", "b"]], ["a", "b"]),
            ([["a", "b"], ["c"]], ["c"]),
            ([['"Grüße",\n\0[]', ""]], ['"Grüße",\n\0[]', ""]),
        ],
        ids=["never", "once", "not-again", "more", "other", "any-text"],
    )
    def test_progress(
        self, opened: Spool, root: Path, clock: Clock, said: list[list[str]], known: list[str]
    ) -> None:
        """What an attempt says it has done is known until one says more, whatever happens."""
        accept(opened, targets=("mail", "save"))
        for progress in said:
            [delivery] = opened.due("mail")
            opened.postpone(delivery, 15, "450 busy", delivery.recipients, progress)
            clock.now += 15
        assert [one.progress for one in opened.due("mail")] == [tuple(known)]
        opened.close()
        with closing(Spool(root, clock)) as again:
            assert [one.progress for one in again.due("mail")] == [tuple(known)]
            assert [one.progress for one in again.due("save")] == [()]

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
        assert [one.file_number for one in opened.due("mail")] == [1, 2, 3]
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
        assert opened.retry_now(arrival.id) == 3
        assert {(one[0].id, one[1]) for one in due(opened)} == {
            (arrival.id, "a"),
            (arrival.id, "b"),
        }
        assert [opened.retry_now(other.id), opened.retry_now("nobody")] == [1, 0]

    @pytest.mark.parametrize(
        ("jump", "waited"),
        [
            pytest.param(0, 0, id="at once"),
            pytest.param(30, 30, id="before it is due"),
            pytest.param(100, 100, id="when it is due"),
            pytest.param(10**9, 100, id="clock set forward"),
            pytest.param(-600, 0, id="clock set back a little"),
            pytest.param(-(10**9), 100, id="clock set back"),
        ],
    )
    @pytest.mark.parametrize("how", ["retried", "restart"])
    def test_waited(
        self, opened: Spool, root: Path, clock: Clock, how: str, jump: float, waited: float
    ) -> None:
        """A wait that is cut short counts as long as it lasted, and only once."""
        arrival = accept(opened)
        opened.postpone(to(arrival, "save"), 100, "450 busy", [RECIPIENT])
        clock.now += jump
        for _ in range(2):
            if how == "retried":
                opened.retry_now(arrival.id)
            else:
                opened.close()
                opened = Spool(root, clock)
        assert [one.waited for one in opened.waiting()] == [waited]
        opened.close()

    @pytest.mark.parametrize("how", ["retried", "restart"])
    def test_waited_for_photos(self, opened: Spool, root: Path, clock: Clock, how: str) -> None:
        """The time in which more photos of a post may come does not count, cut short or not."""
        arrival = append(opened, 1)
        if how == "retried":
            opened.retry_now(arrival.id)
        else:
            opened = reopened(opened, root, clock)
        opened.back_off(MAIL, 15, "nobody answers")
        assert {one.waited for one in opened.waiting() if one.target == MAIL} == {0}
        opened.close()

    def test_start_with_many(self, opened: Spool, root: Path, clock: Clock) -> None:
        """K12: a long outage does not make the next start slow."""
        opened.close()
        count = 5_000
        with sqlite3.connect(root / "state.sqlite3") as database:
            database.executemany(
                "INSERT INTO upload (id, received, client, sender, site, text)"
                " VALUES (?, ?, '', '', '', '')",
                ((f"id-{number}", NEW_YEAR) for number in range(count)),
            )
            database.execute(
                "INSERT INTO delivery (upload, target, file_number, recipients, state, next_try)"
                " SELECT id, 'save', 0, '[]', 'waiting', received FROM upload"
            )
        database.close()
        begun = time.monotonic()
        again = Spool(root, clock)
        found = len(again.due("save"))
        again.close()
        assert found == count
        assert time.monotonic() - begun < 5


class TestFirstDue:
    @pytest.mark.parametrize(
        ("ready", "new", "failed"),
        [("", None, None), ("n", "n", None), ("f", None, "f"), ("nf", "n", "f")],
        ids=["nothing", "new", "failed before", "both"],
    )
    def test_new_or_failed(
        self, opened: Spool, clock: Clock, ready: str, new: str | None, failed: str | None
    ) -> None:
        """What is new and what has failed before are asked for by themselves."""
        arrivals = {name: accept(opened) for name in ready}
        if "f" in arrivals:
            opened.postpone(to(arrivals["f"], "save"), 15, "busy", [RECIPIENT])
        clock.now += 15
        found = [opened.first_due("save", new=True), opened.first_due("save", new=False)]
        expected = [arrivals[name].id if name else None for name in (new, failed)]
        assert [one and one.arrival.id for one in found] == expected

    def test_order(self, opened: Spool, clock: Clock) -> None:
        """First comes what has been due for longest, then the older upload, then its first file."""
        old, tried = accept(opened), {20: accept(opened), 10: accept(opened)}
        for seconds, arrival in tried.items():
            opened.postpone(to(arrival, "save"), seconds, "busy", [RECIPIENT])
        clock.now += 30
        young = accept(opened)
        for arrival in (young, old):
            opened.split(to(arrival, "save"), 2)
        order: dict[bool, list[str]] = {True: [], False: []}
        for new, ids in order.items():
            while one := opened.first_due("save", new=new):
                ids.append(one.id)
                opened.done(one)
        assert order == {
            True: [f"{old.id}.1", f"{old.id}.2", f"{young.id}.1", f"{young.id}.2"],
            False: [tried[10].id, tried[20].id],
        }

    @pytest.mark.parametrize(
        ("seconds", "expected"),
        [
            (14.9, False),
            (15, True),
            (86400, True),
            (15 - 2 * MAX_WAIT, False),
            (15 - 2 * MAX_WAIT - 1, True),
            (-YEARS, True),
        ],
        ids=["early", "in time", "late", "clock set back", "clock set back more", "years"],
    )
    def test_time(self, opened: Spool, clock: Clock, seconds: float, expected: bool) -> None:
        """R07: what is due is what `due` finds, also when the clock has been set back."""
        arrival = accept(opened)
        opened.postpone(to(arrival, "save"), 15, "busy", [RECIPIENT])
        clock.now += seconds
        found = opened.first_due("save", new=False)
        assert (found is not None, opened.due("save") != []) == (expected, expected)

    def test_what_it_is(self, opened: Spool) -> None:
        """It is one of those that wait for this target, with all that is known of it."""
        arrival = accept(opened, targets=("mail", "save"))
        opened.done(to(arrival, "save"))
        [waiting] = opened.waiting()
        assert opened.first_due("mail", new=True) == waiting
        assert opened.first_due("save", new=True) is None
        assert opened.first_due("nobody", new=True) is None


class TestRecent:
    """What has been accepted, for a list of it."""

    def arrive(
        self, into: Spool, client: str = CLIENT, thumbnails: Sequence[Thumbnail | None] = ()
    ) -> StoredUpload:
        data = body([("a.jpg", PHOTO), ("b\u202e.jpg", jpeg(600))])
        arrival = into.accept(receive(into, data), client, parsed(data), SAVE, thumbnails)
        into.reply_confirmed(arrival.id)
        return arrival

    def test_nothing(self, opened: Spool) -> None:
        assert opened.recent() == []

    def test_latest_first(self, opened: Spool, clock: Clock) -> None:
        """Of one client or of all, and no more than are wanted."""
        arrivals = []
        for number in range(6):
            clock.now += 1
            arrivals.append(self.arrive(opened, f"192.0.2.{number % 2}"))
        arrivals.reverse()
        assert [one.arrival for one in opened.recent()] == arrivals
        assert [one.arrival for one in opened.recent("192.0.2.1")] == arrivals[::2]
        assert [one.arrival for one in opened.recent("192.0.2.1", 2)] == [arrivals[0], arrivals[2]]
        assert opened.recent("192.0.2.9") == []
        assert [one.arrival for one in opened.recent(limit=1)] == arrivals[:1]

    def test_files(self, opened: Spool) -> None:
        """They are there also when the body is gone."""
        arrival = self.arrive(opened, CLIENT, [None, Thumbnail(b"small", 90)])
        opened.done(to(arrival, "save"))
        [found] = opened.recent()
        assert found.files == (
            FileRecord(1, "a.jpg", 500, False, 0),
            FileRecord(2, "b.jpg", 600, True, 90),
        )
        assert [opened.thumbnail(arrival.id, part) for part in (0, 1, 2, 3)] == [
            *(None, None),
            b"small",
            None,
        ]
        assert opened.thumbnail("another", 2) is None

    def test_deliveries(self, opened: Spool, clock: Clock) -> None:
        """What waits, is done, and has failed."""
        arrival = accept(opened, targets=("drop", "mail", "save"))
        opened.done(to(arrival, "save"))
        opened.failed(to(arrival, "drop"), "no reason")
        opened.postpone(to(arrival, "mail"), 30.0, "no answer", ["left@example.org"])
        [found] = opened.recent()
        now = clock.now
        assert found.deliveries == (
            DeliveryStatus("drop", 0, (RECIPIENT,), "failed", now, "no reason"),
            DeliveryStatus("mail", 0, ("left@example.org",), "waiting", now + 30, "no answer"),
            DeliveryStatus("save", 0, (RECIPIENT,), "done", now, ""),
        )

    def test_post(self, opened: Spool) -> None:
        """The photos of a post are its files."""
        for number in (1, 2):
            append(opened, number)
        [found] = opened.recent()
        assert [(one.number, one.name) for one in found.files] == [(1, "1.JPG"), (2, "2.JPG")]
        assert {(one.target, one.file_number) for one in found.deliveries} == {
            *(("save", 1), ("save", 2)),
            (MAIL, 0),
        }

    def test_thumbnails_of_older_ones_are_forgotten(self, opened: Spool, clock: Clock) -> None:
        """What nobody will see again takes no room; names are small, they stay."""
        arrivals = []
        for _ in range(RECENT + 3):
            clock.now += 1
            arrivals.append(self.arrive(opened, CLIENT, [Thumbnail(b"small"), None]))
        kept = [opened.thumbnail(one.id, 1) for one in arrivals]
        assert kept == [None] * 3 + [b"small"] * RECENT
        assert all(len(one.files) == 2 for one in opened.recent(limit=100))

    def test_forgotten_with_the_upload(self, opened: Spool, root: Path, clock: Clock) -> None:
        """Nothing of an upload stays behind when its history is over."""
        arrival = self.arrive(opened, CLIENT, [Thumbnail(b"small"), None])
        opened.done(to(arrival, "save"))
        opened.close()
        clock.now += spool.HISTORY + 1
        again = Spool(root, clock)
        assert again.recent() == []
        assert again.thumbnail(arrival.id, 1) is None
        again.close()


class TestRest:
    def test_clock_set_back(self, opened: Spool, clock: Clock) -> None:
        """R07: what is due because the clock was set back rests with the others."""
        accept(opened, targets=("mail",))
        clock.now -= 5 * 3600
        assert len(opened.due("mail")) == 1
        assert opened.back_off("mail", 100, "gone") == 1
        assert opened.due("mail") == []

    @pytest.mark.parametrize(
        ("tried", "seconds", "changes", "expected"),
        [
            (None, 0, 1, (1, 100, 100, "gone")),
            (None, 50, 1, (1, 100, 100, "gone")),
            (15, 15, 1, (2, 100, 115, "gone")),
            (15, 500, 1, (2, 100, 115, "gone")),
            (15, 5, 1, (2, 100, 105, "gone")),
            (100, 0, 0, (1, 100, 100, "busy")),
            (3600, 0, 0, (1, 3600, 3600, "busy")),
        ],
        ids=[
            "new",
            "due for a while",
            "tried, due",
            "tried, due for a while",
            "tried, due soon",
            "tried, due then",
            "tried, due later",
        ],
    )
    def test_wait(
        self,
        opened: Spool,
        clock: Clock,
        tried: float | None,
        seconds: float,
        changes: int,
        expected: tuple[int, float, float, str],
    ) -> None:
        """What is due, or would be sooner, waits for as long; what waits for longer still does."""
        arrival = accept(opened)
        if tried is not None:
            opened.postpone(to(arrival, "save"), tried, "busy", [RECIPIENT])
        clock.now += seconds
        assert opened.back_off("save", 100, "gone") == changes
        [one] = opened.waiting()
        assert (one.attempts, one.next_try - clock.now, one.waited, one.reason) == expected

    def test_others(self, opened: Spool, clock: Clock) -> None:
        """What is for another target, or has ended, is left alone."""
        done, failed = accept(opened), accept(opened)
        opened.done(to(done, "save"))
        opened.failed(to(failed, "save"), "never")
        accept(opened, targets=("mail",))
        before = opened.waiting()
        assert opened.back_off("save", 100, "gone") == 0
        assert opened.waiting() == before
        for _ in range(3):
            accept(opened)
        assert opened.back_off("save", 100, "gone") == 3
        assert waits(opened, clock) == [("mail", 0, 0), *[("save", 0, 100)] * 3]

    def test_but(self, opened: Spool, clock: Clock) -> None:
        """The one whose failure it is waits already, and what is hurried is tried all the same.

        That one comes before all others.
        """
        failed, hurried, other = (accept(opened) for _ in range(3))
        clock.now += 60
        opened.postpone(to(failed, "save"), 50, "busy", [RECIPIENT])
        opened.retry_now(hurried.id)
        assert opened.back_off("save", 100, "gone", except_for=to(failed, "save")) == 1
        found = {one.arrival.id: (one.attempts, one.reason) for one in opened.waiting()}
        assert found == {failed.id: (1, "busy"), hurried.id: (0, ""), other.id: (1, "gone")}
        first = opened.first_due("save", new=True)
        assert (first and first.arrival, len(opened.due("save"))) == (hurried, 1)

    def test_but_that_part(self, opened: Spool) -> None:
        """Other files of the upload whose failure it is wait like all the others."""
        arrival = accept(opened, targets=("save", "mail"))
        opened.split(to(arrival, "save"), 3)
        assert opened.back_off("save", 100, "gone", except_for=to(arrival, "save", 2)) == 2
        waiting = {(one.target, one.file_number): one.attempts for one in opened.waiting()}
        assert waiting == {("mail", 0): 0, ("save", 1): 1, ("save", 2): 0, ("save", 3): 1}

    @pytest.mark.parametrize("hold", [QUIET, MAX_WAIT], ids=["quiet", "a file on its way"])
    def test_growing_post(self, opened: Spool, clock: Clock, hold: float) -> None:
        """A post that has not been tried, since it may grow, is left alone."""
        append(opened, 1, at_once=())
        opened.expect(POST, hold)
        before = opened.waiting()
        assert opened.back_off(MAIL, 7200, "gone") == 0
        assert opened.waiting() == before

    def test_post_that_is_due(self, opened: Spool, clock: Clock) -> None:
        """A post that is due waits with the others, and until it is read it may grow."""
        append(opened, 1, at_once=())
        clock.now += QUIET
        assert opened.back_off(MAIL, 15, "gone") == 1
        assert waits(opened, clock) == [(MAIL, 0, 15)]
        append(opened, 2, at_once=())
        assert posts(opened) == [[1, 2]]


# Seconds since the photo before, and what it is posted as: for each photo. Then the posts.
ALBUM_X, NO_ALBUM = replace(POST, album="NX500"), replace(POST, album="")
FOREST = replace(POST, caption="In the forest")
Row = tuple[list[tuple[float, Post]], list[list[int]]]
GROUPS: dict[str, Row] = {
    "one": ([(0, POST)], [[1]]),
    "three": ([(0, POST), (9, POST), (9, POST)], [[1, 2, 3]]),
    "at the same moment": ([(0, POST), (0, POST)], [[1, 2]]),
    "another caption": ([(0, POST), (9, FOREST)], [[1], [2]]),
    "another caption and the first again": (
        [(0, POST), (9, FOREST), (9, POST), (9, FOREST)],
        [[1, 3], [2, 4]],
    ),
    "caption in another case": ([(0, POST), (9, replace(POST, caption="AT THE SEA"))], [[1], [2]]),
    "longer caption": ([(0, POST), (9, replace(POST, caption="At the sea "))], [[1], [2]]),
    "no caption": ([(0, replace(POST, caption="")), (9, replace(POST, caption=""))], [[1, 2]]),
    "no caption, and one": ([(0, replace(POST, caption="")), (9, POST)], [[1], [2]]),
    "another session": ([(0, POST), (9, replace(POST, session="another"))], [[1], [2]]),
    "another site": ([(0, POST), (9, replace(POST, site="picasa"))], [[1], [2]]),
    "another album": ([(0, POST), (9, ALBUM_X)], [[1], [2]]),
    "photo and video": ([(0, POST), (9, NO_ALBUM)], [[1, 2]]),
    "video and photo": ([(0, NO_ALBUM), (9, POST)], [[1, 2]]),
    "videos": ([(0, NO_ALBUM), (9, NO_ALBUM)], [[1, 2]]),
    "video and two albums": ([(0, NO_ALBUM), (9, POST), (9, ALBUM_X)], [[1, 2], [3]]),
    "video between two albums": ([(0, POST), (9, NO_ALBUM), (9, ALBUM_X)], [[1, 2], [3]]),
    "two albums and a video": ([(0, POST), (9, ALBUM_X), (9, NO_ALBUM)], [[1], [2, 3]]),
    "gap": ([(0, POST), (GAP, POST)], [[1, 2]]),
    "long gap": ([(0, POST), (GAP + 1, POST)], [[1], [2]]),
    "gap after gap": ([(0, POST), (GAP, POST), (GAP, POST)], [[1, 2, 3]]),
    "long gap and gap": ([(0, POST), (GAP + 1, POST), (GAP, POST)], [[1], [2, 3]]),
    "R07 clock set back a little": ([(0, POST), (-GAP, POST)], [[1, 2]]),
    "R07 clock set back": ([(0, POST), (-GAP - 1, POST), (0, POST)], [[1], [2, 3]]),
    "R07 clock set back years": ([(0, POST), (-YEARS, POST), (9, POST)], [[1], [2, 3]]),
    "R07 clock set forward": ([(0, POST), (YEARS, POST), (9, POST)], [[1], [2, 3]]),
    "all that the caption speaks of": (
        [(0, replace(POST, photos=2)), *[(9, replace(POST, photos=2))] * 3],
        [[1, 2], [3, 4]],
    ),
    "one that the caption speaks of": ([(0, replace(POST, photos=1))] * 2, [[1], [2]]),
    "fewer than the caption speaks of": ([(0, replace(POST, photos=3))] * 2, [[1, 2]]),
}


class TestPosts:
    @pytest.mark.parametrize(("came", "expected"), GROUPS.values(), ids=GROUPS)
    def test_groups(
        self, opened: Spool, clock: Clock, came: list[tuple[float, Post]], expected: list[list[int]]
    ) -> None:
        """Photos that belong together are delivered together, or each by itself."""
        for number, (seconds, post) in enumerate(came, 1):
            clock.now += seconds
            append(opened, number, post)
        assert posts(opened) == expected
        assert posts(opened, "save") == [[number] for number in range(1, len(came) + 1)]

    @pytest.mark.parametrize("photos", [0, MAX_PHOTOS + 5])
    def test_most(self, opened: Spool, clock: Clock, photos: int) -> None:
        """A post has so many photos at most; then it is due, and the next begins another one."""
        seen = []
        for number in range(1, MAX_PHOTOS + 2):
            append(opened, number, replace(POST, photos=photos), at_once=())
            seen.append([when for _, _, when in waits(opened, clock)])
        assert seen == [[QUIET]] * (MAX_PHOTOS - 1) + [[0], [0, QUIET]]
        assert list(map(len, posts(opened))) == [MAX_PHOTOS, 1]

    def test_appended(self, opened: Spool, root: Path, clock: Clock) -> None:
        """What can go photo by photo is due now, the post as a whole when it has been quiet."""
        first = append(opened, 1, at_once=["drop", "save"], together=[MAIL, OTHER])
        clock.now += 20
        second = append(opened, 2, at_once=["drop", "save"], together=[MAIL, OTHER])
        arrival = StoredUpload(first.id, NEW_YEAR, CLIENT, "anna", SITE)
        assert (first, second) == (arrival, arrival)
        now, quiet = NEW_YEAR + 20, NEW_YEAR + 20 + QUIET
        assert opened.waiting() == [
            Delivery(arrival, "drop", 1, (SITE,), 0, 0.0, NEW_YEAR, ""),
            Delivery(arrival, "drop", 2, (SITE,), 0, 0.0, now, ""),
            Delivery(arrival, MAIL, 0, (SITE,), 0, 0.0, quiet, ""),
            Delivery(arrival, OTHER, 0, (SITE,), 0, 0.0, quiet, ""),
            Delivery(arrival, "save", 1, (SITE,), 0, 0.0, NEW_YEAR, ""),
            Delivery(arrival, "save", 2, (SITE,), 0, 0.0, now, ""),
        ]
        assert len({one.id for one in opened.waiting() if one.target == "save"}) == 2
        assert list(bodies(root)[0].values()) == [photo(1), photo(2)]

    def test_album_comes_later(self, opened: Spool) -> None:
        """A post that begins with a video has the album of its photos."""
        append(opened, 1, NO_ALBUM)
        append(opened, 2)
        append(opened, 3, NO_ALBUM)
        for one in opened.waiting():
            with opened.read(one) as (found, _):
                assert found.album == "NX300"

    def test_read(self, opened: Spool) -> None:
        """A post is read as an upload with its photos, in the order in which they came."""
        append(opened, 1)
        incoming = receive(opened, photo(2))
        arrival = opened.append(
            incoming,
            POST,
            whole(incoming, None, "image/pjpeg"),
            "",
            at_once=["save"],
            together=[MAIL],
        )
        with opened.read(to(arrival, MAIL)) as (found, files):
            assert (found.sender, found.sender_name, found.recipients) == ("anna", "anna", (SITE,))
            assert (found.subject, found.text) == ("facebook: NX300", "At the sea")
            assert tuple(files) == found.files
            assert [(file.name, file.content_type, file.data) for file in files] == [
                ("1.JPG", "image/jpeg", photo(1)),
                (None, "image/jpeg", photo(2)),
            ]
        with opened.read(to(arrival, "save", 2)) as (found, files):
            assert [file.data for file in files] == [photo(2)]
            assert (found.text, list(found.files)) == ("At the sea", files)

    def test_video(self, opened: Spool) -> None:
        """A file that is no photo keeps the type with which it came."""
        incoming = receive(opened, b"a video" * 20)
        video = whole(incoming, "A.MP4", "Video/MP4; x=y")
        arrival = opened.append(incoming, POST, video, "", at_once=[], together=[MAIL])
        with opened.read(to(arrival, MAIL)) as (_, files):
            assert [(file.content_type, file.data) for file in files] == [
                ("video/mp4", b"a video" * 20)
            ]

    def test_quiet(self, opened: Spool, clock: Clock) -> None:
        """A post is due when no photo has come for a minute, and not before."""
        for number in (1, 2, 3):
            append(opened, number, at_once=())
            assert opened.due(MAIL) == []
            clock.now += QUIET - 1
        seen = [opened.due(MAIL), opened.next_try(MAIL)]
        clock.now += 1
        assert seen == [[], clock.now]
        assert len(opened.due(MAIL)) == 1

    def test_complete(self, opened: Spool, clock: Clock) -> None:
        """A post that has all photos its caption speaks of is due at once, even if held back."""
        post = replace(POST, photos=2)
        append(opened, 1, post)
        opened.expect(post, MAX_WAIT)
        clock.now += 5
        append(opened, 2, post)
        assert waits(opened, clock) == [(MAIL, 0, 0), ("save", 1, -5), ("save", 2, 0)]
        opened.expect(post, MAX_WAIT)
        assert waits(opened, clock)[0] == (MAIL, 0, 0)

    @pytest.mark.parametrize(
        ("seconds", "expected"),
        [(QUIET, QUIET), (MAX_WAIT, MAX_WAIT), (10 * MAX_WAIT, MAX_WAIT), (0, 0)],
    )
    def test_expect(self, opened: Spool, clock: Clock, seconds: float, expected: float) -> None:
        """A post that another photo is expected for waits for it, but no longer than an hour."""
        append(opened, 1)
        clock.now += 10
        opened.expect(POST, seconds)
        assert waits(opened, clock) == [(MAIL, 0, expected), ("save", 1, -10)]

    @pytest.mark.parametrize("comes", [False, True], ids=["cut", "comes"])
    def test_held_back(self, opened: Spool, clock: Clock, comes: bool) -> None:
        """While a file is on its way a post waits; when it has come, or is cut, for a minute."""
        append(opened, 1)
        opened.expect(POST, MAX_WAIT)
        clock.now += 500
        seen = [waits(opened, clock)[0]]
        if comes:
            append(opened, 2)
        else:
            opened.expect(POST, QUIET)
        seen.append(waits(opened, clock)[0])
        assert seen == [(MAIL, 0, MAX_WAIT - 500), (MAIL, 0, QUIET)]
        assert posts(opened) == ([[1, 2]] if comes else [[1]])

    def test_never_comes(self, opened: Spool, clock: Clock) -> None:
        """A post whose next file never comes to an end is delivered after an hour."""
        append(opened, 1)
        opened.expect(POST, MAX_WAIT)
        clock.now += MAX_WAIT
        assert len(opened.due(MAIL)) == 1

    @pytest.mark.parametrize(
        "post",
        [FOREST, ALBUM_X, replace(POST, site="picasa"), replace(POST, session="another")],
        ids=["caption", "album", "site", "session"],
    )
    def test_expected_for_another(self, opened: Spool, clock: Clock, post: Post) -> None:
        """A photo of another post, which may not be there yet, holds back nothing."""
        append(opened, 1)
        opened.expect(post, MAX_WAIT)
        assert waits(opened, clock) == [(MAIL, 0, QUIET), ("save", 1, 0)]
        append(opened, 2, post)
        opened.expect(post, MAX_WAIT)
        held = [one.next_try - clock.now for one in opened.waiting() if one.target == MAIL]
        assert sorted(held) == [QUIET, MAX_WAIT]

    def test_expected_by_one_that_was_tried(self, opened: Spool, clock: Clock) -> None:
        """What has failed before is tried again in its time, whatever is expected."""
        append(opened, 1, together=[MAIL, OTHER])
        clock.now += QUIET
        assert opened.back_off(OTHER, 15, "nobody answers") == 1
        opened.expect(POST, MAX_WAIT)
        assert waits(opened, clock)[:2] == [(MAIL, 0, MAX_WAIT), (OTHER, 0, 15)]

    def test_restart(self, opened: Spool, root: Path, clock: Clock) -> None:
        """After a restart all is due, but for what may grow: for that photos may be on their way.

        A post that may grow still does.
        """
        closed = append(opened, 1, FOREST)
        opened.postpone(to(closed, MAIL), 3600, "later", [SITE])
        with opened.read(to(closed, MAIL)):
            pass
        append(opened, 2, replace(POST, photos=1, caption="~"))
        append(opened, 3)
        opened.expect(POST, MAX_WAIT)
        clock.now += 100
        again = reopened(opened, root, clock)
        assert sorted(waits(again, clock)) == [
            *[(MAIL, 0, 0), (MAIL, 0, 0), (MAIL, 0, QUIET)],
            *[("save", 1, 0)] * 3,
        ]
        append(again, 4)
        assert posts(again) == [[1], [2], [3, 4]]
        again.close()

    def test_restart_of_one_that_was_read(self, opened: Spool, root: Path, clock: Clock) -> None:
        """R10: after a crash in the middle of the first attempt a post is due, as it was read."""
        arrival = append(opened, 1, at_once=())
        with opened.read(to(arrival, MAIL)):
            again = reopened(opened, root, clock)
        assert waits(again, clock) == [(MAIL, 0, 0)]
        again.close()

    def test_restart_of_one_that_was_tried(self, opened: Spool, root: Path, clock: Clock) -> None:
        """After a restart a post that was found to be due with others is due."""
        append(opened, 1, at_once=())
        clock.now += QUIET
        opened.back_off(MAIL, 3600, "nobody answers")
        again = reopened(opened, root, clock)
        assert waits(again, clock) == [(MAIL, 0, 0)]
        again.close()

    @pytest.mark.parametrize("jump", [YEARS, -YEARS, 2 * MAX_WAIT, -3 * MAX_WAIT])
    @pytest.mark.parametrize("hold", [QUIET, MAX_WAIT])
    def test_clock_jumps(self, opened: Spool, clock: Clock, hold: float, jump: float) -> None:
        """R07: a post does not wait until a time comes that was wrong."""
        append(opened, 1)
        opened.expect(POST, hold)
        clock.now += jump
        assert [len(opened.due(target)) for target in (MAIL, "save")] == [1, 1]

    @pytest.mark.parametrize(
        ("part", "expected"), [(0, [[1], [2]]), (1, [[1, 2]])], ids=["whole", "one photo"]
    )
    def test_closed(self, opened: Spool, part: int, expected: list[list[int]]) -> None:
        """A post that is read to be delivered as a whole is closed; one of its photos is not it."""
        arrival = append(opened, 1)
        with opened.read(to(arrival, MAIL if part == 0 else "save", part)):
            pass
        append(opened, 2)
        assert posts(opened) == expected

    def test_closed_is_not_expected_for(self, opened: Spool, clock: Clock) -> None:
        """A post that is closed waits for no more photos."""
        arrival = append(opened, 1, at_once=())
        with opened.read(to(arrival, MAIL)):
            opened.expect(POST, MAX_WAIT)
        assert waits(opened, clock) == [(MAIL, 0, 0)]

    def test_closed_for_all_targets(self, opened: Spool, clock: Clock) -> None:
        """When one target gets a post, no other one waits for more photos of it."""
        arrival = append(opened, 1, at_once=(), together=(MAIL, "run:x"))
        opened.expect(POST, MAX_WAIT)
        with opened.read(to(arrival, MAIL)):
            opened.expect(POST, QUIET)
        assert waits(opened, clock) == [(MAIL, 0, 0), ("run:x", 0, 0)]

    def test_other_targets(self, opened: Spool) -> None:
        """Where the rules have changed a post begins anew: what it had may be gone already."""
        first = append(opened, 1, together=())
        opened.done(to(first, "save", 1))
        second = append(opened, 2)
        assert first.id != second.id
        assert posts(opened) == [[2]]

    def test_file_that_takes_long(self, opened: Spool, clock: Clock) -> None:
        """The gap between two photos ends when the second is announced, not when it is here."""
        append(opened, 1)
        clock.now += 5
        opened.expect(POST, MAX_WAIT)
        clock.now += GAP - 1
        append(opened, 2)
        assert posts(opened) == [[1, 2]]

    def test_growing_while_it_rests(self, opened: Spool, clock: Clock) -> None:
        """A post that has failed, unread, goes on waiting as long as it was made to."""
        append(opened, 1, at_once=())
        clock.now += QUIET
        opened.back_off(MAIL, 3600, "535 no")
        for number in range(2, 6):
            clock.now += 10
            append(opened, number, at_once=())
        assert [(one.waited, one.attempts) for one in opened.waiting()] == [(3600, 1)]
        assert waits(opened, clock) == [(MAIL, 0, 3600 - 40)]

    def test_same_file_at_the_same_moment(self, opened: Spool, root: Path) -> None:
        """C03: the same file for the same announcement is taken once, however it comes."""
        append(opened, 1, resource="R1")
        twice = receive(opened, photo(1))
        with pytest.raises(RepeatedError) as caught:
            opened.append(
                twice, POST, whole(twice, "1.JPG"), "R1", at_once=["save"], together=[MAIL]
            )
        assert caught.value.upload == opened.waiting()[0].arrival.id
        assert posts(opened) == [[1]]
        twice.discard()
        assert spooled(root) == [1]

    def test_comes_during_an_attempt(self, opened: Spool, root: Path) -> None:
        """A photo that comes while its post is delivered begins a new one, with all targets."""
        arrival = append(opened, 1, together=[MAIL, OTHER])
        with opened.read(to(arrival, MAIL)) as (_, files):
            append(opened, 2, together=[MAIL, OTHER])
            assert [NUMBERS[file.data] for file in files] == [1]
        opened.done(to(arrival, MAIL))
        assert posts(opened) == [[2]]
        assert posts(opened, OTHER) == posts(opened, "save") == [[1], [2]]
        assert spooled(root) == [1, 2]

    def test_tried_again(self, opened: Spool, root: Path, clock: Clock) -> None:
        """A post has the same photos at each attempt, also after a restart."""
        arrival = append(opened, 1)
        append(opened, 2)
        seen = [numbers(opened, to(arrival, MAIL))]
        opened.postpone(to(arrival, MAIL), 15, "later", [SITE])
        append(opened, 3)
        seen.append(numbers(opened, to(arrival, MAIL)))
        again = reopened(opened, root, clock)
        append(again, 4)
        seen.append(numbers(again, to(arrival, MAIL)))
        assert seen == [[1, 2]] * 3
        assert posts(again) == [[1, 2], [3, 4]]
        again.close()

    def test_hurry(self, opened: Spool, clock: Clock) -> None:
        """A post that a person hurries is due now, all of it, and grows until it is tried."""
        arrival = append(opened, 1)
        opened.expect(POST, MAX_WAIT)
        clock.now += 5
        assert opened.retry_now(arrival.id) == 2
        assert [seconds <= 0 for _, _, seconds in waits(opened, clock)] == [True, True]
        append(opened, 2)
        assert numbers(opened, to(arrival, MAIL)) == [1, 2]
        append(opened, 3)
        assert posts(opened) == [[1, 2], [3]]

    def test_split(self, opened: Spool, root: Path, clock: Clock) -> None:
        """A post that is too large as a whole is delivered photo by photo."""
        arrival = append_all(opened, 1, 2, at_once=())
        with opened.read(to(arrival, MAIL)):
            opened.split(to(arrival, MAIL), 2)
        clock.now += 1
        append(opened, 3, at_once=())
        parts = [(one.file_number, numbers(opened, one)) for one in opened.waiting()]
        assert parts == [(1, [1]), (2, [2]), (0, [3])]
        left = []
        for one in opened.waiting():
            opened.done(one)
            left.append(spooled(root))
        assert left == [[2, 3], [3], []]

    @pytest.mark.parametrize("seed", range(20))
    def test_any_order(self, root: Path, clock: Clock, seed: int) -> None:
        """Whatever happens in whatever order: to each target a photo goes in one delivery, once.

        A delivery has the same photos each time.
        """
        random = Random(seed)
        opened = Spool(root, clock)
        targets = ("save", MAIL, OTHER)
        delivered: dict[str, list[int]] = {target: [] for target in targets}
        tried: dict[tuple[str, str], list[int]] = {}
        kinds = [POST, NO_ALBUM, FOREST, replace(POST, photos=3, caption="~~~")]
        sent = 0

        def send() -> None:
            nonlocal sent
            sent += 1
            append(opened, sent, random.choice(kinds), together=[MAIL, OTHER])

        def attempt(target: str, fails: bool, comes: bool) -> None:
            new = random.random() < 0.5
            one = opened.first_due(target, new=new) or opened.first_due(target, new=not new)
            if one is None:
                return
            with opened.read(one) as (_, files):
                if comes:
                    send()
                came = [NUMBERS[file.data] for file in files]
            assert tried.setdefault((target, one.id), came) == came
            if fails and len(came) > 1 and random.random() < 0.3:
                opened.split(one, len(came))
            elif fails:
                opened.postpone(one, 15, "later", one.recipients)
            else:
                opened.done(one)
                delivered[target] += came

        for _ in range(60):
            match random.randrange(8):
                case 0 | 1:
                    send()
                case 2:
                    opened.expect(random.choice(kinds), random.choice([QUIET, MAX_WAIT]))
                case 3:
                    clock.now += random.choice([1, 30, QUIET, GAP + 1, -30])
                case 4:
                    opened.back_off(random.choice(targets), 60, "nobody answers")
                case 5 if random.random() < 0.5:
                    opened = reopened(opened, root, clock)
                case _:
                    fails, comes = random.random() < 0.4, random.random() < 0.3
                    attempt(random.choice(targets), fails, comes)
        clock.now += 2 * MAX_WAIT
        for target in targets:
            while opened.first_due(target, new=True) or opened.first_due(target, new=False):
                attempt(target, fails=False, comes=False)
        assert opened.waiting() == []
        opened.close()
        everything = list(range(1, sent + 1))
        assert {target: sorted(found) for target, found in delivered.items()} == dict.fromkeys(
            targets, everything
        )
        assert bodies(root) == ({}, {})

    def test_threads(self, opened: Spool, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """C08: while photos come, and each target has its thread, none is missed, or goes twice."""
        monkeypatch.setattr(spool, "QUIET", 0.0)
        delivered: dict[str, list[int]] = {target: [] for target in ("save", MAIL, OTHER)}
        ended = threading.Event()

        def send(session: str, first: int) -> None:
            post = replace(POST, session=session)
            for number in range(first, first + 20):
                append(opened, number, post, together=[MAIL, OTHER])

        def deliver(target: str) -> None:
            last = False
            while not last:
                last = ended.is_set()
                while one := opened.first_due(target, new=True):
                    delivered[target] += numbers(opened, one)
                    opened.done(one)

        with ThreadPoolExecutor() as threads:
            lanes = [threads.submit(deliver, target) for target in delivered]
            cameras = [threads.submit(send, str(first), first) for first in (1, 21, 41)]
            try:
                for camera in cameras:
                    camera.result()
            finally:
                ended.set()
            for lane in lanes:
                lane.result()
        everything = list(range(1, 61))
        assert [sorted(found) for found in delivered.values()] == [everything] * 3
        assert (opened.waiting(), bodies(root)) == ([], ({}, {}))


class TestPostBodies:
    """A body is deleted when no waiting delivery needs it."""

    @pytest.mark.parametrize(
        ("ends", "left"),
        [
            (
                [("save", 1), ("save", 2), ("save", 3), (MAIL, 0)],
                [[1, 2, 3], [1, 2, 3], [1, 2, 3], []],
            ),
            ([(MAIL, 0), ("save", 2), ("save", 1), ("save", 3)], [[1, 2, 3], [1, 3], [3], []]),
            ([("save", 2), (MAIL, 0), ("save", 1), ("save", 3)], [[1, 2, 3], [1, 3], [3], []]),
        ],
        ids=["whole last", "whole first", "whole between"],
    )
    @pytest.mark.parametrize("end", ["done", "failed"])
    def test_deleted(
        self,
        opened: Spool,
        root: Path,
        end: str,
        ends: list[tuple[str, int]],
        left: list[list[int]],
    ) -> None:
        """Each goes with the last delivery that needs it."""
        arrival = append_all(opened, 1, 2, 3)
        found = []
        for target, part in ends:
            if end == "done":
                opened.done(to(arrival, target, part))
            else:
                opened.failed(to(arrival, target, part), "never")
            found.append(spooled(root))
        assert found == left

    def test_two_as_a_whole(self, opened: Spool, root: Path) -> None:
        """All stay as long as somebody is to get the post as a whole."""
        arrival = append_all(opened, 1, 2, together=[MAIL, OTHER])
        left = []
        for target, part in (("save", 1), (MAIL, 0), ("save", 2), (OTHER, 0)):
            opened.done(to(arrival, target, part))
            left.append(spooled(root))
        assert left == [[1, 2], [1, 2], [1, 2], []]

    def test_photo_by_photo(self, opened: Spool, root: Path, clock: Clock) -> None:
        """Where nobody gets the post as a whole each goes by itself, and the next is counted on."""
        seen = []
        for number in (1, 2, 3):
            append(opened, number, together=())
            [one] = opened.waiting()
            seen.append((one.file_number, numbers(opened, one), spooled(root)))
            opened.done(one)
            seen.append((0, [], spooled(root)))
        assert seen == [
            *[(1, [1], [1]), (0, [], [])],
            *[(2, [2], [2]), (0, [], [])],
            *[(3, [3], [3]), (0, [], [])],
        ]

    def test_cannot_be_deleted(self, opened: Spool, root: Path, clock: Clock) -> None:
        """R10: what could not be deleted, for a crash or else, goes at the next start."""
        arrival = append(opened, 1, together=())
        append(opened, 2, together=())
        with Faults(("unlink",), errno.EIO):
            opened.done(to(arrival, "save", 1))
        before = spooled(root)
        again = reopened(opened, root, clock)
        assert (before, spooled(root), again.recovered) == ([1, 2], [2], [])
        again.close()

    @pytest.mark.parametrize("change", ["cut", "longer", "gone"])
    def test_changed(self, opened: Spool, root: Path, change: str) -> None:
        """K06: a photo that is not what it was is not delivered, and neither is a post with it."""
        arrival = append_all(opened, 1, 2, 3)
        [path] = [one for one in (root / "spool").iterdir() if one.read_bytes() == photo(2)]
        changed = {"cut": photo(2)[:-1], "longer": photo(2) + b"x"}
        told = (
            "its body is gone"
            if change == "gone"
            else "its body has another size than when it was accepted"
        )
        if change == "gone":
            path.unlink()
        else:
            path.write_bytes(changed[change])
        for delivery in (to(arrival, "save", 2), to(arrival, MAIL)):
            with pytest.raises(BodyError) as caught, opened.read(delivery):
                pass
            assert str(caught.value) == told
        assert [numbers(opened, to(arrival, "save", part)) for part in (1, 3)] == [[1], [3]]

    def test_descriptors(self, opened: Spool, root: Path) -> None:
        """K11: nothing stays open, whether a post can be read or not."""
        arrival = append_all(opened, 1, 2, 3)
        last = os.open(root, os.O_RDONLY)
        os.close(last)
        with opened.read(to(arrival, MAIL)):
            pass
        (root / "spool" / arrival.id).write_bytes(b"")
        with pytest.raises(BodyError), opened.read(to(arrival, MAIL)):
            pass
        again = os.open(root, os.O_RDONLY)
        os.close(again)
        assert again == last

    @pytest.mark.parametrize(
        ("target", "part", "moved"),
        [(MAIL, 0, [1, 3]), ("save", 1, [1]), ("save", 2, [])],
        ids=["whole", "one photo", "the one that is gone"],
    )
    def test_give_up(
        self, opened: Spool, root: Path, target: str, part: int, moved: list[int]
    ) -> None:
        """What is there of a post, or the photo that was meant, is put into quarantine."""
        arrival = append_all(opened, 1, 2, 3)
        [path] = [one for one in (root / "spool").iterdir() if one.read_bytes() == photo(2)]
        path.unlink()
        paths = opened.give_up(to(arrival, target, part))
        assert [NUMBERS[path.read_bytes()] for path in paths] == moved
        assert sorted(paths) == sorted((root / "quarantine").iterdir())
        assert spooled(root) == [number for number in (1, 3) if number not in moved]

    def test_quarantine_is_gone(self, opened: Spool, root: Path) -> None:
        """What cannot be put away, because somebody has deleted the folder, stays."""
        arrival = append(opened, 1)
        (root / "quarantine").rmdir()
        with pytest.raises(FileNotFoundError):
            opened.give_up(to(arrival, MAIL))
        assert spooled(root) == [1]

    def test_given_up_is_closed(self, opened: Spool, root: Path) -> None:
        """What comes after a post was given up is a new one."""
        arrival = append(opened, 1)
        opened.give_up(to(arrival, MAIL))
        opened.failed(to(arrival, MAIL), "its body is gone")
        append(opened, 2)
        assert posts(opened) == [[2]]


class TestRepeats:
    def repeat(self, into: Spool, data: bytes = BODY, sender: str = SENDER) -> str | None:
        """The same arrives again: the id that it repeats, None if it is a new upload."""
        incoming = receive(into, data)
        try:
            into.accept(incoming, CLIENT, parsed(data, sender), SAVE)
        except RepeatedError as error:
            incoming.discard()
            return "it is open" if error.reply else error.id
        into.reply_confirmed(incoming.id)
        return None

    def repeat_photo(
        self, into: Spool, number: int, resource: str, post: Post = POST
    ) -> str | None:
        """The same for a photo of a post."""
        try:
            append(into, number, post, resource=resource)
        except RepeatedError as error:
            return "it is open" if error.reply else error.id
        return None

    @pytest.fixture
    def lost(self, opened: Spool) -> str:
        """The id of an accepted upload whose reply was lost."""
        arrival = opened.accept(receive(opened), CLIENT, UPLOAD, SAVE)
        opened.reply_lost(arrival.id)
        return arrival.id

    @pytest.mark.parametrize(
        ("sender", "data", "later", "found"),
        [
            (SENDER, BODY, 0, True),
            (SENDER, BODY, REPEAT, True),
            (SENDER, BODY, -REPEAT, True),
            (SENDER, BODY, REPEAT + 1, False),
            (SENDER, BODY, YEARS, False),
            (SENDER, BODY, -YEARS, False),
            ("other@example.org", BODY, 0, False),
            ("", BODY, 0, False),
            (SENDER, BODY + b"x", 0, False),
            (SENDER, body([("SAM_4371.JPG", jpeg(500, seed=9))]), 0, False),
            (SENDER, body([("SAM_4371.JPG", PHOTO)], message=message_xml(text="No")), 0, False),
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
            "a byte more",
            "other photo",
            "other message",
        ],
    )
    def test_lost(
        self,
        opened: Spool,
        clock: Clock,
        lost: str,
        sender: str,
        data: bytes,
        later: float,
        found: bool,
    ) -> None:
        """The same of the same sender within the hour is a duplicate."""
        clock.now += later
        assert self.repeat(opened, data, sender) == (lost if found else None)
        assert len(opened.waiting()) == (1 if found else 2)

    def test_confirmed(self, opened: Spool) -> None:
        """The same after a reply that has arrived is a new upload, and delivered."""
        accept(opened)
        assert self.repeat(opened) is None
        assert len(opened.waiting()) == 2

    def test_reply_to_a_duplicate(self, opened: Spool, lost: str) -> None:
        """A duplicate is answered once, or until one of its replies has arrived."""
        seen = []
        for arrived in (False, False, True, True):
            seen.append(self.repeat(opened))
            if arrived:
                opened.reply_confirmed(lost)
            else:
                opened.reply_lost(lost)
        assert seen == [lost, lost, lost, None]

    @pytest.mark.parametrize("arrived", [True, False])
    def test_open(self, opened: Spool, arrived: bool) -> None:
        """A repeat can wait until it is known whether the reply has arrived."""
        arrival = opened.accept(receive(opened), CLIENT, UPLOAD, SAVE)
        incoming = receive(opened)
        with pytest.raises(RepeatedError) as caught:
            opened.accept(incoming, CLIENT, UPLOAD, SAVE)
        reply = caught.value.reply
        assert reply
        assert not reply.done()
        (opened.reply_confirmed if arrived else opened.reply_lost)(arrival.id)
        assert reply.result(0) is arrived
        if arrived:
            assert opened.accept(incoming, CLIENT, UPLOAD, SAVE).id == incoming.id
        else:
            with pytest.raises(RepeatedError) as caught:
                opened.accept(incoming, CLIENT, UPLOAD, SAVE)
            assert (caught.value.id, caught.value.reply) == (arrival.id, None)

    @pytest.mark.parametrize(
        ("settle", "found"),
        [
            (lambda found, id: found.reply_confirmed(id), False),
            (lambda found, id: found.reply_lost(id), True),
            (lambda found, id: None, True),
        ],
        ids=["confirmed", "lost", "not known"],
    )
    def test_after_a_restart(
        self,
        opened: Spool,
        root: Path,
        clock: Clock,
        settle: Callable[[Spool, str], None],
        found: bool,
    ) -> None:
        """What became of a reply is known after a restart; what was not known counts as lost."""
        arrival = opened.accept(receive(opened), CLIENT, UPLOAD, SAVE)
        settle(opened, arrival.id)
        again = reopened(opened, root, clock)
        assert self.repeat(again) == (arrival.id if found else None)
        again.close()

    def test_delivered(self, opened: Spool, root: Path, lost: str) -> None:
        """A duplicate of what has been delivered already is not delivered again."""
        [delivery] = opened.waiting()
        opened.done(delivery)
        assert self.repeat(opened) == lost
        assert (opened.waiting(), bodies(root)) == ([], ({}, {}))

    def test_confirmation_costs_no_transaction(self, opened: Spool, root: Path) -> None:
        """It is stored with the next transaction, so that an upload has one commit."""
        commits = []
        arrival = opened.accept(receive(opened), CLIENT, UPLOAD, SAVE)

        def watch(database: sqlite3.Connection, sql: str) -> None:
            commits.extend([sql] * (sql == "COMMIT"))

        Database.watchers.append(watch)
        try:
            opened.reply_confirmed(arrival.id)
            assert commits == []
            opened.done(to(arrival, "save"))
        finally:
            Database.watchers.remove(watch)
        assert commits == ["COMMIT"]
        with closing(sqlite3.connect(root / "state.sqlite3")) as database:
            assert database.execute("SELECT reply_confirmed FROM body").fetchall() == [(1,)]

    @pytest.mark.parametrize(
        ("user", "number", "resource", "later", "found"),
        [
            ("anna", 1, "R1", 0, True),
            ("anna", 1, "R1", REPEAT + 1, True),
            ("anna", 1, "R1", -YEARS, True),
            ("anna", 1, "R2", 0, False),
            ("anna", 1, "", 0, False),
            ("anna", 2, "R1", 0, False),
            ("ben", 1, "R1", 0, False),
        ],
        ids=[
            "same announcement",
            "later",
            "clock set back",
            "another announcement",
            "none",
            "another photo",
            "another sender",
        ],
    )
    def test_announced(
        self,
        opened: Spool,
        clock: Clock,
        user: str,
        number: int,
        resource: str,
        later: float,
        found: bool,
    ) -> None:
        """S08: the same photo for the same announcement is a duplicate, at any time."""
        arrival = append(opened, 1, resource="R1")
        clock.now += later
        repeated = self.repeat_photo(opened, number, resource, replace(POST, sender=user))
        assert repeated == (arrival.id if found else None)

    def test_announced_while_the_reply_is_open(self, opened: Spool) -> None:
        """The same for the same announcement needs to wait for nothing."""
        arrival = append(opened, 1, resource="R1", confirmed=False)
        assert [self.repeat_photo(opened, 1, "R1") for _ in range(2)] == [arrival.id] * 2

    def test_lost_photo(self, opened: Spool, clock: Clock) -> None:
        """A photo whose reply was lost may come under a new announcement, within the hour."""
        arrival = append(opened, 1, resource="R1", confirmed=False)
        seen = []
        for later in (0, REPEAT, REPEAT + 1):
            opened.reply_lost(arrival.id)
            clock.now = NEW_YEAR + later
            seen.append(self.repeat_photo(opened, 1, f"R{later + 3}"))
        assert seen == [arrival.id, arrival.id, None]

    @pytest.mark.parametrize(
        "post", [replace(POST, caption="Another"), replace(POST, site="picasa")], ids=str
    )
    def test_lost_photo_of_another_post(self, opened: Spool, post: Post) -> None:
        """The same photo with another caption, or for another site, is new."""
        arrival = append(opened, 1, resource="R1", confirmed=False)
        opened.reply_lost(arrival.id)
        assert self.repeat_photo(opened, 1, "R2", post) is None
        assert self.repeat_photo(opened, 1, "R2") == arrival.id

    def test_unknown(self, opened: Spool) -> None:
        """A body that nobody knows is no error."""
        opened.reply_lost("nobody")
        opened.reply_confirmed("nobody")
        assert self.repeat(opened) is None


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
        assert bodies(root) == ({incoming.id: BODY, arrival.id: BODY}, {})

    @pytest.mark.parametrize(
        "change",
        [
            lambda found, arrival: found.retry_now(arrival.id),
            lambda found, arrival: found.failed(to(arrival, "save"), "dropped by hand"),
        ],
        ids=["hurry", "failed"],
    )
    def test_is_noticed(
        self, opened: Spool, beside: Spool, change: Callable[[Spool, StoredUpload], object]
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
    def test_read(self, opened: Spool) -> None:
        """An accepted upload can be read as often as needed."""
        arrival = accept(opened)
        for _ in range(2):
            with opened.read(to(arrival, "save")) as (upload, _):
                assert [(f.name, f.data) for f in upload.files] == [("SAM_4371.JPG", PHOTO)]

    @pytest.mark.skipif(not hasattr(os, "copy_file_range"), reason="needs copy_file_range")
    @pytest.mark.parametrize("post", [False, True], ids=["mail", "post"])
    def test_copied_by_the_kernel(self, opened: Spool, tmp_path: Path, post: bool) -> None:
        """A file is copied exactly, and not through this process."""
        arrival = append(opened, 1) if post else accept(opened)
        path = tmp_path / "copy"
        with (
            opened.read(to(arrival, "save", 1)) as (_, [file]),
            path.open("xb") as copy,
            Faults(("write",), errno.EIO, persistent=True) as faults,
        ):
            file.copy_to(copy.fileno())
        assert path.read_bytes() == (photo(1) if post else PHOTO)
        assert faults.calls == 0

    def test_gone(self, opened: Spool, root: Path) -> None:
        """A body that is gone cannot be read."""
        arrival = accept(opened)
        (root / "spool" / arrival.id).unlink()
        with pytest.raises(BodyError, match="its body is gone"), opened.read(to(arrival, "save")):
            pass

    @pytest.mark.parametrize("size", [0, 1, 500, len(BODY) - 1, len(BODY) + 1])
    def test_other_size(self, opened: Spool, root: Path, size: int) -> None:
        """R04: a body that has been cut, or has grown, is not delivered."""
        arrival = accept(opened)
        (root / "spool" / arrival.id).write_bytes((BODY + b"x")[:size])
        with pytest.raises(BodyError), opened.read(to(arrival, "save")):
            pass

    def test_what_was_parsed(self, opened: Spool) -> None:
        """What a delivery gets is what was found when the upload was accepted."""
        arrival = accept(opened)
        with opened.read(to(arrival, "save")) as (found, files):
            assert found == replace(UPLOAD, deviations=())
            assert list(files) == list(UPLOAD.files)

    def test_nothing_is_read(self, opened: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        """A target that cannot be reached costs no reading: a delivery reads when it sends."""
        arrival = accept(opened)
        reads: list[int] = []
        pread = os.pread
        monkeypatch.setattr(os, "pread", lambda *what: reads.append(what[1]) or pread(*what))
        monkeypatch.setattr(os, "read", lambda *what: reads.append(what[1]))
        with opened.read(to(arrival, "mail:a@example.org")) as (found, files):
            mail.compose(found, files, ["a@example.org"], id="1", date=0, mail_from="")
            written = upload.encoded(found, files, "an id")
            assert reads == []
            assert PHOTO in b"".join(written.chunks())

    def test_failure(self, opened: Spool) -> None:
        """K06: a disk that fails for a moment is no reason to give up."""
        arrival = accept(opened)
        with (
            Faults(("open",), errno.EMFILE),
            pytest.raises(OSError, match="Too many open files"),
            opened.read(to(arrival, "save")),
        ):
            pass
