from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from nxparse.proxy.limits import (
    AcceptErrors,
    ConnectionLimit,
    connections_allowed,
    raise_descriptor_limit,
)

if sys.platform != "win32":
    import resource


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
class TestDescriptorLimit:
    @pytest.fixture(autouse=True)
    def _limit(self) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    def test_raised(self) -> None:
        """The soft limit becomes what is wanted, if the hard limit allows it."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        assert raise_descriptor_limit(300) == 300
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, hard)

    def test_hard_limit(self) -> None:
        """It is raised up to the hard limit only."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        assert raise_descriptor_limit(hard + 1) == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)

    def test_never_lowered(self) -> None:
        """A soft limit beyond what is wanted stays."""
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert raise_descriptor_limit(10) == before[0]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == before

    def test_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A system that refuses keeps what it has."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))

        def refuse(*_: object) -> None:
            raise ValueError("current limit exceeds maximum limit")

        with monkeypatch.context() as patch:
            patch.setattr(resource, "setrlimit", refuse)
            assert raise_descriptor_limit(300) == 256


@pytest.mark.parametrize(
    ("descriptors", "connections"), [(0, 2000), (256, 32), (1024, 128), (65536, 2000)]
)
def test_connections_allowed(descriptors: int, connections: int) -> None:
    """One client can use half of the descriptors, each connection four of them."""
    assert connections_allowed(descriptors) == connections


class TestConnectionLimit:
    def test_newest(self, caplog: pytest.LogCaptureFixture) -> None:
        """The newest connection of a client is one too many; others are not concerned."""
        limit = ConnectionLimit(2)
        assert [limit.opened("192.0.2.7") for _ in range(3)] == [True, True, False]
        assert limit.opened("192.0.2.8")
        assert caplog.messages == ["192.0.2.7: has 2 connections open; further ones are closed"]

    def test_room_again(self) -> None:
        """When connections end others are allowed."""
        limit = ConnectionLimit(1)
        limit.opened("192.0.2.7")
        limit.opened("192.0.2.7")
        limit.closed("192.0.2.7")
        limit.closed("192.0.2.7")
        assert limit.opened("192.0.2.7")

    def test_warned_once_a_minute(self, caplog: pytest.LogCaptureFixture) -> None:
        """A client that goes on trying does not fill the log."""
        clock = Clock()
        limit = ConnectionLimit(1, clock=clock)
        for _ in range(100):
            limit.opened("192.0.2.7")
        assert len(caplog.messages) == 1
        clock.now = 60.0
        limit.opened("192.0.2.7")
        assert len(caplog.messages) == 2

    def test_opened_before(self) -> None:
        """The end of a connection that was not counted does not count."""
        limit = ConnectionLimit(1)
        limit.closed("192.0.2.7")
        assert limit.opened("192.0.2.7")
        assert not limit.opened("192.0.2.7")


OUT_OF_DESCRIPTORS: dict[str, Any] = {
    "message": "socket.accept() out of system resource",
    "exception": OSError(errno.EMFILE, "Too many open files"),
}


class TestAcceptErrors:
    async def test_once_a_minute(self, caplog: pytest.LogCaptureFixture) -> None:
        """A lack of descriptors is one line a minute, without a traceback."""
        clock = Clock()
        handler = AcceptErrors(clock=clock)
        loop = asyncio.get_running_loop()
        for now in (0.0, 1.0, 59.0, 60.0):
            clock.now = now
            for _ in range(100):
                handler(loop, OUT_OF_DESCRIPTORS)
        assert caplog.messages == ["new connections have to wait: Too many open files"] * 2
        assert [record.exc_info for record in caplog.records] == [None, None]

    async def test_others(self, caplog: pytest.LogCaptureFixture) -> None:
        """Other exceptions go where they went before."""
        seen: list[object] = []
        loop, handler = asyncio.get_running_loop(), AcceptErrors()
        handler(loop, {"message": "something else"})
        assert "something else" in caplog.text
        loop.set_exception_handler(lambda loop, context: seen.append(context))
        handler.install()
        loop.call_exception_handler({"message": "x"})
        handler.uninstall()
        loop.call_exception_handler({"message": "y"})
        assert seen == [{"message": "x"}, {"message": "y"}]
