from __future__ import annotations

import contextlib
import errno
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from nxparse.deliver import outbox
from nxparse.deliver.errors import (
    Outcome,
    PermanentError,
    Refused,
    TemporaryError,
    TooLargeError,
    UnreachableError,
)
from nxparse.deliver.outbox import JITTER, MIN_WAIT, Deliver, Outbox, waiting_time
from nxparse.deliver.save import folder_for, save
from nxparse.deviation import BodyError
from nxparse.store import quarantine
from nxparse.store.deliveries import MAX_WAIT
from nxparse.store.records import Delivery
from nxparse.store.spool import Spool
from nxparse.text import format_duration
from nxparse.upload import File, Upload
from tests import arrivals
from tests.bodies import body, jpeg
from tests.clock import NEW_YEAR, Clock
from tests.faults import Faults, contents, make_lazy

PHOTO = jpeg(500)
SOON = 10.0  # seconds in which anything must have happened
DAY = 86400.0
YEARS = 3652 * DAY  # ten of them
TWO = body([("A.JPG", PHOTO), ("B.JPG", jpeg(600))])


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


def accept(
    into: Spool, data: bytes | None = None, *targets: str, to: Sequence[str] = ("a",)
) -> str:
    """Accept an upload, for each target to the same recipients. Returns its id."""
    deliveries = dict.fromkeys(targets or ("save",), to)
    data = body([("SAM_4371.JPG", PHOTO)]) if data is None else data
    return arrivals.accept(into, data, deliveries).id


CUT = body([("SAM_4371.JPG", PHOTO)])[:-1]


def cut(into: Spool, root: Path) -> str:
    """Accept an upload whose body is damaged afterwards. Returns its id."""
    id = accept(into)
    (root / "spool" / id).write_bytes(CUT)
    return id


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """The log lines since the last call, each with its level."""
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return lines


class Target:
    """A target that does what it is told to. `came` holds the id and photos of each call."""

    def __init__(self, *outcomes: BaseException | Outcome) -> None:
        self.came: list[tuple[str, list[bytes]]] = []
        self.recipients: list[tuple[str, ...]] = []
        self.progress: list[tuple[str, ...]] = []
        self._outcomes = list(outcomes)

    def __call__(self, upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
        self.came.append((delivery.id, [file.data for file in files]))
        self.recipients.append(delivery.recipients)
        self.progress.append(delivery.progress)
        outcome = self._outcomes.pop(0) if self._outcomes else Outcome("saved")
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    @property
    def ids(self) -> list[str]:
        return [id for id, _ in self.came]


class Kept:
    """Where files that could not be delivered go: into this object."""

    def __init__(self, *errors: OSError) -> None:
        self.came: list[tuple[str, list[str | None]]] = []
        self._errors = list(errors)

    def __call__(self, upload: Upload, files: Sequence[File], delivery: Delivery) -> str:
        if self._errors:
            raise self._errors.pop(0)
        self.came.append((delivery.id, [file.name for file in files]))
        return "kept"


def box(
    spool: Spool,
    targets: Mapping[str, Deliver],
    clock: Callable[[], float],
    kept: Kept | None = None,
    *,
    retry_for: float = 3 * DAY,
    jitter: float = 1.0,
) -> Outbox:
    return Outbox(
        spool,
        targets.__getitem__,
        kept or Kept(),
        retry_for=retry_for,
        clock=clock,
        jitter=lambda: jitter,
    )


def wait(spool: Spool, clock: Clock, target: str = "save") -> float | None:
    """How long the next delivery to a target waits; None if there is none."""
    when = spool.next_try(target)
    return None if when is None else when - clock.now


FULL = OSError(errno.ENOSPC, "No space left on device")
LATER = TemporaryError("421 later")
NEVER = PermanentError("550 never")
LARGE = TooLargeError("552 too large")
GONE = UnreachableError("nobody answers")
BROKEN = sqlite3.OperationalError("disk I/O error")


class TestDeliverDue:
    def test_nothing(self, waiting: Spool, clock: Clock) -> None:
        """Where nothing waits, nothing happens."""
        box(waiting, {}, clock).deliver_due("save")

    def test_success(
        self, waiting: Spool, root: Path, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What is delivered is done, once and for all."""
        target = Target(Outcome("saved as SAM_4371.JPG"))
        id = accept(waiting)
        out = box(waiting, {"save": target}, clock)
        out.deliver_due("save")
        out.deliver_due("save")
        assert target.came == [(id, [PHOTO])]
        assert told(caplog) == [("INFO", f"upload {id}: saved as SAM_4371.JPG")]
        assert contents(root / "spool") == {}

    def test_each_target(self, waiting: Spool, root: Path, clock: Clock) -> None:
        """An upload goes to each of its targets, and its body stays until the last has it."""
        targets = {"mail": Target(FULL), "save": Target()}
        id = accept(waiting, None, "save", "mail")
        out = box(waiting, targets, clock)
        out.deliver_due("mail")
        out.deliver_due("save")
        left = list(contents(root / "spool"))
        clock.now += MIN_WAIT
        out.deliver_due("mail")
        assert [target.ids for target in targets.values()] == [[id, id], [id]]
        assert (left, contents(root / "spool")) == ([id], {})

    def test_not_before_its_time(self, waiting: Spool, clock: Clock) -> None:
        """What waits is not tried when something else is."""
        target = Target(FULL)
        first = accept(waiting)
        out = box(waiting, {"save": target}, clock)
        out.deliver_due("save")
        clock.now += 5
        second = accept(waiting)
        out.deliver_due("save")
        assert wait(waiting, clock) == 10
        assert target.ids == [first, second]

    def test_dropped_meanwhile(self, waiting: Spool, root: Path, clock: Clock) -> None:
        """What a person drops while those before it are delivered is not delivered."""
        beside = Spool(root, clock, alone=False)
        target = Target()

        def deliver(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
            for one in beside.due("save")[1:]:
                beside.failed(one, "dropped by hand")
            return target(upload, files, delivery)

        id = accept(waiting)
        clock.now += 1
        accept(waiting, None, "save", "mail")
        box(waiting, {"save": deliver}, clock).deliver_due("save")
        beside.close()
        assert target.ids == [id]

    @pytest.mark.parametrize(
        "outcome",
        [Outcome("saved"), FULL, GONE, LARGE, NEVER, RuntimeError("a bug"), BodyError("none")],
        ids=repr,
    )
    def test_attempted(self, waiting: Spool, clock: Clock, outcome: Outcome | Exception) -> None:
        """A delivery is named as being tried while it is, and no longer."""
        seen = []

        def deliver(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
            seen.append(out.attempted())
            return target(upload, files, delivery)

        target = Target(outcome)
        id = accept(waiting, TWO, "save", "mail")
        out = box(waiting, {"save": deliver}, clock)
        assert out.attempted() == set()
        out.deliver_due("save")
        assert seen[0] == {(id, "save", 0)}
        assert out.attempted() == set()

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
            (LATER, "421 later"),
        ],
        ids=["reason", "file", "text", "nothing", "temporary"],
    )
    def test_reason(
        self,
        waiting: Spool,
        clock: Clock,
        caplog: pytest.LogCaptureFixture,
        error: Exception,
        reason: str,
    ) -> None:
        """The reason for another try is told."""
        id = accept(waiting)
        box(waiting, {"save": Target(error)}, clock).deliver_due("save")
        assert told(caplog) == [
            ("WARNING", f"upload {id}: save: {reason}; it is safe, next try in 15 seconds")
        ]
        assert [one.reason for one in waiting.waiting()] == [reason]

    def test_cannot_be_read(
        self, waiting: Spool, root: Path, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """T15: a body that cannot be read is tried once, and kept for a person to look at."""
        target = Target()
        poison, good = cut(waiting, root), accept(waiting)
        out = box(waiting, {"save": target}, clock)
        out.deliver_due("save")
        out.deliver_due("save")
        assert target.ids == [good]
        assert contents(root / "quarantine") == {poison: CUT}
        expected = (
            "WARNING",
            f"upload {poison} cannot be delivered: its body has another size than when it was "
            f"accepted; "
            f"its body is kept as {root / 'quarantine' / poison}",
        )
        assert sorted(told(caplog)) == sorted([expected, ("INFO", f"upload {good}: saved")])

    def test_target_cannot_use_it(self, waiting: Spool, root: Path, clock: Clock) -> None:
        """A target that says so of a body is believed."""
        id = accept(waiting)
        target = Target(BodyError("it has no photo"))
        box(waiting, {"save": target}, clock).deliver_due("save")
        assert waiting.waiting() == []
        assert list(contents(root / "quarantine")) == [id]

    def test_body_gone(
        self, waiting: Spool, root: Path, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A body that somebody has deleted is told once."""
        id = accept(waiting)
        (root / "spool" / id).unlink()
        out = box(waiting, {"save": Target()}, clock)
        out.deliver_due("save")
        out.deliver_due("save")
        assert told(caplog) == [("WARNING", f"upload {id} cannot be delivered: its body is gone")]

    @pytest.mark.parametrize("outcome", [FULL, LATER, NEVER, LARGE, BodyError("none")], ids=repr)
    def test_one_bad_delivery(self, waiting: Spool, clock: Clock, outcome: Exception) -> None:
        """One delivery that fails, for whatever reason, does not stop those behind it."""
        target = Target(outcome)
        bad = accept(waiting)
        clock.now += 1
        good = accept(waiting)
        box(waiting, {"save": target}, clock).deliver_due("save")
        assert target.ids == [bad, good]

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
        """R06: an upload that only another version can deliver waits, and is told as a fault."""
        id = accept(waiting, None, "pigeon")
        box(waiting, known, clock).deliver_due("pigeon")
        assert [record.exc_info is not None for record in caplog.records] == [True, False]
        assert told(caplog) == [
            ("ERROR", f"upload {id}: pigeon has failed"),
            ("WARNING", f"upload {id}: pigeon: {reason}; it is safe, next try in 15 seconds"),
        ]
        assert list(contents(root / "spool")) == [id]
        clock.now += MIN_WAIT
        better = Target()
        box(waiting, {"pigeon": better}, clock).deliver_due("pigeon")
        assert (better.ids, waiting.waiting()) == ([id], [])

    def test_progress(self, waiting: Spool, clock: Clock) -> None:
        """What an attempt has done is told the next one, and no other delivery."""

        def stopped(error: Exception, *progress: str) -> Exception:
            error.progress = progress  # type: ignore[attr-defined]
            return error

        target = Target(
            stopped(TemporaryError("later"), "a"),
            LATER,
            stopped(UnreachableError("gone"), "a", "b"),
            FULL,
            stopped(OSError(errno.EIO, "I/O error"), "a", "b", "c"),
            RuntimeError("a bug"),
        )
        id = accept(waiting)
        out = box(waiting, {"save": target}, clock)
        for _ in range(7):
            out.deliver_due("save")
            clock.now += MAX_WAIT
        accept(waiting)
        out.deliver_due("save")
        assert target.ids[:7] == [id] * 7
        ab, abc = ("a", "b"), ("a", "b", "c")
        assert target.progress == [(), ("a",), ("a",), ab, ab, abc, abc, ()]

    def test_target_no_longer_known(
        self, waiting: Spool, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What was for a target that cannot be used any more waits, and is kept in the end."""

        def deliver_to(target: str) -> Deliver:
            raise TemporaryError(f"there is no target {target!r}")

        kept = Kept()
        id = accept(waiting, None, "pigeon")
        out = Outbox(waiting, deliver_to, kept, retry_for=15, clock=clock, jitter=lambda: 1.0)
        out.deliver_due("pigeon")
        clock.now += MIN_WAIT
        out.deliver_due("pigeon")
        assert told(caplog) == [
            (
                "WARNING",
                f"upload {id}: pigeon: there is no target 'pigeon'; "
                f"it is safe, next try in 15 seconds",
            ),
            (
                "WARNING",
                f"upload {id} is not delivered to a: given up: there is no target 'pigeon'; kept",
            ),
        ]
        assert kept.came == [(id, ["SAM_4371.JPG"])]

    @pytest.mark.parametrize(
        "error", [LATER, GONE, FULL, RuntimeError("a bug"), NEVER, LARGE], ids=repr
    )
    def test_secrets(
        self,
        waiting: Spool,
        clock: Clock,
        caplog: pytest.LogCaptureFixture,
        error: Exception,
    ) -> None:
        """A secret that is written out in a target is told nowhere, whatever goes wrong."""
        target = "forward:https://me:s3cret@h/s3cret"
        for _ in range(3):
            accept(waiting, None, target)
        box(waiting, {target: Target(error)}, clock).deliver_due(target)
        box(waiting, {}, clock).deliver_due(target)
        assert caplog.records
        assert "s3cret" not in caplog.text

    def test_state_fails(self, waiting: Spool, clock: Clock) -> None:
        """A state that fails is raised, not noted in that very state."""
        id = accept(waiting)
        target = Target(sqlite3.OperationalError("disk I/O error"))
        out = box(waiting, {"save": target}, clock)
        with pytest.raises(sqlite3.OperationalError):
            out.deliver_due("save")
        assert [delivery.attempts for delivery in waiting.due("save")] == [0]
        out.deliver_due("save")
        assert (target.ids, waiting.waiting()) == ([id, id], [])

    @pytest.mark.parametrize(
        ("outcome", "attempts", "files_kept"),
        [(Outcome("saved"), [], 0), (LATER, [1], 0), (NEVER, [], 1)],
        ids=["done", "later", "never"],
    )
    def test_cannot_be_noted(
        self,
        waiting: Spool,
        clock: Clock,
        outcome: Exception | Outcome,
        attempts: list[int],
        files_kept: int,
    ) -> None:
        """What has become of a delivery is noted later if need be, and not made again for that."""
        id = accept(waiting)
        target, kept = Target(outcome), Kept()
        out = box(waiting, {"save": target}, clock, kept)
        with Faults(("COMMIT",), errno.EIO), pytest.raises(sqlite3.OperationalError):
            out.deliver_due("save")
        out.deliver_due("save")
        assert (target.ids, len(kept.came)) == ([id], files_kept)
        assert [one.attempts for one in waiting.waiting()] == attempts

    def test_quarantine_cannot_take_it(self, waiting: Spool, root: Path, clock: Clock) -> None:
        """A body that can neither be read nor put away stays, and stops no other."""
        target = Target()
        poison = cut(waiting, root)
        clock.now += 1
        id = accept(waiting)
        out = box(waiting, {"save": target}, clock)
        with Faults(("replace",), errno.EACCES, persistent=True):
            out.deliver_due("save")
        assert target.ids == [id]
        assert contents(root / "spool") == {poison: CUT}
        clock.now += MIN_WAIT
        out.deliver_due("save")
        assert waiting.waiting() == []
        assert contents(root / "quarantine") == {poison: CUT}

    def test_quarantine_is_gone(self, waiting: Spool, root: Path, clock: Clock) -> None:
        """Who deletes the folder with what may be deleted does not delete what comes later."""
        id = cut(waiting, root)
        (root / "quarantine").rmdir()
        with contextlib.suppress(OSError):
            box(waiting, {"save": Target()}, clock).deliver_due("save")
        assert [path.read_bytes() for path in root.rglob(id)] == [CUT]

    def test_killed_between_delivery_and_note(
        self, waiting: Spool, root: Path, clock: Clock, tmp_path: Path
    ) -> None:
        """R10: what was delivered but not noted is delivered again, which makes no second file."""
        ids: list[str] = []
        new: list[bool] = []

        def deliver(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
            ids.append(delivery.id)
            received = delivery.arrival.received
            new.extend(one.new for one in save(files, tmp_path / "uploads", received, delivery.id))
            waiting.close()  # from here on nothing can be noted in the first one
            return Outcome("saved")

        accept(waiting, TWO, "save")
        [delivery] = waiting.due("save")
        waiting.split(delivery, 2)
        with pytest.raises(sqlite3.ProgrammingError):
            box(waiting, {"save": deliver}, clock).deliver_due("save")
        again = Spool(root, clock)
        box(again, {"save": deliver}, clock).deliver_due("save")
        again.close()
        id = delivery.arrival.id
        assert ids == [f"{id}.1", f"{id}.1", f"{id}.2"]
        assert new == [True, False, True]
        day = folder_for(tmp_path / "uploads", NEW_YEAR)
        assert contents(day) == {"A.JPG": PHOTO, "B.JPG": jpeg(600)}
        assert contents(root / "spool") == {}

    def test_disk_full_for_a_while(self, waiting: Spool, clock: Clock, tmp_path: Path) -> None:
        """K08: a disk that is full, or away, for a while costs nothing but time."""

        def deliver(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
            save(files, tmp_path / "uploads", delivery.arrival.received, delivery.id)
            return Outcome("saved")

        accept(waiting)
        out = box(waiting, {"save": deliver}, clock)
        with Faults(("write", "copy_file_range"), errno.ENOSPC, persistent=True):
            out.deliver_due("save")
        assert wait(waiting, clock) == MIN_WAIT
        clock.now += MIN_WAIT
        out.deliver_due("save")
        assert waiting.waiting() == []
        assert contents(folder_for(tmp_path / "uploads", NEW_YEAR)) == {"SAM_4371.JPG": PHOTO}


class TestWaits:
    @pytest.mark.parametrize(
        ("waited", "least", "expected"),
        [
            (0, 0, MIN_WAIT),
            (14, 0, MIN_WAIT),
            (100, 0, 100),
            (100, 99, 100),
            (0, 60, 60),
            (0, 10 * MAX_WAIT, MAX_WAIT),
            (MAX_WAIT, 0, MAX_WAIT),
            (MAX_WAIT + 1, 0, MAX_WAIT),
            (YEARS, 0, MAX_WAIT),
        ],
    )
    def test_waiting_time(self, waited: float, least: float, expected: float) -> None:
        """As long as it has waited already, between 15 seconds and an hour."""
        assert waiting_time(waited, least) == expected

    def test_grow(self, waiting: Spool, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
        """A delivery that fails waits as long as it has waited, between 15 s and an hour."""
        expected = [15, 15, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
        id = accept(waiting)
        out = box(waiting, {"save": Target(*[FULL] * len(expected))}, clock)
        waits = []
        out.deliver_due("save")
        while (seconds := wait(waiting, clock)) is not None:
            waits.append(seconds)
            clock.now += seconds
            out.deliver_due("save")
        assert waits == expected
        warned = f"upload {id}: save: No space left on device; it is safe, next try in"
        assert told(caplog) == [
            *[("WARNING", f"{warned} {format_duration(seconds)}") for seconds in expected],
            ("INFO", f"upload {id}: saved"),
        ]

    def test_jitter(self, waiting: Spool, clock: Clock) -> None:
        """Each wait is a little longer or shorter, and the next one follows from that."""
        accept(waiting)
        out = box(waiting, {"save": Target(*[LATER] * 4)}, clock, jitter=1.1)
        waits = []
        for _ in range(4):
            out.deliver_due("save")
            waits.append(wait(waiting, clock))
            clock.now += waits[-1] or 0
        assert waits == pytest.approx([16.5, 18.15, 38.115, 80.0415])

    def test_jitter_of_its_own(self, waiting: Spool, clock: Clock) -> None:
        """Without being told, waits differ by up to a tenth."""
        for _ in range(20):
            accept(waiting)
        out = Outbox(
            waiting, {"save": Target(*[LATER] * 20)}.__getitem__, Kept(), retry_for=1, clock=clock
        )
        out.deliver_due("save")
        waits = {one.waited for one in waiting.waiting()}
        assert len(waits) > 1
        assert all(abs(one - MIN_WAIT) <= JITTER * MIN_WAIT for one in waits)

    @pytest.mark.parametrize(
        ("retry_after", "seconds"), [(0, 15), (60, 60), (3600, 3600), (86400, 3600)]
    )
    def test_retry_after(
        self, waiting: Spool, clock: Clock, retry_after: float, seconds: float
    ) -> None:
        """Who asks for more patience gets it, for up to an hour."""
        accept(waiting)
        out = box(waiting, {"save": Target(TemporaryError("451", retry_after))}, clock)
        out.deliver_due("save")
        assert wait(waiting, clock) == seconds

    @pytest.mark.parametrize("how", ["retried by hand", "restarted"])
    @pytest.mark.parametrize("seconds", [0, 4], ids=["at once", "after 4 s"])
    def test_waits_that_were_cut_short(
        self, waiting: Spool, root: Path, clock: Clock, how: str, seconds: float
    ) -> None:
        """Only the time that a delivery has really waited counts, and counts for the next wait."""
        times = 6
        id, error = accept(waiting), [LATER] * (times + 1)
        target = Target(*error)
        out = box(waiting, {"save": target}, clock, retry_for=30)
        out.deliver_due("save")
        for _ in range(times):
            clock.now += seconds
            if how == "restarted":
                waiting.close()
                waiting = Spool(root, clock)
                out = box(waiting, {"save": target}, clock, retry_for=30)
            else:
                assert waiting.retry_now(id) == 1
            out.deliver_due("save")
        [left] = waiting.waiting()
        wait = max(MIN_WAIT, times * seconds)
        assert (left.attempts, left.next_try - clock.now) == (times + 1, wait)
        assert left.waited == times * seconds + wait
        waiting.close()

    @pytest.mark.parametrize("jump", [YEARS, -YEARS, -NEW_YEAR, 3600, -3600, -90000])
    def test_clock_jumps(self, waiting: Spool, clock: Clock, jump: float) -> None:
        """R07: whatever the clock does, nothing expires, and nothing waits for years."""
        kept, target = Kept(), Target(*[LATER] * 5)
        accept(waiting)
        out = box(waiting, {"save": target}, clock, kept)
        out.deliver_due("save")
        clock.now += jump
        for _ in range(5):
            seconds = max(0.0, wait(waiting, clock) or 0)
            clock.now += min(seconds, 2 * MAX_WAIT)
            out.deliver_due("save")
        assert (len(target.ids), kept.came, waiting.waiting()) == (6, [], [])

    @pytest.mark.parametrize("error", [LATER, FULL], ids=["temporary", "OSError"])
    @pytest.mark.parametrize(
        ("retry_for", "attempts"), [(0, 1), (1, 2), (15, 2), (16, 3), (30, 3), (60, 4)]
    )
    def test_given_up(
        self,
        waiting: Spool,
        root: Path,
        clock: Clock,
        caplog: pytest.LogCaptureFixture,
        retry_for: float,
        attempts: int,
        error: Exception,
    ) -> None:
        """T14: what has waited for long enough is kept, and not tried again."""
        kept, target = Kept(), Target(*[error] * 99)
        id = accept(waiting)
        out = box(waiting, {"save": target}, clock, kept, retry_for=retry_for)
        for _ in range(attempts + 1):
            out.deliver_due("save")
            clock.now += wait(waiting, clock) or 0
        assert len(target.ids) == attempts
        assert kept.came == [(id, ["SAM_4371.JPG"])]
        reason = getattr(error, "strerror", str(error))
        assert told(caplog)[-1] == (
            "WARNING",
            f"upload {id} is not delivered to a: given up: {reason}; kept",
        )
        assert (contents(root / "spool"), waiting.waiting()) == ({}, [])


class TestQueue:
    """T17: what has piled up."""

    def test_new_and_old_in_turn(self, waiting: Spool, clock: Clock) -> None:
        """Neither what has just come nor what has failed before waits for the end of the other."""
        target = Target(*[LATER] * 4)
        old = [accept(waiting) for _ in range(4)]
        out = box(waiting, {"save": target}, clock)
        out.deliver_due("save")
        clock.now += MIN_WAIT
        new = [accept(waiting) for _ in range(3)]
        target.came.clear()
        out.deliver_due("save")
        order = ["new" if id in new else "old" for id in target.ids]
        assert order == ["new", "old"] * 3 + ["old"]
        assert sorted(target.ids) == sorted(old + new)

    def test_what_comes_meanwhile(self, waiting: Spool, clock: Clock) -> None:
        """An upload that is accepted while others are delivered is among the next, not the last."""
        came: list[str] = []
        late: list[str] = []

        def deliver(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
            if delivery.attempts == 0 and not late:
                raise LATER
            if not late:
                late.append(accept(waiting))
            came.append(delivery.id)
            return Outcome("saved")

        for _ in range(10):
            accept(waiting)
        out = box(waiting, {"save": deliver}, clock)
        out.deliver_due("save")
        clock.now += MIN_WAIT
        out.deliver_due("save")
        assert (came.index(late[0]), len(came)) == (1, 11)

    def test_unreachable(
        self, waiting: Spool, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A server that is gone is asked once for all that waits, and gets it when it is back."""
        target = Target(GONE, GONE, GONE)
        ids = [accept(waiting) for _ in range(1000)]
        out = box(waiting, {"save": target}, clock)
        waits = []
        for _ in range(3):
            out.deliver_due("save")
            waits.append(wait(waiting, clock) or 0)
            clock.now += waits[-1]
        assert (len(target.ids), waits) == (3, [15, 15, 30])
        assert {(one.attempts, one.reason) for one in waiting.waiting()} == {(3, str(GONE))}
        first = target.ids[0]
        assert told(caplog)[:2] == [
            ("WARNING", f"upload {first}: save: {GONE}; it is safe, next try in 15 seconds"),
            ("WARNING", f"999 more for save wait with upload {first}"),
        ]
        target.came.clear()
        out.deliver_due("save")
        assert sorted(target.ids) == sorted(ids)
        assert waiting.waiting() == []

    def test_a_password_that_is_wrong(self, waiting: Spool, clock: Clock) -> None:
        """T05: however much waits, a server that refuses our password is asked once an hour."""
        target = Target(*[UnreachableError("535 no", MAX_WAIT)] * 99)
        for _ in range(50):
            accept(waiting)
            clock.now += 1
        out = box(waiting, {"save": target}, clock, retry_for=9 * DAY)
        until = clock.now + DAY
        while clock.now < until:
            out.deliver_due("save")
            clock.now += wait(waiting, clock) or 0
        assert len(target.ids) == 24
        assert {one.waited for one in waiting.waiting()} == {DAY}

    def test_a_password_that_is_wrong_for_what_comes_later(
        self, waiting: Spool, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """T05: it is not tried again for what comes within the hour, but by hand."""
        target = Target(*[UnreachableError("535 no", MAX_WAIT)] * 2)
        first = accept(waiting)
        out = box(waiting, {"save": target}, clock)
        out.deliver_due("save")
        clock.now += 60
        second = accept(waiting)
        out.deliver_due("save")
        seen = [list(target.ids), wait(waiting, clock)]
        assert ("WARNING", "1 more for save wait: 535 no") in told(caplog)
        waiting.retry_now(second)
        out.deliver_due("save")
        seen += [list(target.ids)]
        clock.now += MAX_WAIT
        out.deliver_due("save")
        assert seen == [[first], MAX_WAIT - 60, [first, second]]
        assert sorted(target.ids[2:]) == sorted([first, second])

    def test_not_what_is_still_new(self, waiting: Spool, clock: Clock) -> None:
        """What comes after a server was found to be gone is tried at once, and by itself."""
        target = Target(GONE)
        accept(waiting)
        out = box(waiting, {"save": target}, clock)
        out.deliver_due("save")
        clock.now += 1
        new = accept(waiting)
        out.deliver_due("save")
        assert target.ids[1:] == [new]
        assert wait(waiting, clock) == MIN_WAIT - 1

    def test_another_target(self, waiting: Spool, clock: Clock) -> None:
        """What is for another target does not wait with it."""
        target = Target()
        id = accept(waiting, None, "mail", "save")
        out = box(waiting, {"mail": Target(GONE), "save": target}, clock)
        out.deliver_due("mail")
        out.deliver_due("save")
        assert target.ids == [id]

    def test_all_expire(self, waiting: Spool, root: Path, clock: Clock) -> None:
        """T14: when the time of several is over they are given up together, each with its files."""
        kept = Kept()
        target = Target(GONE, GONE)
        ids = [accept(waiting) for _ in range(5)]
        out = box(waiting, {"save": target}, clock, kept, retry_for=15)
        out.deliver_due("save")
        clock.now += MIN_WAIT
        out.deliver_due("save")
        assert len(target.ids) == 2
        assert sorted(id for id, _ in kept.came) == sorted(ids)
        assert (contents(root / "spool"), waiting.waiting()) == ({}, [])


class TestEnds:
    def test_permanent(
        self, waiting: Spool, root: Path, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What is refused for good is kept at once."""
        kept = Kept()
        id = accept(waiting, to=["a", "b"])
        box(waiting, {"save": Target(NEVER)}, clock, kept).deliver_due("save")
        assert told(caplog) == [
            ("WARNING", f"upload {id} is not delivered to a, b: 550 never; kept")
        ]
        assert kept.came == [(id, ["SAM_4371.JPG"])]
        assert (contents(root / "spool"), waiting.waiting()) == ({}, [])

    def test_too_large(
        self, waiting: Spool, root: Path, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """T06: what is too much at once goes file by file; one file that is too large is kept."""
        kept, target = Kept(), Target(LARGE, Outcome("mailed"), LARGE)
        id = accept(waiting, TWO)
        out = box(waiting, {"save": target}, clock, kept)
        out.deliver_due("save")
        assert target.came == [
            (id, [PHOTO, jpeg(600)]),
            (f"{id}.1", [PHOTO]),
            (f"{id}.2", [jpeg(600)]),
        ]
        assert kept.came == [(f"{id}.2", ["B.JPG"])]
        assert told(caplog) == [
            ("INFO", f"upload {id}: 552 too large; sending each file by itself"),
            ("INFO", f"upload {id}.1: mailed"),
            ("WARNING", f"upload {id}.2 is not delivered to a: 552 too large; kept"),
        ]
        assert (contents(root / "spool"), waiting.waiting()) == ({}, [])

    def test_one_file_too_large(self, waiting: Spool, clock: Clock) -> None:
        """A single file that is too large is kept under the id of its upload."""
        kept = Kept()
        id = accept(waiting)
        box(waiting, {"save": Target(LARGE)}, clock, kept).deliver_due("save")
        assert (kept.came, waiting.waiting()) == ([(id, ["SAM_4371.JPG"])], [])

    @pytest.mark.parametrize("error", [NEVER, LARGE], ids=["permanent", "too large"])
    def test_cannot_be_kept(
        self,
        waiting: Spool,
        root: Path,
        clock: Clock,
        caplog: pytest.LogCaptureFixture,
        error: Exception,
    ) -> None:
        """What cannot be put away, because the disk is full, stays and is not lost."""
        kept = Kept(FULL)
        id = accept(waiting)
        out = box(waiting, {"save": Target(error, error)}, clock, kept)
        out.deliver_due("save")
        assert list(contents(root / "spool")) == [id]
        assert told(caplog) == [
            (
                "WARNING",
                f"upload {id}: save: No space left on device; it is safe, next try in 15 seconds",
            )
        ]
        clock.now += MIN_WAIT
        out.deliver_due("save")
        assert (kept.came, waiting.waiting()) == ([(id, ["SAM_4371.JPG"])], [])

    def test_expired_cannot_be_kept(self, waiting: Spool, root: Path, clock: Clock) -> None:
        """The same when its time is over."""
        kept = Kept(FULL, FULL)
        id = accept(waiting)
        out = box(waiting, {"save": Target(LATER, FULL)}, clock, kept, retry_for=0)
        for _ in range(2):
            out.deliver_due("save")
            assert list(contents(root / "spool")) == [id]
            clock.now += MIN_WAIT
        out.deliver_due("save")
        assert (kept.came, waiting.waiting()) == ([], [])


def refused(recipient: str, code: int) -> Refused:
    return Refused(recipient, code >= 500, f"{code} no")


class TestRecipients:
    def test_mixed(
        self, waiting: Spool, root: Path, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """T07: one gets it once, one is refused and has it kept, one is tried again alone."""
        kept = Kept()
        target = Target(
            Outcome("mailed to a", (refused("b", 450), refused("c", 550))), Outcome("mailed to b")
        )
        id = accept(waiting, to=["a", "b", "c"])
        out = box(waiting, {"save": target}, clock, kept)
        out.deliver_due("save")
        left = [(one.recipients, one.attempts, one.waited) for one in waiting.waiting()]
        clock.now += MIN_WAIT
        out.deliver_due("save")
        assert left == [(("b",), 1, 15)]
        assert target.recipients == [("a", "b", "c"), ("b",)]
        assert target.ids == [id, id]
        assert kept.came == [(id, ["SAM_4371.JPG"])]
        assert told(caplog) == [
            ("INFO", f"upload {id}: mailed to a"),
            ("WARNING", f"upload {id}: not delivered to c (550 no); kept"),
            (
                "WARNING",
                f"upload {id}: save: b (450 no); it is safe, next try in 15 seconds",
            ),
            ("INFO", f"upload {id}: mailed to b"),
        ]
        assert (contents(root / "spool"), waiting.waiting()) == ({}, [])

    @pytest.mark.parametrize(
        ("codes", "retry_for", "state", "left", "kept_once"),
        [
            ([450, 250], 60, "waiting", ("a",), False),
            ([450, 451], 60, "waiting", ("a", "b"), False),
            ([450, 550], 60, "waiting", ("a",), True),
            ([250, 550], 60, "done", ("a",), True),
            ([550, 550], 60, "failed", ("a", "b"), True),
            ([450, 250], 0, "done", ("b",), True),
            ([450, 550], 0, "failed", ("a", "b"), True),
        ],
        ids=str,
    )
    def test_ends(
        self,
        waiting: Spool,
        root: Path,
        clock: Clock,
        codes: list[int],
        retry_for: float,
        state: str,
        left: tuple[str, ...],
        kept_once: bool,
    ) -> None:
        """What becomes of a delivery when some of its recipients are refused."""
        pairs = zip("ab", codes, strict=True)
        outcome = Outcome("sent", tuple(refused(one, code) for one, code in pairs if code >= 400))
        kept = Kept()
        accept(waiting, to=["a", "b"])
        out = box(waiting, {"save": Target(outcome)}, clock, kept, retry_for=retry_for)
        out.deliver_due("save")
        with sqlite3.connect(root / "state.sqlite3") as database:
            [(found, recipients)] = database.execute("SELECT state, recipients FROM delivery")
        database.close()
        assert (found, recipients) == (state, str(list(left)).replace("'", '"'))
        assert len(kept.came) == kept_once

    def test_cannot_be_kept(self, waiting: Spool, clock: Clock) -> None:
        """Who has his mail does not get it again because another one's cannot be kept."""
        kept = Kept(FULL)
        target = Target(
            Outcome("mailed to a", (refused("b", 550), refused("c", 450))),
            Outcome("not mailed", (refused("b", 550),)),
        )
        accept(waiting, to=["a", "b", "c"])
        out = box(waiting, {"save": target}, clock, kept)
        out.deliver_due("save")
        clock.now += MIN_WAIT
        out.deliver_due("save")
        assert [sorted(one) for one in target.recipients] == [["a", "b", "c"], ["b", "c"]]
        assert (len(kept.came), waiting.waiting()) == (1, [])


class TestThreads:
    @pytest.fixture
    def started(self, waiting: Spool) -> Iterator[Callable[[Mapping[str, Deliver]], Outbox]]:
        """Starts an outbox that delivers to these targets, and stops it in the end."""
        boxes: list[Outbox] = []

        def start(targets: Mapping[str, Deliver]) -> Outbox:
            boxes.append(box(waiting, targets, time.time))
            boxes[-1].start()
            return boxes[-1]

        yield start
        assert [one.stop(SOON) for one in boxes] == [True] * len(boxes)

    def test_what_is_left_from_last_time(
        self, waiting: Spool, started: Callable[[Mapping[str, Deliver]], Outbox]
    ) -> None:
        """A new outbox begins with what waits already."""
        events = Events(1)
        id = accept(waiting)
        started({"save": events})
        assert events.done.wait(SOON)
        assert events.came == [id]

    def test_wake(
        self, waiting: Spool, clock: Clock, started: Callable[[Mapping[str, Deliver]], Outbox]
    ) -> None:
        """What comes while it sleeps is delivered at once, to old targets and new ones."""
        events = Events(3)
        out = started({"save": events, "mail": events})
        ids = []
        for target in ("save", "save", "mail"):
            clock.now += 1
            ids.append(accept(waiting, None, target))
            out.wake()
        assert events.done.wait(SOON)
        assert sorted(events.came) == ids

    def test_slow_target(
        self, waiting: Spool, started: Callable[[Mapping[str, Deliver]], Outbox]
    ) -> None:
        """C09: a target that does not answer holds up its own deliveries only."""
        begun, go_on, fast = threading.Event(), threading.Event(), Events(2)

        def slow(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
            begun.set()
            assert go_on.wait(SOON)
            return Outcome("late")

        ids = [accept(waiting, None, "slow", "fast")]
        out = started({"slow": slow, "fast": fast})
        try:
            assert begun.wait(SOON)
            ids.append(accept(waiting, None, "slow", "fast"))
            out.wake()
            assert fast.done.wait(SOON)
            assert [one.target for one in waiting.waiting()].count("slow") == 2
        finally:
            go_on.set()
        assert fast.came == ids

    def test_command_line_is_noticed(
        self,
        waiting: Spool,
        root: Path,
        started: Callable[[Mapping[str, Deliver]], Outbox],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What another process lets be due is tried without any further word."""
        monkeypatch.setattr(outbox, "POLL", 0.01)
        waiting._clock = time.time  # else nothing would sleep
        noted, postpone = threading.Event(), waiting.postpone

        def note(*arguments: Any) -> None:
            postpone(*arguments)
            noted.set()

        monkeypatch.setattr(waiting, "postpone", note)
        events = Events(2, LATER)
        id = accept(waiting)
        started({"save": events})
        beside = Spool(root, alone=False)
        assert noted.wait(SOON)
        assert beside.retry_now(id) == 1
        beside.close()
        assert events.done.wait(SOON)
        assert events.came == [id, id]

    @pytest.mark.parametrize(
        "error",
        [RuntimeError("a bug"), sqlite3.OperationalError("disk I/O error"), FULL],
        ids=repr,
    )
    def test_survives(
        self,
        waiting: Spool,
        started: Callable[[Mapping[str, Deliver]], Outbox],
        monkeypatch: pytest.MonkeyPatch,
        error: Exception,
    ) -> None:
        """C07: no exception ends the thread, and the delivery is tried again."""
        monkeypatch.setattr(outbox, "MIN_WAIT", 0.01)
        events = Events(2, error)
        waiting._clock = time.time
        id = accept(waiting)
        started({"save": events})
        assert events.done.wait(SOON)
        assert events.came == [id, id]

    @pytest.mark.parametrize(
        ("call", "error", "expected"),
        [
            (
                "first_due",
                BROKEN,
                "deliveries to save stop for 0 s: "
                "their state cannot be read or written: disk I/O error",
            ),
            ("first_due", RuntimeError("a bug"), "deliveries to save stop for 0 s"),
            ("targets", BROKEN, "cannot look after the deliveries"),
            ("tidy", BROKEN, "cannot look after the deliveries"),
            ("version", BROKEN, "cannot look after the deliveries"),
        ],
    )
    def test_failure_of_the_state_is_told(
        self,
        waiting: Spool,
        started: Callable[[Mapping[str, Deliver]], Outbox],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        call: str,
        error: Exception,
        expected: str,
    ) -> None:
        """When nothing can be delivered at all, that is an error, and ends with its cause."""
        monkeypatch.setattr(outbox, "MIN_WAIT", 0.01)
        monkeypatch.setattr(outbox, "POLL", 0.01)
        real, failures = getattr(waiting, call), [error]
        again = threading.Event()

        def broken(*arguments: object, **named: object) -> object:
            if failures:
                raise failures.pop()
            again.set()
            return real(*arguments, **named)

        events = Events(1)
        accept(waiting)
        monkeypatch.setattr(waiting, call, broken)
        started({"save": events})
        assert again.wait(SOON)
        assert events.done.wait(SOON)
        assert told(caplog).count(("ERROR", expected)) == 1

    @pytest.mark.parametrize("error", [RuntimeError("a bug"), FULL], ids=repr)
    def test_secrets(
        self,
        waiting: Spool,
        started: Callable[[Mapping[str, Deliver]], Outbox],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        error: Exception,
    ) -> None:
        """A secret that is written out in a target is not in the name of its thread, either."""
        target = "forward:https://me:s3cret@h/s3cret"
        failed = threading.Event()

        def broken(*_: object, **__: object) -> None:
            failed.set()
            raise error

        accept(waiting, None, target)
        monkeypatch.setattr(waiting, "next_try", broken)
        out = started({target: Target()})
        assert failed.wait(SOON)
        names = [thread.name for thread in threading.enumerate()]
        assert out.stop(SOON)
        assert "nx forward:https://h/..." in names
        assert "deliveries to forward:https://h/... stop for 15 s" in caplog.text
        assert "s3cret" not in "".join([caplog.text, *names])

    def test_no_thread_for_now(
        self,
        waiting: Spool,
        started: Callable[[Mapping[str, Deliver]], Outbox],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """C07: when the system has no thread left, the target gets one later."""
        monkeypatch.setattr(outbox, "POLL", 0.01)
        monkeypatch.setattr(outbox, "MIN_WAIT", 0.01)
        real, failures = threading.Thread.start, [RuntimeError("can't start new thread")]

        def start(thread: threading.Thread) -> None:
            if thread.name == "nx save" and failures:
                raise failures.pop()
            real(thread)

        monkeypatch.setattr(threading.Thread, "start", start)
        events = Events(1)
        accept(waiting)
        started({"save": events})
        assert events.done.wait(2)

    def test_quarantine_is_tidied(
        self,
        waiting: Spool,
        root: Path,
        started: Callable[[Mapping[str, Deliver]], Outbox],
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What is deleted from a full quarantine is told."""
        monkeypatch.setattr(quarantine, "MAX_QUARANTINE", 10)
        incoming = waiting.begin()
        incoming.write(b"more than ten bytes")
        path = waiting.quarantine(incoming)
        looked = threading.Event()
        version = waiting.version

        def look() -> int:
            looked.set()
            return version()

        monkeypatch.setattr(waiting, "version", look)
        started({})
        assert looked.wait(SOON)
        assert told(caplog) == [
            ("WARNING", f"quarantine is full: deleted the oldest in it, {path}")
        ]
        assert contents(root / "quarantine") == {}

    def test_stop_ends_after_the_delivery_at_hand(self, waiting: Spool, root: Path) -> None:
        """R02: what is being delivered is delivered to its end, the rest waits for next time."""
        begun, go_on = threading.Event(), threading.Event()
        came: list[str] = []

        def deliver(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
            came.append(delivery.id)
            begun.set()
            assert go_on.wait(SOON)
            return Outcome("saved")

        ids = sorted([accept(waiting), accept(waiting)])
        out = box(waiting, {"save": deliver}, time.time)
        out.start()
        assert begun.wait(SOON)
        started = time.monotonic()
        assert out.stop(0.01) is False
        assert time.monotonic() - started < 1
        go_on.set()
        assert out.stop(SOON) is True
        assert came == ids[:1]
        assert list(contents(root / "spool")) == ids[1:]

    def test_start_after_a_stop(self, waiting: Spool) -> None:
        """A delivery that outlasts a stop and a start is made once; the rest is made then."""
        begun, go_on, all_came = threading.Event(), threading.Event(), threading.Event()
        came: list[str] = []

        def deliver(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
            came.append(delivery.id)
            begun.set()
            assert go_on.wait(SOON)
            if {*came} == {*ids}:
                all_came.set()
            return Outcome("saved")

        ids = sorted([accept(waiting), accept(waiting)])
        out = box(waiting, {"save": deliver}, time.time)
        out.start()
        assert begun.wait(SOON)
        assert out.stop(0) is False
        assert [one.id for one in out.at_hand] == ids[:1]
        out.start()
        go_on.set()
        assert all_came.wait(SOON)
        assert out.stop(SOON) is True
        assert (sorted(came), out.at_hand) == (ids, [])

    def test_stop_while_asleep(self, waiting: Spool) -> None:
        """A sleeping outbox ends at once."""
        events = Events(1)
        accept(waiting)
        out = box(waiting, {"save": events}, time.time)
        out.start()
        assert events.done.wait(SOON)
        assert out.stop(SOON) is True

    def test_sleep(
        self,
        waiting: Spool,
        started: Callable[[Mapping[str, Deliver]], Outbox],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A target with nothing to do, or nothing yet, sleeps; and none keeps the program alive."""
        waiting._clock = time.time
        looked: list[str] = []
        both, next_try = threading.Event(), waiting.next_try

        def look(target: str) -> float | None:
            looked.append(target)
            if {*looked} == {"save", "mail"}:
                both.set()
            return next_try(target)

        monkeypatch.setattr(waiting, "next_try", look)
        accept(waiting, None, "save", "mail")
        started({"save": Events(1), "mail": Events(1, LATER)})
        assert both.wait(SOON)
        assert {one.daemon for one in threading.enumerate() if one.name.startswith("nx ")} == {True}
        time.sleep(0.05)  # in which they would look thousands of times
        assert len(looked) < 10
        assert [level for level, _ in told(caplog) if level == "ERROR"] == []

    def test_stop_while_something_hangs(
        self, waiting: Spool, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """To stop takes no longer than it may, and tells that not all has ended."""
        hangs, released = threading.Event(), threading.Event()

        def targets() -> list[str]:
            hangs.set()
            released.wait(SOON)
            return []

        monkeypatch.setattr(waiting, "targets", targets)
        out = box(waiting, {}, clock)
        out.start()
        assert hangs.wait(SOON)
        assert out.stop(0.01) is False
        released.set()
        assert out.stop(SOON) is True

    @pytest.mark.parametrize("action", ["wake", "stop"])
    def test_wake_at_the_wrong_moment(
        self, waiting: Spool, monkeypatch: pytest.MonkeyPatch, action: str
    ) -> None:
        """What happens just after the outbox has looked for work, and before it sleeps, counts."""
        looks, happened = threading.Event(), threading.Event()
        next_try = waiting.next_try

        def late(target: str) -> float | None:
            found = next_try(target)
            looks.set()
            assert happened.wait(SOON)
            return found

        events = Events(2)
        ids = [accept(waiting)]
        monkeypatch.setattr(waiting, "next_try", late)
        out = box(waiting, {"save": events}, time.time)
        out.start()
        assert looks.wait(SOON)
        if action == "wake":
            ids.append(accept(waiting))
            out.wake()
            happened.set()
            assert events.done.wait(SOON)
        else:
            assert out.stop(0) is False
            happened.set()
        assert out.stop(SOON) is True
        assert events.came == ids

    def test_new_target_at_the_wrong_moment(
        self, waiting: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first upload for a target is not left to the next look, whenever it comes."""
        monkeypatch.setattr(outbox, "POLL", SOON)
        looks, happened = threading.Event(), threading.Event()
        targets = waiting.targets

        def late() -> list[str]:
            found = targets()
            looks.set()
            assert happened.wait(SOON)
            return found

        accepted = accept(waiting, None, "other")
        monkeypatch.setattr(waiting, "version", lambda: -1)
        monkeypatch.setattr(waiting, "targets", late)
        events = Events(1)
        out = box(waiting, {"save": events, "other": Target()}, time.time)
        out.start()
        assert looks.wait(SOON)
        id = accept(waiting)
        out.wake()
        happened.set()
        in_time = events.done.wait(1)
        assert out.stop(SOON) is True
        assert (in_time, events.came, accepted != id) == (True, [id], True)


class Events:
    """A target that notes what came, fails the first time if it is told to, and says when."""

    def __init__(self, enough: int, *errors: Exception) -> None:
        self.came: list[str] = []
        self.done = threading.Event()
        self._enough = enough
        self._errors = list(errors)

    def __call__(self, upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
        self.came.append(delivery.id)
        if self._errors:
            raise self._errors.pop()
        if len(self.came) == self._enough:
            self.done.set()
        return Outcome("saved")
