"""Saved files, which are streamed to a browser through the loopback server.

A file is read in chunks, in a thread, at the speed at which the browser reads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from nxparse.server.backend import Backend
from nxparse.server.files import FileReply
from nxparse.store.disk import CHUNK

STALL = 120.0  # seconds for the browser to take a chunk


async def send_file(
    reply: FileReply,
    backend: Backend,
    abort: Callable[[], None],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Send a reply and close its file. `abort` ends the client if it stops reading."""
    end = reply.start + reply.length
    try:
        writer.write(reply.head(time.time()))
        for start in range(reply.start, end, CHUNK):
            size = min(CHUNK, end - start)
            writer.write(await backend.in_thread(reply.file.read, start, size))
            async with asyncio.timeout(STALL):
                await writer.drain()
        async with asyncio.timeout(STALL):
            writer.close()
            await writer.wait_closed()
    except TimeoutError:
        abort()
    finally:
        reply.file.close()
