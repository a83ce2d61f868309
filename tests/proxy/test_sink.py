from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from nxparse.proxy.sink import ANSWER, Sink

SOON = 10.0  # seconds in which anything must have happened
HEAD = b"POST /social/columbus/email HTTP/1.1\r\nContent-Length: 1300000\r\n\r\n"


class Mitmproxy:
    """A connection to the sink, as mitmproxy makes it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    async def connect(self, *, announced: bool = True) -> Mitmproxy:
        assert self._sink.address
        self._reader, self.writer = await asyncio.open_connection(*self._sink.address)
        self.port = self.writer.get_extra_info("sockname")[1]
        if announced:
            self._sink.allow(self.port)
        return self

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), SOON)

    async def answer(self) -> bytes:
        return await asyncio.wait_for(self._reader.readexactly(len(ANSWER)), SOON)

    async def rest(self) -> bytes:
        """All up to the end."""
        with contextlib.suppress(ConnectionResetError):
            return await asyncio.wait_for(self._reader.read(), SOON)
        return b""

    async def hears_nothing(self) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._reader.read(1), 0.05)
            return False
        return True


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    found = Sink(allow_within=0.1)
    found.open()
    yield found
    found.close()


@pytest.fixture
async def mitmproxy(sink: Sink) -> AsyncIterator[Mitmproxy]:
    found = await Mitmproxy(sink).connect()
    yield found
    found.writer.close()


async def test_address() -> None:
    """A sink listens on a free port of the loopback address only, from when it is opened."""
    sink = Sink()
    assert sink.address is None
    sink.open()
    assert sink.address
    assert sink.address[0] == "127.0.0.1"
    assert sink.address[1] > 0
    sink.close()


async def test_answers_when_released(sink: Sink, mitmproxy: Mitmproxy) -> None:
    """A connection is answered when its request has been dealt with, not before."""
    await mitmproxy.send(HEAD)
    assert await mitmproxy.hears_nothing()
    sink.release(mitmproxy.port)
    assert await mitmproxy.answer() == ANSWER


async def test_released_before_it_is_accepted(sink: Sink) -> None:
    """A small request may have been dealt with before the sink sees its connection."""
    connection = await Mitmproxy(sink).connect(announced=False)
    sink.allow(connection.port)
    sink.release(connection.port)
    assert await connection.answer() == ANSWER
    connection.writer.close()


async def test_reads_whatever_comes(sink: Sink, mitmproxy: Mitmproxy) -> None:
    """The sender never waits, not even after the answer."""
    for _ in range(100):
        await mitmproxy.send(b"x" * (1 << 16))
    sink.release(mitmproxy.port)
    for _ in range(100):
        await mitmproxy.send(b"x" * (1 << 16))
    assert await mitmproxy.answer() == ANSWER
    mitmproxy.writer.write_eof()
    assert await mitmproxy.rest() == b""


async def test_stranger(sink: Sink) -> None:
    """A connection that mitmproxy does not announce is ended, and never answered."""
    stranger = await Mitmproxy(sink).connect(announced=False)
    await stranger.send(HEAD)
    sink.release(stranger.port)
    assert await stranger.rest() == b""
    stranger.writer.close()


async def test_announced_late(sink: Sink) -> None:
    """mitmproxy may announce a connection after the sink has accepted it."""
    connection = await Mitmproxy(sink).connect(announced=False)
    await asyncio.sleep(0.02)
    sink.allow(connection.port)
    await asyncio.sleep(0.15)
    sink.release(connection.port)
    assert await connection.answer() == ANSWER
    connection.writer.close()


async def test_close(sink: Sink) -> None:
    """A closed sink listens no more; to close it again does nothing."""
    assert sink.address
    host, port = sink.address
    await asyncio.sleep(0)
    sink.close()
    sink.close()
    await asyncio.sleep(0.01)
    assert sink.address is None
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, port)
