"""The connections of clients: wrapped, limited in number, and closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from nxparse.proxy.limits import ConnectionLimit
from nxparse.proxy.transport import (
    HEAD_REFUSALS,
    HeldReader,
    OneSegmentWriter,
    Pending,
    Stage,
    Times,
)

logger = logging.getLogger(__name__)


class Clients:
    """The reader and writer of each connection, by id. Use in the event loop's thread only."""

    def __init__(self, times: Times) -> None:
        self.limit = ConnectionLimit()
        self._times = times
        self._wrapped: dict[str, tuple[HeldReader, OneSegmentWriter]] = {}
        self._refused: set[object] = set()  # peers whose request head was refused

    def wrap(self, id: str, name: str, peer: object, streams: Any, *, is_http: bool) -> None:
        """Replace the reader and the writer in `streams`.

        `name` is for the log. `is_http` is true if the client may begin with a request head.
        """
        if not streams or not isinstance(streams.reader, asyncio.StreamReader):
            return
        refuse = partial(self._refuse_head, id, name, peer)
        reader = HeldReader(streams.reader, refuse, times=self._times)
        writer = OneSegmentWriter(streams.writer, times=self._times)
        if not is_http:
            reader.enter(Stage.OPAQUE)
        streams.reader, streams.writer = reader, writer
        self._wrapped[id] = reader, writer

    def remove(self, id: str, peer: object) -> None:
        """Close the streams of a connection that has ended."""
        self._refused.discard(peer)
        for stream in self._wrapped.pop(id, ()):
            # mitmproxy leaves them open if the client still sends while it is answered.
            stream.close()

    def enter(self, id: str, stage: Stage) -> None:
        """Record what a client sends from now on."""
        if id in self._wrapped:
            self._wrapped[id][0].enter(stage)

    def notice(self, flow: Any, stage: Stage) -> None:
        """Record that mitmproxy has called a hook for a request, and what follows."""
        if flow.client_conn.id in self._wrapped:
            reader = self._wrapped[flow.client_conn.id][0]
            reader.noticed = True
            if not flow.request.is_http2:
                reader.enter(stage)

    def set_encrypted(self, id: str, encrypted: bool) -> None:
        """Record whether a client uses TLS."""
        if id in self._wrapped:
            self._wrapped[id][0].encrypted = encrypted

    def begin(self, id: str, pending: Pending) -> None:
        """Record that a client has begun a request to one of our hosts."""
        if id in self._wrapped:
            self._wrapped[id][0].pending = pending

    def stream_reply(self, id: str) -> None:
        """Let mitmproxy stream a reply and end the connection, without our wrappers."""
        if wrapped := self._wrapped.get(id):
            wrapped[0].pending, wrapped[1].collecting = None, False

    def write_reply(self, id: str, on_result: Callable[[bool], None] | None) -> None:
        """Send the next write, a reply, in one segment.

        `on_result(arrived)` is called once it is known whether the reply has arrived.
        """
        if id in self._wrapped:
            writer = self._wrapped[id][1]
            writer.collecting = True
            if on_result:
                writer.watch_reply(on_result)
        elif on_result:
            on_result(True)

    def abort(self, id: str) -> None:
        """Abort a connection."""
        if id in self._wrapped:
            self._wrapped[id][1].transport.abort()

    def abort_pending(self) -> None:
        """Abort the connections whose requests have no reply yet."""
        for reader, writer in self._wrapped.values():
            if reader.pending and not reader.pending.answered.is_set():
                reader.pending = None
                writer.transport.abort()

    def has_refused_head(self, peer: object) -> bool:
        """Return whether the request head of this peer was refused."""
        return peer in self._refused

    def _refuse_head(self, id: str, name: str, peer: object, status: int, reason: str) -> None:
        reader, writer = self._wrapped[id]
        self._refused.add(peer)
        logger.warning(f"{name}: connection closed: {reason}")
        if not reader.encrypted:
            writer.write(HEAD_REFUSALS[status])
