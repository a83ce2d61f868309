"""The server that sends saved files through mitmproxy to a browser.

mitmproxy streams only responses from a server; a response that a hook sets is held in
memory as a whole. So the addon redirects a request for a file to this server, which
listens on a loopback port. The path is a random token, valid for one request, so that
other programs on this machine cannot read files.

A file is read in chunks, in a thread, at the speed at which the browser reads.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from nxparse.server.files import FileReply
from nxparse.store.disk import CHUNK

THREADS = 4  # for reading files


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits in seconds."""

    claim: float = 15.0  # until mitmproxy must have requested a file
    head: float = 5.0  # until a connection must have sent its request
    stall: float = 120.0  # for the browser to take a chunk


class _Offer(NamedTuple):
    reply: FileReply
    abort: Callable[[], object]


class FileServer:
    """A server on a free loopback port. `threads` read the files; by default its own."""

    def __init__(self, threads: Executor | None = None, limits: Limits = Limits()) -> None:
        self.address: tuple[str, int] | None = None
        self._threads = threads or ThreadPoolExecutor(THREADS, "files")
        self._limits = limits
        self._server: asyncio.Server | None = None
        self._offers: dict[str, _Offer] = {}  # by token
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> tuple[str, int]:
        """Listen, if it does not yet. Returns the address. Raises OSError."""
        if self.address is None:
            server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
            if self.address is None:
                self._server, self.address = server, server.sockets[0].getsockname()
            else:  # opened by another request meanwhile
                server.close()
        return self.address

    def offer(self, reply: FileReply, abort: Callable[[], object]) -> str:
        """Offer a file to one request for the returned path. The file is closed afterwards.

        `abort` is called if the browser stops reading; it should end that connection.
        """
        token = secrets.token_urlsafe(24)
        self._offers[token] = _Offer(reply, abort)
        asyncio.get_running_loop().call_later(self._limits.claim, self._withdraw, token)
        return f"/{token}"

    def close(self) -> None:
        """Stop listening, and abort the transfers."""
        if self._server:
            self._server.close()
        self.address = self._server = None
        for token in tuple(self._offers):
            self._withdraw(token)
        for task in self._tasks:
            task.cancel()

    def _withdraw(self, token: str) -> None:
        if offer := self._offers.pop(token, None):
            offer.reply.file.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            async with asyncio.timeout(self._limits.head):
                head = await reader.readuntil(b"\r\n\r\n")
            token = head.partition(b" /")[2].partition(b" ")[0].decode("latin-1")
            if offer := self._offers.pop(token, None):
                await self._send(offer, writer)
        except (OSError, EOFError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _send(self, offer: _Offer, writer: asyncio.StreamWriter) -> None:
        """Send a reply. Raises OSError, also if the browser stops reading."""
        reply = offer.reply
        loop = asyncio.get_running_loop()
        try:
            writer.write(reply.head(time.time()))
            for start in range(reply.start, reply.start + reply.length, CHUNK):
                size = min(CHUNK, reply.start + reply.length - start)
                writer.write(
                    await loop.run_in_executor(self._threads, reply.file.read, start, size)
                )
                async with asyncio.timeout(self._limits.stall):
                    await writer.drain()
            async with asyncio.timeout(self._limits.stall):
                writer.close()
                await writer.wait_closed()
        except TimeoutError:
            offer.abort()
            raise
        finally:
            reply.file.close()
