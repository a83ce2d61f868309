from __future__ import annotations

import errno
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from nxparse.store.database import Database
from tests.faults import Faults

SCHEMA = "CREATE TABLE camera (name TEXT UNIQUE);"
OTHER = "CREATE TABLE camera (name TEXT UNIQUE, year INTEGER);"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite3"


def names(opened: Database) -> list[str]:
    return [name for (name,) in opened.query("SELECT name FROM camera ORDER BY name")]


def add(opened: Database, name: str) -> None:
    with opened.transaction() as database:
        database.execute("INSERT INTO camera VALUES (?)", (name,))


def test_new(path: Path) -> None:
    """A new file is readable by its owner only."""
    opened = Database(path, SCHEMA)
    add(opened, "NX300")
    opened.close()
    again = Database(path, SCHEMA)
    assert (names(again), stat.S_IMODE(path.stat().st_mode)) == (["NX300"], 0o600)
    again.close()


def of_another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE photo (name TEXT)")


@pytest.mark.parametrize(
    "make",
    [lambda path: Database(path, OTHER).close(), of_another_program],
    ids=["another version", "another program"],
)
def test_other_schema(path: Path, make: Callable[[Path], None]) -> None:
    """A file with other tables is refused with the reason, and not changed."""
    make(path)
    before = path.read_bytes()
    with pytest.raises(sqlite3.DatabaseError) as caught:
        Database(path, SCHEMA)
    assert str(caught.value) == (
        f"{path} was written by another version of nx_addon: use that one, or another nx_dir"
    )
    assert path.read_bytes() == before


def test_schema_that_fails(path: Path) -> None:
    """A schema that fails leaves no tables."""
    with pytest.raises(sqlite3.OperationalError):
        Database(path, f"{SCHEMA} SELECT nonsense;")
    Database(path, SCHEMA).close()


@pytest.mark.parametrize("failing", ["BEGIN", "COMMIT"])
def test_failure(path: Path, failing: str) -> None:
    """An error of SQLite is raised and nothing is stored; the next transaction succeeds."""
    opened = Database(path, SCHEMA)
    with (
        Faults((failing,), errno.EIO),
        pytest.raises(sqlite3.OperationalError, match="disk I/O error") as caught,
    ):
        add(opened, "NX300")
    assert getattr(caught.value, "filename", None) == str(path)
    assert names(opened) == []
    add(opened, "NX300")
    assert names(opened) == ["NX300"]
    opened.close()


def twice(database: sqlite3.Connection) -> None:
    for _ in range(2):
        database.execute("INSERT OR ROLLBACK INTO camera VALUES ('NX300')")


def a_bug(database: sqlite3.Connection) -> None:
    database.execute("INSERT INTO camera VALUES ('NX300')")
    raise KeyError


@pytest.mark.parametrize(("work", "error"), [(twice, sqlite3.IntegrityError), (a_bug, KeyError)])
def test_rolled_back(
    path: Path, work: Callable[[sqlite3.Connection], None], error: type[Exception]
) -> None:
    """A transaction that fails is rolled back, by us or by SQLite, and its error is raised."""
    with closing(Database(path, SCHEMA)) as opened:
        with pytest.raises(error), opened.transaction() as database:
            work(database)
        assert names(opened) == []


def test_threads(path: Path) -> None:
    """Transactions of several threads are isolated."""
    opened = Database(path, SCHEMA)

    def add_some() -> None:
        for _ in range(20):
            with opened.transaction() as database:
                (count,) = database.execute("SELECT count(*) FROM camera").fetchone()
                database.execute("INSERT INTO camera VALUES (?)", (str(count),))

    threads = [threading.Thread(target=add_some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(name) for (name,) in opened.query("SELECT name FROM camera")) == [*range(80)]
    opened.close()
