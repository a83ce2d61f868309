"""The connections of clients: wrapped and closed.

`client` is mitmproxy's object for a client.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from nxparse.proxy import adapter
from nxparse.proxy.transport import HeldReader, OneSegmentWriter, Pending, Stage, Times

logger = logging.getLogger(__name__)


class Clients:
    """The reader and writer of each connection. Use in the event loop's thread only."""

    def __init__(self, times: Times) -> None:
        self._times = times
        self._wrapped: dict[str, tuple[HeldReader, OneSegmentWriter]] = {}  # by client id
        self._refused: set[object] = set()  # peers whose request head was refused

    def wrap(self, client: Any, streams: Any) -> None:
        """Replace the reader and the writer in `streams`, which is None if there are none."""
        if not streams or not isinstance(streams.reader, asyncio.StreamReader):
            return

        def refuse_head(status: int, reason: str) -> None:
            self._refused.add(client.peername)
            logger.warning(f"{adapter.address(client)}: connection closed: {reason}")
            if not client.tls:
                line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"
                writer.write(f"{line}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())

        reader = HeldReader(streams.reader, client, refuse_head, times=self._times)
        writer = OneSegmentWriter(streams.writer, times=self._times)
        if client.proxy_mode.type_name in ("dns", "socks5"):  # no request head, or not yet
            reader.enter(Stage.CONTENT)
        streams.reader, streams.writer = reader, writer
        self._wrapped[client.id] = reader, writer

    def remove(self, client: Any) -> None:
        """Close the writer of a connection that has ended."""
        self._refused.discard(client.peername)
        if client.id in self._wrapped:
            # mitmproxy leaves it open if the client still sends while it is answered.
            _, writer = self._wrapped.pop(client.id)
            writer.close()

    def enter(self, client: Any, stage: Stage) -> None:
        """Record what a client sends from now on."""
        if client.id in self._wrapped:
            self._wrapped[client.id][0].enter(stage)

    def notice(self, flow: Any, stage: Stage) -> None:
        """Record that mitmproxy has called a hook for a request, and what follows."""
        client = flow.client_conn
        if client.id in self._wrapped:
            self._wrapped[client.id][0].noticed = True
            if not flow.request.is_http2:
                self.enter(client, stage)

    def begin(self, client: Any, pending: Pending | None) -> None:
        """Record the current request of a client to one of our hosts.

        With None, the end of its connection is reported to mitmproxy at once.
        """
        if client.id in self._wrapped:
            self._wrapped[client.id][0].pending = pending

    def watch_reply(self, client: Any, on_result: Callable[[bool], None]) -> None:
        """Call `on_result(arrived)` once it is known whether the next reply has arrived."""
        if client.id in self._wrapped:
            self._wrapped[client.id][1].watch_reply(on_result)
        else:
            on_result(True)

    def written(self, client: Any) -> int | None:
        """Return the number of bytes written to a client, None if it is not known."""
        return self._wrapped[client.id][1].written if client.id in self._wrapped else None

    def abort(self, client: Any) -> None:
        """Abort a connection."""
        if client.id in self._wrapped:
            self._wrapped[client.id][1].transport.abort()

    def abort_pending(self) -> None:
        """Abort the connections whose requests have no reply yet."""
        for reader, writer in self._wrapped.values():
            reader.enter(Stage.CONTENT)  # after a reload, no hook reports its heads
            if reader.pending and not reader.pending.answered.is_set():
                reader.pending = None
                writer.transport.abort()

    def has_refused_head(self, peer: object) -> bool:
        """Return whether the request head of this peer was refused."""
        return peer in self._refused
