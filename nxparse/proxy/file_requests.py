"""Requests for saved files, which are streamed to a browser through the loopback server.

A file is read in chunks, in a thread, at the speed at which the browser reads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from nxparse.proxy import adapter
from nxparse.proxy.clients import Clients
from nxparse.proxy.loopback import LoopbackServer
from nxparse.server.backend import Backend
from nxparse.server.endpoints import Endpoint
from nxparse.server.files import FileReply
from nxparse.server.reply import Reply
from nxparse.store.disk import CHUNK


class FileRequests:
    """The current requests, by flow id. Use in the event loop's thread only."""

    def __init__(self, server: LoopbackServer, clients: Clients) -> None:
        self._server = server
        self._clients = clients
        self._current: dict[str, tuple[Callable[[], None], Callable[[], None]]] = {}

    async def begin(self, flow: Any, backend: Backend, endpoint: Endpoint) -> Reply | None:
        """Redirect a request to the server. Returns the reply if it is refused."""
        client, request = flow.client_conn, flow.request
        address = self._server.address
        assert address
        name, fields = adapter.address(client), adapter.fields(request.headers)
        found = await backend.in_thread(
            backend.services.file, backend.config, name, endpoint, request.method, fields
        )
        if isinstance(found, Reply):
            return found
        request.stream = lambda _: []  # discard a body, which HTTP/2 does not announce
        self._clients.stream_reply(client)
        path = self._server.expect(partial(_send, found, backend))

        def end() -> None:
            if self._server.withdraw(path):
                found.file.close()

        self._current[flow.id] = adapter.redirect(request, address, path), end
        return None

    def start(self, flow: Any) -> None:
        """Stream the body of a response whose head has arrived."""
        if flow.id in self._current:
            restore, _ = self._current[flow.id]
            restore()
            flow.response.stream = True
            adapter.label(flow, "answered", "saved file")

    def end(self, flow: Any) -> None:
        """End a request whose response is complete or was aborted."""
        if flow.id in self._current:
            for act in self._current.pop(flow.id):
                act()

    def close(self) -> None:
        """Close the files that mitmproxy has not requested yet."""
        for _, end in self._current.values():
            end()


async def _send(
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
