from __future__ import annotations

from pathlib import Path

import pytest

from nxparse.store.deliveries import MAX_WAIT, is_ahead
from nxparse.store.records import Delivery, FileRecord
from nxparse.store.spool import QUIET, Spool
from tests.bodies import RECIPIENT, body, jpeg
from tests.clock import NEW_YEAR, Clock
from tests.faults import contents
from tests.store.helpers import (
    MAIL,
    PHOTO,
    YEARS,
    Reopen,
    accept,
    append,
    posts,
    to,
    waits,
)


@pytest.mark.parametrize(
    ("seconds", "ahead"),
    [(-1, False), (0, False), (1, True), (2 * MAX_WAIT, True), (2 * MAX_WAIT + 1, False)],
)
def test_is_ahead(seconds: float, ahead: bool) -> None:
    """A time beyond twice the longest wait comes from a wrong clock."""
    assert is_ahead(NEW_YEAR + seconds, NEW_YEAR) is ahead


class TestDeliveries:
    def test_oldest_first(self, opened: Spool, clock: Clock) -> None:
        """Deliveries are sorted by upload, target and file."""
        expected = []
        for _ in range(3):
            arrival = accept(opened, targets=("save", "mail"))
            opened.split(to(arrival, "mail"), 2)
            expected += [(arrival.id, "mail", 1), (arrival.id, "mail", 2), (arrival.id, "save", 0)]
            clock.now += 1
        assert [one.key for one in opened.waiting()] == expected
        assert opened.due_targets() == ["mail", "save"]
        for target in ("mail", "save"):
            due = [one.key for one in opened.due(target)]
            assert due == [one for one in expected if one[1] == target]

    def test_due_targets(self, opened: Spool, clock: Clock) -> None:
        """A target is due when one of its waiting deliveries is."""
        late, early, never = accept(opened), accept(opened), accept(opened)
        opened.postpone(to(late, "save"), 60, "", [RECIPIENT])
        opened.postpone(to(early, "save"), 30, "", [RECIPIENT])
        opened.failed(to(never, "save"), "")
        for pause, expected in ((29, []), (1, ["save"]), (1, ["save"])):
            clock.now += pause
            assert opened.due_targets() == expected
        opened.done(to(early, "save"))
        assert opened.due_targets() == []

    def test_postponed_again(self, opened: Spool, clock: Clock) -> None:
        """The waits of a delivery are added up, even if the clock is set back."""
        arrival = accept(opened, targets=("mail",))
        opened.postpone(to(arrival, "mail"), 15, "421 later", ["a", "b"])
        clock.now -= 86400
        opened.postpone(to(arrival, "mail"), 30, "450 busy", ["b"])
        when = NEW_YEAR - 86400 + 30
        assert opened.waiting() == [Delivery(arrival, "mail", 0, ("b",), 2, 45.0, when, "450 busy")]

    def test_progress(self, opened: Spool, clock: Clock, reopen: Reopen) -> None:
        """Progress is stored until an attempt replaces it."""
        accept(opened, targets=("mail", "save"))
        for progress in (["a"], ['"Grüße",\n\0[]', ""], []):
            [delivery] = opened.due("mail")
            opened.postpone(delivery, 15, "450 busy", delivery.recipients, progress)
            clock.now += 15
        found = {one.target: one.progress for one in reopen().waiting()}
        assert found == {"mail": ('"Grüße",\n\0[]', ""), "save": ()}

    def test_split(self, opened: Spool, root: Path, clock: Clock) -> None:
        """A split delivery becomes one for each file, for the remaining recipients."""
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
        for one in opened.waiting():
            assert list(contents(root / "spool")) == [arrival.id]
            opened.done(one)
        assert contents(root / "spool") == {}

    def test_file_number(self, opened: Spool) -> None:
        """A delivery is for all files or for one, counted from 1."""
        arrival = accept(opened, body([("A.JPG", PHOTO), ("B.JPG", jpeg(600))]))
        for number, expected in enumerate((["A.JPG", "B.JPG"], ["A.JPG"], ["B.JPG"])):
            with opened.read(to(arrival, "mail", number)) as (upload, files):
                assert [file.name for file in files] == expected
            assert len(upload.files) == 2

    def test_retry_now(self, opened: Spool, clock: Clock) -> None:
        """Retrying makes all waiting deliveries of an upload due, and no others."""
        arrival, other = accept(opened, targets=("a", "b", "c")), accept(opened, targets=("a",))
        opened.split(to(arrival, "b"), 2)
        opened.done(to(arrival, "c"))
        for one in opened.waiting():
            opened.postpone(one, 3600, "450 busy", one.recipients)
        clock.now += 1
        assert opened.retry_now(arrival.id) == 3
        assert [one.key for one in opened.due("a")] == [(arrival.id, "a", 0)]
        assert [one.file_number for one in opened.due("b")] == [1, 2]
        assert [opened.retry_now(other.id), opened.retry_now("unknown")] == [1, 0]

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
        self, opened: Spool, clock: Clock, reopen: Reopen, how: str, jump: float, waited: float
    ) -> None:
        """A wait that ends early counts for the time it lasted, once."""
        arrival = accept(opened)
        opened.postpone(to(arrival, "save"), 100, "450 busy", [RECIPIENT])
        clock.now += jump
        for _ in range(2):
            if how == "retried":
                opened.retry_now(arrival.id)
            else:
                opened = reopen()
        assert [one.waited for one in opened.waiting()] == [waited]

    @pytest.mark.parametrize("how", ["retried", "restart"])
    def test_waited_for_photos(self, opened: Spool, reopen: Reopen, how: str) -> None:
        """The time that a post waits for photos does not count."""
        arrival = append(opened, 1, at_once=())
        if how == "retried":
            opened.retry_now(arrival.id)
        else:
            opened = reopen()
        opened.back_off(MAIL, 15, "no answer")
        assert [one.waited for one in opened.waiting()] == [0]


class TestFirstDue:
    def test_order(self, opened: Spool, clock: Clock) -> None:
        """New deliveries come before retries, then the longest due, then the older upload."""
        old, tried = accept(opened), {20: accept(opened), 10: accept(opened)}
        for seconds, arrival in tried.items():
            opened.postpone(to(arrival, "save"), seconds, "busy", [RECIPIENT])
        clock.now += 30
        young = accept(opened)
        for arrival in (young, old):
            opened.split(to(arrival, "save"), 2)
        order = []
        while one := opened.first_due("save"):
            order.append(one.id)
            opened.done(one)
        new = [f"{old.id}.1", f"{old.id}.2", f"{young.id}.1", f"{young.id}.2"]
        assert order == [*new, tried[10].id, tried[20].id]

    @pytest.mark.parametrize(
        ("seconds", "expected"),
        [
            pytest.param(14.9, False, id="early"),
            pytest.param(15, True, id="in time"),
            pytest.param(86400, True, id="late"),
            pytest.param(15 - 2 * MAX_WAIT, False, id="clock set back"),
            pytest.param(15 - 2 * MAX_WAIT - 1, True, id="clock set back more"),
            pytest.param(-YEARS, True, id="years"),
        ],
    )
    def test_time(self, opened: Spool, clock: Clock, seconds: float, expected: bool) -> None:
        """`first_due` and `due` agree, also after the clock was set back."""
        arrival = accept(opened)
        opened.postpone(to(arrival, "save"), 15, "busy", [RECIPIENT])
        clock.now += seconds
        found = opened.first_due("save")
        assert (found is not None, opened.due("save") != []) == (expected, expected)


class TestBackOff:
    @pytest.mark.parametrize(
        ("tried", "seconds", "changes", "expected"),
        [
            pytest.param(None, 0, 1, (1, 100, 100, "gone"), id="new"),
            pytest.param(None, 50, 1, (1, 100, 100, "gone"), id="due for a while"),
            pytest.param(None, -YEARS, 1, (1, 100, 0, "gone"), id="due, clock set back"),
            pytest.param(15, 15, 1, (2, 100, 115, "gone"), id="tried, due"),
            pytest.param(15, 500, 1, (2, 100, 115, "gone"), id="tried, due for a while"),
            pytest.param(15, 5, 1, (2, 100, 105, "gone"), id="tried, due soon"),
            pytest.param(100, 0, 0, (1, 100, 100, "busy"), id="tried, due then"),
            pytest.param(3600, 0, 0, (1, 3600, 3600, "busy"), id="tried, due later"),
        ],
    )
    def test_wait(
        self,
        opened: Spool,
        clock: Clock,
        tried: float | None,
        seconds: float,
        changes: int,
        expected: tuple[object, ...],
    ) -> None:
        """Deliveries due within the wait are postponed, later ones are not."""
        arrival = accept(opened)
        if tried is not None:
            opened.postpone(to(arrival, "save"), tried, "busy", [RECIPIENT])
        clock.now += seconds
        assert opened.back_off("save", 100, "gone") == changes
        [one] = opened.waiting()
        assert (one.attempts, one.next_try - clock.now, one.waited, one.reason) == expected

    def test_others(self, opened: Spool, clock: Clock) -> None:
        """Other targets and settled deliveries are not postponed."""
        done, failed = accept(opened), accept(opened)
        opened.done(to(done, "save"))
        opened.failed(to(failed, "save"), "never")
        accept(opened, targets=("mail", "save"))
        accept(opened)
        assert opened.back_off("save", 100, "gone") == 2
        assert waits(opened, clock) == [("mail", 0, 0), *[("save", 0, 100)] * 2]

    def test_except_for(self, opened: Spool, clock: Clock) -> None:
        """The delivery that failed, and one that the user retries, are not postponed.

        The one that the user retries comes before all others.
        """
        failed, retried, other = (accept(opened) for _ in range(3))
        opened.split(to(failed, "save"), 2)
        clock.now += 60
        opened.postpone(to(failed, "save", 1), 50, "busy", [RECIPIENT])
        opened.retry_now(retried.id)
        assert opened.back_off("save", 100, "gone", except_for=to(failed, "save", 1)) == 2
        found = {one.id: (one.attempts, one.reason) for one in opened.waiting()}
        assert found == {
            f"{failed.id}.1": (1, "busy"),
            f"{failed.id}.2": (1, "gone"),
            retried.id: (0, ""),
            other.id: (1, "gone"),
        }
        first = opened.first_due("save")
        assert (first and first.arrival, len(opened.due("save"))) == (retried, 1)

    def test_post(self, opened: Spool, clock: Clock) -> None:
        """An open post is postponed when it is due. More photos do not shorten that wait."""
        append(opened, 1, at_once=())
        before = opened.waiting()
        assert opened.back_off(MAIL, 7200, "gone") == 0
        assert opened.waiting() == before
        clock.now += QUIET
        assert opened.back_off(MAIL, 3600, "gone") == 1
        clock.now += 10
        append(opened, 2, at_once=())
        assert waits(opened, clock) == [(MAIL, 0, 3590)]
        assert [(one.waited, one.attempts) for one in opened.waiting()] == [(3600, 1)]
        assert posts(opened) == [[1, 2]]


class TestRecent:
    """The list of recent uploads."""

    def test_latest_first(self, opened: Spool, clock: Clock) -> None:
        """The latest uploads of one client, or of all, come first, within a limit."""
        arrivals = []
        for number in range(6):
            clock.now += 1
            arrivals.append(accept(opened, client=f"192.0.2.{number % 2}"))
        arrivals.reverse()
        assert [one.arrival for one in opened.recent()] == arrivals
        assert [one.arrival for one in opened.recent("192.0.2.1")] == arrivals[::2]
        assert [one.arrival for one in opened.recent("192.0.2.1", 2)] == [arrivals[0], arrivals[2]]
        assert opened.recent("192.0.2.9") == []
        before = opened.recent("192.0.2.1", before=arrivals[1].id)
        assert [one.arrival for one in before] == arrivals[2::2]
        assert [one.arrival for one in opened.recent(limit=1)] == arrivals[:1]

    def test_listed(self, opened: Spool, clock: Clock) -> None:
        """Files, and deliveries in each state, are listed even after the body is deleted."""
        data = body([("a.jpg", PHOTO), ("b\u202e.jpg", jpeg(600))])
        arrival = accept(opened, data, ("drop", "mail", "save"))
        opened.done(to(arrival, "save"))
        opened.failed(to(arrival, "drop"), "no reason")
        opened.postpone(to(arrival, "mail"), 30.0, "no answer", ["left@example.org"])
        [found] = opened.recent()
        now = clock.now
        assert found.deliveries == (
            Delivery(arrival, "drop", 0, (RECIPIENT,), 0, 0, now, "no reason", state="failed"),
            Delivery(arrival, "mail", 0, ("left@example.org",), 1, 30, now + 30, "no answer"),
            Delivery(arrival, "save", 0, (RECIPIENT,), 0, 0, now, "", state="done"),
        )
        opened.done(to(arrival, "mail"))
        assert opened.record(arrival.id) == opened.recent()[0]
        assert opened.record("unknown") is None
        assert found.files == (FileRecord(1, "a.jpg", 500), FileRecord(2, "b.jpg", 600))

    def test_post(self, opened: Spool) -> None:
        """The photos of a post are its files."""
        for number in (1, 2):
            append(opened, number)
        [found] = opened.recent()
        assert [(one.number, one.name) for one in found.files] == [(1, "1.JPG"), (2, "2.JPG")]
        assert [one.key[1:] for one in found.deliveries] == [(MAIL, 0), ("save", 1), ("save", 2)]
