"""Logins to social sites, and announced files."""

from __future__ import annotations

import re
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nxparse.server import sessions
from nxparse.server.sessions import (
    ANNOUNCEMENT_LIFE,
    MAX_ANNOUNCEMENTS,
    SESSION_LIFE,
    AnnouncedFile,
    Sessions,
)
from nxparse.server.social import Announcement, parse_announcement
from nxparse.store.records import Post
from tests.clock import NEW_YEAR, Clock
from tests.faults import make_lazy

CLIENT = "192.0.2.7"
OTHER = "192.0.2.8"
USER = "camera@example.net"
YEARS = 10 * 365 * 86400.0
PHOTO = Announcement("", "SAM_4371.JPG", "NX300", "two~of~them")


@pytest.fixture(autouse=True)
def _lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    make_lazy(monkeypatch)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.sqlite3"


@pytest.fixture
def opened(path: Path, clock: Clock) -> Iterator[Sessions]:
    """Sessions in a new file."""
    found = Sessions(path, clock)
    yield found
    found.close()


def announce(of: Sessions, key: str, announcement: Announcement = PHOTO) -> str:
    """Announce a photo. Returns its token."""
    announcement = announcement._replace(session_key=key)
    return of.announce(CLIENT, USER, "facebook", announcement)[0]


def valid(of: Sessions, *keys: str, client: str = CLIENT) -> list[bool]:
    """Return whether each key can be used by this client."""
    return [of.user(client, key) == USER for key in keys]


def rows(path: Path, table: str) -> int:
    """Return the number of rows, as another process sees it."""
    with closing(sqlite3.connect(path)) as database:
        (count,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)


class TestSession:
    @pytest.mark.parametrize(
        ("age", "found"), [(SESSION_LIFE, True), (SESSION_LIFE + 1, False), (YEARS, False)]
    )
    def test_expiry(self, opened: Sessions, clock: Clock, age: float, found: bool) -> None:
        """A random key expires a month after its last use, for its client only."""
        key = opened.begin(CLIENT, USER)
        assert re.fullmatch(r"[0-9a-f]{32}", key)
        for _ in range(3):
            clock.now += SESSION_LIFE
            announce(opened, key)
        clock.now += age
        assert valid(opened, key, client=OTHER) == [False]
        assert valid(opened, key) == [found]

    def test_expired_ones_are_forgotten(self, opened: Sessions, clock: Clock) -> None:
        """A login deletes expired sessions, so that a clock set back does not revive them."""
        key = opened.begin(CLIENT, USER)
        clock.now += SESSION_LIFE + 1
        opened.begin(CLIENT, USER)
        clock.now = NEW_YEAR
        assert valid(opened, key) == [False]

    def test_cap(
        self, opened: Sessions, clock: Clock, monkeypatch: pytest.MonkeyPatch, path: Path
    ) -> None:
        """Beyond the limit, the oldest logins are deleted."""
        monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
        keys = []
        for _ in range(10):
            clock.now += 1
            keys.append(opened.begin(CLIENT, USER))
            assert valid(opened, keys[-1]) == [True]
        assert valid(opened, *keys) == [False] * 7 + [True] * 3
        assert rows(path, "session") == 3

    def test_unused_sessions_are_deleted_first(
        self, opened: Sessions, clock: Clock, monkeypatch: pytest.MonkeyPatch, path: Path
    ) -> None:
        """A camera that has just sent a photo is not logged out by others.

        The announcements of a deleted session are deleted with it.
        """
        monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
        used, unused = opened.begin(CLIENT, USER), opened.begin(CLIENT, USER)
        token = announce(opened, unused)
        clock.now += 1
        announce(opened, used)
        opened.begin(OTHER, USER)
        assert valid(opened, used, unused) == [True, False]
        assert opened.announced(CLIENT, token) is None
        assert rows(path, "announcement") == 1


class TestAnnounced:
    @pytest.mark.parametrize(
        "announcement",
        [
            PHOTO,
            Announcement("", None, "", ""),
            Announcement("", "../사진.jpg", "'; --", "바다\n🌊 & <~> \0"),
        ],
        ids=["photo", "nothing", "odd"],
    )
    def test_as_announced(self, opened: Sessions, announcement: Announcement) -> None:
        """A file is found by its random token, with name, album and caption unaltered."""
        announcement = announcement._replace(session_key=opened.begin(CLIENT, USER))
        token, post = opened.announce(CLIENT, USER, "facebook", announcement)
        assert re.fullmatch(r"[0-9a-f]{32}", token)
        assert post == Post(CLIENT, USER, post.session, "facebook", *announcement[2:])
        found = opened.announced(CLIENT, token)
        assert found
        assert found == AnnouncedFile(found.id, post, announcement.name)
        assert opened.announced(OTHER, token) is None

    @pytest.mark.parametrize(
        ("age", "found"), [(ANNOUNCEMENT_LIFE, True), (ANNOUNCEMENT_LIFE + 1, False)]
    )
    def test_expiry(self, opened: Sessions, clock: Clock, age: float, found: bool) -> None:
        """An announcement expires after a day."""
        key = opened.begin(CLIENT, USER)
        token = announce(opened, key)
        clock.now += age
        announce(opened, key)
        assert (opened.announced(CLIENT, token) is not None) is found

    def test_cap(
        self, opened: Sessions, clock: Clock, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Beyond the limit, the oldest announcements are deleted."""
        monkeypatch.setattr(sessions, "MAX_ANNOUNCEMENTS", 3)
        key = opened.begin(CLIENT, USER)
        tokens = []
        for _ in range(10):
            clock.now += 1
            tokens.append(announce(opened, key))
        found = [opened.announced(CLIENT, token) is not None for token in tokens]
        assert found == [False] * 7 + [True] * 3
        assert rows(path, "announcement") == 3

    def test_large_captions(
        self, opened: Sessions, path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The size of all announcements is limited, and the file shrinks after them."""
        monkeypatch.setattr(sessions, "MAX_ANNOUNCEMENTS", 50)
        key = opened.begin(CLIENT, USER)
        body = f"<R><Content>{'📷' * 15_000}</Content></R>".encode()
        announcement = parse_announcement(body)
        tokens = [announce(opened, key, announcement) for _ in range(60)]
        assert path.stat().st_size < 50 * 6_000_000 / MAX_ANNOUNCEMENTS
        assert opened.announced(CLIENT, tokens[0]) is None
        assert opened.announced(CLIENT, tokens[-1])
        clock.now += SESSION_LIFE + 1
        opened.begin(CLIENT, USER)
        opened.close()  # writes the log of SQLite to the file
        assert path.stat().st_size < 60_000


@pytest.mark.parametrize("jump", [-YEARS, -1.0, 1.0, 86400.0])
def test_jump_of_the_clock(opened: Sessions, clock: Clock, jump: float) -> None:
    """A clock that is set back, or forward a little, ends no session."""
    key = opened.begin(CLIENT, USER)
    token = announce(opened, key)
    clock.now += jump
    later = opened.begin(CLIENT, USER)
    again = announce(opened, key)
    assert valid(opened, key, later) == [True, True]
    assert opened.announced(CLIENT, token)
    assert opened.announced(CLIENT, again)


class TestFile:
    def test_opened_again(self, opened: Sessions, path: Path, clock: Clock) -> None:
        """Keys and announcements stay valid after a restart; tokens and ids are not keys."""
        key = opened.begin(CLIENT, USER)
        tokens = [announce(opened, key) for _ in range(2)]
        before = [opened.announced(CLIENT, token) for token in tokens]
        opened.close()
        with closing(Sessions(path, clock)) as again:
            found = [one for token in tokens if (one := again.announced(CLIENT, token))]
            assert found == before
            ids = [one.id for one in found]
            assert len({key, *tokens, *ids, found[0].post.session}) == 6
            assert valid(again, key, *tokens, *ids) == [True, *[False] * 4]
            assert not any(again.announced(CLIENT, one) for one in (key, *ids))

    def test_no_secrets(self, opened: Sessions, path: Path) -> None:
        """Keys and tokens are not on the disk; other users cannot read the file."""
        key = opened.begin(CLIENT, USER)
        token = announce(opened, key)
        files = list(path.parent.iterdir())
        written = b"".join(file.read_bytes() for file in files)
        assert f"{path.name}-wal" in [file.name for file in files]
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert USER.encode() in written
        assert b"SAM_4371.JPG" in written
        for secret in (key, token):
            for form in (secret.encode(), bytes.fromhex(secret), secret.upper().encode()):
                assert form not in written
        opened.close()
        for secret in (key, token):
            assert secret.encode() not in path.read_bytes()


class TestDamagedFile:
    """A damaged file is moved aside, and cameras log in again."""

    @pytest.fixture
    def broken(self, opened: Sessions, path: Path) -> Path:
        """A closed file with one login."""
        opened.begin(CLIENT, USER)
        opened.close()
        return path

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(lambda path: path.write_bytes(b"garbage " * 1000), id="garbage"),
            pytest.param(lambda path: path.write_bytes(path.read_bytes()[:8192]), id="cut"),
            pytest.param(
                lambda path: path.write_bytes(path.read_bytes()[:4096] + b"x" * 40_000), id="pages"
            ),
            pytest.param(lambda path: changed(path, "PRAGMA user_version = 9"), id="newer"),
        ],
    )
    def test_set_aside(
        self,
        broken: Path,
        damage: Callable[[Path], object],
        clock: Clock,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        damage(broken)
        for suffix in ("-wal", "-shm"):
            Path(f"{broken}{suffix}").write_bytes(b"garbage")
        found = Sessions(broken, clock)
        assert valid(found, found.begin(CLIENT, USER)) == [True]
        found.close()
        assert (broken.parent / f"{broken.name}.damaged").exists()
        (record,) = caplog.records
        assert re.fullmatch(
            rf"cannot use {re.escape(str(broken))} \(.+\): moved it to \S+\.damaged; "
            rf"cameras have to log in to social sites again",
            record.getMessage(),
        )

    def test_another_error(self, broken: Path, clock: Clock) -> None:
        """A file that cannot be opened stays where it is."""
        broken.unlink()
        broken.symlink_to(broken.parent / "missing" / "file")
        with pytest.raises(FileNotFoundError):
            Sessions(broken, clock)
        assert broken.is_symlink()

    def test_an_error_of_sqlite(self, broken: Path, clock: Clock) -> None:
        """A file that SQLite cannot use at the moment stays where it is."""
        journal = Path(f"{broken}-wal")
        journal.mkdir()
        with pytest.raises(sqlite3.OperationalError, match="unable to open"):
            Sessions(broken, clock)
        journal.rmdir()
        assert b"SQLite" in broken.read_bytes()


def changed(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()
