"""Wrappers for the reader and the writer that mitmproxy uses for a client.

`HeldReader` reports EOF only after the current request has been answered or aborted,
because mitmproxy cancels the request of a client that half-closes its connection.

`OneSegmentWriter` writes head and body of a reply at once. Some cameras read only the
first TCP segment (ge0rg/samsung-nx-emailservice, commit dcc222a).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, NoReturn

READ = 1 << 18  # bytes; the most that asyncio reads from a socket at once
# mitmproxy handles all chunks of a read in one turn of the event loop. After a
# read of more chunks than this, smaller reads let other connections run.
MANY_CHUNKS = 500
SMALL_READ = 1 << 12  # bytes
# More than any camera or browser sends (Apache allows 8 KiB for a line, nginx 32 KiB in all).
MAX_HEAD = 1 << 16  # bytes
MAX_FRAMING = 2 * READ  # bytes of a chunked body without a byte of its content

# struct tcp_info, linux/tcp.h: u8 tcpi_state at 0, u64 tcpi_bytes_acked at 120 (Linux 4.1)
_TCP_CLOSE = 7
_BYTES_ACKED = 120
_FIRST_POLL = 0.001  # seconds


@dataclass(frozen=True, slots=True)
class Times:
    """Time limits of a connection, in seconds."""

    step: float = 0.05  # the longest pause between two checks of something without an event
    notice: float = 2.0  # until mitmproxy must have called a hook for a complete head
    connect: float = 5.0  # until mitmproxy must have reached the loopback server
    idle: float = 120.0  # of silence in the middle of an upload
    head: float = 60.0  # from the first byte of a head to its last
    acknowledge: float = 5.0  # until a reply must have been acknowledged
    linger: float = 10.0  # until mitmproxy must have closed what was answered


@dataclass(eq=False, slots=True)
class Pending:
    """The progress of a request to one of our hosts, for the reader of its connection.

    `received` is the number of bytes of the body, `chunks` that of the chunks from
    mitmproxy. `connected` is set when mitmproxy has reached the loopback server, `complete` when
    the body has arrived, `answered` when the reply is ready or the request has failed.
    `end_reason` is why the client's connection ended.
    """

    received: int = 0
    chunks: int = 0
    complete: bool = False
    end_reason: str = ""
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Event = field(default_factory=asyncio.Event)


class Stage(Enum):
    """The kind of data a client is sending, as reported by mitmproxy's hooks."""

    HEAD = auto()  # a request head, or nothing yet
    CONTENT = auto()  # a body, or another protocol (TLS handshake, tunnel, HTTP/2): no limits
    COMPLETE = auto()  # a request is complete; further data belongs to the next one


class HeldReader:
    """Reads from a client like the StreamReader that it wraps, but delays EOF.

    `pending` is the current request to one of our hosts, if any. Its body is read in
    larger pieces than mitmproxy asks for (64 KiB): the cost of a read does not depend
    on its size. Silence in the middle of it ends the connection.

    mitmproxy would collect a request head in memory without end. So beyond MAX_HEAD bytes, no
    further read begins until a hook reports the request. If none does,
    `refuse(status, reason)` is called for a head that is too large (431) or too slow
    (408), and the connection ends. Endless trailers or chunk sizes also end it.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        client: Any,
        refuse: Callable[[int, str], None] = lambda status, reason: None,
        *,
        times: Times,
    ) -> None:
        self.pending: Pending | None = None
        self.noticed = False  # whether a hook has reported a request, ours or not
        self._reader = reader
        self._client = client
        self._refuse = refuse
        self._times = times
        self._stage = Stage.HEAD
        self._changed = asyncio.Event()
        self._unnoticed = 0  # bytes of a head, or of what follows, that no hook has reported
        self._head_since = 0.0
        self._last = 0.0
        self._chunks = 0
        self._received = 0  # bytes of the body when it last grew
        self._framing = 0  # bytes read since then

    def enter(self, stage: Stage) -> None:
        """Record what the client is sending from now on, as a hook of mitmproxy has reported it."""
        if stage is not Stage.HEAD:
            self._unnoticed = 0
        elif self._stage is Stage.COMPLETE:  # the next head may have begun before the reply
            self._head_since = asyncio.get_running_loop().time()
        self._stage = stage
        self._changed.set()

    async def read(self, n: int = -1) -> bytes:
        loop = asyncio.get_running_loop()
        while True:
            await self._wait_if_head_is_full()
            await self._wait_for_server()
            await self._check_framing()
            size = self._size(n)
            if size == SMALL_READ:
                await asyncio.sleep(0)  # a read of buffered data does not yield
            if self._is_in_head():
                limit = asyncio.timeout_at(self._head_since + self._times.head)
            else:  # a head may begin meanwhile
                limit = asyncio.timeout(min(self._times.idle, self._times.head))
            try:
                async with limit:
                    data = await self._reader.read(size)
            except OSError as error:  # also TimeoutError, of the limit or the socket
                if not limit.expired():
                    await self._hold(f"the connection broke: {error.strerror or error}")
                    raise
                await self._check_time(loop.time())
                continue
            if data:
                self._count(len(data), loop.time())
            else:
                await self._hold("the client closed the connection")
            return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def _size(self, n: int) -> int:
        if self.pending is None:
            return n
        chunks, self._chunks = self.pending.chunks - self._chunks, self.pending.chunks
        # Bytes that arrive before the loopback server is reached are queued, then handled at once.
        is_slow = chunks > MANY_CHUNKS or not self.pending.connected.is_set()
        return SMALL_READ if is_slow else max(n, READ)

    def _count(self, size: int, now: float) -> None:
        self._last = now
        self._framing += size
        if self._stage is not Stage.CONTENT:
            if not self._unnoticed:
                self._head_since = now
            self._unnoticed += size

    def _is_in_head(self) -> bool:
        return self._stage is Stage.HEAD and self._unnoticed > 0

    async def _wait_if_head_is_full(self) -> None:
        """Wait for a hook if more than MAX_HEAD bytes were read that no hook has reported.

        In a head, at most `Times.notice`; after a complete request, until it is answered.
        """
        while self._unnoticed > MAX_HEAD:
            self._changed.clear()
            try:
                async with asyncio.timeout(self._times.notice if self._is_in_head() else None):
                    await self._changed.wait()
            except TimeoutError:
                self._refuse_head(431, f"its request head exceeds {MAX_HEAD >> 10} KiB")

    async def _wait_for_server(self) -> None:
        """Give mitmproxy time to reach the loopback server; until then it queues the body."""
        pending = self.pending
        if pending and not pending.complete and not pending.connected.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._times.step):
                    await pending.connected.wait()

    async def _check_framing(self) -> None:
        """End an upload whose trailers or chunk sizes have no end: mitmproxy collects them."""
        pending = self.pending
        # HTTP/2 has limits of its own, and its data may belong to another request.
        is_http2 = self._client.alpn == b"h2"
        if is_http2 or not pending or pending.complete or not pending.connected.is_set():
            self._framing = 0
        elif pending.received != self._received:
            self._received, self._framing = pending.received, 0
        elif self._framing > MAX_FRAMING:
            await self._hold("its chunk sizes or trailers have no end")
            raise ConnectionAbortedError("endless framing of an upload")

    async def _check_time(self, now: float) -> None:
        """End the connection if a head takes too long, or an upload has been silent too long."""
        if self._is_in_head() and now >= self._head_since + self._times.head:
            reason = f"its request head is not complete after {self._times.head:.0f} s"
            self._refuse_head(408, reason)
        is_in_body = self.pending and not self.pending.complete
        if is_in_body and now >= self._last + self._times.idle:
            await self._hold(f"the client was silent for {self._times.idle:.0f} s")
            raise ConnectionAbortedError("silent in the middle of an upload")

    def _refuse_head(self, status: int, reason: str) -> NoReturn:
        self._refuse(status, reason)
        raise ConnectionAbortedError(reason)

    async def _hold(self, reason: str) -> None:
        """Hold the end of the connection until its request is answered or aborted.

        A body that is cut ends it when mitmproxy has handled all bytes that were read.
        """
        await self._wait_for_last_head()
        if self.pending:
            self.pending.end_reason = reason
        waited = 0.0
        while pending := self.pending:
            if pending.complete or pending.answered.is_set():
                await pending.answered.wait()
                # mitmproxy cancels this task after it has written the reply. Returning at
                # that moment would leave the socket open on Python 3.12 and later.
                await asyncio.sleep(self._times.linger)
                return
            before = pending.received
            await asyncio.sleep(self._times.step)
            waited = waited + self._times.step if pending.received == before else 0.0
            most = 2 * self._times.step if pending.connected.is_set() else self._times.connect
            if waited >= most:
                return

    async def _wait_for_last_head(self) -> None:
        """Wait until mitmproxy has called a hook for a head that may have arrived."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._last + self._times.notice):
                # Inside TLS, a head may have arrived together with the end of the handshake.
                while self.pending is None and (
                    self._is_in_head() or (self._client.tls and not self.noticed)
                ):
                    self._changed.clear()
                    await self._changed.wait()


class OneSegmentWriter:
    """Writes to a client like the StreamWriter that it wraps.

    All writes of one turn of the event loop leave together. A closed connection raises no
    error: mitmproxy would discard data of the client that has not been processed.
    """

    def __init__(self, writer: asyncio.StreamWriter, *, times: Times) -> None:
        self.written = 0  # bytes on this connection
        self._writer = writer
        self._times = times
        self._pieces: list[bytes] = []
        self._flushed = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    def write(self, data: bytes) -> None:
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

    def watch_reply(self, on_result: Callable[[bool], None]) -> None:
        """Watch whether the client's TCP acknowledges the reply that is written next.

        `on_result` is called once: with True when the reply has been acknowledged, with False
        if the connection ends first or `Times.acknowledge` passes. Without TCP_INFO (only Linux
        has it) every reply counts as acknowledged.
        """
        if not hasattr(socket, "TCP_INFO"):
            on_result(True)
            return
        try:
            # Its own descriptor stays valid after the connection has been closed.
            connection = self._writer.get_extra_info("socket").dup()
        except OSError:  # the client has reset the connection
            on_result(False)
            return
        self._flush()
        self._flushed.clear()
        self._watch = asyncio.ensure_future(self._report(connection, self.written, on_result))

    def close(self) -> None:
        self._flush()
        self._flushed.set()
        if self._watch and not self._watch.done():
            # The descriptor of the watch keeps the connection open: without this the
            # client would not see its end.
            with contextlib.suppress(OSError):
                self._writer.write_eof()
        self._writer.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def _flush(self) -> None:
        if self._pieces:
            data = b"".join(self._pieces)
            self._pieces.clear()
            self.written += len(data)
            self._writer.write(data)
            self._flushed.set()

    async def _report(
        self, connection: socket.socket, before: int, on_result: Callable[[bool], None]
    ) -> None:
        with connection:
            await self._flushed.wait()
            acknowledged = self.written > before and await self._acknowledged(connection)
        on_result(acknowledged)

    async def _acknowledged(self, connection: socket.socket) -> bool:
        """Wait until the client has acknowledged all bytes written so far."""
        written, pause = self.written, _FIRST_POLL
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(self._times.acknowledge):
                while True:
                    size = _BYTES_ACKED + 8
                    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
                    if len(info) < size:
                        return True
                    (acknowledged,) = struct.unpack_from("=Q", info, _BYTES_ACKED)
                    if acknowledged >= written:
                        return True
                    if info[0] == _TCP_CLOSE:
                        return False
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, self._times.step)
        return False
