"""Saved files, which are streamed to a browser through the loopback server.

A file is read in chunks, in a thread, at the speed at which the browser reads.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

from nxparse.proxy.clients import Clients
from nxparse.server.backend import Backend
from nxparse.server.files import FileReply
from nxparse.store.disk import CHUNK

STALL = 120.0  # seconds for the browser to take a chunk
# In HTTP/2, mitmproxy holds all that the browser has not taken, without a limit. This is one for
# a single file; while the browser takes others, it may be exceeded by their size.
MAX_BACKLOG = 4 << 20  # bytes
POLL = 0.05  # seconds


async def send_file(
    reply: FileReply,
    backend: Backend,
    clients: Clients,
    client: Any,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Send a reply and close its file. Aborts the connection of a client that stops reading."""
    is_http2 = client.alpn == b"h2"
    end = reply.start + reply.length
    before = clients.written(client) or 0
    try:
        writer.write(reply.head(time.time()))
        for start in range(reply.start, end, CHUNK):
            size = min(CHUNK, end - start)
            writer.write(await backend.in_thread(reply.file.read, start, size))
            async with asyncio.timeout(STALL):
                await writer.drain()
                if is_http2:
                    await _wait_for_client(clients, client, before + start - reply.start, reader)
        async with asyncio.timeout(STALL):
            writer.close()
            await writer.wait_closed()
    except TimeoutError:
        if not is_http2:  # it has other requests
            clients.abort(client)
    finally:
        reply.file.close()


async def _wait_for_client(
    clients: Clients, client: Any, sent: int, reader: asyncio.StreamReader
) -> None:
    """Wait while mitmproxy holds more than MAX_BACKLOG of the bytes `sent` to a client.

    Raises OSError if mitmproxy has closed the connection.
    """
    while (written := clients.written(client)) is not None and sent - written > MAX_BACKLOG:
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL):
                if not await reader.read(CHUNK):
                    raise ConnectionAbortedError
