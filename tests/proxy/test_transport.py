from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from nxparse.proxy import transport
from nxparse.proxy.transport import HeldReader, OneSegmentWriter, Pending, Stage, Times
from tests import camera

SOON = 10.0  # seconds; a time limit that only failing tests reach
PLAIN, TLS = SimpleNamespace(tls=False, alpn=None), SimpleNamespace(tls=True, alpn=None)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux' TCP_INFO")


# Short times, so that the tests are fast.
FAST = Times(
    step=0.01, notice=0.05, connect=0.1, idle=SOON, head=SOON, acknowledge=SOON, linger=0.02
)


@dataclass
class Connection:
    """A TCP connection over loopback: the client's socket, and the streams of the server."""

    client: socket.socket
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.client, data)

    async def receive(self) -> bytes:
        """Receive everything up to EOF."""
        loop = asyncio.get_running_loop()
        received = b""
        while data := await asyncio.wait_for(loop.sock_recv(self.client, 1 << 16), SOON):
            received += data
        return received

    def end(self) -> None:
        """Close the sending half of the connection."""
        self.client.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Reset the connection."""
        camera.reset(self.client)


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
        loop.create_future()
    )
    server = await asyncio.start_server(
        lambda reader, writer: accepted.set_result((reader, writer)), "127.0.0.1", 0
    )
    client = socket.socket()
    client.setblocking(False)
    await loop.sock_connect(client, server.sockets[0].getsockname())
    reader, writer = await asyncio.wait_for(accepted, SOON)
    try:
        yield Connection(client, reader, writer)
    finally:
        client.close()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        server.close()
        await server.wait_closed()


def connected_pending(chunks: int = 0) -> Pending:
    found = Pending(chunks=chunks)
    found.connected.set()
    return found


@pytest.fixture
def pending() -> Pending:
    """A request whose connection to the sink is open."""
    return connected_pending()


@pytest.fixture
def held(connection: Connection, pending: Pending) -> HeldReader:
    """A reader of the client's request."""
    reader = HeldReader(connection.reader, PLAIN, times=FAST)
    reader.pending = pending
    return reader


async def still_waits(task: asyncio.Task[bytes], seconds: float = 0.04) -> bool:
    """Return whether a task is still running after some seconds."""
    done, _ = await asyncio.wait({task}, timeout=seconds)
    return not done


class TestHeldReader:
    @pytest.mark.parametrize(
        ("pending", "sizes"),
        [
            (None, [65535, 65535, 65535, 65535, 37860]),
            (connected_pending(), [262144, 37856]),
            (connected_pending(chunks=501), [4096]),
            (Pending(), [4096]),
        ],
        ids=["not ours", "ours", "many chunks", "sink not connected"],
    )
    async def test_size(self, pending: Pending | None, sizes: list[int]) -> None:
        """Larger reads are used for uploads, unless they would take long."""
        reader = asyncio.StreamReader()
        reader.feed_data(bytes(300_000))
        reader.feed_eof()
        held = HeldReader(reader, PLAIN, times=FAST)
        held.enter(Stage.CONTENT)
        held.pending = pending
        assert [len(await held.read(65535)) for _ in sizes] == sizes

    @pytest.mark.parametrize(
        ("sent", "stages"),
        [
            (b"", ()),
            (b"GET / HTTP/1.1\r\n\r\n", (Stage.CONTENT, Stage.COMPLETE)),
            (b"GET / HTTP/1.1\r\n\r\n", (Stage.CONTENT, Stage.COMPLETE, Stage.HEAD)),
            (b"CONNECT x:1 HTTP/1.1\r\n\r\n", (Stage.CONTENT,)),
        ],
        ids=["nothing", "unanswered", "answered", "tunnel"],
    )
    async def test_not_ours(
        self, connection: Connection, sent: bytes, stages: tuple[Stage, ...]
    ) -> None:
        """EOF of a request for another host is reported at once."""
        held = HeldReader(connection.reader, PLAIN, times=replace(FAST, notice=SOON))
        if sent:
            await connection.send(sent)
            await held.read(1 << 16)
        for stage in stages:
            held.enter(stage)
        connection.end()
        assert await asyncio.wait_for(held.read(), SOON / 2) == b""

    async def test_never_noticed(self, connection: Connection) -> None:
        """A head that mitmproxy does not report delays EOF only briefly."""
        held = HeldReader(connection.reader, PLAIN, times=replace(FAST, notice=0.5))
        await connection.send(b"GET / HTTP/1.1\r\n\r\n")
        await held.read(1 << 16)
        connection.end()
        reading = asyncio.ensure_future(held.read())
        assert await still_waits(reading)
        assert await asyncio.wait_for(reading, SOON) == b""

    @pytest.mark.parametrize("client", [PLAIN, TLS], ids=["plain", "inside TLS"])
    async def test_request_is_noticed_after_the_end(
        self, connection: Connection, pending: Pending, client: SimpleNamespace
    ) -> None:
        """EOF is held even if mitmproxy notices the request later."""
        held = HeldReader(connection.reader, client, times=replace(FAST, notice=SOON / 2))
        if client.tls:
            held.enter(Stage.CONTENT)  # during the handshake
        await connection.send(b"POST / HTTP/1.0\r\n\r\n")
        await held.read(1 << 16)
        connection.end()
        reading = asyncio.ensure_future(held.read())
        assert await still_waits(reading)
        pending.complete = True
        held.pending = pending
        held.enter(Stage.CONTENT)
        assert await still_waits(reading)
        pending.answered.set()
        assert await asyncio.wait_for(reading, SOON) == b""

    @pytest.mark.parametrize("state", ["in the body", "complete", "answered"])
    async def test_complete(
        self, connection: Connection, held: HeldReader, pending: Pending, state: str
    ) -> None:
        """EOF of a complete request is held until it is answered, and briefly after that."""
        pending.complete = state != "in the body"
        if state == "answered":
            pending.answered.set()
        connection.end()
        reading = asyncio.ensure_future(held.read())
        await asyncio.sleep(0)
        pending.complete = True
        assert await still_waits(reading, FAST.linger / 2)
        pending.answered.set()
        assert await asyncio.wait_for(reading, SOON) == b""
        assert pending.end_reason == "the client closed the connection"

    async def test_short_body(
        self, connection: Connection, held: HeldReader, pending: Pending
    ) -> None:
        """EOF of a cut body is reported after all bytes in transit have arrived."""
        connection.end()
        reading = asyncio.ensure_future(held.read())
        for _ in range(10):
            pending.received += 100
            assert await still_waits(reading, FAST.step)
        assert await asyncio.wait_for(reading, SOON) == b""
        assert pending.end_reason == "the client closed the connection"

    @pytest.mark.parametrize("aborted", [False, True])
    async def test_short_body_on_its_way_to_the_sink(
        self, connection: Connection, held: HeldReader, pending: Pending, aborted: bool
    ) -> None:
        """EOF waits for the connection to the sink, until the request is aborted or times out."""
        pending.connected.clear()
        connection.end()
        reading = asyncio.ensure_future(held.read())
        assert await still_waits(reading, FAST.connect / 2)
        if aborted:
            pending.answered.set()
        assert await asyncio.wait_for(reading, SOON) == b""

    @pytest.mark.parametrize("complete", [False, True], ids=["cut", "complete"])
    async def test_reset(
        self, connection: Connection, held: HeldReader, pending: Pending, complete: bool
    ) -> None:
        """A reset is held like EOF, and raised then."""
        pending.complete = complete
        connection.reset()
        reading = asyncio.ensure_future(held.read())
        if complete:
            assert await still_waits(reading)
            pending.answered.set()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reading, SOON)
        assert pending.end_reason == "the connection broke: Connection reset by peer"

    async def test_silence(self, connection: Connection, pending: Pending) -> None:
        """An upload that falls silent is aborted."""
        held = HeldReader(connection.reader, PLAIN, times=replace(FAST, idle=0.05))
        held.pending = pending
        with pytest.raises(ConnectionAbortedError, match="silent in the middle of an upload"):
            await asyncio.wait_for(held.read(), SOON)
        assert pending.end_reason == "the client was silent for 0 s"

    @pytest.mark.parametrize("state", ["no request", "complete"])
    async def test_silence_that_does_not_matter(
        self, connection: Connection, pending: Pending, state: str
    ) -> None:
        """A client may be silent before a reply and between two requests."""
        held = HeldReader(connection.reader, PLAIN, times=replace(FAST, idle=0.03))
        if state == "complete":
            held.pending = pending
            pending.complete = True
        reading = asyncio.ensure_future(held.read(1 << 16))
        assert await still_waits(reading, 0.07)
        await connection.send(b"late")
        assert await asyncio.wait_for(reading, SOON) == b"late"

    @pytest.mark.parametrize("state", ["no request", "cut", "complete"])
    async def test_error_of_the_system(self, pending: Pending, state: str) -> None:
        """An error of the system, such as a time-out of keep-alive probes, is raised."""
        reader = asyncio.StreamReader()  # as by keep-alive probes
        reader.set_exception(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
        held = HeldReader(reader, PLAIN, times=FAST)
        if state != "no request":
            held.pending = pending
        pending.complete = state == "complete"
        pending.answered.set()
        with pytest.raises(TimeoutError, match="Connection timed out"):
            await asyncio.wait_for(held.read(1 << 16), SOON)


START = b"GET / HTTP/1.1\r\n"
LARGE = transport.MAX_HEAD


class Limited:
    """A reader with short time limits for heads, and its refusals."""

    def __init__(self, connection: Connection, **times: float) -> None:
        self.refusals: list[int] = []
        self.connection = connection
        limits = replace(FAST, **{"head": 0.05, **times})
        self.held = HeldReader(connection.reader, PLAIN, self._refuse, times=limits)

    def _refuse(self, status: int, reason: str) -> None:
        assert "its request head" in reason
        self.refusals.append(status)

    async def receive(self, data: bytes) -> None:
        """Send data, and read it."""
        sending = asyncio.ensure_future(self.connection.send(data))
        while data:
            data = data[len(await asyncio.wait_for(self.held.read(1 << 16), SOON)) :]
        await sending

    async def refused(self) -> int:
        """Read until the connection is refused. Returns the number of bytes read."""
        received = 0
        with contextlib.suppress(ConnectionAbortedError):
            while data := await asyncio.wait_for(self.held.read(1000), SOON):
                received += len(data)
        return received


class TestHead:
    async def test_endless(self, connection: Connection) -> None:
        """A head that no hook reports is refused when it is too large, with one report."""
        limited = Limited(connection, head=SOON)
        sending = asyncio.ensure_future(connection.send(START + b"x" * 2 * LARGE))
        assert LARGE < await limited.refused() <= LARGE + 1000
        assert limited.refusals == [431]
        sending.cancel()

    async def test_body_before_the_hook(self, connection: Connection) -> None:
        """A body that is sent with its head is held back until mitmproxy has reported the head."""
        limited = Limited(connection, head=SOON, notice=SOON)
        receiving = asyncio.ensure_future(limited.receive(START + b"\r\n" + b"x" * 4 * LARGE))
        await asyncio.sleep(0.04)
        assert not receiving.done()
        limited.held.enter(Stage.CONTENT)
        await asyncio.wait_for(receiving, SOON)
        assert limited.refusals == []

    async def test_next_head_before_the_reply(self, connection: Connection) -> None:
        """Reads after a complete request are limited until the reply."""
        limited = Limited(connection, head=SOON)
        await limited.receive(START + b"\r\n")
        limited.held.enter(Stage.CONTENT)
        limited.held.enter(Stage.COMPLETE)
        receiving = asyncio.ensure_future(limited.receive(START + b"\r\n" + b"x" * 4 * LARGE))
        await asyncio.sleep(2 * FAST.notice)
        assert not receiving.done()
        limited.held.enter(Stage.HEAD)
        limited.held.enter(Stage.CONTENT)
        await asyncio.wait_for(receiving, SOON)
        assert limited.refusals == []

    async def test_slow_head_before_the_reply(self, connection: Connection) -> None:
        """The time limit of a head that began before the last reply starts with that reply."""
        limited = Limited(connection, head=0.2)
        limited.held.enter(Stage.COMPLETE)
        await limited.receive(START)
        await asyncio.sleep(0.25)
        limited.held.enter(Stage.HEAD)
        reading = asyncio.ensure_future(limited.refused())
        await asyncio.wait({reading}, timeout=0.04)
        assert limited.refusals == []
        await reading
        assert limited.refusals == [408]


@pytest.fixture
def writer(connection: Connection) -> OneSegmentWriter:
    """Writes to the client."""
    return OneSegmentWriter(connection.writer, times=FAST)


class TestOneSegmentWriter:
    @linux_only
    async def test_one_turn(self, connection: Connection, writer: OneSegmentWriter) -> None:
        """Writes of one turn of the event loop are sent together, later ones separately."""
        loop = asyncio.get_running_loop()
        received = []
        for _ in range(2):
            writer.write(b"he")
            writer.write(b"ad")
            received.append(await asyncio.wait_for(loop.sock_recv(connection.client, 100), SOON))
        assert received == [b"head", b"head"]
        assert camera.segments_in(connection.client) == 2

    @pytest.mark.parametrize("end", ["close", "write_eof"])
    async def test_end_comes_last(
        self, connection: Connection, writer: OneSegmentWriter, end: str
    ) -> None:
        """Everything that was written before the end arrives."""
        writer.write(b"head")
        writer.write(b"body")
        getattr(writer, end)()
        assert await connection.receive() == b"headbody"


ESTABLISHED, CLOSE = 1, 7


def tcp_info(state: int, acknowledged: int) -> bytes:
    """The beginning of struct tcp_info of Linux."""
    return struct.pack("=B119xQ", state, acknowledged)


@pytest.fixture
def tcp_states(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes TCP_INFO return these states in turn, the last one from then on."""

    def returned(*infos: bytes | OSError) -> None:
        left = list(infos)

        def getsockopt(connection: socket.socket, *_: int) -> bytes:
            info = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(info, OSError):
                raise info
            return info

        monkeypatch.setattr(socket.socket, "getsockopt", getsockopt)
        monkeypatch.setattr(socket, "TCP_INFO", 11, raising=False)

    return returned


class TestWatchReply:
    @pytest.fixture
    async def result(self, writer: OneSegmentWriter) -> asyncio.Future[bool]:
        """Whether the next reply is acknowledged; can be set once."""
        found = asyncio.get_running_loop().create_future()
        writer.watch_reply(found.set_result)
        return found

    @staticmethod
    async def _gone(connection: Connection) -> None:
        """Wait until EOF, or a reset, of the client has arrived."""
        with contextlib.suppress(ConnectionResetError):
            await asyncio.wait_for(connection.reader.read(), SOON)

    @linux_only
    @pytest.mark.parametrize("closed", [False, True], ids=["left open", "closed"])
    @pytest.mark.parametrize("half_closed", [False, True], ids=["open", "half-closed"])
    async def test_acknowledged(
        self,
        connection: Connection,
        writer: OneSegmentWriter,
        result: asyncio.Future[bool],
        half_closed: bool,
        closed: bool,
    ) -> None:
        """A client acknowledges the reply, even after a half-close."""
        if half_closed:
            connection.end()
            await self._gone(connection)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.write(b"succ")
        if closed:
            writer.close()
            assert await connection.receive() == b"HTTP/1.1 200 OK\r\n\r\nsucc"
        assert await asyncio.wait_for(result, SOON)

    @linux_only
    async def test_closed_with_rst_after_the_reply(
        self, connection: Connection, writer: OneSegmentWriter, result: asyncio.Future[bool]
    ) -> None:
        """A reset after the reply was read does not count as a lost reply."""
        writer.write(b"succ")
        await writer.drain()
        assert await asyncio.get_running_loop().sock_recv(connection.client, 10) == b"succ"
        connection.reset()
        await self._gone(connection)
        writer.close()
        assert await asyncio.wait_for(result, SOON)

    @linux_only
    @pytest.mark.parametrize("end", ["closed", "reset"])
    async def test_gone(
        self,
        connection: Connection,
        writer: OneSegmentWriter,
        result: asyncio.Future[bool],
        end: str,
    ) -> None:
        """A client that has closed or reset the connection has not received its reply."""
        if end == "closed":
            connection.client.close()
        else:
            connection.reset()
        await self._gone(connection)
        writer.write(b"succ")
        writer.close()
        assert not await asyncio.wait_for(result, SOON)

    @linux_only
    async def test_gone_before_the_reply_is_ready(
        self, connection: Connection, writer: OneSegmentWriter
    ) -> None:
        """If the connection was reset before the reply, that is lost at once."""
        connection.reset()
        await self._gone(connection)
        connection.writer.transport.abort()
        await asyncio.sleep(0)
        results: list[bool] = []
        writer.watch_reply(results.append)
        assert results == [False]

    def test_another_system(
        self, writer: OneSegmentWriter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without TCP_INFO every reply counts as acknowledged."""
        monkeypatch.delattr(socket, "TCP_INFO", raising=False)
        results: list[bool] = []
        writer.watch_reply(results.append)
        assert results == [True]

    @pytest.mark.parametrize(
        ("before", "acknowledged"), [(b"", 3), (b"100", 4)], ids=["in part", "earlier bytes"]
    )
    async def test_vanished(
        self,
        connection: Connection,
        tcp_states: Callable[..., None],
        before: bytes,
        acknowledged: int,
    ) -> None:
        """A reply that is not acknowledged in time is lost, even if the connection is open.

        Bytes written before the reply must be acknowledged, too.
        """
        writer = OneSegmentWriter(connection.writer, times=replace(FAST, acknowledge=0.03))
        writer.write(before)
        result = asyncio.get_running_loop().create_future()
        writer.watch_reply(result.set_result)
        tcp_states(tcp_info(ESTABLISHED, acknowledged))
        writer.write(b"succ")
        assert not await asyncio.wait_for(result, SOON)
        assert not writer.is_closing()

    @pytest.mark.parametrize(
        ("infos", "expected"),
        [
            ([tcp_info(ESTABLISHED, 0)] * 3 + [tcp_info(ESTABLISHED, 4)], True),
            ([tcp_info(ESTABLISHED, 1), tcp_info(CLOSE, 0)], False),
            ([tcp_info(ESTABLISHED, 1), tcp_info(CLOSE, 5)], True),  # a FIN counts as a byte
            ([OSError(errno.EBADF, "Bad file descriptor")], False),
            ([tcp_info(ESTABLISHED, 0)[:104]], True),  # Linux before 4.1
        ],
        ids=["slow", "broken", "ended", "no socket", "old system"],
    )
    async def test_states(
        self,
        writer: OneSegmentWriter,
        result: asyncio.Future[bool],
        tcp_states: Callable[..., None],
        infos: list[bytes | OSError],
        expected: bool,
    ) -> None:
        """The state of the connection decides whether a reply was acknowledged."""
        tcp_states(*infos)
        writer.write(b"succ")
        assert await asyncio.wait_for(result, SOON) is expected

    async def test_nothing_written(
        self, writer: OneSegmentWriter, result: asyncio.Future[bool]
    ) -> None:
        """A reply that is never written is not acknowledged."""
        writer.close()
        assert not await asyncio.wait_for(result, SOON)

    async def test_closing_does_not_wait(
        self,
        connection: Connection,
        writer: OneSegmentWriter,
        result: asyncio.Future[bool],
        tcp_states: Callable[..., None],
    ) -> None:
        """The client sees EOF at once; a second close has no effect."""
        tcp_states(tcp_info(ESTABLISHED, 0))
        writer.write(b"succ")
        writer.close()
        writer.close()
        assert writer.is_closing()
        assert await asyncio.wait_for(connection.receive(), SOON / 2) == b"succ"
        assert not result.done()
        tcp_states(tcp_info(ESTABLISHED, 4))
        assert await asyncio.wait_for(result, SOON)
