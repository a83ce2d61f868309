"""The server that mitmproxy streams request bodies to, in place of a camera's host.

mitmproxy either keeps a body in memory or streams it to a server. The addon takes each
chunk on its way and passes nothing on, so the sink receives only the head of a request.
It answers when the addon has decided; the addon then replaces that answer by its reply.

All requests share one sink, on a loopback port. Other programs on this machine can reach
it, too: only connections whose source port the addon has allowed stay open.
"""

from __future__ import annotations

import asyncio
import socket

ALLOW_WITHIN = 5.0  # seconds until a connection must have been allowed
BACKLOG = 128  # connections
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Sink:
    """A server on a free loopback port that answers each connection when it is released."""

    def __init__(self, *, allow_within: float = ALLOW_WITHIN) -> None:
        self.address: tuple[str, int] | None = None
        self._limit = allow_within
        self._allowed: dict[int, bool] = {}  # by source port: is it released?
        self._connections: dict[int, asyncio.Transport] = {}  # by source port
        self._server: asyncio.Task[asyncio.Server] | None = None

    def open(self) -> None:
        """Listen. Needs a running event loop. Raises OSError."""
        listening = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.address = listening.getsockname()
        loop = asyncio.get_running_loop()
        self._server = loop.create_task(
            loop.create_server(self._connect, sock=listening, backlog=BACKLOG)
        )

    def allow(self, port: int) -> None:
        """Keep the connection from this source port open: it is mitmproxy's."""
        self._allowed.setdefault(port, False)

    def release(self, port: int) -> None:
        """Answer the connection from this source port."""
        if port not in self._allowed:
            return
        self._allowed[port] = True
        if connection := self._connections.get(port):
            connection.write(ANSWER)

    def close(self) -> None:
        """Stop listening. Connections that are open end with mitmproxy's."""
        self.address = None
        if self._server:
            self._server.add_done_callback(lambda server: server.result().close())

    def _connect(self) -> _Connection:
        return _Connection(self._allowed, self._connections, self._limit)


class _Connection(asyncio.Protocol):
    """A connection whose data is discarded until the other side closes it."""

    def __init__(
        self,
        allowed: dict[int, bool],
        connections: dict[int, asyncio.Transport],
        limit: float,
    ) -> None:
        self._allowed = allowed
        self._connections = connections
        self._limit = limit
        self._port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._port = transport.get_extra_info("peername")[1]
        self._connections[self._port] = transport
        released = self._allowed.get(self._port)
        if released:
            transport.write(ANSWER)
        elif released is None:
            asyncio.get_running_loop().call_later(self._limit, self._end_unless_allowed, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.pop(self._port, None)
        self._allowed.pop(self._port, None)

    def _end_unless_allowed(self, transport: asyncio.Transport) -> None:
        if self._port not in self._allowed:
            transport.abort()
