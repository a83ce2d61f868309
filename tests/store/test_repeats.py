from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from nxparse.store.records import Post
from nxparse.store.spool import REPEAT, RepeatedError, Spool
from tests.arrivals import parsed
from tests.bodies import SENDER, body, jpeg, message_xml
from tests.clock import NEW_YEAR, Clock
from tests.faults import Database
from tests.store.helpers import (
    BODY,
    CLIENT,
    PHOTO,
    POST,
    SAVE,
    UPLOAD,
    YEARS,
    Reopen,
    append,
    receive,
    to,
)

OTHER_PHOTO = body([("SAM_4371.JPG", jpeg(500, seed=9))])
OTHER_MESSAGE = body([("SAM_4371.JPG", PHOTO)], message=message_xml(text="No"))


class TestRepeats:
    def repeat(self, into: Spool, data: bytes = BODY, sender: str = SENDER) -> str | None:
        """Receive a body again. Returns the id that it repeats, None if it is new."""
        incoming = receive(into, data)
        try:
            into.accept(incoming, CLIENT, parsed(data, sender), SAVE)
        except RepeatedError as error:
            incoming.discard()
            return "its reply is open" if error.reply else error.id
        into.reply_confirmed(incoming.id)
        return None

    def repeat_photo(
        self, into: Spool, number: int, announcement: str, post: Post = POST
    ) -> str | None:
        """Receive a photo of a post again."""
        try:
            append(into, number, post, announcement=announcement)
        except RepeatedError as error:
            return "its reply is open" if error.reply else error.id
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
            pytest.param(SENDER, BODY, 0, True, id="at once"),
            pytest.param(SENDER, BODY, REPEAT, True, id="within the hour"),
            pytest.param(SENDER, BODY, -REPEAT, True, id="clock set back a little"),
            pytest.param(SENDER, BODY, REPEAT + 1, False, id="later"),
            pytest.param(SENDER, BODY, YEARS, False, id="clock set forward"),
            pytest.param(SENDER, BODY, -YEARS, False, id="clock set back"),
            pytest.param("other@example.org", BODY, 0, False, id="other sender"),
            pytest.param("", BODY, 0, False, id="no sender"),
            pytest.param(SENDER, BODY + b"x", 0, False, id="a byte more"),
            pytest.param(SENDER, OTHER_PHOTO, 0, False, id="other photo"),
            pytest.param(SENDER, OTHER_MESSAGE, 0, False, id="other message"),
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
        """The same body of the same sender within the hour is a duplicate."""
        clock.now += later
        assert self.repeat(opened, data, sender) == (lost if found else None)
        assert len(opened.waiting()) == (1 if found else 2)

    def test_reply_to_a_duplicate(self, opened: Spool, lost: str) -> None:
        """Repeats are duplicates until a reply to one of them is confirmed."""
        seen = []
        for arrived in (False, False, True, True):
            seen.append(self.repeat(opened))
            if arrived:
                opened.reply_confirmed(lost)
            else:
                opened.reply_lost(lost)
        assert seen == [lost, lost, lost, None]

    def test_repeat_while_a_duplicate_is_answered(self, opened: Spool, lost: str) -> None:
        """The reply to a duplicate is open as well, so that the next repeat can wait for it."""
        assert [self.repeat(opened) for _ in range(2)] == [lost, "its reply is open"]

    @pytest.mark.parametrize(
        ("settle", "found"),
        [
            pytest.param(lambda found, id: found.reply_confirmed(id), False, id="confirmed"),
            pytest.param(lambda found, id: found.reply_lost(id), True, id="lost"),
            pytest.param(lambda found, id: None, True, id="not known"),
        ],
    )
    def test_after_a_restart(
        self, opened: Spool, reopen: Reopen, settle: Callable[[Spool, str], None], found: bool
    ) -> None:
        """A reply that was open at a restart counts as lost."""
        arrival = opened.accept(receive(opened), CLIENT, UPLOAD, SAVE)
        settle(opened, arrival.id)
        assert self.repeat(reopen()) == (arrival.id if found else None)

    def test_confirmation_costs_no_transaction(
        self, opened: Spool, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A confirmation is stored with the next transaction."""
        arrival = opened.accept(receive(opened), CLIENT, UPLOAD, SAVE)
        statements: list[str] = []
        monkeypatch.setattr(Database, "watchers", [lambda _, sql: statements.append(sql)])
        opened.reply_confirmed(arrival.id)
        assert statements == []
        opened.done(to(arrival, "save"))
        assert statements.count("COMMIT") == 1
        with closing(sqlite3.connect(root / "state.sqlite3")) as database:
            assert database.execute("SELECT reply_confirmed FROM body").fetchall() == [(1,)]

    @pytest.mark.parametrize(
        ("user", "number", "announcement", "later", "found"),
        [
            pytest.param("anna", 1, "R1", 0, True, id="same announcement"),
            pytest.param("anna", 1, "R1", REPEAT + 1, True, id="later"),
            pytest.param("anna", 1, "R1", -YEARS, True, id="clock set back"),
            pytest.param("anna", 1, "R2", 0, False, id="another announcement"),
            pytest.param("anna", 1, "", 0, False, id="none"),
            pytest.param("anna", 2, "R1", 0, False, id="another photo"),
            pytest.param("ben", 1, "R1", 0, False, id="another sender"),
        ],
    )
    def test_announced(
        self,
        opened: Spool,
        clock: Clock,
        user: str,
        number: int,
        announcement: str,
        later: float,
        found: bool,
    ) -> None:
        """The same photo for the same announcement is a duplicate, at any time."""
        arrival = append(opened, 1, announcement="R1")
        clock.now += later
        repeated = self.repeat_photo(opened, number, announcement, POST._replace(sender=user))
        assert repeated == (arrival.id if found else None)

    def test_announced_while_the_reply_is_open(self, opened: Spool) -> None:
        """A repeat for the same announcement does not wait for the open reply."""
        arrival = append(opened, 1, announcement="R1", confirmed=False)
        assert [self.repeat_photo(opened, 1, "R1") for _ in range(2)] == [arrival.id] * 2

    def test_lost_photo(self, opened: Spool, clock: Clock) -> None:
        """A photo whose reply was lost is a duplicate under a new announcement, within the hour."""
        arrival = append(opened, 1, announcement="R1", confirmed=False)
        for later, found in ((0, arrival.id), (REPEAT, arrival.id), (REPEAT + 1, None)):
            opened.reply_lost(arrival.id)
            clock.now = NEW_YEAR + later
            assert self.repeat_photo(opened, 1, f"R{later + 3}") == found

    @pytest.mark.parametrize(
        "post", [POST._replace(caption="Another"), POST._replace(site="picasa")], ids=str
    )
    def test_lost_photo_of_another_post(self, opened: Spool, post: Post) -> None:
        """The same photo with another caption, or for another site, is new."""
        arrival = append(opened, 1, announcement="R1", confirmed=False)
        opened.reply_lost(arrival.id)
        assert self.repeat_photo(opened, 1, "R2", post) is None
        assert self.repeat_photo(opened, 1, "R2") == arrival.id
