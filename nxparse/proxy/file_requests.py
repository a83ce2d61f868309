"""Saved files, which are streamed to a browser through the loopback server.

A file is read in chunks, in a thread, at the speed at which the browser reads.
"""

from __future__ import annotations

import asyncio
import time

from nxparse.server.backend import Backend
from nxparse.server.files import FileReply
from nxparse.store.disk import CHUNK


async def send_file(
    reply: FileReply, backend: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Send a reply and close its file. mitmproxy disconnects a browser that stops reading."""
    end = reply.start + reply.length
    try:
        writer.write(reply.head(time.time()))
        for start in range(reply.start, end, CHUNK):
            size = min(CHUNK, end - start)
            writer.write(await backend.in_thread(reply.file.read, start, size))
            await writer.drain()
        writer.close()
        await writer.wait_closed()
    finally:
        reply.file.close()
