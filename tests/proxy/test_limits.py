"""Limits of descriptors and connections."""

from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from nxparse.proxy.limits import (
    ConnectionLimit,
    connections_allowed,
    limit_accept_errors,
    raise_descriptor_limit,
)
from tests.clock import Clock

if sys.platform != "win32":
    import resource

CLIENT, OTHER = "192.0.2.7", "192.0.2.8"


@pytest.fixture
def hard() -> Iterator[int]:
    """The hard limit of open files; the soft one is 256."""
    if sys.platform == "win32":
        pytest.skip("Windows has no such limit")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_descriptor_limit_is_raised(hard: int) -> None:
    """The soft limit is raised up to the hard one, and never lowered."""
    for wanted, limit in ((10, 256), (300, 300), (hard + 1, hard), (300, hard)):
        assert raise_descriptor_limit(wanted) == limit
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limit, hard)


@pytest.mark.usefixtures("hard")
def test_the_descriptor_limit_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system refuses a higher limit, the old one stays."""

    def refuse(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    with monkeypatch.context() as patch:
        patch.setattr(resource, "setrlimit", refuse)
        assert raise_descriptor_limit(300) == 256


@pytest.mark.parametrize(
    ("descriptors", "connections"), [(0, 2000), (256, 32), (1024, 128), (65536, 2000)]
)
def test_connections_allowed(descriptors: int, connections: int) -> None:
    """One client can use half of the descriptors, at four for each connection."""
    assert connections_allowed(descriptors) == connections


def test_connections_of_a_client(caplog: pytest.LogCaptureFixture) -> None:
    """Each client has its own limit; closed connections make room."""
    limit = ConnectionLimit(2)
    assert [limit.opened(CLIENT) for _ in range(3)] == [True, True, False]
    assert limit.opened(OTHER)
    assert caplog.messages == [f"{CLIENT}: has 2 connections open; further ones are closed"]
    for _ in range(4):  # more than were opened
        limit.closed(CLIENT)
    assert [limit.opened(CLIENT) for _ in range(3)] == [True, True, False]


def test_connections_of_many_clients() -> None:
    """Each client may have a few connections, even if others use up the limit."""
    limit = ConnectionLimit(100)
    for number in range(20):
        for _ in range(50):
            limit.opened(f"192.0.2.{100 + number}")
    assert [limit.opened(CLIENT) for _ in range(9)] == [True] * 8 + [False]


def test_warnings_about_connections(caplog: pytest.LogCaptureFixture) -> None:
    """A client causes at most one warning a minute."""
    clock = Clock(0)
    limit = ConnectionLimit(0, clock=clock)
    for clock.now in (0, 1, 59, 60, 61):
        limit.opened(CLIENT)
    assert len(caplog.messages) == 2


async def test_accept_errors(caplog: pytest.LogCaptureFixture) -> None:
    """A lack of descriptors causes at most one line a minute, without a traceback."""
    clock = Clock(0)
    limit_accept_errors(clock=clock)
    error: dict[str, Any] = {
        "message": "socket.accept() out of system resource",
        "exception": OSError(errno.EMFILE, "Too many open files"),
    }
    for clock.now in (0, 1, 59, 60):
        asyncio.get_running_loop().call_exception_handler(error)
    assert caplog.messages == ["new connections have to wait: Too many open files"] * 2
    assert [record.exc_info for record in caplog.records] == [None, None]


@pytest.mark.parametrize("handled", [False, True])
async def test_other_exceptions(caplog: pytest.LogCaptureFixture, handled: bool) -> None:
    """Other exceptions go to the previous handler, or asyncio's own."""
    seen: list[object] = []
    loop = asyncio.get_running_loop()
    if handled:
        loop.set_exception_handler(lambda loop, context: seen.append(context))
    limit_accept_errors()
    loop.call_exception_handler({"message": "x"})
    assert (seen, caplog.messages) == (([{"message": "x"}], []) if handled else ([], ["x"]))
