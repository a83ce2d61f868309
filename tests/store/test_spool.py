from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from nxparse.deviation import BodyError
from nxparse.store import spool
from nxparse.store.body import MIN_FREE
from nxparse.store.deliveries import MAX_WAIT
from nxparse.store.disk import write_file
from nxparse.store.records import Delivery, Post, StoredUpload
from nxparse.store.spool import GAP, MAX_PHOTOS, QUIET, Spool
from tests.bodies import RECIPIENT, SENDER
from tests.clock import NEW_YEAR, Clock
from tests.faults import Database, Faults, contents
from tests.store.helpers import (
    BODY,
    CLIENT,
    MAIL,
    NUMBERS,
    OTHER,
    PHOTO,
    POST,
    SAVE,
    SITE,
    UPLOAD,
    YEARS,
    Reopen,
    accept,
    append,
    bodies,
    numbers,
    photo,
    posts,
    receive,
    spooled,
    to,
    waits,
)

ALBUM_X, NO_ALBUM = POST._replace(album="NX500"), POST._replace(album="")

FOREST = POST._replace(caption="In the forest")
TWO = POST._replace(caption="~a gull~two gulls")

Row = tuple[list[tuple[float, Post]], list[list[int]]]

# For each photo, the seconds since the one before, and its post; then the resulting posts.
GROUPS: dict[str, Row] = {
    "three": ([(0, POST), (9, POST), (9, POST)], [[1, 2, 3]]),
    "another caption and the first again": (
        [(0, POST), (9, FOREST), (9, POST), (9, FOREST)],
        [[1, 3], [2, 4]],
    ),
    "caption in another case": ([(0, POST), (9, POST._replace(caption="AT THE SEA"))], [[1], [2]]),
    "no caption, and one": ([(0, POST._replace(caption="")), (9, POST)], [[1], [2]]),
    "another session": ([(0, POST), (9, POST._replace(session="another"))], [[1], [2]]),
    "another site": ([(0, POST), (9, POST._replace(site="picasa"))], [[1], [2]]),
    "another album": ([(0, POST), (9, ALBUM_X)], [[1], [2]]),
    "photo and video": ([(0, POST), (9, NO_ALBUM)], [[1, 2]]),
    "video between two albums": ([(0, POST), (9, NO_ALBUM), (9, ALBUM_X)], [[1, 2], [3]]),
    "two albums and a video": ([(0, POST), (9, ALBUM_X), (9, NO_ALBUM)], [[1], [2, 3]]),
    "gap after gap": ([(0, POST), (GAP, POST), (GAP, POST)], [[1, 2, 3]]),
    "long gap and gap": ([(0, POST), (GAP + 1, POST), (GAP, POST)], [[1], [2, 3]]),
    "clock set back a little": ([(0, POST), (-GAP, POST)], [[1, 2]]),
    "clock set back": ([(0, POST), (-GAP - 1, POST), (0, POST)], [[1], [2, 3]]),
    "clock set forward": ([(0, POST), (YEARS, POST), (9, POST)], [[1], [2, 3]]),
    "as many as the caption describes": ([(9, TWO)] * 4, [[1, 2], [3, 4]]),
    "fewer than the caption describes": ([(0, POST._replace(caption="~~~"))] * 2, [[1, 2]]),
}


class TestOpen:
    def test_modes(self, root: Path, clock: Clock) -> None:
        """`.nx` is private with any umask; the folder of the photos follows the umask."""
        before = os.umask(0)
        try:
            opened = Spool(root, clock)
            accept(opened)
            opened.quarantine(receive(opened))
            opened.save_unknown(b"a flow")
        finally:
            os.umask(before)
        modes = {}
        for path in [root.parent, root, *root.rglob("*")]:
            name = re.sub(r"2026\w+-\w+", "ID", str(path.relative_to(root.parent.parent)))
            modes[name] = oct(stat.S_IMODE(path.stat().st_mode))
        opened.close()
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
            "uploads/.nx/unknown": "0o700",
            "uploads/.nx/unknown/ID.mitm": "0o600",
        }

    def test_photo_folder_is_a_link(self, tmp_path: Path, clock: Clock) -> None:
        """The folder of the photos may be a link."""
        (tmp_path / "disk").mkdir()
        (tmp_path / "uploads").symlink_to(tmp_path / "disk")
        Spool(tmp_path / "uploads" / ".nx", clock).close()
        assert (tmp_path / "disk" / ".nx" / "spool").is_dir()

    def test_state_is_durable(
        self, root: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SQLite fsyncs its log at each commit."""
        monkeypatch.setattr(Database, "lazy", False)
        settings: set[tuple[object, ...]] = set()

        def look(database: sqlite3.Connection, sql: str) -> None:
            if sql == "COMMIT":
                pragmas = ("journal_mode", "synchronous", "foreign_keys")
                cursors = [sqlite3.Connection.execute(database, f"PRAGMA {p}") for p in pragmas]
                settings.add(tuple(cursor.fetchone()[0] for cursor in cursors))

        monkeypatch.setattr(Database, "watchers", [look])
        with closing(Spool(root, clock)) as found:
            accept(found)
        assert settings == {("wal", 2, 1)}

    @pytest.mark.parametrize(
        ("state", "error"),
        [("open elsewhere", BlockingIOError), ("garbled", sqlite3.DatabaseError)],
    )
    def test_cannot_be_opened(
        self, opened: Spool, root: Path, clock: Clock, state: str, error: type[Exception]
    ) -> None:
        """A spool that cannot be opened is left unchanged, and leaks no descriptor."""
        incoming = receive(opened)
        if state == "garbled":
            opened.close()
            (root / "state.sqlite3").write_bytes(b"garbage " * 1000)
        before = os.listdir("/proc/self/fd")
        for _ in range(3):
            with pytest.raises(error):
                Spool(root, clock)
        assert os.listdir("/proc/self/fd") == before
        assert bodies(root) == ({incoming.id: BODY}, {})


def done_but_not_deleted(opened: Spool) -> None:
    """Finish a delivery whose body cannot be deleted."""
    arrival = accept(opened)
    with Faults(("unlink",), errno.EIO):
        opened.done(to(arrival, "save"))


class TestRecovery:
    """The states after a crash, row by row of the table in spool.py."""

    @pytest.mark.parametrize(
        ("leave", "spooled", "quarantined", "waiting"),
        [
            pytest.param(lambda opened, path: receive(opened), 0, 1, [], id="no row"),
            pytest.param(lambda opened, path: opened.begin(), 0, 0, [], id="no row, empty"),
            pytest.param(lambda opened, path: accept(opened), 1, 0, ["save"], id="waiting"),
            pytest.param(
                lambda opened, path: opened.done(to(accept(opened, targets=("a", "b")), "a")),
                *(1, 0, ["b"]),
                id="one of two waiting",
            ),
            pytest.param(lambda opened, path: done_but_not_deleted(opened), 0, 0, [], id="done"),
            pytest.param(
                lambda opened, path: (path / accept(opened).id).unlink(),
                *(0, 0, ["save"]),
                id="waiting, no body",
            ),
            pytest.param(lambda opened, path: accept(opened, targets=()), 0, 0, [], id="no target"),
            pytest.param(lambda opened, path: (path / "lost+found").mkdir(), 0, 0, [], id="folder"),
        ],
    )
    def test_recovered(
        self,
        opened: Spool,
        root: Path,
        reopen: Reopen,
        leave: Callable[[Spool, Path], object],
        spooled: int,
        quarantined: int,
        waiting: list[str],
    ) -> None:
        """Bodies are delivered, deleted or moved to quarantine, unaltered."""
        leave(opened, root / "spool")
        again = reopen()
        found = bodies(root)
        assert [list(kind.values()) for kind in found] == [[BODY] * spooled, [BODY] * quarantined]
        assert again.recovered == [root / "quarantine" / id for id in found[1]]
        assert [one.target for one in again.waiting()] == waiting

    def test_temporary_files(self, opened: Spool, root: Path, clock: Clock, reopen: Reopen) -> None:
        """Temporary files of a crashed process are deleted, but no others."""
        temporary = (
            root.parent / "undelivered" / "2026-01-01" / ".20260101T000000Z-00000000-0",
            root / "run-1" / "SAM_4371.JPG",
            root / "run-2" / "deep" / "SAM_4371.JPG",
        )
        others = (
            temporary[0].with_name("SAM_4371.JPG"),
            temporary[0].with_name(".hidden"),
            root.parent / "elsewhere" / "SAM_4371.JPG",
        )
        for path in (*temporary, *others):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (root / "run-link").symlink_to(root.parent / "elsewhere")
        Spool(root, clock, alone=False).close()  # another process may still need them
        assert all(path.exists() for path in temporary)
        reopen()
        assert not any(path.exists() for path in (*temporary, root / "run-1", root / "run-2"))
        assert all(path.exists() for path in others)

    @pytest.mark.parametrize(
        ("state", "age", "remains"),
        [
            ("done", spool.HISTORY, True),
            ("done", spool.HISTORY + 1, False),
            ("failed", spool.HISTORY + 1, False),
            ("waiting", spool.HISTORY + 1, True),
            ("waiting", -YEARS, True),
        ],
    )
    def test_history(
        self, opened: Spool, clock: Clock, reopen: Reopen, state: str, age: float, remains: bool
    ) -> None:
        """Old uploads are deleted with their deliveries, unless one is waiting."""
        arrival = accept(opened)
        if state != "waiting":
            getattr(opened, state)(to(arrival, "save"), "a reason")
        clock.now += age
        assert [one.arrival for one in reopen().recent()] == [arrival] * remains

    def test_length_of_the_history(
        self, opened: Spool, monkeypatch: pytest.MonkeyPatch, clock: Clock
    ) -> None:
        """The oldest uploads are deleted while others arrive, except waiting ones."""
        monkeypatch.setattr(spool, "MAX_HISTORY", 20)
        waiting = accept(opened)
        for _ in range(30):
            clock.now += 1
            opened.done(to(accept(opened), "save"))
            assert len(opened.recent(limit=100)) <= 1 + 20 + 1
        assert opened.recent(limit=100)[-1].arrival == waiting


def test_id(opened: Spool) -> None:
    """Ids are unique and begin with the UTC time."""
    ids = {opened.begin().id for _ in range(100)}
    assert len(ids) == 100
    assert {re.sub(r"[0-9a-f]{8}\Z", "*", id) for id in ids} == {"20260101T000000Z-*"}


class TestAccept:
    def test_accepted(self, opened: Spool, root: Path, clock: Clock) -> None:
        """The deliveries of an accepted upload are due at once."""
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
        assert len(opened.due("save")) == 1
        assert bodies(root) == ({arrival.id: BODY}, {})

    def test_order(self, opened: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        """The body and its directory entry are fsynced before the commit."""
        seen: list[str] = []
        fsync, write = os.fsync, os.write

        def fsynced(fd: int) -> None:
            seen.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "body")
            fsync(fd)

        def written(fd: int, data: bytes) -> int:
            seen.append("write")
            return write(fd, data)

        def watched(database: sqlite3.Connection, sql: str) -> None:
            seen.extend([sql] * (sql == "COMMIT"))

        monkeypatch.setattr(os, "fsync", fsynced)
        monkeypatch.setattr(os, "write", written)
        monkeypatch.setattr(Database, "watchers", [watched])
        opened.accept(receive(opened), CLIENT, UPLOAD, SAVE)
        assert seen == ["write", "write", "body", "folder", "COMMIT"]

    def test_replaced_folder(self, opened: Spool, root: Path) -> None:
        """A body in a folder that was replaced is not accepted, and no new one is begun."""
        incoming = receive(opened)
        (root / "spool").rename(root / "old")
        (root / "spool").mkdir()
        with pytest.raises(OSError, match="removed or replaced"):
            opened.accept(incoming, CLIENT, UPLOAD, SAVE)
        with pytest.raises(OSError, match="removed or replaced"):
            opened.begin()
        assert contents(root / "spool") == {}

    def test_reopened_once(self, opened: Spool, root: Path) -> None:
        """A replaced folder is reopened once, even if two uploads notice it.

        A body that began in the old folder can be received, but not accepted.
        """
        arriving = opened.begin(len(BODY))
        arriving.write(BODY[:100])
        (root / "spool").rename(root / "old")
        opened.reopen()
        incoming = receive(opened)
        opened.reopen()
        assert opened.accept(incoming, CLIENT, UPLOAD, SAVE)
        arriving.write(BODY[100:])
        with pytest.raises(OSError, match="Bad file descriptor"):
            opened.accept(arriving, CLIENT, UPLOAD, SAVE)
        arriving.discard()


class TestPosts:
    @pytest.mark.parametrize(("sent", "expected"), GROUPS.values(), ids=GROUPS)
    def test_groups(
        self, opened: Spool, clock: Clock, sent: list[tuple[float, Post]], expected: list[list[int]]
    ) -> None:
        """The photos of a post are delivered together, or each by itself."""
        for number, (seconds, post) in enumerate(sent, 1):
            clock.now += seconds
            append(opened, number, post)
        assert posts(opened) == expected
        assert posts(opened, "save") == [[number] for number in range(1, len(sent) + 1)]

    @pytest.mark.parametrize("photos", [0, MAX_PHOTOS + 5])
    def test_max_photos(self, opened: Spool, clock: Clock, photos: int) -> None:
        """A post with the maximum number of photos is due, and the next photo begins a new post."""
        seen = []
        for number in range(1, MAX_PHOTOS + 2):
            append(opened, number, POST._replace(caption="~" * photos), at_once=())
            seen.append([when for _, _, when in waits(opened, clock)])
        assert seen == [[QUIET]] * (MAX_PHOTOS - 1) + [[0], [0, QUIET]]
        assert list(map(len, posts(opened))) == [MAX_PHOTOS, 1]

    def test_album_comes_later(self, opened: Spool) -> None:
        """A post that begins with a video has the album of its photos."""
        append(opened, 1, NO_ALBUM)
        append(opened, 2)
        append(opened, 3, NO_ALBUM)
        for one in opened.waiting():
            with opened.read(one) as (found, _):
                assert found.album == "NX300"

    def test_complete(self, opened: Spool, clock: Clock) -> None:
        """A post with all photos that its caption announces is due at once."""
        append(opened, 1, TWO)
        opened.expect(TWO)
        clock.now += 5
        append(opened, 2, TWO)
        assert waits(opened, clock) == [(MAIL, 0, 0), ("save", 1, -5), ("save", 2, 0)]
        opened.expect(TWO)
        assert waits(opened, clock)[0] == (MAIL, 0, 0)

    def test_expect(self, opened: Spool, clock: Clock) -> None:
        """A post waits for an announced photo, other posts do not."""
        append(opened, 1)
        clock.now += 10
        append(opened, 2, FOREST, at_once=())
        opened.expect(POST)
        assert waits(opened, clock) == [(MAIL, 0, QUIET), (MAIL, 0, GAP), ("save", 1, -10)]

    def test_restart(self, opened: Spool, clock: Clock, reopen: Reopen) -> None:
        """After a restart everything is due, except open posts, which may still grow."""
        tried = append(opened, 1, FOREST, at_once=())
        opened.postpone(to(tried, MAIL), 3600, "later", [SITE])
        being_tried = append(opened, 2, NO_ALBUM, at_once=())
        with opened.read(to(being_tried, MAIL)):
            pass
        append(opened, 3, POST._replace(caption="~"), at_once=())  # complete
        append(opened, 4)
        opened.expect(POST)
        clock.now += 100
        again = reopen()
        assert waits(again, clock) == [*[(MAIL, 0, 0)] * 3, (MAIL, 0, QUIET), ("save", 1, 0)]
        append(again, 5)
        assert posts(again) == [[1], [2], [3], [4, 5]]

    def test_closed(self, opened: Spool, clock: Clock) -> None:
        """Reading a whole post closes it for all targets, and no other post.

        Reading one photo does not close it.
        """
        together = (MAIL, "run:x")
        append(opened, 4, POST._replace(caption="Elsewhere"), together=together)
        arrival = append(opened, 1, together=together)
        with opened.read(to(arrival, "save", 1)):
            pass
        append(opened, 2, together=together)
        opened.expect(POST)
        with opened.read(to(arrival, MAIL)):
            opened.expect(POST)
        found = [(target, 0, wait) for target in together for wait in (0, QUIET)]
        assert waits(opened, clock)[:4] == found
        append(opened, 3, together=together)
        assert posts(opened) == [[1, 2], [3], [4]]

    def test_other_targets(self, opened: Spool) -> None:
        """With other targets a photo begins a new post: older photos may be deleted already."""
        first = append(opened, 1, together=())
        opened.done(to(first, "save", 1))
        second = append(opened, 2)
        assert first.id != second.id
        assert posts(opened) == [[2]]

    def test_file_that_takes_long(self, opened: Spool, clock: Clock) -> None:
        """The gap between two photos ends with the announcement of the second."""
        append(opened, 1)
        clock.now += 5
        opened.expect(POST)
        clock.now += GAP - 1
        append(opened, 2)
        assert posts(opened) == [[1, 2]]

    def test_retry_now(self, opened: Spool, clock: Clock) -> None:
        """A post that the user retries is due now, and stays open until it is read."""
        arrival = append(opened, 1)
        opened.expect(POST)
        clock.now += 5
        assert opened.retry_now(arrival.id) == 2
        assert [seconds <= 0 for _, _, seconds in waits(opened, clock)] == [True, True]
        append(opened, 2)
        assert posts(opened) == [[1, 2]]

    @pytest.mark.parametrize("seed", range(10))
    def test_any_order(self, root: Path, clock: Clock, seed: int) -> None:
        """In any order of events, each target gets each photo in exactly one delivery.

        A delivery that is retried has the same photos.
        """
        random = Random(seed)
        opened = Spool(root, clock)
        targets = ("save", MAIL, OTHER)
        delivered: dict[str, list[int]] = {target: [] for target in targets}
        tried: dict[tuple[str, str], list[int]] = {}
        kinds = [POST, NO_ALBUM, FOREST, POST._replace(caption="~~~")]
        sent = 0

        def send() -> None:
            nonlocal sent
            sent += 1
            append(opened, sent, random.choice(kinds), together=[MAIL, OTHER])

        def attempt(target: str, fails: bool, arrives: bool) -> None:
            one = opened.first_due(target)
            if one is None:
                return
            with opened.read(one) as (_, files):
                if arrives:
                    send()
                received = [NUMBERS[file.data] for file in files]
            assert tried.setdefault((target, one.id), received) == received
            if fails and len(received) > 1 and random.random() < 0.3:
                opened.split(one, len(received))
            elif fails:
                opened.postpone(one, 15, "later", one.recipients)
            else:
                opened.done(one)
                delivered[target] += received

        for _ in range(60):
            match random.randrange(8):
                case 0 | 1:
                    send()
                case 2:
                    opened.expect(random.choice(kinds))
                case 3:
                    clock.now += random.choice([1, 30, QUIET, GAP + 1, -30])
                case 4:
                    opened.back_off(random.choice(targets), 60, "no answer")
                case 5 if random.random() < 0.5:
                    opened.close()
                    opened = Spool(root, clock)
                case _:
                    fails, arrives = random.random() < 0.4, random.random() < 0.3
                    attempt(random.choice(targets), fails, arrives)
        clock.now += 2 * MAX_WAIT
        for target in targets:
            while opened.first_due(target):
                attempt(target, fails=False, arrives=False)
        assert opened.waiting() == []
        opened.close()
        for found in delivered.values():
            assert sorted(found) == list(range(1, sent + 1))
        assert bodies(root) == ({}, {})


class TestPostBodies:
    """The bodies of a post of three photos."""

    @pytest.fixture
    def arrival(self, opened: Spool) -> StoredUpload:
        first, *_ = [append(opened, number) for number in (1, 2, 3)]
        return first

    @pytest.fixture
    def second(self, root: Path, arrival: StoredUpload) -> Path:
        """The body of the second photo."""
        [path] = [one for one in (root / "spool").iterdir() if one.read_bytes() == photo(2)]
        return path

    @pytest.mark.parametrize(
        ("ends", "left"),
        [
            ("123w", [[1, 2, 3], [1, 2, 3], [1, 2, 3], []]),
            ("w213", [[1, 2, 3], [1, 3], [3], []]),
            ("2w13", [[1, 2, 3], [1, 3], [3], []]),
        ],
    )
    def test_deleted(
        self, opened: Spool, root: Path, arrival: StoredUpload, ends: str, left: list[list[int]]
    ) -> None:
        """Each body is deleted after the last delivery of its photo and of the whole post."""
        found = []
        for one in ends:
            if one == "w":
                opened.done(to(arrival, MAIL))
            else:
                opened.failed(to(arrival, "save", int(one)), "a reason")
            found.append(spooled(root))
        assert found == left

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda path: path.write_bytes(photo(2)[:-1]), "its body has another size than when"),
            (lambda path: path.write_bytes(photo(2) + b"x"), "its body has another size than when"),
            (Path.unlink, "its body is gone"),
        ],
        ids=["cut", "longer", "gone"],
    )
    def test_changed(
        self,
        opened: Spool,
        arrival: StoredUpload,
        second: Path,
        change: Callable[[Path], object],
        message: str,
    ) -> None:
        """A body whose size has changed is not delivered, and neither is its post."""
        change(second)
        before = os.listdir("/proc/self/fd")
        for delivery in (to(arrival, "save", 2), to(arrival, MAIL)):
            with pytest.raises(BodyError, match=message), opened.read(delivery):
                pass
        assert os.listdir("/proc/self/fd") == before
        assert [numbers(opened, to(arrival, "save", number)) for number in (1, 3)] == [[1], [3]]

    @pytest.mark.parametrize(
        ("target", "file_number", "moved"),
        [(MAIL, 0, [1, 3]), ("save", 1, [1]), ("save", 2, [])],
        ids=["whole", "one photo", "the missing one"],
    )
    def test_moved_to_quarantine(
        self,
        opened: Spool,
        root: Path,
        arrival: StoredUpload,
        second: Path,
        target: str,
        file_number: int,
        moved: list[int],
    ) -> None:
        """The existing bodies of a delivery go to quarantine."""
        second.unlink()
        paths = opened.quarantine_delivery(to(arrival, target, file_number))
        assert [NUMBERS[path.read_bytes()] for path in paths] == moved
        assert sorted(paths) == sorted((root / "quarantine").iterdir())
        assert spooled(root) == [number for number in (1, 3) if number not in moved]

    def test_quarantine_is_gone(self, opened: Spool, root: Path, arrival: StoredUpload) -> None:
        """Bodies that cannot be moved to quarantine stay."""
        (root / "quarantine").rmdir()
        with pytest.raises(FileNotFoundError):
            opened.quarantine_delivery(to(arrival, MAIL))
        assert spooled(root) == [1, 2, 3]


class TestBeside:
    """A second spool, opened with `alone=False` beside the one that delivers."""

    def test_touches_nothing(self, opened: Spool, root: Path, clock: Clock) -> None:
        """A second spool recovers nothing, since the first may be receiving these bodies."""
        incoming, arrival = receive(opened), accept(opened)
        opened.postpone(to(arrival, "save"), 60, "450 busy", [RECIPIENT])
        with closing(Spool(root, clock, alone=False)) as beside:
            assert (beside.recovered, beside.due("save")) == ([], [])
        assert bodies(root) == ({incoming.id: BODY, arrival.id: BODY}, {})

    def test_is_noticed(self, opened: Spool, root: Path, clock: Clock) -> None:
        """Changes by other processes are noticed, but no other changes."""
        delivery = to(accept(opened), "save")
        opened.notice_changes()
        opened.postpone(delivery, 60, "450 busy", [RECIPIENT])
        seen = [opened.notice_changes()]
        with closing(Spool(root, clock, alone=False)) as beside:
            beside.waiting()
            seen.append(opened.notice_changes())
            beside.failed(delivery, "dropped by hand")
        seen += [opened.notice_changes(), opened.notice_changes()]
        assert seen == [False, False, True, False]


class TestRead:
    @pytest.mark.skipif(not hasattr(os, "copy_file_range"), reason="needs copy_file_range")
    def test_copied_by_the_kernel(self, opened: Spool, tmp_path: Path) -> None:
        """A file is copied by the kernel, exactly."""
        arrival = accept(opened)
        path = tmp_path / "copy"
        with (
            opened.read(to(arrival, "save", 1)) as (_, [file]),
            path.open("xb") as copy,
            Faults(("write",), errno.EIO, persistent=True) as faults,
        ):
            write_file(file, copy.fileno())
        assert path.read_bytes() == PHOTO
        assert faults.calls == 0


def is_quarantined(opened: Spool, root: Path) -> None:
    opened.quarantine(receive(opened))


def is_delivered(opened: Spool, root: Path) -> None:
    opened.done(to(accept(opened), "save"))


def is_dropped_by_another_process(opened: Spool, root: Path) -> None:
    arrival = accept(opened)
    with closing(Spool(root, Clock(), alone=False)) as beside:
        beside.failed(to(arrival, "save"), "dropped by hand")
    opened.notice_changes()


@pytest.mark.parametrize("end", [is_quarantined, is_delivered, is_dropped_by_another_process])
def test_space_is_released(
    opened: Spool, root: Path, monkeypatch: pytest.MonkeyPatch, end: Callable[[Spool, Path], None]
) -> None:
    """A body that is no longer needed has no descriptor and no reserved space."""
    disk = SimpleNamespace(free=MIN_FREE + 2 * len(BODY))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk)
    end(opened, root)
    links = [Path("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd")]
    files = [os.readlink(link) for link in links if link.is_symlink()]
    assert [one for one in files if one.startswith((f"{root}/spool/", f"{root}/quarantine/"))] == []
    following = opened.begin(len(BODY))
    with pytest.raises(OSError, match="too little for this upload"):
        opened.begin(len(BODY))
    following.discard()


def test_space_is_reserved_again(
    opened: Spool, reopen: Reopen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart, waiting deliveries still have space for their copies."""
    accept(opened)
    disk = SimpleNamespace(free=MIN_FREE + 2 * len(BODY))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk)
    with pytest.raises(OSError, match="too little for this upload"):
        reopen().begin(len(BODY))
