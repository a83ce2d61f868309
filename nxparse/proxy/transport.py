"""What mitmproxy lacks on the socket, in plain asyncio.

mitmproxy is made to forward; a server that answers cameras needs three things
more. Each of them stands in for an object that mitmproxy uses already.

*A drain.* mitmproxy keeps a body in memory, or streams it to a server. A Drain
is a server for one such request: it swallows what comes, and answers when the
request has been dealt with, so that the real reply can be put in its place.

*A held-back end.* mitmproxy takes the end of what a client sends for "wants no
reply" and drops what is still on its way to the drain. A camera that closes
its half after a complete request would get no reply, one that breaks off would
take with it what it had sent. `HeldReader` returns the end of the stream only
when nothing depends on it any more. It also ends a stream that has gone silent
in the middle of an upload.

*One segment.* Head and body of a reply are two writes, and each becomes a TCP
segment of its own. Some cameras read only the first
(ge0rg/samsung-nx-emailservice, commit dcc222a). `OneSegmentWriter` collects
what is written in one turn of the event loop and writes it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

STEP = 0.05  # seconds between looks at what is still on its way
GRACE = 0.5  # seconds until a request must have been noticed
CONNECT = 5.0  # seconds until mitmproxy must have reached the drain
READ = 1 << 18  # bytes; asyncio takes no more from a socket at once
IDLE = 120.0  # seconds of silence in the middle of an upload
ANSWER = 900.0  # seconds to make 2 GB durable on a slow card
ACKNOWLEDGED = 5.0  # seconds until a reply must have been acknowledged
LINGER = 10.0  # seconds until mitmproxy must have closed what was answered

# struct tcp_info, linux/tcp.h: u8 tcpi_state at 0, u32 tcpi_unacked at 24
_TCP_CLOSE = 7
_UNACKED = 24

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Pending:
    """How far a request has come, for the reader of its connection.

    `received` counts the bytes of the body. `connected` is set when the way to
    the drain is open, `complete` when all of the body is here, `answered` when
    a reply, or an error, has been decided. `end` says how the client ended.
    """

    received: int = 0
    complete: bool = False
    end: str = ""
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Event = field(default_factory=asyncio.Event)


class Drain:
    """A server on a free loopback port, for the one connection that streams `pending`."""

    def __init__(self, pending: Pending) -> None:
        self.address: tuple[str, int] | None = None
        self._pending = pending
        self._server: asyncio.Server | None = None
        self._released = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> tuple[str, int]:
        """Listen. Returns the address. Raises OSError."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1)
        host, port = self._server.sockets[0].getsockname()
        self.address = host, port
        return self.address

    def release(self) -> None:
        """Answer: the request has been dealt with."""
        self._released.set()

    def close(self) -> None:
        """Stop listening, and end the connection if it has not been answered."""
        if self._server:
            self._server.close()
        if self._task and self._writer and not self._released.is_set():
            self._task.cancel()
            self._writer.close()  # by itself, if it had not begun

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A coroutine as the callback would print a traceback when it is
        # cancelled at the end of the program (Python 3.11).
        self._writer = writer
        self._task = asyncio.ensure_future(self._serve(reader, writer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._pending.connected.set()
        swallow = asyncio.ensure_future(_swallow(reader))
        released = asyncio.ensure_future(self._released.wait())
        try:
            await asyncio.wait({swallow, released}, return_when=asyncio.FIRST_COMPLETED)
            if released.done():
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
                await asyncio.wait({swallow}, timeout=CONNECT)
        except OSError:
            pass  # mitmproxy has given the request up; its error hook tells
        finally:
            swallow.cancel()
            released.cancel()
            writer.close()
            if self._server:
                self._server.close()


async def _swallow(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(1 << 16):
            pass


class HeldReader:
    """Reads from a client like the StreamReader that it wraps, but holds back the end.

    `pending` is the request of ours that the client is making, if any. Of its
    body more is read at once than mitmproxy asks for (64 KiB): what that costs
    it does not depend on the size.
    """

    def __init__(self, reader: asyncio.StreamReader, *, idle: float | None = None) -> None:
        self.pending: Pending | None = None
        self._reader = reader
        self._idle = IDLE if idle is None else idle
        self._last = 0.0

    async def read(self, n: int = -1) -> bytes:
        loop = asyncio.get_running_loop()
        while True:
            limit = asyncio.timeout(self._idle)
            try:
                async with limit:
                    data = await self._reader.read(max(n, READ) if self.pending else n)
            except OSError as error:
                if not limit.expired():
                    await self._hold(f"the connection broke: {error.strerror or error}")
                    raise
                if self.pending is None or self.pending.complete:
                    continue
                await self._hold(f"the client was silent for {self._idle:.0f} s")
                raise ConnectionAbortedError("silent in the middle of an upload") from None
            if data:
                self._last = loop.time()
            else:
                await self._hold("the client closed the connection")
            return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    async def _hold(self, end: str) -> None:
        """Wait until nothing depends on this connection any more, which ended in this way."""
        loop = asyncio.get_running_loop()
        while self.pending is None and loop.time() < self._last + GRACE:
            await asyncio.sleep(STEP)
        if self.pending:
            self.pending.end = end
        waited = 0.0
        while pending := self.pending:
            if pending.complete or pending.answered.is_set():
                await _wait(pending.answered, ANSWER)
                # mitmproxy ends this task when it has written the reply. To
                # return at that very moment would leave the socket open for
                # ever on Python 3.12 and later.
                await asyncio.sleep(LINGER)
                return
            before = pending.received
            await asyncio.sleep(STEP)
            waited = waited + STEP if pending.received == before else 0.0
            if waited >= (2 * STEP if pending.connected.is_set() else CONNECT):
                return


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        logger.error(f"no reply after {seconds:.0f} s: the disk does not answer")


async def _arrived(writer: asyncio.StreamWriter) -> bool:
    """Has the peer acknowledged everything that was written to it?"""
    if not hasattr(socket, "TCP_INFO"):
        return True
    try:
        async with asyncio.timeout(ACKNOWLEDGED):
            while True:
                connection = writer.get_extra_info("socket")
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED + 4)
                if info[0] == _TCP_CLOSE:
                    return False
                if not any(info[_UNACKED:]):
                    return True
                await asyncio.sleep(STEP)
    except (OSError, TimeoutError):
        return False


class OneSegmentWriter:
    """Writes to a client like the StreamWriter that it wraps.

    Once `collecting`, everything that is written in one turn of the event loop
    goes out together. A client that has gone is no error here: mitmproxy would
    take it as a reason to forget what the client had sent before.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.collecting = False
        self._writer = writer
        self._flushed = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self.collecting:
            self._writer.write(data)
            return
        if not self._pieces:
            asyncio.get_running_loop().call_soon(self._flush)
        self._pieces.append(data)

    async def drain(self) -> None:
        self._flush()
        with contextlib.suppress(OSError):
            await self._writer.drain()

    def write_eof(self) -> None:
        self._flush()
        self._writer.write_eof()

    def watch_reply(self, result: Callable[[bool], None]) -> None:
        """Watch the reply that is written next; call `result` once with whether it has arrived.

        Without TCP_INFO (only Linux has it) everything has arrived.
        """
        self._flushed.clear()
        self._watch = asyncio.ensure_future(self._report(result))

    def close(self) -> None:
        self._flush()
        self._flushed.set()
        if self._watch is None or self._watch.done():
            self._writer.close()
        else:
            self._watch.add_done_callback(lambda _: self._writer.close())

    async def _report(self, result: Callable[[bool], None]) -> None:
        await self._flushed.wait()
        result(await _arrived(self._writer))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def _flush(self) -> None:
        if self._pieces:
            data = b"".join(self._pieces)
            self._pieces.clear()
            self._writer.write(data)
            self._flushed.set()
