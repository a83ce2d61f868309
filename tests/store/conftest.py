"""A spool with an injected clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nxparse.store.spool import Spool
from tests.clock import Clock
from tests.faults import make_lazy
from tests.store.helpers import Reopen


@pytest.fixture(autouse=True)
def _lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    make_lazy(monkeypatch)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of the spool."""
    return tmp_path / "uploads" / ".nx"


@pytest.fixture
def opened(root: Path, clock: Clock) -> Iterator[Spool]:
    """An empty spool."""
    found = Spool(root, clock)
    yield found
    found.close()


@pytest.fixture
def reopen(opened: Spool, root: Path, clock: Clock) -> Iterator[Reopen]:
    """Closes the spool and opens it again."""
    spools = [opened]

    def again() -> Spool:
        spools[-1].close()
        spools.append(Spool(root, clock))
        return spools[-1]

    yield again
    spools[-1].close()
