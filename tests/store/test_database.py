from __future__ import annotations

import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from nxparse.store.database import Database

FIRST = "CREATE TABLE camera (name TEXT);"
SECOND = "ALTER TABLE camera ADD COLUMN year INTEGER NOT NULL DEFAULT 2012;"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite3"


def format_of(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return int(version)


def test_new(path: Path) -> None:
    """A new file has seen all migrations, and nobody else can read it."""
    Database(path, [FIRST, SECOND]).close()
    assert (format_of(path), stat.S_IMODE(path.stat().st_mode)) == (2, 0o600)


def test_grown(path: Path) -> None:
    """R06: what an older version has stored is there after the migrations it lacked."""
    old = Database(path, [FIRST])
    with old.transaction() as database:
        database.execute("INSERT INTO camera VALUES ('NX300')")
    old.close()
    new = Database(path, [FIRST, SECOND])
    assert new.query("SELECT name, year FROM camera WHERE name = ?", "NX300") == [("NX300", 2012)]
    new.close()


def test_migration_that_fails(path: Path) -> None:
    """A migration happens wholly or not at all."""
    Database(path, [FIRST]).close()
    with pytest.raises(sqlite3.OperationalError):
        Database(path, [FIRST, f"{SECOND} SELECT nonsense;"])
    assert format_of(path) == 1
    again = Database(path, [FIRST, SECOND])
    assert again.query("SELECT * FROM camera") == []
    again.close()


def test_newer(path: Path) -> None:
    """R06: a file of a newer format is refused in a sentence."""
    Database(path, [FIRST, SECOND]).close()
    with pytest.raises(sqlite3.DatabaseError) as caught:
        Database(path, [FIRST])
    assert str(caught.value) == (
        f"{path} was written by a newer nx_addon (format 2): use that one, or another nx_dir"
    )


def test_rolled_back(path: Path) -> None:
    """What is begun and fails has never been."""
    opened = Database(path, [FIRST])

    def fail() -> None:
        with opened.transaction() as database:
            database.execute("INSERT INTO camera VALUES ('NX300')")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert opened.query("SELECT * FROM camera") == []
    opened.close()


def test_rolled_back_by_sqlite(path: Path) -> None:
    """What SQLite has rolled back by itself is not rolled back again: the first error is told."""
    opened = Database(path, ["CREATE TABLE camera (name TEXT UNIQUE);"])

    def add_twice() -> None:
        with opened.transaction() as database:
            for _ in range(2):
                database.execute("INSERT OR ROLLBACK INTO camera VALUES ('NX300')")

    with pytest.raises(sqlite3.IntegrityError):
        add_twice()
    assert opened.query("SELECT * FROM camera") == []
    opened.close()


def test_threads(path: Path) -> None:
    """Threads take turns: no transaction sees half of another."""
    opened = Database(path, [FIRST])

    def add() -> None:
        for _ in range(20):
            with opened.transaction() as database:
                (count,) = database.execute("SELECT count(*) FROM camera").fetchone()
                database.execute("INSERT INTO camera VALUES (?)", (str(count),))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(name) for (name,) in opened.query("SELECT name FROM camera")) == [*range(80)]
    opened.close()
