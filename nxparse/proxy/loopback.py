"""The server that mitmproxy sends requests to in place of a camera's host.

mitmproxy holds a body in memory unless it streams it to a server or from one. So the addon
redirects uploads and requests for saved files to this server, on a loopback port. It
receives only the head of an upload, because the addon takes the body on its way.

Other programs on this machine can reach the server, too. So the path of a redirected
request is a random token, valid once.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

HEAD_WITHIN = 5.0  # seconds until a connection must have sent its request

# The connection is aborted when a handler returns, or raises OSError.
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Redirection(NamedTuple):
    """A request that goes to this server: its token, and its own host, port, scheme and path.

    `unused` is called if mitmproxy never sends it.
    """

    flow: Any
    path: str
    before: tuple[str, int, bytes, bytes]
    unused: Callable[[], None]


class LoopbackServer:
    """A server on a free loopback port. Use it in the event loop's thread only.

    `flow` is mitmproxy's object for a request and its response.
    """

    def __init__(self, *, head_within: float = HEAD_WITHIN) -> None:
        self.address: tuple[str, int] | None = None
        self._head_within = head_within
        self._redirections: dict[str, Redirection] = {}  # by the id of the flow
        self._handlers: dict[str, Handler] = {}  # by path
        self._server: asyncio.Task[asyncio.Server] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Listen. Needs a running event loop. Raises OSError."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.address = listening.getsockname()
        serve = asyncio.start_server(self._connected, sock=listening)
        self._server = asyncio.ensure_future(serve)

    def redirect(
        self, flow: Any, handler: Handler, unused: Callable[[], None] = lambda: None
    ) -> None:
        """Let mitmproxy send the request of a flow here, and `handler` answer it."""
        assert self.address
        data, path = flow.request.data, f"/{secrets.token_urlsafe(24)}"
        before = data.host, data.port, data.scheme, data.path
        self._redirections[flow.id] = Redirection(flow, path, before, unused)
        self._handlers[path] = handler
        # A connection of its own: that of the client may lead through another proxy.
        flow.server_conn = type(flow.server_conn)(address=self.address)
        data.host, data.port = self.address
        data.scheme, data.path = b"http", path.encode()

    def restore(self, flow: Any) -> bool:
        """Let a redirected request show its own destination again. Returns False for others."""
        if flow.id not in self._redirections:
            return False
        data = flow.request.data
        data.host, data.port, data.scheme, data.path = self._redirections[flow.id].before
        return True

    def redirected(self, client: Any) -> list[Any]:
        """Return the redirected flows of a client."""
        flows = [one.flow for one in self._redirections.values()]
        return [flow for flow in flows if flow.client_conn is client]

    def withdraw(self, flow: Any) -> None:
        """End the redirection of a flow, if any."""
        if self.restore(flow):
            redirection = self._redirections.pop(flow.id)
            if self._handlers.pop(redirection.path, None):
                redirection.unused()

    def close(self) -> None:
        """Stop listening, and abort the connections."""
        self.address = None
        for redirection in [*self._redirections.values()]:
            self.withdraw(redirection.flow)
        if self._server:
            self._server.add_done_callback(lambda server: server.result().close())
        for task in self._tasks:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            async with asyncio.timeout(self._head_within):
                head = await reader.readuntil(b"\r\n\r\n")
            # The target is a path, or a URL that ends with it.
            target = head.split(b" ", 2)[1].decode("latin-1")
            if handler := self._handlers.pop(f"/{target.rpartition('/')[2]}", None):
                await handler(reader, writer)
        except (OSError, EOFError, IndexError, asyncio.LimitOverrunError):
            pass
        except asyncio.CancelledError:
            pass  # by `close`; on Python 3.11, start_server logs a cancelled task with a traceback
        finally:
            self._tasks.discard(task)
            writer.transport.abort()
