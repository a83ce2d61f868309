from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import sys
from asyncio.trsock import TransportSocket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from nxparse.proxy import transport
from nxparse.proxy.transport import Drain, HeldReader, OneSegmentWriter, Pending

SOON = 10.0  # seconds in which anything must have happened
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux' TCP_INFO")


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that takes time takes little of it."""
    monkeypatch.setattr(transport, "STEP", 0.01)
    monkeypatch.setattr(transport, "GRACE", 0.05)
    monkeypatch.setattr(transport, "CONNECT", 0.1)
    monkeypatch.setattr(transport, "IDLE", SOON)
    monkeypatch.setattr(transport, "ANSWER", 0.1)
    monkeypatch.setattr(transport, "LINGER", 0.02)
    monkeypatch.setattr(transport, "ACKNOWLEDGED", SOON)


@dataclass
class Connection:
    """A TCP connection over loopback: the client's socket, and the streams of the server."""

    client: socket.socket
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.client, data)

    async def receive(self) -> bytes:
        """All that comes up to the end."""
        loop = asyncio.get_running_loop()
        received = b""
        while data := await asyncio.wait_for(loop.sock_recv(self.client, 1 << 16), SOON):
            received += data
        return received

    def end(self) -> None:
        """Send no more."""
        self.client.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Break the connection."""
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.client.close()


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[Connection]:
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
        loop.create_future()
    )
    server = await asyncio.start_server(
        lambda reader, writer: accepted.set_result((reader, writer)), "127.0.0.1", 0
    )
    client = await connect(server.sockets[0].getsockname())
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


async def connect(address: tuple[str, int]) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(client, address)
    except OSError:
        client.close()
        raise
    return client


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    async with connected() as found:
        yield found


@pytest.fixture
def pending() -> Pending:
    """A request whose way to the drain is open."""
    found = Pending()
    found.connected.set()
    return found


@pytest.fixture
def held(connection: Connection, pending: Pending) -> HeldReader:
    """Reads what the client sends in its request."""
    reader = HeldReader(connection.reader)
    reader.pending = pending
    return reader


async def still_waits(task: asyncio.Task[bytes], seconds: float = 0.04) -> bool:
    """Has this not ended within a moment?"""
    done, _ = await asyncio.wait({task}, timeout=seconds)
    return not done


async def seconds_of(task: asyncio.Task[bytes]) -> tuple[bytes, float]:
    """What a task returns, and after how long."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    result = await asyncio.wait_for(task, SOON)
    return result, loop.time() - begun


class TestHeldReader:
    async def test_data(self, connection: Connection, held: HeldReader) -> None:
        """Data pass through as they come."""
        await connection.send(b"hello")
        assert await held.read(1 << 16) == b"hello"

    @pytest.mark.parametrize(
        ("pending", "sizes"),
        [(None, [65535, 65535, 65535, 65535, 37860]), (Pending(), [262144, 37856])],
        ids=["not ours", "ours"],
    )
    async def test_size(self, pending: Pending | None, sizes: list[int]) -> None:
        """Of a request of ours more is returned than was asked for, so that it goes faster."""
        reader = asyncio.StreamReader()
        reader.feed_data(bytes(300_000))
        reader.feed_eof()
        held = HeldReader(reader)
        held.pending = pending
        assert [len(await held.read(65535)) for _ in sizes] == sizes

    async def test_stands_in(self, connection: Connection, held: HeldReader) -> None:
        """Whatever else a StreamReader can do, this one can too."""
        await connection.send(b"one\ntwo")
        assert await held.readuntil(b"\n") == b"one\n"
        assert held.at_eof() is False

    async def test_no_request(self, connection: Connection) -> None:
        """Without a request of ours the end comes, after a moment in which one may begin."""
        held = HeldReader(connection.reader)
        await connection.send(b"GET / HTTP/1.1\r\n\r\n")
        await held.read(1 << 16)
        connection.end()
        data, seconds = await seconds_of(asyncio.ensure_future(held.read()))
        assert data == b""
        assert seconds > transport.GRACE / 2

    async def test_nothing_ever_came(
        self, connection: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who ends without having sent anything is let go at once."""
        monkeypatch.setattr(transport, "GRACE", SOON)
        held = HeldReader(connection.reader)
        connection.end()
        assert await asyncio.wait_for(held.read(), SOON / 2) == b""

    async def test_request_is_noticed_after_the_end(
        self, connection: Connection, pending: Pending
    ) -> None:
        """A request may be noticed only after its end has come: it is waited for all the same."""
        held = HeldReader(connection.reader)
        await connection.send(b"POST / HTTP/1.0\r\n\r\n")
        await held.read(1 << 16)
        connection.end()
        reading = asyncio.ensure_future(held.read())
        assert await still_waits(reading, transport.GRACE / 2)
        pending.complete = True
        held.pending = pending
        assert await still_waits(reading, 2 * transport.GRACE)
        pending.answered.set()
        assert await asyncio.wait_for(reading, SOON) == b""

    async def test_complete(
        self, connection: Connection, held: HeldReader, pending: Pending
    ) -> None:
        """The end of a complete request is held until it is answered, and a moment longer."""
        pending.complete = True
        connection.end()
        reading = asyncio.ensure_future(held.read())
        assert await still_waits(reading)
        pending.answered.set()
        data, seconds = await seconds_of(reading)
        assert data == b""
        assert seconds > transport.LINGER / 2
        assert pending.end == "the client closed the connection"

    async def test_becomes_complete(
        self, connection: Connection, held: HeldReader, pending: Pending
    ) -> None:
        """A request may become complete while its end is held."""
        connection.end()
        reading = asyncio.ensure_future(held.read())
        await asyncio.sleep(0)
        pending.complete = True
        assert await still_waits(reading)
        pending.answered.set()
        assert await asyncio.wait_for(reading, SOON) == b""

    async def test_never_answered(
        self,
        connection: Connection,
        held: HeldReader,
        pending: Pending,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A request that is never answered is told, and its connection ends."""
        pending.complete = True
        connection.end()
        assert await asyncio.wait_for(held.read(), SOON) == b""
        assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
            ("ERROR", "no reply after 0 s: the disk does not answer")
        ]

    async def test_already_answered(
        self, connection: Connection, held: HeldReader, pending: Pending
    ) -> None:
        """The end after an answer is held until mitmproxy must have written that."""
        pending.answered.set()
        connection.end()
        data, seconds = await seconds_of(asyncio.ensure_future(held.read()))
        assert data == b""
        assert seconds > transport.LINGER / 2

    async def test_error(self, connection: Connection, held: HeldReader, pending: Pending) -> None:
        """When a cut request has been given up its connection ends."""
        pending.connected.clear()
        connection.end()
        reading = asyncio.ensure_future(held.read())
        assert await still_waits(reading)
        pending.answered.set()
        assert await asyncio.wait_for(reading, SOON) == b""

    async def test_short_body(
        self, connection: Connection, held: HeldReader, pending: Pending
    ) -> None:
        """The end of a cut body comes when all that was on its way has arrived."""
        connection.end()
        reading = asyncio.ensure_future(held.read())
        for _ in range(10):
            pending.received += 100
            assert await still_waits(reading, transport.STEP)
        assert await asyncio.wait_for(reading, SOON) == b""
        assert pending.end == "the client closed the connection"

    async def test_short_body_on_its_way_to_the_drain(
        self, connection: Connection, held: HeldReader, pending: Pending
    ) -> None:
        """Nothing can arrive before the drain is connected; but that is not waited for long."""
        pending.connected.clear()
        connection.end()
        reading = asyncio.ensure_future(held.read())
        assert await still_waits(reading, transport.CONNECT / 2)
        assert await asyncio.wait_for(reading, SOON) == b""

    @pytest.mark.parametrize("complete", [False, True], ids=["cut", "complete"])
    async def test_reset(
        self, connection: Connection, held: HeldReader, pending: Pending, complete: bool
    ) -> None:
        """A broken connection is held like an ended one, and raised then."""
        pending.complete = complete
        connection.reset()
        reading = asyncio.ensure_future(held.read())
        if complete:
            assert await still_waits(reading)
            pending.answered.set()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reading, SOON)
        assert pending.end == "the connection broke: Connection reset by peer"

    async def test_reset_without_request(self, connection: Connection) -> None:
        """A broken connection without a request of ours is raised too."""
        connection.reset()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(HeldReader(connection.reader).read(), SOON)

    async def test_silence(self, connection: Connection, pending: Pending) -> None:
        """Silence in the middle of an upload ends it."""
        held = HeldReader(connection.reader, idle=0.05)
        held.pending = pending
        with pytest.raises(ConnectionAbortedError, match="silent in the middle of an upload"):
            await asyncio.wait_for(held.read(), SOON)
        assert pending.end == "the client was silent for 0 s"

    @pytest.mark.parametrize("limit", [0.03, 120], ids=["short", "long"])
    async def test_limit_of_silence(
        self, connection: Connection, monkeypatch: pytest.MonkeyPatch, limit: float
    ) -> None:
        """Without a limit of its own a reader has the one of the module."""
        monkeypatch.setattr(transport, "IDLE", limit)
        held = HeldReader(connection.reader)
        held.pending = Pending(received=1)
        held.pending.connected.set()
        reading = asyncio.ensure_future(held.read(1 << 16))
        assert await still_waits(reading, 0.1) is (limit > 1)
        reading.cancel()
        await asyncio.wait({reading})

    @pytest.mark.parametrize("state", ["no request", "complete"])
    async def test_silence_that_does_not_matter(
        self, connection: Connection, pending: Pending, state: str
    ) -> None:
        """Who waits for a reply, or between two requests, may be silent."""
        held = HeldReader(connection.reader, idle=0.03)
        if state == "complete":
            held.pending = pending
            pending.complete = True
        reading = asyncio.ensure_future(held.read(1 << 16))
        assert await still_waits(reading, 0.07)
        await connection.send(b"late")
        assert await asyncio.wait_for(reading, SOON) == b"late"

    @pytest.mark.parametrize("state", ["no request", "cut", "complete"])
    async def test_system_gives_up(self, pending: Pending, state: str) -> None:
        """A connection that the system has given up is broken, not silent."""
        held = HeldReader(_GivenUp())
        if state != "no request":
            held.pending = pending
        pending.complete = state == "complete"
        pending.answered.set()
        with pytest.raises(TimeoutError, match="Connection timed out"):
            await held.read(1 << 16)


class _GivenUp(asyncio.StreamReader):
    """A reader whose connection has failed with ETIMEDOUT, as after keep-alive probes."""

    def __init__(self) -> None:
        super().__init__()
        self.set_exception(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
        self._reads = 0

    async def read(self, n: int = -1) -> bytes:
        self._reads += 1
        assert self._reads < 100, "it is read for ever"
        return await super().read(n)


HEAD = b"POST /social/columbus/email HTTP/1.1\r\nContent-Length: 1300000\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.fixture
async def drain() -> AsyncIterator[Drain]:
    found = Drain(Pending())
    await found.open()
    yield found
    found.close()


class TestDrain:
    @staticmethod
    async def _connect(drain: Drain) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert drain.address
        return await asyncio.open_connection(*drain.address)

    async def test_address(self) -> None:
        """A drain listens on a free port of the loopback address only."""
        drain = Drain(Pending())
        before = drain.address
        address = await drain.open()
        drain.close()
        assert before is None
        assert address == drain.address
        assert address[0] == "127.0.0.1"
        assert address[1] > 0

    async def test_connected(self) -> None:
        """The request is told when the way to the drain is open."""
        pending = Pending()
        drain = Drain(pending)
        await drain.open()
        assert not pending.connected.is_set()
        _, writer = await self._connect(drain)
        await asyncio.wait_for(pending.connected.wait(), SOON)
        drain.close()
        writer.close()

    async def test_answers_when_released(self, drain: Drain) -> None:
        """A drain answers when the request has been dealt with, not before, and closes."""
        reader, writer = await self._connect(drain)
        writer.write(HEAD)
        reading = asyncio.ensure_future(reader.read())
        assert await still_waits(reading)
        drain.release()
        assert await asyncio.wait_for(reading, SOON) == ANSWER
        writer.close()

    async def test_does_not_cut_the_sender(
        self, drain: Drain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After its answer a drain goes on swallowing until the sender has finished."""
        monkeypatch.setattr(transport, "CONNECT", SOON)
        reader, writer = await self._connect(drain)
        writer.write(HEAD)
        drain.release()
        assert await asyncio.wait_for(reader.readexactly(len(ANSWER)), SOON) == ANSWER
        reading = asyncio.ensure_future(reader.read())
        for _ in range(20):
            writer.write(b"x" * (1 << 16))
            await asyncio.wait_for(writer.drain(), SOON)
        assert await still_waits(reading)
        writer.write_eof()
        assert await asyncio.wait_for(reading, SOON / 2) == b""
        writer.close()

    async def test_released_before_the_connection(self, drain: Drain) -> None:
        """A request may have been dealt with before its connection is there."""
        drain.release()
        reader, writer = await self._connect(drain)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), SOON) == ANSWER
        writer.close()

    async def test_swallows(self, drain: Drain) -> None:
        """Whatever comes is read, so that the sender never waits."""
        reader, writer = await self._connect(drain)
        for _ in range(320):
            writer.write(b"x" * (1 << 16))
            await asyncio.wait_for(writer.drain(), SOON)
        reading = asyncio.ensure_future(reader.read())
        assert await still_waits(reading)
        assert writer.transport.get_write_buffer_size() == 0
        drain.release()
        assert await asyncio.wait_for(reading, SOON) == ANSWER
        writer.close()

    async def test_sender_ends_first(self, drain: Drain) -> None:
        """Who ends before the request has been dealt with gets no answer."""
        reader, writer = await self._connect(drain)
        writer.write(HEAD)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), SOON) == b""
        writer.close()

    @pytest.mark.parametrize("released", [False, True])
    async def test_sender_breaks_off(self, released: bool) -> None:
        """Who breaks off harms nobody, even while the answer is being written."""
        loop = asyncio.get_running_loop()
        problems: list[dict[str, object]] = []
        loop.set_exception_handler(lambda loop, context: problems.append(context))
        drain = Drain(Pending())
        address = await drain.open()
        client = await connect(address)
        await loop.sock_sendall(client, HEAD)
        await asyncio.wait_for(drain._pending.connected.wait(), SOON)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()
        if released:
            drain.release()
        assert await _closed(address)
        assert problems == []

    async def test_one_connection(self, drain: Drain) -> None:
        """When its connection has ended a drain does not listen any more."""
        assert drain.address
        reader, writer = await self._connect(drain)
        drain.release()
        writer.write_eof()
        await asyncio.wait_for(reader.read(), SOON)
        writer.close()
        assert await _closed(drain.address)

    async def test_close(self, drain: Drain) -> None:
        """A closed drain does not listen; to close it again does nothing."""
        assert drain.address
        drain.close()
        drain.close()
        assert await _closed(drain.address)

    async def test_close_with_a_connection(self, drain: Drain) -> None:
        """A request that was cut is never answered: its connection just ends."""
        reader, writer = await self._connect(drain)
        writer.write(HEAD)
        await asyncio.wait_for(drain._pending.connected.wait(), SOON)
        drain.close()
        received = b""
        with contextlib.suppress(ConnectionResetError):
            received = await asyncio.wait_for(reader.read(), SOON)
        assert received == b""
        writer.close()

    @pytest.mark.parametrize("noticed", [False, True])
    async def test_close_with_a_new_connection(self, connection: Connection, noticed: bool) -> None:
        """A connection that comes at the very moment of the end is ended, too."""
        pending = Pending()
        drain = Drain(pending)
        drain._accept(connection.reader, connection.writer)
        if noticed:
            await asyncio.wait_for(pending.connected.wait(), SOON)
        drain.close()
        assert await asyncio.wait_for(connection.receive(), SOON / 10) == b""

    async def test_close_after_release(self, drain: Drain, monkeypatch: pytest.MonkeyPatch) -> None:
        """What has been dealt with is answered to its end."""
        monkeypatch.setattr(transport, "CONNECT", SOON)
        reader, writer = await self._connect(drain)
        await asyncio.wait_for(drain._pending.connected.wait(), SOON)
        drain.release()
        drain.close()
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), SOON / 2) == ANSWER
        writer.close()

    async def test_close_before_open(self) -> None:
        """A drain that was never opened can be closed."""
        Drain(Pending()).close()


async def _closed(address: tuple[str, int]) -> bool:
    """Does nothing listen there any more, soon?"""
    loop = asyncio.get_running_loop()
    limit = loop.time() + SOON
    while loop.time() < limit:
        try:
            (await connect(address)).close()
        except ConnectionRefusedError:
            return True
        await asyncio.sleep(0.01)
    return False


def segments(client: socket.socket) -> int:
    """The segments with data that have come in, from struct tcp_info of Linux."""
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    (count,) = struct.unpack_from("I", info, 152)
    return int(count)


class TestOneSegmentWriter:
    @pytest.fixture
    def writer(self, connection: Connection) -> OneSegmentWriter:
        """Writes to the client; collects."""
        found = OneSegmentWriter(connection.writer)
        found.collecting = True
        return found

    @linux_only
    @pytest.mark.parametrize(("collecting", "expected"), [(False, 2), (True, 1)])
    async def test_head_and_body(
        self,
        connection: Connection,
        writer: OneSegmentWriter,
        collecting: bool,
        expected: int,
    ) -> None:
        """H23: head and body leave in one segment, if collected."""
        writer.collecting = collecting
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        writer.write(b"succ")
        await writer.drain()
        writer.write_eof()
        received = await connection.receive()
        assert received == b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsucc"
        assert segments(connection.client) == expected

    @linux_only
    async def test_one_turn(self, connection: Connection, writer: OneSegmentWriter) -> None:
        """What is written in one turn of the event loop goes out by itself, the next separately."""
        loop = asyncio.get_running_loop()
        came = []
        for _ in range(2):
            writer.write(b"he")
            writer.write(b"ad")
            came.append(await asyncio.wait_for(loop.sock_recv(connection.client, 100), SOON))
        assert came == [b"head", b"head"]
        assert segments(connection.client) == 2

    async def test_drain_flushes(self, connection: Connection, writer: OneSegmentWriter) -> None:
        """What has been drained is on its way."""
        writer.write(b"data")
        await writer.drain()
        assert writer.transport.get_write_buffer_size() == 0
        connection.client.setblocking(True)
        assert connection.client.recv(100) == b"data"
        connection.client.setblocking(False)

    @pytest.mark.parametrize("end", ["close", "write_eof"])
    async def test_end_comes_last(
        self, connection: Connection, writer: OneSegmentWriter, end: str
    ) -> None:
        """Nothing that was written before the end is lost."""
        writer.write(b"head")
        writer.write(b"body")
        getattr(writer, end)()
        assert await connection.receive() == b"headbody"

    async def test_client_is_gone(self, connection: Connection, writer: OneSegmentWriter) -> None:
        """A client that has gone is no error."""
        connection.reset()
        with pytest.raises(ConnectionResetError):
            await connection.reader.read()
        writer.write(b"data")
        await writer.drain()

    async def test_not_collecting(self, connection: Connection, writer: OneSegmentWriter) -> None:
        """Other traffic is written as it comes."""
        writer.collecting = False
        writer.write(b"data")
        assert writer.transport.get_write_buffer_size() == 0
        writer.close()
        assert await connection.receive() == b"data"

    async def test_stands_in(self, connection: Connection, writer: OneSegmentWriter) -> None:
        """Whatever else a StreamWriter can do, this one can too."""
        assert writer.get_extra_info("peername") == connection.client.getsockname()
        assert writer.is_closing() is False


class Unheard:
    """What a writer calls when its client is gone; fails at that with `error`, if any."""

    def __init__(self, writer: asyncio.StreamWriter, error: Exception | None = None) -> None:
        self.calls = 0
        self.closed_before = False
        self._writer = writer
        self._error = error

    async def __call__(self) -> None:
        self.calls += 1
        self.closed_before = self._writer.is_closing()
        if self._error:
            raise self._error


ESTABLISHED, CLOSE = 1, 7


def tcp_info(state: int, unacked: int) -> bytes:
    """The beginning of struct tcp_info of Linux."""
    return struct.pack("=BBBBBBBB4I", state, *[0] * 11) + struct.pack("=I", unacked)


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets the system tell these states of a connection, one after the other, the last for ever."""

    def told(*infos: bytes | OSError) -> None:
        left = list(infos)

        def getsockopt(connection: TransportSocket, *_: int) -> bytes:
            info = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(info, OSError):
                raise info
            return info

        monkeypatch.setattr(TransportSocket, "getsockopt", getsockopt)
        monkeypatch.setattr(socket, "TCP_INFO", 11, raising=False)

    return told


class TestConfirm:
    @pytest.fixture
    def writer(self, connection: Connection) -> OneSegmentWriter:
        found = OneSegmentWriter(connection.writer)
        found.collecting = True
        return found

    @pytest.fixture
    def unheard(self, connection: Connection, writer: OneSegmentWriter) -> Unheard:
        """What the writer is to call."""
        found = Unheard(connection.writer)
        writer.confirm(found)
        return found

    @staticmethod
    async def _close(writer: OneSegmentWriter) -> None:
        """Close, and wait until that has come to its end."""
        writer.close()
        assert writer._closing
        await asyncio.wait({writer._closing}, timeout=SOON)
        assert writer._closing.done()
        assert writer.is_closing()

    @staticmethod
    async def _gone(connection: Connection) -> None:
        """Wait until the end of what the client sends has come."""
        with contextlib.suppress(ConnectionResetError):
            await asyncio.wait_for(connection.reader.read(), SOON)

    @linux_only
    @pytest.mark.parametrize("half_closed", [False, True], ids=["open", "half-closed"])
    async def test_heard(
        self,
        connection: Connection,
        writer: OneSegmentWriter,
        unheard: Unheard,
        half_closed: bool,
    ) -> None:
        """H10: a client that listens has heard its reply, even if it sends no more."""
        if half_closed:
            connection.end()
            await self._gone(connection)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.write(b"succ")
        await self._close(writer)
        assert unheard.calls == 0
        assert await connection.receive() == b"HTTP/1.1 200 OK\r\n\r\nsucc"

    @linux_only
    @pytest.mark.parametrize("drained", [False, True], ids=["at once", "drained"])
    @pytest.mark.parametrize("end", ["closed", "reset"])
    async def test_gone(
        self,
        connection: Connection,
        writer: OneSegmentWriter,
        unheard: Unheard,
        end: str,
        drained: bool,
    ) -> None:
        """H10: a client that has closed, or broken off, cannot have heard its reply."""
        if end == "closed":
            connection.client.close()
        else:
            connection.reset()
        await self._gone(connection)
        writer.write(b"succ")
        if drained:
            await writer.drain()
        await self._close(writer)
        assert unheard.calls == 1

    async def test_vanished(
        self,
        monkeypatch: pytest.MonkeyPatch,
        writer: OneSegmentWriter,
        unheard: Unheard,
        tell: Callable[..., None],
    ) -> None:
        """A client that acknowledges nothing for a while is gone; only then the end follows."""
        monkeypatch.setattr(transport, "ACKNOWLEDGED", 0.03)
        tell(tcp_info(ESTABLISHED, 1))
        writer.write(b"succ")
        await self._close(writer)
        assert (unheard.calls, unheard.closed_before) == (1, False)

    @pytest.mark.parametrize("unacked", [1, 256, 1 << 16, 1 << 24])
    async def test_slow(
        self,
        connection: Connection,
        writer: OneSegmentWriter,
        unheard: Unheard,
        tell: Callable[..., None],
        unacked: int,
    ) -> None:
        """A client may take its time to acknowledge; the end follows when it has."""
        tell(*[tcp_info(ESTABLISHED, unacked)] * 3, tcp_info(ESTABLISHED, 0))
        writer.write(b"succ")
        await self._close(writer)
        assert unheard.calls == 0
        assert await connection.receive() == b"succ"

    @pytest.mark.parametrize(
        "last",
        [tcp_info(CLOSE, 0), OSError(errno.EBADF, "Bad file descriptor")],
        ids=["closed", "no socket any more"],
    )
    async def test_gone_meanwhile(
        self,
        writer: OneSegmentWriter,
        unheard: Unheard,
        tell: Callable[..., None],
        last: bytes | OSError,
    ) -> None:
        """A client may break off before it has acknowledged everything."""
        tell(tcp_info(ESTABLISHED, 1), last)
        writer.write(b"succ")
        await self._close(writer)
        assert unheard.calls == 1

    async def test_elsewhere(
        self,
        connection: Connection,
        monkeypatch: pytest.MonkeyPatch,
        writer: OneSegmentWriter,
        unheard: Unheard,
    ) -> None:
        """Where the system does not tell, everything has been heard."""
        monkeypatch.delattr(socket, "TCP_INFO", raising=False)
        connection.reset()
        await self._gone(connection)
        writer.write(b"succ")
        await self._close(writer)
        assert unheard.calls == 0

    async def test_closed_twice(
        self, writer: OneSegmentWriter, unheard: Unheard, tell: Callable[..., None]
    ) -> None:
        """To close again changes nothing."""
        tell(tcp_info(CLOSE, 0))
        writer.close()
        await self._close(writer)
        writer.close()
        await asyncio.sleep(0)
        assert unheard.calls == 1

    async def test_failure(
        self, connection: Connection, writer: OneSegmentWriter, tell: Callable[..., None]
    ) -> None:
        """The connection is closed whatever happens."""
        tell(tcp_info(CLOSE, 0))
        writer.confirm(Unheard(connection.writer, RuntimeError("no disk")))
        await self._close(writer)
        assert writer._closing
        assert repr(writer._closing.exception()) == "RuntimeError('no disk')"

    async def test_not_asked(
        self, connection: Connection, writer: OneSegmentWriter, tell: Callable[..., None]
    ) -> None:
        """Other connections are closed at once."""
        tell(OSError(errno.EBADF, "nobody asks"))
        writer.write(b"data")
        writer.close()
        assert writer.is_closing()
        assert await connection.receive() == b"data"
