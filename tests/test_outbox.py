from __future__ import annotations

import contextlib
import errno
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from nxparse import outbox, spool
from nxparse.deliver.save import folder_for, save
from nxparse.deviation import BodyError
from nxparse.outbox import MIN_WAIT, Deliver, Outbox
from nxparse.spool import MAX_WAIT, Arrival, Spool
from nxparse.upload import Upload
from tests.bodies import CONTENT_TYPE, body, jpeg
from tests.faults import Faults, contents, make_lazy

NEW_YEAR = 1767225600.0  # 2026-01-01 00:00 UTC
PHOTO = jpeg(500)
SOON = 10.0  # seconds in which anything must have happened


class Clock:
    """A clock that stands still unless it is set."""

    def __init__(self) -> None:
        self.now = NEW_YEAR

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _prepared(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    make_lazy(monkeypatch)
    caplog.set_level(logging.INFO)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / ".nx"


@pytest.fixture
def waiting(root: Path, clock: Clock) -> Iterator[Spool]:
    """A spool."""
    found = Spool(root, clock)
    yield found
    found.close()


def accept(into: Spool, data: bytes | None = None, *targets: str) -> str:
    """Accept an upload. Returns its id."""
    incoming = into.begin()
    incoming.write(body([("SAM_4371.JPG", PHOTO)]) if data is None else data)
    return into.accept(incoming, "192.0.2.7", CONTENT_TYPE, targets or ("save",)).id


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """The log lines since the last call, each with its level."""
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return lines


class Target:
    """A target that does what it is told to. `came` holds the id and photos of each call."""

    def __init__(self, *outcomes: BaseException | str) -> None:
        self.came: list[tuple[str, list[bytes]]] = []
        self._outcomes = list(outcomes)

    def __call__(self, upload: Upload, arrival: Arrival) -> str:
        self.came.append((arrival.id, [file.data for file in upload.files]))
        outcome = self._outcomes.pop(0) if self._outcomes else "saved"
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    @property
    def ids(self) -> list[str]:
        return [id for id, _ in self.came]


FULL = OSError(errno.ENOSPC, "No space left on device")


class TestDeliverDue:
    def test_nothing(self, waiting: Spool, clock: Clock) -> None:
        """Nothing is nothing to wait for."""
        assert Outbox(waiting, {}, clock).deliver_due() is None

    def test_success(
        self, waiting: Spool, root: Path, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What is delivered is done, once and for all."""
        target = Target("saved as SAM_4371.JPG")
        id = accept(waiting)
        out = Outbox(waiting, {"save": target}, clock)
        assert [out.deliver_due(), out.deliver_due()] == [None, None]
        assert target.came == [(id, [PHOTO])]
        assert told(caplog) == [("INFO", f"upload {id}: saved as SAM_4371.JPG")]
        assert contents(root / "spool") == {}

    def test_each_target(self, waiting: Spool, root: Path, clock: Clock) -> None:
        """An upload goes to each of its targets, and its body stays until the last has it."""
        targets = {"mail": Target(FULL), "save": Target()}
        id = accept(waiting, None, "save", "mail")
        out = Outbox(waiting, targets, clock)
        out.deliver_due()
        left = list(contents(root / "spool"))
        clock.now += MIN_WAIT
        out.deliver_due()
        assert [target.ids for target in targets.values()] == [[id, id], [id]]
        assert (left, contents(root / "spool")) == ([id], {})

    def test_waits_grow(
        self, waiting: Spool, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A delivery that fails waits as long as it has waited, between 15 s and an hour."""
        target = Target(*[FULL] * 11)
        id = accept(waiting)
        out = Outbox(waiting, {"save": target}, clock)
        waits = []
        while (wait := out.deliver_due()) is not None:
            waits.append(wait)
            clock.now += wait
        expected = [15, 15, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
        assert waits == expected
        assert told(caplog) == [
            *[
                (
                    "WARNING",
                    f"upload {id}: save: No space left on device; "
                    f"it is safe, trying again in {wait} s",
                )
                for wait in expected
            ],
            ("INFO", f"upload {id}: saved"),
        ]

    @pytest.mark.parametrize(
        ("age", "wait"),
        [
            (0, MIN_WAIT),
            (10, MIN_WAIT),
            (100, 100),
            (MAX_WAIT + 1, MAX_WAIT),
            (56 * 365 * 86400, MAX_WAIT),
        ],
    )
    def test_wait_by_age(self, waiting: Spool, clock: Clock, age: float, wait: float) -> None:
        """R07: whatever the clock says, the next try is neither at once nor next year."""
        accept(waiting)
        clock.now += age
        assert Outbox(waiting, {"save": Target(FULL)}, clock).deliver_due() == wait

    def test_not_before_its_time(self, waiting: Spool, clock: Clock) -> None:
        """What waits is not tried when something else is."""
        target = Target(FULL)
        first = accept(waiting)
        out = Outbox(waiting, {"save": target}, clock)
        out.deliver_due()
        clock.now += 5
        second = accept(waiting)
        assert out.deliver_due() == 10
        assert target.ids == [first, second]

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (FULL, "No space left on device"),
            (
                OSError(errno.EACCES, "Permission denied", "2026-01-01"),
                "Permission denied (2026-01-01)",
            ),
            (OSError("the disk sleeps"), "the disk sleeps"),
            (TimeoutError(), "TimeoutError"),
        ],
        ids=["reason", "file", "text", "nothing"],
    )
    def test_reason(
        self,
        waiting: Spool,
        clock: Clock,
        caplog: pytest.LogCaptureFixture,
        error: OSError,
        reason: str,
    ) -> None:
        """The reason for another try is told."""
        id = accept(waiting)
        Outbox(waiting, {"save": Target(error)}, clock).deliver_due()
        assert told(caplog) == [
            ("WARNING", f"upload {id}: save: {reason}; it is safe, trying again in 15 s")
        ]

    def test_cannot_be_read(
        self, waiting: Spool, root: Path, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """T15: a body that cannot be read is tried once, and kept for a person to look at."""
        target = Target()
        poison, good = accept(waiting, b"not multipart"), accept(waiting)
        out = Outbox(waiting, {"save": target}, clock)
        assert [out.deliver_due(), out.deliver_due()] == [None, None]
        assert target.ids == [good]
        assert contents(root / "quarantine") == {poison: b"not multipart"}
        expected = (
            "WARNING",
            f"upload {poison} cannot be delivered: the boundary "
            f"b'---------------------------7d93b9550d4a' never appears in the body "
            f"(at byte 13); its body is kept as {root / 'quarantine' / poison}",
        )
        assert sorted(told(caplog)) == sorted([expected, ("INFO", f"upload {good}: saved")])

    def test_target_cannot_use_it(self, waiting: Spool, root: Path, clock: Clock) -> None:
        """A target that says so of a body is believed."""
        id = accept(waiting)
        target = Target(BodyError("it has no photo"))
        assert Outbox(waiting, {"save": target}, clock).deliver_due() is None
        assert list(contents(root / "quarantine")) == [id]

    def test_body_gone(
        self, waiting: Spool, root: Path, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A body that somebody has deleted is told once."""
        id = accept(waiting)
        (root / "spool" / id).unlink()
        out = Outbox(waiting, {"save": Target()}, clock)
        assert [out.deliver_due(), out.deliver_due()] == [None, None]
        assert told(caplog) == [("WARNING", f"upload {id} cannot be delivered: its body is gone")]

    @pytest.mark.parametrize("outcome", [FULL, BodyError("it has no photo")], ids=repr)
    def test_one_bad_delivery(self, waiting: Spool, clock: Clock, outcome: Exception) -> None:
        """One delivery that fails, for whatever reason, does not stop those behind it."""
        good = Target()
        accept(waiting, None, "bad")
        clock.now += 1
        id = accept(waiting, None, "good")
        out = Outbox(waiting, {"bad": Target(*[outcome] * 9), "good": good}, clock)
        for _ in range(2):
            out.deliver_due()
            clock.now += MIN_WAIT
        assert good.ids == [id]

    @pytest.mark.parametrize(
        ("known", "reason"),
        [
            ({"pigeon": Target(*[RuntimeError("it got lost")] * 9)}, "RuntimeError('it got lost')"),
            ({"pigeon": Target(*[MemoryError()] * 9)}, "MemoryError()"),
            ({}, "KeyError('pigeon')"),
        ],
        ids=["bug", "no memory", "unknown target"],
    )
    def test_fault_of_ours(
        self,
        waiting: Spool,
        root: Path,
        clock: Clock,
        caplog: pytest.LogCaptureFixture,
        known: dict[str, Deliver],
        reason: str,
    ) -> None:
        """R06: an upload that only another version can deliver waits, and stops no other."""
        good = Target()
        bad_id = accept(waiting, None, "pigeon")
        clock.now += 1
        good_id = accept(waiting, None, "good")
        out = Outbox(waiting, {**known, "good": good}, clock)
        assert out.deliver_due() == MIN_WAIT
        assert [record.exc_info is not None for record in caplog.records] == [True, False, False]
        assert told(caplog) == [
            ("ERROR", f"upload {bad_id}: pigeon has failed"),
            (
                "WARNING",
                f"upload {bad_id}: pigeon: {reason}; it is safe, trying again in 15 s",
            ),
            ("INFO", f"upload {good_id}: saved"),
        ]
        assert list(contents(root / "spool")) == [bad_id]
        clock.now += MIN_WAIT
        better = Target()
        assert Outbox(waiting, {"pigeon": better}, clock).deliver_due() is None
        assert (better.ids, good.ids) == ([bad_id], [good_id])

    def test_state_fails(self, waiting: Spool, clock: Clock) -> None:
        """A state that fails is raised, not noted in that very state."""
        id = accept(waiting)
        target = Target(sqlite3.OperationalError("disk I/O error"))
        out = Outbox(waiting, {"save": target}, clock)
        with pytest.raises(sqlite3.OperationalError):
            out.deliver_due()
        assert [delivery.attempts for delivery in waiting.due()] == [0]
        assert out.deliver_due() is None
        assert target.ids == [id, id]

    def test_quarantine_cannot_take_it(self, waiting: Spool, root: Path, clock: Clock) -> None:
        """A body that can neither be read nor put away stays, and stops no other."""
        target = Target()
        poison = accept(waiting, b"not multipart")
        clock.now += 1
        id = accept(waiting)
        out = Outbox(waiting, {"save": target}, clock)
        with Faults(("replace",), errno.EACCES, persistent=True), contextlib.suppress(OSError):
            out.deliver_due()
        assert target.ids == [id]
        assert contents(root / "spool") == {poison: b"not multipart"}
        clock.now += MIN_WAIT
        assert out.deliver_due() is None
        assert contents(root / "quarantine") == {poison: b"not multipart"}

    def test_quarantine_is_gone(self, waiting: Spool, root: Path, clock: Clock) -> None:
        """Who deletes the folder with what may be deleted does not delete what comes later."""
        id = accept(waiting, b"not multipart")
        (root / "quarantine").rmdir()
        with contextlib.suppress(OSError):
            Outbox(waiting, {"save": Target()}, clock).deliver_due()
        assert [path.read_bytes() for path in root.rglob(id)] == [b"not multipart"]

    def test_killed_between_delivery_and_note(
        self, waiting: Spool, root: Path, clock: Clock, tmp_path: Path
    ) -> None:
        """R10: what was delivered but not noted is delivered again, which makes no second file."""
        ids = []

        def deliver(upload: Upload, arrival: Arrival) -> str:
            ids.append(arrival.id)
            save(upload, tmp_path / "uploads", arrival.received, arrival.id)
            waiting.close()  # from here on nothing can be noted
            return "saved"

        id = accept(waiting)
        with pytest.raises(sqlite3.ProgrammingError):
            Outbox(waiting, {"save": deliver}, clock).deliver_due()
        again = Spool(root, clock)

        def deliver_again(upload: Upload, arrival: Arrival) -> str:
            ids.append(arrival.id)
            [saved] = save(upload, tmp_path / "uploads", arrival.received, arrival.id)
            return "new" if saved.new else "there already"

        assert Outbox(again, {"save": deliver_again}, clock).deliver_due() is None
        again.close()
        assert ids == [id, id]
        day = folder_for(tmp_path / "uploads", NEW_YEAR)
        assert contents(day) == {"SAM_4371.JPG": PHOTO}
        assert contents(root / "spool") == {}

    def test_disk_full_for_a_while(self, waiting: Spool, clock: Clock, tmp_path: Path) -> None:
        """K08: a disk that is full, or away, for a while costs nothing but time."""

        def deliver(upload: Upload, arrival: Arrival) -> str:
            return str(save(upload, tmp_path / "uploads", arrival.received, arrival.id)[0].new)

        accept(waiting)
        out = Outbox(waiting, {"save": deliver}, clock)
        with Faults(("write",), errno.ENOSPC, persistent=True):
            assert out.deliver_due() == MIN_WAIT
        clock.now += MIN_WAIT
        assert out.deliver_due() is None
        assert contents(folder_for(tmp_path / "uploads", NEW_YEAR)) == {"SAM_4371.JPG": PHOTO}

    def test_quarantine_is_tidied(
        self,
        waiting: Spool,
        root: Path,
        clock: Clock,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What is deleted from a full quarantine is told."""
        monkeypatch.setattr(spool, "MAX_QUARANTINE", 10)
        incoming = waiting.begin()
        incoming.write(b"more than ten bytes")
        path = waiting.quarantine(incoming)
        assert Outbox(waiting, {}, clock).deliver_due() is None
        assert told(caplog) == [
            ("WARNING", f"quarantine is full: deleted the oldest in it, {path}")
        ]
        assert contents(root / "quarantine") == {}

    def test_quarantine_cannot_be_tidied(
        self, waiting: Spool, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that cannot be deleted does not change when the next delivery is due."""
        monkeypatch.setattr(spool, "MAX_QUARANTINE", 10)
        incoming = waiting.begin()
        incoming.write(b"more than ten bytes")
        waiting.quarantine(incoming)
        with Faults(("unlink",), errno.EPERM):
            assert Outbox(waiting, {}, clock).deliver_due() is None


class TestThread:
    @pytest.fixture
    def started(self, waiting: Spool) -> Iterator[Callable[[Deliver], Outbox]]:
        """Starts an outbox that delivers to one function, and stops it in the end."""
        boxes: list[Outbox] = []

        def start(deliver: Deliver) -> Outbox:
            boxes.append(Outbox(waiting, {"save": deliver}, time.time))
            boxes[-1].start()
            return boxes[-1]

        yield start
        assert [box.stop(SOON) for box in boxes] == [True] * len(boxes)

    def test_what_is_left_from_last_time(
        self, waiting: Spool, started: Callable[[Deliver], Outbox]
    ) -> None:
        """A new outbox begins with what waits already."""
        came: list[str] = []
        done = threading.Event()
        id = accept(waiting)
        started(partial(_note, came, done, 1))
        assert done.wait(SOON)
        assert came == [id]

    def test_wake(self, waiting: Spool, clock: Clock, started: Callable[[Deliver], Outbox]) -> None:
        """What comes while it sleeps is delivered at once."""
        came: list[str] = []
        done = threading.Event()
        out = started(partial(_note, came, done, 2))
        ids = []
        for _ in range(2):
            clock.now += 1
            ids.append(accept(waiting))
            out.wake()
        assert done.wait(SOON)
        assert came == ids

    @pytest.mark.parametrize(
        "error",
        [RuntimeError("a bug"), sqlite3.OperationalError("disk I/O error"), FULL],
        ids=repr,
    )
    def test_survives(
        self,
        waiting: Spool,
        clock: Clock,
        started: Callable[[Deliver], Outbox],
        monkeypatch: pytest.MonkeyPatch,
        error: Exception,
    ) -> None:
        """C07: no exception ends the thread, and the delivery is tried again."""
        monkeypatch.setattr(outbox, "MIN_WAIT", 0.01)
        done = threading.Event()
        tries: list[str] = []

        def deliver(upload: Upload, arrival: Arrival) -> str:
            tries.append(arrival.id)
            if len(tries) == 1:
                clock.now = time.time() + 1000
                raise error
            done.set()
            return "saved"

        clock.now = time.time()
        id = accept(waiting)
        started(deliver)
        assert done.wait(SOON)
        assert tries == [id, id]

    def test_failure_of_the_state_is_told(
        self,
        waiting: Spool,
        started: Callable[[Deliver], Outbox],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """When nothing can be delivered at all, that is an error that tells how long it lasts."""
        monkeypatch.setattr(outbox, "MIN_WAIT", 0.01)
        tried = threading.Event()

        def broken() -> list[object]:
            if any(record.levelname == "ERROR" for record in caplog.records):
                tried.set()
                return []
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(waiting, "due", broken)
        started(Target())
        assert tried.wait(SOON)
        assert told(caplog)[0] == ("ERROR", "deliveries stop for 0 s")

    def test_stop_ends_after_the_delivery_at_hand(self, waiting: Spool, root: Path) -> None:
        """R02: what is being delivered is delivered to its end, the rest waits for next time."""
        begun, go_on = threading.Event(), threading.Event()
        came: list[str] = []

        def deliver(upload: Upload, arrival: Arrival) -> str:
            came.append(arrival.id)
            begun.set()
            assert go_on.wait(SOON)
            return "saved"

        ids = sorted([accept(waiting), accept(waiting)])
        out = Outbox(waiting, {"save": deliver}, time.time)
        out.start()
        assert begun.wait(SOON)
        assert out.stop(0) is False
        go_on.set()
        assert out.stop(SOON) is True
        assert came == ids[:1]
        assert list(contents(root / "spool")) == ids[1:]

    def test_stop_while_asleep(self, waiting: Spool) -> None:
        """A sleeping outbox ends at once."""
        out = Outbox(waiting, {}, time.time)
        out.start()
        assert out.stop(SOON) is True

    def test_stop_at_the_wrong_moment(self, waiting: Spool) -> None:
        """A stop just before the outbox looks for work is not missed."""
        looks, stopped = threading.Event(), threading.Event()

        class Late(threading.Event):
            """Is set by a stop just before it is cleared."""

            def clear(self) -> None:
                looks.set()
                assert stopped.wait(SOON)
                super().clear()

            def set(self) -> None:
                super().set()
                stopped.set()

        out = Outbox(waiting, {}, time.time)
        out._wake = Late()
        out.start()
        assert looks.wait(SOON)
        ended = out.stop(0.5)
        out.wake()  # or the thread would sleep for an hour
        assert ended is True


def _note(
    came: list[str], done: threading.Event, enough: int, upload: Upload, arrival: Arrival
) -> str:
    came.append(arrival.id)
    if len(came) == enough:
        done.set()
    return "saved"
