"""What becomes of deliveries: done, retried, split, abandoned, or moved to quarantine."""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

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
from nxparse.store import spool as spool_module
from nxparse.store.deliveries import MAX_WAIT
from nxparse.store.records import Delivery
from nxparse.store.spool import Spool
from nxparse.upload import File, Upload
from tests import arrivals
from tests.bodies import body, jpeg
from tests.clock import NEW_YEAR, Clock
from tests.faults import Faults, contents, make_lazy

PHOTO = jpeg(500)
ONE = body([("SAM_4371.JPG", PHOTO)])
TWO = body([("A.JPG", PHOTO), ("B.JPG", jpeg(600))])
CUT = ONE[:-1]
SOON = 30.0  # seconds in which anything must have happened
DAY = 86400.0
YEARS = 3652 * DAY  # ten of them

FULL = OSError(errno.ENOSPC, "No space left on device")
LATER = TemporaryError("421 later")
NEVER = PermanentError("550 never")
LARGE = TooLargeError("552 too large")
GONE = UnreachableError("no answer")
BUG = RuntimeError("a bug")
BROKEN = sqlite3.OperationalError("disk I/O error")


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
def spool(root: Path, clock: Clock) -> Iterator[Spool]:
    found = Spool(root, clock)
    yield found
    found.close()


def accept(into: Spool, *targets: str, data: bytes = ONE, to: Sequence[str] = ("a",)) -> str:
    """Accept an upload, for each target to the same recipients. Returns its id."""
    return arrivals.accept(into, data, dict.fromkeys(targets or ("save",), to)).id


def accept_cut(into: Spool, root: Path) -> str:
    """Accept an upload whose body is damaged afterwards. Returns its id."""
    id = accept(into)
    (root / "spool" / id).write_bytes(CUT)
    return id


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log lines since the last call, each after its level."""
    lines = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
    caplog.clear()
    return lines


class Target:
    """A target with scripted outcomes, then success. Records what it was given.

    `done` is set by call number `enough`.
    """

    def __init__(self, *outcomes: BaseException | Outcome, enough: int = 1) -> None:
        self.ids: list[str] = []
        self.photos: list[list[bytes]] = []
        self.recipients: list[tuple[str, ...]] = []
        self.progress: list[tuple[str, ...]] = []
        self.done = threading.Event()
        self._outcomes = list(outcomes)
        self._enough = enough

    def __call__(self, upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
        self.ids.append(delivery.id)
        self.photos.append([file.data for file in files])
        self.recipients.append(delivery.recipients)
        self.progress.append(delivery.progress)
        if len(self.ids) == self._enough:
            self.done.set()
        outcome = self._outcomes.pop(0) if self._outcomes else Outcome("saved")
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class Kept:
    """A place for files that could not be delivered; its first attempts may fail."""

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
    """Return the seconds until the next delivery to a target; None if there is none."""
    when = spool.next_try(target)
    return None if when is None else when - clock.now


def assert_ended(spool: Spool, root: Path) -> None:
    assert (spool.waiting(), contents(root / "spool")) == ([], {})


class TestDeliverDue:
    def test_success(
        self, spool: Spool, root: Path, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A delivery that succeeds is made once."""
        target = Target(Outcome("saved as SAM_4371.JPG"))
        id = accept(spool)
        out = box(spool, {"save": target}, clock)
        out.deliver_due("save")
        out.deliver_due("save")
        assert (target.ids, target.photos) == ([id], [[PHOTO]])
        assert logged(caplog) == [f"INFO upload {id}: saved as SAM_4371.JPG"]
        assert_ended(spool, root)

    def test_each_target(self, spool: Spool, root: Path, clock: Clock) -> None:
        """An upload goes to each of its targets, and its body stays until the last has it."""
        mail, disk = Target(FULL), Target()
        id = accept(spool, "save", "mail")
        out = box(spool, {"save": disk, "mail": mail}, clock)
        out.deliver_due("mail")
        out.deliver_due("save")
        assert list(contents(root / "spool")) == [id]
        clock.now += MIN_WAIT
        out.deliver_due("mail")
        assert (mail.ids, disk.ids) == ([id, id], [id])
        assert_ended(spool, root)

    def test_not_before_its_time(self, spool: Spool, clock: Clock) -> None:
        """A postponed delivery is not retried together with a new one."""
        target = Target(FULL)
        first = accept(spool)
        out = box(spool, {"save": target}, clock)
        out.deliver_due("save")
        clock.now += 5
        second = accept(spool)
        out.deliver_due("save")
        assert (target.ids, wait(spool, clock)) == ([first, second], 10)

    def test_dropped_meanwhile(self, spool: Spool, root: Path, clock: Clock) -> None:
        """A delivery that the user drops while others are made is not made."""
        beside = Spool(root, clock, alone=False)
        target = Target()

        def deliver(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
            for one in beside.due("save")[1:]:
                beside.failed(one, "dropped by hand")
            return target(upload, files, delivery)

        id = accept(spool)
        clock.now += 1
        accept(spool, "save", "mail")
        box(spool, {"save": deliver}, clock).deliver_due("save")
        beside.close()
        assert target.ids == [id]

    @pytest.mark.parametrize(
        "outcome", [Outcome("saved"), FULL, GONE, LARGE, NEVER, BUG, BodyError("none")], ids=repr
    )
    def test_others_go_on(self, spool: Spool, clock: Clock, outcome: Exception | Outcome) -> None:
        """A delivery is in progress while it is made, and then the next one is made."""
        seen = []

        def deliver(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
            seen.append(out.attempted())
            return target(upload, files, delivery)

        target = Target(outcome)
        first = accept(spool, "save", "mail")
        clock.now += 1
        second = accept(spool)
        out = box(spool, {"save": deliver}, clock)
        assert out.attempted() == set()
        out.deliver_due("save")
        assert seen[0] == {(first, "save", 0)}
        assert out.attempted() == set()
        clock.now += MIN_WAIT
        out.deliver_due("save")
        assert second in target.ids

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (FULL, "No space left on device"),
            (OSError(errno.EACCES, "Permission denied", "dir"), "Permission denied (dir)"),
            (OSError("the disk sleeps"), "the disk sleeps"),
            (TimeoutError(), "TimeoutError"),
            (LATER, "421 later"),
        ],
        ids=["number", "file", "text", "nothing", "temporary"],
    )
    def test_retry(
        self,
        spool: Spool,
        clock: Clock,
        caplog: pytest.LogCaptureFixture,
        error: Exception,
        reason: str,
    ) -> None:
        """The reason for a retry is logged and stored."""
        id = accept(spool)
        box(spool, {"save": Target(error)}, clock).deliver_due("save")
        line = f"upload {id}: save: {reason}; it is safe, next try in 15 seconds"
        assert logged(caplog) == [f"WARNING {line}"]
        assert [one.reason for one in spool.waiting()] == [reason]

    @pytest.mark.parametrize(
        ("known", "reason"),
        [
            ({"pigeon": Target(BUG)}, "RuntimeError('a bug')"),
            ({"pigeon": Target(MemoryError())}, "MemoryError()"),
            ({}, "KeyError('pigeon')"),
        ],
        ids=["bug", "no memory", "unknown target"],
    )
    def test_bug(
        self,
        spool: Spool,
        clock: Clock,
        caplog: pytest.LogCaptureFixture,
        known: dict[str, Deliver],
        reason: str,
    ) -> None:
        """R06: after an unexpected exception, which is logged, the delivery is retried."""
        id = accept(spool, "pigeon")
        box(spool, known, clock).deliver_due("pigeon")
        assert [record.exc_info is not None for record in caplog.records] == [True, False]
        error, warning = logged(caplog)
        assert error == f"ERROR upload {id}: pigeon: a bug"
        assert warning.startswith(f"WARNING upload {id}: pigeon: {reason}; ")
        clock.now += MIN_WAIT
        better = Target()
        box(spool, {"pigeon": better}, clock).deliver_due("pigeon")
        assert (better.ids, spool.waiting()) == ([id], [])

    def test_progress(self, spool: Spool, clock: Clock) -> None:
        """The progress of an attempt is passed to the next one, and to no other delivery."""

        def stopped(error: Exception, *progress: str) -> Exception:
            error.progress = progress  # type: ignore[attr-defined]
            return error

        target = Target(
            stopped(TemporaryError("later"), "a"),
            LATER,
            stopped(UnreachableError("gone"), "a", "b"),
            FULL,
            stopped(OSError(errno.EIO, "I/O error"), "a", "b", "c"),
            BUG,
        )
        id = accept(spool)
        out = box(spool, {"save": target}, clock)
        for _ in range(7):
            out.deliver_due("save")
            clock.now += MAX_WAIT
        accept(spool)
        out.deliver_due("save")
        assert target.ids[:7] == [id] * 7
        ab, abc = ("a", "b"), ("a", "b", "c")
        assert target.progress == [(), ("a",), ("a",), ab, ab, abc, abc, ()]

    @pytest.mark.parametrize("error", [LATER, GONE, FULL, BUG, NEVER, LARGE], ids=repr)
    def test_secrets(
        self, spool: Spool, clock: Clock, caplog: pytest.LogCaptureFixture, error: Exception
    ) -> None:
        """A secret in a target is not logged, whatever happens."""
        target = "forward:https://me:s3cret@h/s3cret"
        for _ in range(3):
            accept(spool, target)
        box(spool, {target: Target(error)}, clock).deliver_due(target)
        box(spool, {}, clock).deliver_due(target)
        assert caplog.records
        assert "s3cret" not in caplog.text

    def test_disk_full_for_a_while(self, spool: Spool, clock: Clock, tmp_path: Path) -> None:
        """K08: when the disk has room again, the photos are saved."""

        def deliver(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
            save(files, tmp_path / "uploads", delivery.arrival.received, delivery.id)
            return Outcome("saved")

        accept(spool)
        out = box(spool, {"save": deliver}, clock)
        with Faults(("write", "copy_file_range"), errno.ENOSPC, persistent=True):
            out.deliver_due("save")
        assert wait(spool, clock) == MIN_WAIT
        clock.now += MIN_WAIT
        out.deliver_due("save")
        assert spool.waiting() == []
        assert contents(folder_for(tmp_path / "uploads", NEW_YEAR)) == {"SAM_4371.JPG": PHOTO}


class TestState:
    """The database fails, or the process dies."""

    def test_error_is_raised(self, spool: Spool, clock: Clock) -> None:
        """An error of the database is raised, not recorded in that very database."""
        id = accept(spool)
        target = Target(BROKEN)
        out = box(spool, {"save": target}, clock)
        with pytest.raises(sqlite3.OperationalError):
            out.deliver_due("save")
        assert [delivery.attempts for delivery in spool.due("save")] == [0]
        out.deliver_due("save")
        assert (target.ids, spool.waiting()) == ([id, id], [])

    @pytest.mark.parametrize(
        ("outcome", "attempts", "files_kept"),
        [(Outcome("saved"), [], 0), (LATER, [1], 0), (NEVER, [], 1)],
        ids=["done", "later", "never"],
    )
    def test_result_cannot_be_recorded(
        self,
        spool: Spool,
        clock: Clock,
        outcome: Exception | Outcome,
        attempts: list[int],
        files_kept: int,
    ) -> None:
        """The result is recorded later, without a second delivery."""
        first = accept(spool)
        target, kept = Target(outcome), Kept()
        out = box(spool, {"save": target}, clock, kept)
        with Faults(("COMMIT",), errno.EIO), pytest.raises(sqlite3.OperationalError):
            out.deliver_due("save")
        out.deliver_due("save")
        assert (target.ids, len(kept.came)) == ([first], files_kept)
        assert [one.attempts for one in spool.waiting()] == attempts
        clock.now += MIN_WAIT
        out.deliver_due("save")
        assert target.ids == [first] * (1 + len(attempts))

    def test_killed_between_delivery_and_record(
        self, spool: Spool, root: Path, clock: Clock, tmp_path: Path
    ) -> None:
        """R10: a delivery whose result was not recorded is repeated, without a second file."""
        ids: list[str] = []
        new: list[bool] = []

        def deliver(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
            ids.append(delivery.id)
            received = delivery.arrival.received
            new.extend(one.new for one in save(files, tmp_path / "uploads", received, delivery.id))
            spool.close()  # nothing more can be recorded
            return Outcome("saved")

        id = accept(spool, data=TWO)
        spool.split(spool.due("save")[0], 2)
        with pytest.raises(sqlite3.ProgrammingError):
            box(spool, {"save": deliver}, clock).deliver_due("save")
        again = Spool(root, clock)
        box(again, {"save": deliver}, clock).deliver_due("save")
        again.close()
        assert ids == [f"{id}.1", f"{id}.1", f"{id}.2"]
        assert new == [True, False, True]
        day = folder_for(tmp_path / "uploads", NEW_YEAR)
        assert contents(day) == {"A.JPG": PHOTO, "B.JPG": jpeg(600)}
        assert contents(root / "spool") == {}


class TestQuarantine:
    def test_body_cannot_be_read(
        self, spool: Spool, root: Path, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """T15: a body that cannot be read goes to quarantine."""
        target = Target()
        poison, good = accept_cut(spool, root), accept(spool)
        out = box(spool, {"save": target}, clock)
        out.deliver_due("save")
        out.deliver_due("save")
        assert target.ids == [good]
        path = root / "quarantine" / poison
        assert contents(path.parent) == {poison: CUT}
        assert (
            f"WARNING upload {poison} cannot be delivered: its body has another size than when it "
            f"was accepted; its body is kept as {path}"
        ) in logged(caplog)

    def test_target_cannot_use_it(self, spool: Spool, root: Path, clock: Clock) -> None:
        """A body that a target cannot use goes to quarantine as well."""
        id = accept(spool)
        box(spool, {"save": Target(BodyError("it has no photo"))}, clock).deliver_due("save")
        assert spool.waiting() == []
        assert list(contents(root / "quarantine")) == [id]

    def test_body_is_gone(
        self, spool: Spool, root: Path, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A deleted body is reported once."""
        id = accept(spool)
        (root / "spool" / id).unlink()
        out = box(spool, {"save": Target()}, clock)
        out.deliver_due("save")
        out.deliver_due("save")
        assert logged(caplog) == [f"WARNING upload {id} cannot be delivered: its body is gone"]

    def test_quarantine_cannot_take_it(self, spool: Spool, root: Path, clock: Clock) -> None:
        """A body that cannot be moved to quarantine stays, and others are delivered."""
        target = Target()
        poison = accept_cut(spool, root)
        clock.now += 1
        id = accept(spool)
        out = box(spool, {"save": target}, clock)
        with Faults(("replace",), errno.EACCES, persistent=True):
            out.deliver_due("save")
        assert target.ids == [id]
        assert contents(root / "spool") == {poison: CUT}
        [left] = spool.waiting()
        assert "and quarantine: Permission denied" in left.reason
        clock.now += MIN_WAIT
        out.deliver_due("save")
        assert spool.waiting() == []
        assert contents(root / "quarantine") == {poison: CUT}


class TestWaits:
    @pytest.mark.parametrize(
        ("waited", "least", "expected"),
        [
            (0, 0, MIN_WAIT),
            (14, 0, MIN_WAIT),
            (100, 99, 100),
            (0, 60, 60),
            (0, 10 * MAX_WAIT, MAX_WAIT),
            (MAX_WAIT + 1, 0, MAX_WAIT),
        ],
    )
    def test_waiting_time(self, waited: float, least: float, expected: float) -> None:
        """A delivery waits as long as it has waited so far, between 15 seconds and an hour."""
        assert waiting_time(waited, least) == expected

    @pytest.mark.parametrize(
        ("jitter", "expected"),
        [
            (1.0, [15, 15, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600]),
            (1.1, [16.5, 18.15, 38.115, 80.0415]),
        ],
    )
    def test_grow(self, spool: Spool, clock: Clock, jitter: float, expected: list[float]) -> None:
        """The waits of a delivery grow, each a little longer or shorter."""
        accept(spool)
        target = Target(*[FULL] * len(expected))
        out = box(spool, {"save": target}, clock, jitter=jitter)
        waits = []
        out.deliver_due("save")
        while (seconds := wait(spool, clock)) is not None:
            waits.append(seconds)
            clock.now += seconds
            out.deliver_due("save")
        assert waits == pytest.approx(expected)

    def test_default_jitter(self, spool: Spool, clock: Clock) -> None:
        """By default, waits differ by up to a tenth."""
        for _ in range(20):
            accept(spool)
        targets = {"save": Target(*[LATER] * 20)}
        out = Outbox(spool, targets.__getitem__, Kept(), retry_for=1, clock=clock)
        out.deliver_due("save")
        waits = {one.waited for one in spool.waiting()}
        assert len(waits) > 1
        assert all(abs(one - MIN_WAIT) <= JITTER * MIN_WAIT for one in waits)

    @pytest.mark.parametrize(
        ("retry_after", "jitter", "seconds"),
        [(0, 1.0, 15), (60, 0.9, 60), (60, 1.1, 66), (3600, 1.0, 3600), (86400, 1.0, 3600)],
    )
    def test_retry_after(
        self, spool: Spool, clock: Clock, retry_after: float, jitter: float, seconds: float
    ) -> None:
        """A server may ask for a longer wait, up to an hour, which is not made shorter."""
        accept(spool)
        target = Target(TemporaryError("451", retry_after))
        box(spool, {"save": target}, clock, jitter=jitter).deliver_due("save")
        assert wait(spool, clock) == pytest.approx(seconds)

    @pytest.mark.parametrize("how", ["retried by hand", "restarted"])
    @pytest.mark.parametrize("seconds", [0, 4], ids=["at once", "after 4 s"])
    def test_wait_that_was_cut_short(
        self, spool: Spool, root: Path, clock: Clock, how: str, seconds: float
    ) -> None:
        """Only the time that a delivery has really waited counts."""
        times = 6
        id, target = accept(spool), Target(*[LATER] * (times + 1))
        out = box(spool, {"save": target}, clock, retry_for=30)
        out.deliver_due("save")
        for _ in range(times):
            clock.now += seconds
            if how == "restarted":
                spool.close()
                spool = Spool(root, clock)
                out = box(spool, {"save": target}, clock, retry_for=30)
            else:
                assert spool.retry_now(id) == 1
            out.deliver_due("save")
        [left] = spool.waiting()
        wait = max(MIN_WAIT, times * seconds)
        assert (left.attempts, left.next_try - clock.now) == (times + 1, wait)
        assert left.waited == times * seconds + wait
        spool.close()

    @pytest.mark.parametrize("jump", [YEARS, -YEARS, -NEW_YEAR, 3600, -3600, -90000])
    def test_clock_jumps(self, spool: Spool, clock: Clock, jump: float) -> None:
        """R07: when the clock is set, nothing expires, and nothing waits for years."""
        kept, target = Kept(), Target(*[LATER] * 5)
        accept(spool)
        out = box(spool, {"save": target}, clock, kept)
        out.deliver_due("save")
        clock.now += jump
        for _ in range(5):
            seconds = max(0.0, wait(spool, clock) or 0)
            clock.now += min(seconds, 2 * MAX_WAIT)
            out.deliver_due("save")
        assert (len(target.ids), kept.came, spool.waiting()) == (6, [], [])

    @pytest.mark.parametrize("error", [LATER, FULL], ids=["temporary", "OSError"])
    @pytest.mark.parametrize(
        ("retry_for", "attempts"), [(0, 1), (1, 2), (15, 2), (16, 3), (30, 3), (60, 4)]
    )
    def test_abandoned(
        self,
        spool: Spool,
        root: Path,
        clock: Clock,
        caplog: pytest.LogCaptureFixture,
        retry_for: float,
        attempts: int,
        error: Exception,
    ) -> None:
        """T14: the files of a delivery that has waited for `retry_for` are kept."""
        kept, target = Kept(), Target(*[error] * 99)
        id = accept(spool)
        out = box(spool, {"save": target}, clock, kept, retry_for=retry_for)
        for _ in range(attempts + 1):
            out.deliver_due("save")
            clock.now += wait(spool, clock) or 0
        assert len(target.ids) == attempts
        assert kept.came == [(id, ["SAM_4371.JPG"])]
        reason = getattr(error, "strerror", str(error))
        line = f"upload {id} is not delivered to a: abandoned: {reason}; kept"
        assert logged(caplog)[-1] == f"WARNING {line}"
        assert_ended(spool, root)

    def test_target_that_no_longer_exists(self, spool: Spool, clock: Clock) -> None:
        """A delivery to a target that was removed is retried, and its files are kept."""

        def deliver_to(target: str) -> Deliver:
            raise TemporaryError(f"unknown target {target!r}")

        kept = Kept()
        id = accept(spool, "pigeon")
        out = Outbox(spool, deliver_to, kept, retry_for=15, clock=clock, jitter=lambda: 1.0)
        for _ in range(2):
            assert kept.came == []
            out.deliver_due("pigeon")
            clock.now += MIN_WAIT
        assert kept.came == [(id, ["SAM_4371.JPG"])]


class TestQueue:
    """T17: many deliveries for one target."""

    def test_new_and_old_take_turns(self, spool: Spool, clock: Clock) -> None:
        """Neither new deliveries nor retries wait for the end of the others."""
        target = Target(*[LATER] * 4)
        old = [accept(spool) for _ in range(4)]
        out = box(spool, {"save": target}, clock)
        out.deliver_due("save")
        clock.now += MIN_WAIT
        new = [accept(spool) for _ in range(3)]
        target.ids.clear()
        out.deliver_due("save")
        order = ["new" if id in new else "old" for id in target.ids]
        assert order == ["new", "old"] * 3 + ["old"]
        assert sorted(target.ids) == sorted(old + new)

    def test_new_one_meanwhile(self, spool: Spool, clock: Clock) -> None:
        """An upload accepted during the retries is among the next, not the last."""
        came: list[str] = []
        late: list[str] = []

        def deliver(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
            if delivery.attempts == 0 and not late:
                raise LATER
            if not late:
                late.append(accept(spool))
            came.append(delivery.id)
            return Outcome("saved")

        for _ in range(10):
            accept(spool)
        out = box(spool, {"save": deliver}, clock)
        out.deliver_due("save")
        clock.now += MIN_WAIT
        out.deliver_due("save")
        assert (came.index(late[0]), len(came)) == (1, 11)

    def test_unreachable(
        self, spool: Spool, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An unreachable server is contacted once for all deliveries, until it is back."""
        target = Target(GONE, GONE, GONE)
        ids = [accept(spool) for _ in range(50)]
        out = box(spool, {"save": target}, clock)
        waits = []
        for _ in range(3):
            out.deliver_due("save")
            waits.append(wait(spool, clock) or 0)
            clock.now += waits[-1]
        assert (len(target.ids), waits) == (3, [15, 15, 30])
        assert {(one.attempts, one.reason) for one in spool.waiting()} == {(3, str(GONE))}
        assert logged(caplog)[:2] == [
            f"WARNING upload {target.ids[0]}: save: {GONE}; it is safe, next try in 15 seconds",
            f"WARNING save: {GONE}; other deliveries waiting: 49",
        ]
        target.ids.clear()
        out.deliver_due("save")
        assert sorted(target.ids) == sorted(ids)
        assert spool.waiting() == []

    def test_new_upload_for_unreachable_target(self, spool: Spool, clock: Clock) -> None:
        """A new upload is tried at once, and alone."""
        target = Target(GONE)
        accept(spool)
        out = box(spool, {"save": target}, clock)
        out.deliver_due("save")
        clock.now += 1
        new = accept(spool)
        out.deliver_due("save")
        assert target.ids[1:] == [new]
        assert wait(spool, clock) == MIN_WAIT - 1

    def test_wrong_password(self, spool: Spool, clock: Clock) -> None:
        """T05: a server that refuses our password is contacted once an hour."""
        target = Target(*[UnreachableError("535 no", MAX_WAIT)] * 99)
        for _ in range(10):
            accept(spool)
            clock.now += 1
        out = box(spool, {"save": target}, clock, retry_for=9 * DAY)
        until = clock.now + DAY
        while clock.now < until:
            out.deliver_due("save")
            clock.now += wait(spool, clock) or 0
        assert len(target.ids) == 24
        assert {one.waited for one in spool.waiting()} == {DAY}

    def test_wrong_password_and_a_new_upload(
        self, spool: Spool, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """T05: new uploads wait for the end of the hour, unless the user retries them."""
        target = Target(*[UnreachableError("535 no", MAX_WAIT)] * 2)
        first = accept(spool)
        out = box(spool, {"save": target}, clock)
        out.deliver_due("save")
        clock.now += 60
        second = accept(spool)
        out.deliver_due("save")
        assert (target.ids, wait(spool, clock)) == ([first], MAX_WAIT - 60)
        assert "WARNING save: 535 no; other deliveries waiting: 1" in logged(caplog)
        spool.retry_now(second)
        out.deliver_due("save")
        assert target.ids == [first, second]
        clock.now += MAX_WAIT
        out.deliver_due("save")
        assert sorted(target.ids[2:]) == sorted([first, second])
        third = accept(spool)
        out.deliver_due("save")
        assert target.ids[4:] == [third]

    def test_another_target(self, spool: Spool, clock: Clock) -> None:
        """Deliveries to other targets are not postponed."""
        target = Target()
        id = accept(spool, "mail", "save")
        out = box(spool, {"mail": Target(GONE), "save": target}, clock)
        out.deliver_due("mail")
        out.deliver_due("save")
        assert target.ids == [id]

    def test_all_expire(
        self, spool: Spool, root: Path, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """T14: deliveries to an unreachable target are abandoned together, each with its files."""
        kept = Kept()
        target = Target(GONE, GONE)
        ids = [accept(spool) for _ in range(5)]
        out = box(spool, {"save": target}, clock, kept, retry_for=15)
        out.deliver_due("save")
        clock.now += MIN_WAIT
        out.deliver_due("save")
        assert len(target.ids) == 2
        assert sorted(id for id, _ in kept.came) == sorted(ids)
        lines = logged(caplog)
        for id in ids:
            line = f"upload {id} is not delivered to a: abandoned: no answer; kept"
            assert f"WARNING {line}" in lines
        assert_ended(spool, root)


class TestEnds:
    def test_permanent_error(
        self, spool: Spool, root: Path, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The files of a delivery that is refused for good are kept at once."""
        kept = Kept()
        id = accept(spool, to=["a", "b"])
        box(spool, {"save": Target(NEVER)}, clock, kept).deliver_due("save")
        line = f"upload {id} is not delivered to a, b: 550 never; kept"
        assert logged(caplog) == [f"WARNING {line}"]
        assert kept.came == [(id, ["SAM_4371.JPG"])]
        assert_ended(spool, root)

    def test_too_large(
        self, spool: Spool, root: Path, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """T06: the files of an upload that is too large are sent one by one, or kept."""
        kept, target = Kept(), Target(LARGE, Outcome("mailed"), LARGE)
        id = accept(spool, data=TWO)
        box(spool, {"save": target}, clock, kept).deliver_due("save")
        assert target.ids == [id, f"{id}.1", f"{id}.2"]
        assert target.photos == [[PHOTO, jpeg(600)], [PHOTO], [jpeg(600)]]
        assert kept.came == [(f"{id}.2", ["B.JPG"])]
        assert logged(caplog) == [
            f"INFO upload {id}: 552 too large; sending each file by itself",
            f"INFO upload {id}.1: mailed",
            f"WARNING upload {id}.2 is not delivered to a: 552 too large; kept",
        ]
        assert_ended(spool, root)

    @pytest.mark.parametrize(
        ("error", "retry_for"), [(NEVER, DAY), (LARGE, DAY), (LATER, 0)], ids=str
    )
    def test_files_cannot_be_kept(
        self, spool: Spool, root: Path, clock: Clock, error: Exception, retry_for: float
    ) -> None:
        """If the files cannot be kept, the delivery is retried."""
        kept = Kept(FULL)
        id = accept(spool)
        out = box(spool, {"save": Target(error, error)}, clock, kept, retry_for=retry_for)
        out.deliver_due("save")
        assert list(contents(root / "spool")) == [id]
        assert [one.reason for one in spool.waiting()] == ["No space left on device"]
        clock.now += MIN_WAIT
        out.deliver_due("save")
        assert kept.came == [(id, ["SAM_4371.JPG"])]
        assert_ended(spool, root)


def refused(recipient: str, code: int) -> Refused:
    return Refused(recipient, code >= 500, f"{code} no")


class TestRecipients:
    def test_mixed(
        self, spool: Spool, root: Path, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        """T07: only the recipients that were refused for now are retried."""
        kept = Kept()
        refusals = (refused("b", 450), refused("c", 550))
        target = Target(Outcome("mailed to a", refusals), Outcome("mailed to b"))
        id = accept(spool, to=["a", "b", "c"])
        out = box(spool, {"save": target}, clock, kept)
        out.deliver_due("save")
        left = [(one.recipients, one.attempts, one.waited) for one in spool.waiting()]
        assert left == [(("b",), 1, 15)]
        clock.now += MIN_WAIT
        out.deliver_due("save")
        assert target.recipients == [("a", "b", "c"), ("b",)]
        assert target.ids == [id, id]
        assert kept.came == [(id, ["SAM_4371.JPG"])]
        assert logged(caplog) == [
            f"INFO upload {id}: mailed to a",
            f"WARNING upload {id}: not delivered to c (550 no); kept",
            f"WARNING upload {id}: save: b (450 no); it is safe, next try in 15 seconds",
            f"INFO upload {id}: mailed to b",
        ]
        assert_ended(spool, root)

    @pytest.mark.parametrize(
        ("codes", "retry_for", "state", "left", "reason", "kept_once"),
        [
            ([450, 250], 60, "waiting", ("a",), "a (450 no)", False),
            ([450, 451], 60, "waiting", ("a", "b"), "a (450 no), b (451 no)", False),
            ([450, 550], 60, "waiting", ("a",), "a (450 no)", True),
            ([250, 250], 60, "done", ("a", "b"), "", False),
            ([250, 550], 60, "done", ("a",), "not delivered to b (550 no)", True),
            ([550, 550], 60, "failed", ("a", "b"), "550 no", True),
            ([450, 250], 0, "done", ("b",), "not delivered to a (450 no)", True),
            ([450, 550], 0, "failed", ("a", "b"), "a (450 no), b (550 no)", True),
        ],
        ids=str,
    )
    def test_ends(
        self,
        spool: Spool,
        clock: Clock,
        codes: list[int],
        retry_for: float,
        state: str,
        left: tuple[str, ...],
        reason: str,
        kept_once: bool,
    ) -> None:
        """How a delivery ends when some of its recipients are refused."""
        pairs = zip("ab", codes, strict=True)
        outcome = Outcome("sent", tuple(refused(one, code) for one, code in pairs if code >= 400))
        kept = Kept()
        accept(spool, to=["a", "b"])
        out = box(spool, {"save": Target(outcome)}, clock, kept, retry_for=retry_for)
        out.deliver_due("save")
        [found] = spool.since(0, state)
        assert (found.recipients, found.reason) == (left, reason)
        assert len(kept.came) == kept_once

    def test_files_cannot_be_kept(self, spool: Spool, clock: Clock) -> None:
        """A recipient that was reached gets no second mail because files cannot be kept."""
        kept = Kept(FULL)
        target = Target(
            Outcome("mailed to a", (refused("b", 550), refused("c", 450))),
            Outcome("not mailed", (refused("b", 550),)),
        )
        accept(spool, to=["a", "b", "c"])
        out = box(spool, {"save": target}, clock, kept)
        out.deliver_due("save")
        clock.now += MIN_WAIT
        out.deliver_due("save")
        assert [sorted(one) for one in target.recipients] == [["a", "b", "c"], ["b", "c"]]
        assert (len(kept.came), spool.waiting()) == (1, [])


Start = Callable[..., Outbox]


class TestThreads:
    """With the clock of the system."""

    @pytest.fixture
    def live(self, root: Path) -> Iterator[Spool]:
        found = Spool(root)
        yield found
        found.close()

    @pytest.fixture
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Retry and look for changes at once."""
        monkeypatch.setattr(outbox, "MIN_WAIT", 0.01)
        monkeypatch.setattr(outbox, "POLL", 0.01)

    @pytest.fixture
    def start(self, live: Spool) -> Iterator[Start]:
        """Starts an outbox that delivers to these targets, and stops it in the end."""
        boxes: list[Outbox] = []

        def start(**targets: Deliver) -> Outbox:
            boxes.append(box(live, targets, time.time))
            boxes[-1].start()
            return boxes[-1]

        yield start
        assert [one.stop(SOON) for one in boxes] == [True] * len(boxes)

    def test_wake(self, live: Spool, start: Start) -> None:
        """Old uploads are delivered after the start, new ones after `wake`, to any target."""
        first, save, mail = Target(), Target(enough=3), Target()
        ids = [accept(live, "first", "save")]
        out = start(first=first, save=save, mail=mail)
        assert first.done.wait(SOON)
        ids.append(accept(live))
        out.wake()
        ids.append(accept(live, "save", "mail"))
        out.wake()
        assert save.done.wait(SOON)
        assert mail.done.wait(SOON)
        assert (first.ids, save.ids, mail.ids) == (ids[:1], ids, ids[2:])

    def test_slow_target(self, live: Spool, start: Start) -> None:
        """C09: a slow target delays only its own deliveries."""
        slow, fast = Slow(), Target(enough=2)
        ids = [accept(live, "slow", "fast")]
        out = start(slow=slow, fast=fast)
        try:
            assert slow.begun.wait(SOON)
            ids.append(accept(live, "slow", "fast"))
            out.wake()
            assert fast.done.wait(SOON)
            assert [one.target for one in live.waiting()].count("slow") == 2
        finally:
            slow.go_on.set()
        assert fast.ids == ids

    def test_command_line_is_noticed(
        self, live: Spool, root: Path, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A delivery that another process makes due is retried."""
        monkeypatch.setattr(outbox, "POLL", 0.01)
        target = Target(LATER, enough=2)
        id = accept(live)
        start(save=target)
        beside = Spool(root, alone=False)
        eventually(lambda: [one.attempts for one in live.waiting()] == [1])
        assert beside.retry_now(id) == 1
        beside.close()
        assert target.done.wait(SOON)
        assert target.ids == [id, id]

    @pytest.mark.usefixtures("quick")
    @pytest.mark.parametrize("error", [BUG, BROKEN, FULL], ids=repr)
    def test_error_of_a_delivery(self, live: Spool, start: Start, error: Exception) -> None:
        """C07: no exception ends the worker, and the delivery is retried."""
        target = Target(error, enough=2)
        id = accept(live)
        start(save=target)
        assert target.done.wait(SOON)
        assert target.ids == [id, id]

    @pytest.mark.usefixtures("quick")
    @pytest.mark.parametrize(
        ("call", "error", "expected"),
        [
            (
                "first_due",
                BROKEN,
                "deliveries to save paused for 0 s: "
                "cannot read or write their state: disk I/O error",
            ),
            ("next_try", BUG, "deliveries to save paused for 0 s"),
            ("targets", BROKEN, "cannot check for new deliveries"),
            ("tidy", BROKEN, "cannot check for new deliveries"),
            ("version", BROKEN, "cannot check for new deliveries"),
        ],
    )
    def test_error_of_the_state(
        self,
        live: Spool,
        start: Start,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        call: str,
        error: Exception,
        expected: str,
    ) -> None:
        """C07: an error of the database is logged, and deliveries go on."""
        real, failures = getattr(live, call), [error]
        again = threading.Event()

        def broken(*arguments: object, **named: object) -> object:
            if failures:
                raise failures.pop()
            again.set()
            return real(*arguments, **named)

        target = Target()
        accept(live)
        monkeypatch.setattr(live, call, broken)
        start(save=target)
        assert again.wait(SOON)
        assert target.done.wait(SOON)
        assert logged(caplog).count(f"ERROR {expected}") == 1

    @pytest.mark.parametrize("error", [BUG, FULL], ids=repr)
    def test_secrets(
        self,
        live: Spool,
        start: Start,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        error: Exception,
    ) -> None:
        """A secret in a target is not in the name of its thread, either."""
        target = "forward:https://me:s3cret@h/s3cret"
        failed = threading.Event()

        def broken(*_: object, **__: object) -> None:
            failed.set()
            raise error

        accept(live, target)
        monkeypatch.setattr(live, "next_try", broken)
        out = start(**{target: Target()})
        assert failed.wait(SOON)
        threads = [one for one in threading.enumerate() if one.name.startswith("nx ")]
        assert out.stop(SOON)
        assert {one.name for one in threads} == {"nx outbox", "nx forward:https://h/..."}
        assert {one.daemon for one in threads} == {True}
        assert "deliveries to forward:https://h/... paused for 15 s" in caplog.text
        assert "s3cret" not in caplog.text

    @pytest.mark.usefixtures("quick")
    def test_no_thread_left(
        self, live: Spool, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """C07: if the system has no thread left, the worker is started later."""
        real, failures = threading.Thread.start, [RuntimeError("can't start new thread")]

        def fail(thread: threading.Thread) -> None:
            if thread.name == "nx save" and failures:
                raise failures.pop()
            real(thread)

        monkeypatch.setattr(threading.Thread, "start", fail)
        target = Target()
        accept(live)
        start(save=target)
        assert target.done.wait(SOON)

    def test_full_quarantine(
        self,
        live: Spool,
        start: Start,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Files deleted from a full quarantine are logged."""
        monkeypatch.setattr(spool_module, "MAX_QUARANTINE", 10)
        incoming = live.begin()
        incoming.write(b"more than ten bytes")
        path = live.quarantine(incoming)
        start()
        line = f"quarantine is full: deleted the oldest in it, {path}"
        eventually(lambda: line in caplog.text)

    def test_stop_and_start(self, live: Spool, root: Path) -> None:
        """R02: a current delivery is finished once, the others are made after the next start."""
        target = Slow(enough=2)
        ids = [accept(live), accept(live)]
        out = box(live, {"save": target}, time.time)
        out.start()
        assert target.begun.wait(SOON)
        assert out.stop(0.01) is False
        assert [one.id for one in out.current] == ids[:1]
        target.go_on.set()
        assert out.stop(SOON) is True
        assert (target.ids, out.current) == (ids[:1], [])
        assert list(contents(root / "spool")) == ids[1:]
        out.start()
        assert target.done.wait(SOON)
        assert out.stop(SOON) is True
        assert target.ids == ids

    def test_start_before_the_end(self, live: Spool) -> None:
        """A delivery that outlasts a stop and the next start is made once."""
        target = Slow(enough=2)
        ids = [accept(live), accept(live)]
        out = box(live, {"save": target}, time.time)
        out.start()
        assert target.begun.wait(SOON)
        assert out.stop(0) is False
        out.start()
        target.go_on.set()
        assert target.done.wait(SOON)
        assert out.stop(SOON) is True
        assert target.ids == ids

    def test_sleep(
        self,
        live: Spool,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A worker without due deliveries sleeps, until `stop` ends it."""
        looked: list[str] = []
        next_try = live.next_try

        def look(target: str) -> float | None:
            looked.append(target)
            return next_try(target)

        monkeypatch.setattr(live, "next_try", look)
        accept(live, "save", "mail")
        out = box(live, {"save": Target(), "mail": Target(LATER)}, time.time)
        out.start()
        eventually(lambda: {*looked} == {"save", "mail"})
        time.sleep(0.05)  # in which they could look thousands of times
        assert out.stop(SOON) is True
        assert len(looked) < 10
        assert "ERROR" not in caplog.text

    def test_stop_while_something_hangs(self, live: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        """`stop` takes no longer than its time limit."""
        hangs, released = threading.Event(), threading.Event()

        def targets() -> list[str]:
            hangs.set()
            released.wait(SOON)
            return []

        monkeypatch.setattr(live, "targets", targets)
        out = box(live, {}, time.time)
        out.start()
        assert hangs.wait(SOON)
        assert out.stop(0.01) is False
        released.set()
        assert out.stop(SOON) is True

    @pytest.mark.parametrize("action", ["wake", "stop"])
    def test_worker_is_about_to_sleep(
        self, live: Spool, monkeypatch: pytest.MonkeyPatch, action: str
    ) -> None:
        """A `wake` or `stop` just before the worker sleeps is not missed."""
        looks, happened = threading.Event(), threading.Event()
        next_try = live.next_try

        def late(target: str) -> float | None:
            found = next_try(target)
            looks.set()
            assert happened.wait(SOON)
            return found

        target = Target(enough=2)
        ids = [accept(live)]
        monkeypatch.setattr(live, "next_try", late)
        out = box(live, {"save": target}, time.time)
        out.start()
        assert looks.wait(SOON)
        if action == "wake":
            ids.append(accept(live))
            out.wake()
            happened.set()
            assert target.done.wait(SOON)
        else:
            assert out.stop(0) is False
            happened.set()
        assert out.stop(SOON) is True
        assert target.ids == ids

    def test_dispatcher_is_about_to_sleep(
        self, live: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A `wake` for a new target just before the dispatcher sleeps is not missed."""
        monkeypatch.setattr(outbox, "POLL", 2 * SOON)
        looks, happened = threading.Event(), threading.Event()
        targets = live.targets

        def late() -> list[str]:
            found = targets()
            looks.set()
            assert happened.wait(SOON)
            return found

        accept(live, "other")
        monkeypatch.setattr(live, "version", lambda: -1)
        monkeypatch.setattr(live, "targets", late)
        target = Target()
        out = box(live, {"save": target, "other": Target()}, time.time)
        out.start()
        assert looks.wait(SOON)
        id = accept(live)
        out.wake()
        happened.set()
        assert target.done.wait(SOON)
        assert out.stop(SOON) is True
        assert target.ids == [id]


class Slow(Target):
    """A target whose deliveries last until `go_on` is set."""

    def __init__(self, enough: int = 1) -> None:
        super().__init__(enough=enough)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self, upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
        self.begun.set()
        assert self.go_on.wait(SOON)
        return super().__call__(upload, files, delivery)


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
