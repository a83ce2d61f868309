"""Deliveries are done, retried, split, abandoned, or moved to quarantine."""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
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
from nxparse.deliver.outbox import MIN_WAIT, Deliver, Outbox, describe_waiting
from nxparse.deviation import BodyError
from nxparse.store.deliveries import MAX_WAIT
from nxparse.store.records import Delivery, LocalCopy, StoredUpload
from nxparse.store.spool import Spool
from nxparse.upload import File, Upload
from tests import arrivals
from tests.bodies import body, jpeg
from tests.clock import NEW_YEAR, Clock
from tests.faults import Faults, contents, make_lazy
from tests.mitmdump import eventually

PHOTO = jpeg(500)
ONE = body([("SAM_4371.JPG", PHOTO)])
TWO = body([("A.JPG", PHOTO), ("B.JPG", jpeg(600))])
CUT = ONE[:-1]
SOON = 30.0  # seconds; a time limit that only failing tests reach
DAY = 86400.0
YEARS = 3652 * DAY  # ten of them

FULL = OSError(errno.ENOSPC, "No space left on device")
LATER = TemporaryError("421 later")
NEVER = PermanentError("550 never")
LARGE = TooLargeError("552 too large")
GONE = UnreachableError("no answer")
BUG = RuntimeError("a bug")
SAVED = Outcome("saved")
UNDELIVERED = Outcome("files saved", saved=(LocalCopy(Path("photo.JPG"), "identity"),))
BROKEN = sqlite3.OperationalError("disk I/O error")


@pytest.fixture(autouse=True)
def _prepared(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    make_lazy(monkeypatch)
    caplog.set_level(logging.INFO)


class Target:
    """A target with scripted outcomes, then `otherwise`. Records its deliveries.

    `meanwhile` is called during each delivery. `done` is set by call number `enough`.
    """

    def __init__(
        self,
        *outcomes: BaseException | Outcome,
        otherwise: Outcome = SAVED,
        meanwhile: Callable[[Delivery], object] = lambda delivery: None,
        enough: int = 1,
    ) -> None:
        self.ids: list[str] = []
        self.photos: list[list[bytes]] = []
        self.recipients: list[tuple[str, ...]] = []
        self.progress: list[tuple[str, ...]] = []
        self.done = threading.Event()
        self._outcomes = list(outcomes)
        self._otherwise = otherwise
        self._meanwhile = meanwhile
        self._enough = enough

    def __call__(self, upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
        self._meanwhile(delivery)
        self.ids.append(delivery.id)
        self.photos.append([file.data for file in files])
        self.recipients.append(delivery.recipients)
        self.progress.append(delivery.progress)
        if len(self.ids) == self._enough:
            self.done.set()
        outcome = self._outcomes.pop(0) if self._outcomes else self._otherwise
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def undelivered_target(*errors: Exception) -> Target:
    """Return a target for undelivered files, whose first attempts fail with these errors."""
    return Target(*errors, otherwise=UNDELIVERED)


class Scene:
    """A spool with a clock that is set by hand, and an outbox without threads."""

    def __init__(self, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.root, self.caplog = root, caplog
        self.clock = Clock()
        self.spool = Spool(root, self.clock)
        self.targets: dict[str, Deliver] = {}
        self.undelivered = undelivered_target()
        self.outbox = Outbox(
            self.spool,
            self.targets.__getitem__,
            lambda upload, files, delivery: self.undelivered(upload, files, delivery),
            retry_for=3 * DAY,
            clock=self.clock,
        )

    def accept(self, *targets: str, data: bytes = ONE, to: Sequence[str] = ("a",)) -> str:
        """Accept an upload, for each target to the same recipients. Returns its id."""
        return arrivals.accept(self.spool, data, dict.fromkeys(targets or ("save",), to)).id

    def accept_later(self, seconds: float = 1) -> str:
        """Let some time pass, then accept an upload to be saved. Returns its id."""
        self.clock.now += seconds
        return self.accept()

    def target(self, *outcomes: BaseException | Outcome, **options: Any) -> Target:
        """Make a target, to which `save` delivers from now on."""
        found = self.targets["save"] = Target(*outcomes, **options)
        return found

    def deliver(self, *, after: float = 0) -> None:
        """Let some seconds pass, then make the deliveries to `save` that are due."""
        self.clock.now += after
        self.outbox.deliver_due("save")

    def wait(self) -> float | None:
        """Return the seconds until the next delivery to `save`; None if there is none."""
        waiting = [one.next_try for one in self.spool.waiting() if one.target == "save"]
        return min(waiting) - self.clock() if waiting else None

    def logged(self) -> list[str]:
        """Return the log lines since the last call, each after its level."""
        lines = [f"{one.levelname} {one.getMessage()}" for one in self.caplog.records]
        self.caplog.clear()
        return lines

    def bodies(self) -> dict[str, bytes]:
        return contents(self.root / "spool")

    def assert_ended(self) -> None:
        assert (self.spool.waiting(), self.bodies()) == ([], {})


@pytest.fixture
def scene(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Scene]:
    found = Scene(tmp_path / ".nx", caplog)
    yield found
    found.spool.close()


class TestDeliverDue:
    def test_dropped_meanwhile(self, scene: Scene) -> None:
        """A delivery that is dropped during another one is not made."""

        def drop(_: Delivery) -> None:
            with closing(Spool(scene.root, scene.clock, alone=False)) as beside:
                [_, other] = beside.due("save")
                beside.failed(other, "dropped by hand")

        target = scene.target(meanwhile=drop)
        id = scene.accept()
        scene.accept_later()
        scene.deliver()
        assert target.ids == [id]

    @pytest.mark.parametrize(
        "outcome", [SAVED, FULL, GONE, LARGE, NEVER, BUG, BodyError("none")], ids=repr
    )
    def test_others_continue(self, scene: Scene, outcome: Exception | Outcome) -> None:
        """A delivery is in progress while it is made, and others follow whatever its outcome."""
        seen = []
        target = scene.target(outcome, meanwhile=lambda _: seen.append(scene.outbox.in_progress()))
        first, second = scene.accept("save", "mail"), scene.accept_later()
        scene.deliver()
        assert seen[0] == {(first, "save", 0)}
        assert scene.outbox.in_progress() == set()
        scene.deliver(after=MIN_WAIT)
        assert second in target.ids

    @pytest.mark.parametrize(
        ("known", "reason"),
        [({"pigeon": Target(BUG)}, "RuntimeError('a bug')"), ({}, "KeyError('pigeon')")],
        ids=["bug", "unknown target"],
    )
    def test_bug(self, scene: Scene, known: dict[str, Deliver], reason: str) -> None:
        """After an unexpected exception, which is logged, the delivery is retried."""
        id = scene.accept("pigeon")
        scene.targets.update(known)
        scene.outbox.deliver_due("pigeon")
        assert [record.exc_info is not None for record in scene.caplog.records] == [True, False]
        error, warning = scene.logged()
        assert error == f"ERROR upload {id}: pigeon: unexpected error"
        assert warning.startswith(f"WARNING upload {id}: pigeon: {reason}; ")
        assert [one.attempts for one in scene.spool.waiting()] == [1]

    def test_progress(self, scene: Scene) -> None:
        """The progress of an attempt is passed to the next one, and to no other delivery."""

        def stopped(error: Exception, *progress: str) -> Exception:
            error.progress = progress  # type: ignore[attr-defined]
            return error

        target = scene.target(
            stopped(TemporaryError("later"), "a"),
            LATER,
            stopped(UnreachableError("gone"), "a", "b"),
            FULL,
            stopped(OSError(errno.EIO, "I/O error"), "a", "b", "c"),
            BUG,
        )
        scene.accept()
        for _ in range(7):
            scene.deliver(after=MAX_WAIT)
        scene.accept()
        scene.deliver()
        passed_on = ["".join(one) for one in target.progress]
        assert passed_on == ["", "a", "a", "ab", "ab", "abc", "abc", ""]


class TestState:
    """Errors of the database."""

    @pytest.mark.parametrize("error", [BROKEN, NEVER], ids=["delivered", "undelivered"])
    def test_error_is_raised(self, scene: Scene, error: Exception) -> None:
        """An error of the database is raised, and does not count as an attempt."""
        scene.undelivered = undelivered_target(BROKEN)
        id = scene.accept()
        target = scene.target(error)
        with pytest.raises(sqlite3.OperationalError):
            scene.deliver()
        assert [delivery.attempts for delivery in scene.spool.due("save")] == [0]
        scene.deliver()
        assert (target.ids, scene.spool.waiting()) == ([id, id], [])

    @pytest.mark.parametrize(
        ("outcome", "attempts", "files_saved"),
        [(SAVED, [], 0), (LATER, [1], 0), (NEVER, [], 1)],
        ids=["done", "later", "never"],
    )
    def test_result_cannot_be_recorded(
        self, scene: Scene, outcome: Exception | Outcome, attempts: list[int], files_saved: int
    ) -> None:
        """The result is recorded later, without a second delivery."""
        first = scene.accept()
        target = scene.target(outcome)
        with Faults(("COMMIT",), errno.EIO), pytest.raises(sqlite3.OperationalError):
            scene.deliver()
        scene.deliver()
        assert (target.ids, len(scene.undelivered.ids)) == ([first], files_saved)
        assert [one.attempts for one in scene.spool.waiting()] == attempts
        scene.deliver(after=MIN_WAIT)
        assert target.ids == [first] * (1 + len(attempts))


class TestQuarantine:
    def test_body_cannot_be_read(self, scene: Scene) -> None:
        """A damaged body goes to quarantine, later if that fails at first. Others are delivered."""
        target = scene.target()
        poison, good = scene.accept(), scene.accept_later()
        (scene.root / "spool" / poison).write_bytes(CUT)
        with Faults(("replace",), errno.EACCES, persistent=True):
            scene.deliver()
        assert (target.ids, scene.bodies()) == ([good], {poison: CUT})
        problem = "its body has another size than when it was accepted"
        [left] = scene.spool.waiting()
        assert left.reason.startswith(f"{problem}, and quarantine: Permission denied")
        scene.deliver(after=MIN_WAIT)
        scene.assert_ended()
        path = scene.root / "quarantine" / poison
        assert contents(path.parent) == {poison: CUT}
        assert scene.logged()[-1] == (
            f"WARNING upload {poison} cannot be delivered: {problem}; "
            f"its body is in quarantine: {path}"
        )

    def test_body_is_gone(self, scene: Scene) -> None:
        """A deleted body is reported once."""
        id = scene.accept()
        (scene.root / "spool" / id).unlink()
        scene.target()
        for _ in range(2):
            scene.deliver()
        assert scene.logged() == [f"WARNING upload {id} cannot be delivered: its body is gone"]


class TestWaits:
    def test_grow(self, scene: Scene) -> None:
        """The time between attempts grows, up to an hour."""
        expected = [15, 15, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
        scene.accept()
        scene.target(*[FULL] * len(expected))
        waits = []
        scene.deliver()
        while (seconds := scene.wait()) is not None:
            waits.append(seconds)
            scene.deliver(after=seconds)
        assert waits == expected

    @pytest.mark.parametrize(
        ("retry_after", "seconds"), [(0, 15), (60, 60), (3600, 3600), (86400, 3600)]
    )
    def test_retry_after(self, scene: Scene, retry_after: float, seconds: float) -> None:
        """A server may ask for a longer wait, up to an hour."""
        scene.accept()
        scene.target(UnreachableError("451", retry_after))
        scene.deliver()
        assert scene.wait() == seconds

    @pytest.mark.parametrize("jump", [YEARS, -YEARS, -NEW_YEAR, 3600, -3600, -90000])
    def test_clock_jumps(self, scene: Scene, jump: float) -> None:
        """When the clock is set, nothing expires, and nothing waits for years."""
        target = scene.target(*[LATER] * 5)
        scene.accept()
        scene.deliver()
        scene.clock.now += jump
        for _ in range(5):
            seconds = max(0.0, scene.wait() or 0)
            scene.deliver(after=min(seconds, 2 * MAX_WAIT))
        assert (len(target.ids), scene.undelivered.ids, scene.spool.waiting()) == (6, [], [])

    @pytest.mark.parametrize("error", [LATER, FULL], ids=["temporary", "OSError"])
    @pytest.mark.parametrize(
        ("retry_for", "attempts"), [(0, 1), (1, 2), (15, 2), (16, 3), (30, 3), (60, 4)]
    )
    def test_abandoned(
        self, scene: Scene, retry_for: float, attempts: int, error: Exception
    ) -> None:
        """A delivery that has waited for `retry_for` is abandoned, and its files are saved."""
        target = scene.target(*[error] * 99)
        scene.outbox.retry_for = retry_for
        id = scene.accept()
        for _ in range(attempts + 1):
            scene.deliver()
            scene.clock.now += scene.wait() or 0
        assert len(target.ids) == attempts
        assert (scene.undelivered.ids, scene.undelivered.photos) == ([id], [[PHOTO]])
        reason = getattr(error, "strerror", str(error))
        line = f"upload {id} is not delivered to a: abandoned: {reason}; files saved"
        assert scene.logged()[-1] == f"WARNING {line}"
        scene.assert_ended()


class TestQueue:
    """Many deliveries for one target."""

    def test_new_before_old(self, scene: Scene) -> None:
        """New uploads come before retries, also those accepted during the retries."""
        old = [scene.accept() for _ in range(2)]
        late: list[str] = []

        def accept_one(delivery: Delivery) -> None:
            if delivery.attempts and not late:
                late.append(scene.accept())

        target = scene.target(LATER, LATER, meanwhile=accept_one)
        scene.deliver()
        new = scene.accept_later(MIN_WAIT)
        scene.deliver()
        [first, second] = [id for id in target.ids[2:] if id in old]
        assert target.ids[2:] == [new, first, *late, second]

    def test_unreachable(self, scene: Scene) -> None:
        """An unreachable server is contacted once for all deliveries, until it is available."""
        target = scene.target(GONE, GONE, GONE)
        ids = [scene.accept() for _ in range(5)]
        waits = []
        for _ in range(3):
            scene.deliver()
            waits.append(scene.wait() or 0)
            scene.clock.now += waits[-1]
        assert (len(target.ids), waits) == (3, [15, 15, 30])
        assert {(one.attempts, one.reason) for one in scene.spool.waiting()} == {(3, str(GONE))}
        assert scene.logged()[:2] == [
            f"WARNING upload {target.ids[0]}: save: {GONE}; it is safe, next try in 15 seconds",
            f"WARNING save: {GONE}; other deliveries waiting: 4",
        ]
        scene.deliver()
        assert sorted(target.ids[3:]) == sorted(ids)

    @pytest.mark.parametrize("error", [GONE, FULL], ids=repr)
    def test_new_upload_after_a_failure(self, scene: Scene, error: Exception) -> None:
        """After a failure, only a new upload is tried at once."""
        target = scene.target(error)
        scene.accept()
        scene.deliver()
        new = scene.accept_later()
        scene.deliver()
        assert target.ids[1:] == [new]
        assert scene.wait() == MIN_WAIT - 1

    def test_wrong_password_and_a_new_upload(self, scene: Scene) -> None:
        """New uploads wait for the end of the hour, unless the user retries them."""
        target = scene.target(*[UnreachableError("535 no", MAX_WAIT)] * 2)
        first = scene.accept()
        scene.deliver()
        second = scene.accept_later(60)
        scene.deliver()
        assert (target.ids, scene.wait()) == ([first], MAX_WAIT - 60)
        assert "WARNING save: 535 no; other deliveries waiting: 1" in scene.logged()
        scene.spool.retry_now(second)
        scene.deliver()
        assert target.ids == [first, second]
        scene.deliver(after=MAX_WAIT)
        assert sorted(target.ids[2:]) == sorted([first, second])
        third = scene.accept_later(-60)  # the clock is set back into that hour
        scene.deliver()
        assert target.ids[4:] == [third]

    def test_all_expire(self, scene: Scene) -> None:
        """Deliveries to an unreachable target are abandoned together, each with its files."""
        target = scene.target(GONE, GONE)
        scene.outbox.retry_for = 15
        ids = [scene.accept() for _ in range(5)]
        scene.deliver()
        scene.clock.now += MIN_WAIT
        scene.logged()
        scene.deliver()
        assert len(target.ids) == 2
        assert sorted(scene.undelivered.ids) == sorted(ids)
        line = "WARNING upload {} is not delivered to a: abandoned: no answer; files saved"
        assert sorted(scene.logged()) == [line.format(id) for id in sorted(ids)]
        scene.assert_ended()


class TestEnds:
    def test_permanent_error(self, scene: Scene) -> None:
        """The files of a permanently refused delivery are saved at once."""
        id = scene.accept(to=["a", "b"])
        scene.target(NEVER)
        scene.deliver()
        line = f"upload {id} is not delivered to a, b: 550 never; files saved"
        assert scene.logged() == [f"WARNING {line}"]
        assert (scene.undelivered.ids, scene.undelivered.photos) == ([id], [[PHOTO]])
        scene.assert_ended()
        [file] = scene.spool.recent()[0].files
        assert [one.path.name for one in file.saved] == ["photo.JPG"]

    def test_too_large(self, scene: Scene) -> None:
        """Files that are too large together are sent one by one; those refused again are saved."""
        target = scene.target(LARGE, Outcome("mailed"), LARGE)
        id = scene.accept(data=TWO)
        scene.deliver()
        assert target.ids == [id, f"{id}.1", f"{id}.2"]
        assert target.photos == [[PHOTO, jpeg(600)], [PHOTO], [jpeg(600)]]
        assert (scene.undelivered.ids, scene.undelivered.photos) == ([f"{id}.2"], [[jpeg(600)]])
        assert scene.logged() == [
            f"INFO upload {id}: 552 too large; sending each file by itself",
            f"INFO upload {id}.1: mailed",
            f"WARNING upload {id}.2 is not delivered to a: 552 too large; files saved",
        ]
        scene.assert_ended()


def refused(recipient: str, code: int) -> Refused:
    return Refused(recipient, code >= 500, f"{code} no")


class TestRecipients:
    def test_mixed(self, scene: Scene) -> None:
        """Only recipients that were refused temporarily are retried."""
        refusals = (refused("b", 450), refused("c", 550))
        target = scene.target(Outcome("mailed to a", refusals), Outcome("mailed to b"))
        id = scene.accept(to=["a", "b", "c"])
        scene.deliver()
        left = [(one.recipients, one.attempts, one.waited) for one in scene.spool.waiting()]
        assert left == [(("b",), 1, 15)]
        scene.deliver(after=MIN_WAIT)
        assert target.recipients == [("a", "b", "c"), ("b",)]
        assert target.ids == [id, id]
        assert (scene.undelivered.ids, scene.undelivered.photos) == ([id], [[PHOTO]])
        assert scene.logged() == [
            f"INFO upload {id}: mailed to a",
            f"WARNING upload {id} is not delivered to c: 550 no; files saved",
            f"WARNING upload {id}: save: 450 no; it is safe, next try in 15 seconds",
            f"INFO upload {id}: mailed to b",
        ]
        scene.assert_ended()

    @pytest.mark.parametrize(
        ("codes", "retry_for", "state", "left", "reason", "saved_once"),
        [
            ([450, 250], 60, "waiting", ("a",), "450 no", False),
            ([450, 451], 60, "waiting", ("a", "b"), "a (450 no), b (451 no)", False),
            ([450, 550], 60, "waiting", ("a",), "450 no", True),
            ([250, 250], 60, "done", ("a", "b"), "", False),
            ([250, 550], 60, "done", ("a",), "not delivered to b: 550 no", True),
            ([550, 550], 60, "failed", ("a", "b"), "550 no", True),
            ([450, 250], 0, "done", ("b",), "not delivered to a: abandoned: 450 no", True),
            ([450, 550], 0, "failed", ("a", "b"), "abandoned: a (450 no), b (550 no)", True),
        ],
        ids=str,
    )
    def test_ends(
        self,
        scene: Scene,
        codes: list[int],
        retry_for: float,
        state: str,
        left: tuple[str, ...],
        reason: str,
        saved_once: bool,
    ) -> None:
        """The replies for the recipients decide the state of the delivery."""
        pairs = zip("ab", codes, strict=True)
        outcome = Outcome("sent", tuple(refused(one, code) for one, code in pairs if code >= 400))
        scene.accept(to=["a", "b"])
        scene.target(outcome)
        scene.outbox.retry_for = retry_for
        scene.deliver()
        [found] = scene.spool.recent()[0].deliveries
        assert (found.state, found.recipients, found.reason) == (state, left, reason)
        assert len(scene.undelivered.ids) == saved_once

    def test_files_cannot_be_saved(self, scene: Scene) -> None:
        """If files cannot be saved, recipients that were reached get no second mail."""
        scene.undelivered = undelivered_target(FULL)
        target = scene.target(
            Outcome("mailed to a", (refused("b", 550), refused("c", 450))),
            Outcome("not mailed", (refused("b", 550),)),
        )
        id = scene.accept(to=["a", "b", "c"])
        scene.deliver()
        assert list(scene.bodies()) == [id]
        assert "No space left on device" in scene.spool.waiting()[0].reason
        scene.deliver(after=MIN_WAIT)
        assert [sorted(one) for one in target.recipients] == [["a", "b", "c"], ["b", "c"]]
        assert (len(scene.undelivered.ids), scene.spool.waiting()) == (2, [])


ID = "20260101T000000Z-01234567"


def waiting(target: str = "mail", **changes: Any) -> Delivery:
    """Return a delivery that is five minutes old and due."""
    arrival = StoredUpload(ID, NEW_YEAR - 300, "192.0.2.7", "camera@example.com")
    delivery = Delivery(arrival, target, 0, ("me",), 0, 0.0, NEW_YEAR, "")
    return delivery._replace(**changes)


@pytest.mark.parametrize(
    ("delivery", "expected"),
    [
        (waiting(), "due now"),
        (waiting(next_try=NEW_YEAR + 60), "first try in 60 seconds"),
        (waiting(attempts=1, next_try=NEW_YEAR + 1), "tried once, next try in 1 second"),
        (waiting(attempts=2, next_try=NEW_YEAR + 3719), "tried twice, next try in 62 minutes"),
        (waiting(attempts=4, next_try=0, reason="busy"), "tried 4 times, due now: busy"),
        (waiting(attempts=1, next_try=NEW_YEAR + 10**9), "tried once, due now"),
        (waiting(reason="450\r\n" + "x" * 300), f"due now: 450??{'x' * 194}…"),
    ],
)
def test_describe_waiting(delivery: Delivery, expected: str) -> None:
    """A waiting delivery is one line, which begins with the id of its upload."""
    line = f"{ID}: to me by mail, waiting for 5 minutes, {expected}"
    assert describe_waiting([delivery], NEW_YEAR) == line


def test_describe_recipients() -> None:
    """Long lists of recipients are truncated, and every line is printable."""
    many = waiting("save:${D}", recipients=tuple("abcdefg"))
    odd = waiting("mail:\x1bx", recipients=("a\u2028b",))
    lines = describe_waiting([many, odd], NEW_YEAR).splitlines()
    assert [line.partition(", waiting")[0] for line in lines] == [
        f"{ID}: to a, b, c, d, e and 2 more by save:${{D}}",
        f"{ID}: to a?b by mail:?x",
    ]


def test_describe_current() -> None:
    """Deliveries in progress are marked, and only those."""
    one_file = waiting(file_number=1)
    deliveries = [waiting(), waiting("save"), one_file, waiting("run:x", next_try=NEW_YEAR + 9)]
    current = {(ID, "mail", 0), (ID, "run:x", 0), (ID, "save", 1)}
    lines = describe_waiting(deliveries, NEW_YEAR, current).splitlines()
    assert [line.partition("minutes, ")[2] for line in lines] == [
        "being tried now",
        "due now",
        "due now",
        "being tried now",
    ]
    assert lines[2].startswith(f"{ID}, file 1: to me by mail, ")
    assert describe_waiting([], NEW_YEAR) == "no pending deliveries"


class Slow(Target):
    """A target whose deliveries last until `go_on` is set."""

    def __init__(self, enough: int = 1) -> None:
        super().__init__(meanwhile=self._wait, enough=enough)
        self.begun, self.go_on = threading.Event(), threading.Event()

    def _wait(self, delivery: Delivery) -> None:
        self.begun.set()
        assert self.go_on.wait(SOON)


@contextmanager
def dispatched(out: Outbox, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Wake an outbox, and pause its dispatcher after it has started the missing workers."""
    looks, go_on, targets = threading.Semaphore(0), threading.Event(), scene.spool.due_targets

    def look() -> list[str]:
        looks.release()
        if held.is_set():
            go_on.wait(2 * SOON)
        return targets()

    held = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(scene.spool, "due_targets", look)
        out.wake()
        assert looks.acquire(timeout=SOON)
        held.set()
        out.wake()
        assert looks.acquire(timeout=SOON)  # the first look has ended
        try:
            yield
        finally:
            go_on.set()


Start = Callable[..., Outbox]
PAUSED = "deliveries to save paused for 0 s"


class TestThreads:
    @pytest.fixture
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Retry after errors, and look for changes, without delay."""
        monkeypatch.setattr(outbox, "MIN_WAIT", 0.01)
        monkeypatch.setattr(outbox, "POLL", 0.01)

    @pytest.fixture
    def start(self, scene: Scene) -> Iterator[Start]:
        """Starts the outbox with these targets, and stops it in the end."""

        def start(**targets: Deliver) -> Outbox:
            scene.targets.update(targets)
            scene.outbox.start()
            return scene.outbox

        yield start
        assert scene.outbox.stop(SOON)

    def test_wake(self, scene: Scene, start: Start) -> None:
        """Old uploads are delivered after the start, new ones after `wake`; then workers end."""
        first, save, mail = Target(), Target(enough=3), Target()
        ids = [scene.accept("first", "save")]
        out = start(first=first, save=save, mail=mail)
        assert first.done.wait(SOON)
        ids.append(scene.accept())
        out.wake()
        ids.append(scene.accept("save", "mail"))
        out.wake()
        assert save.done.wait(SOON)
        assert mail.done.wait(SOON)
        assert (first.ids, sorted(save.ids), mail.ids) == (ids[:1], sorted(ids), ids[2:])
        # The workers have nothing left to do.
        names = ("nx first", "nx save", "nx mail")
        threads = threading.enumerate
        eventually(lambda: not any(one.name in names for one in threads()), "the workers end")

    def test_slow_target(self, scene: Scene, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        """A slow target delays only its own deliveries, which are made one at a time."""
        slow, fast = Slow(), Target(enough=2)
        ids = [scene.accept("slow", "fast")]
        out = start(slow=slow, fast=fast)
        try:
            assert slow.begun.wait(SOON)
            ids.append(scene.accept("slow", "fast"))
            with dispatched(out, scene, monkeypatch):
                assert fast.done.wait(SOON)
            assert [one.target for one in scene.spool.waiting()].count("slow") == 2
        finally:
            slow.go_on.set()
        eventually(lambda: not scene.spool.waiting(), "all is delivered")
        assert (fast.ids, slow.ids) == (ids, ids)

    @pytest.mark.usefixtures("quick")
    def test_command_line_is_noticed(self, scene: Scene, start: Start) -> None:
        """A delivery that another process makes due is retried."""
        target = Target(LATER, enough=2)
        id = scene.accept()
        start(save=target)
        beside = Spool(scene.root, scene.clock, alone=False)
        eventually(lambda: scene.spool.waiting()[0].attempts, "it is tried")
        assert beside.retry_now(id) == 1
        beside.close()
        assert target.done.wait(SOON)
        assert target.ids == [id, id]

    @pytest.mark.usefixtures("quick")
    @pytest.mark.parametrize(
        ("call", "error", "expected"),
        [
            ("first_due", BROKEN, f"{PAUSED}: cannot read or write their state: disk I/O error"),
            ("first_due", BUG, PAUSED),
            ("due_targets", BROKEN, "cannot check for new deliveries"),
            ("notice_changes", BROKEN, "cannot check for new deliveries"),
        ],
    )
    def test_error_of_the_state(
        self,
        scene: Scene,
        start: Start,
        monkeypatch: pytest.MonkeyPatch,
        call: str,
        error: Exception,
        expected: str,
    ) -> None:
        """An error of the database is logged, and deliveries go on."""
        real, failures = getattr(scene.spool, call), [error]

        def broken(*arguments: object, **named: object) -> object:
            if failures:
                raise failures.pop()
            return real(*arguments, **named)

        target = Target()
        scene.accept()
        monkeypatch.setattr(scene.spool, call, broken)
        start(save=target)
        assert target.done.wait(SOON)
        assert scene.logged().count(f"ERROR {expected}") == 1

    def test_secrets(self, scene: Scene, start: Start) -> None:
        """The name of a thread contains no secret of its target."""
        target, slow = "forward:https://me:s3cret@h/s3cret", Slow()
        before = {*threading.enumerate()}
        scene.accept(target)
        out = start(**{target: slow})
        assert slow.begun.wait(SOON)
        threads = {*threading.enumerate()} - before
        slow.go_on.set()
        assert out.stop(SOON)
        assert {one.name for one in threads} == {"nx outbox", "nx forward:https://h/..."}
        assert {one.daemon for one in threads} == {True}
        assert "s3cret" not in scene.caplog.text

    def test_stop_and_start(self, scene: Scene, start: Start) -> None:
        """The current delivery is completed; the others are made after the next start."""
        target = Slow(enough=2)
        ids = [scene.accept(), scene.accept_later()]
        out = start(save=target)
        assert target.begun.wait(SOON)
        assert out.stop(0.01) is False
        assert out.in_progress() == {(ids[0], "save", 0)}
        target.go_on.set()
        assert out.stop(SOON) is True
        assert (target.ids, out.in_progress()) == (ids[:1], set())
        assert list(scene.bodies()) == ids[1:]
        out.start()
        assert target.done.wait(SOON)
        assert target.ids == ids

    def test_stop_while_something_hangs(
        self, scene: Scene, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`stop` takes no longer than its time limit; the next start waits for the end."""
        monkeypatch.setattr(outbox, "POLL", 2 * SOON)
        hangs, released = threading.Event(), threading.Event()

        def targets() -> list[str]:
            hangs.set()
            released.wait(SOON)
            return []

        monkeypatch.setattr(scene.spool, "due_targets", targets)
        out = start()
        assert hangs.wait(SOON)
        assert out.stop(0.01) is False
        threading.Timer(0.05, released.set).start()
        out.start()
        assert [one.name for one in threading.enumerate()].count("nx outbox") == 1

    @pytest.mark.parametrize("call", ["first_due", "due_targets"], ids=["worker", "dispatcher"])
    def test_about_to_sleep(
        self, scene: Scene, start: Start, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        """A `wake` just before a worker ends, or the dispatcher sleeps, is not missed."""
        monkeypatch.setattr(outbox, "POLL", 2 * SOON)
        looks, woken = threading.Event(), threading.Event()
        real = getattr(scene.spool, call)

        def late(*arguments: object) -> object:
            found = real(*arguments)
            if not found:
                looks.set()
                assert woken.wait(SOON)
            return found

        ids = [scene.accept()] if call == "first_due" else []
        target = Target(enough=len(ids) + 1)
        monkeypatch.setattr(scene.spool, call, late)
        out = start(save=target)
        assert looks.wait(SOON)
        ids.append(scene.accept_later())
        with ExitStack() as held:
            if call == "first_due":
                held.enter_context(dispatched(out, scene, monkeypatch))
            else:
                out.wake()
            woken.set()
            assert target.done.wait(SOON)
        assert target.ids == ids
