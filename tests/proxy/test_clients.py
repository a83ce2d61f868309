"""The connections of clients."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from nxparse.proxy.clients import Clients
from nxparse.proxy.transport import HeldReader, OneSegmentWriter, Pending, Times

PEER = ("192.0.2.7", 4000)


class Transport:
    """Records that it was aborted or closed."""

    def __init__(self) -> None:
        self.aborted = self.closed = False

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.closed = True

    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool:
        return self.closed


def wrapped(clients: Clients, id: str = "a") -> tuple[Any, Transport]:
    """The wrapped streams of a new connection, and its transport."""
    transport = Transport()
    writer = SimpleNamespace(transport=transport, close=transport.close, write=transport.write)
    streams = SimpleNamespace(reader=asyncio.StreamReader(), writer=writer)
    clients.wrap(id, "192.0.2.7", PEER, streams, is_http=True)
    return streams, transport


async def test_wrapped() -> None:
    """Reader and writer of a TCP connection are replaced, and closed at its end."""
    clients = Clients(Times())
    streams, transport = wrapped(clients)
    assert isinstance(streams.reader, HeldReader)
    assert isinstance(streams.writer, OneSegmentWriter)
    clients.remove("a", PEER)
    assert transport.closed
    clients.abort("a")
    assert not transport.aborted


@pytest.mark.parametrize("answered", [False, True])
async def test_abort_pending(answered: bool) -> None:
    """At the end only connections whose request has no reply yet are aborted."""
    clients = Clients(Times())
    _, transport = wrapped(clients)
    _, idle = wrapped(clients, "b")
    pending = Pending()
    clients.begin("a", pending)
    if answered:
        pending.answered.set()
    clients.abort_pending()
    assert (transport.aborted, idle.aborted) == (not answered, False)


def test_other_connections() -> None:
    """UDP is not wrapped, and a reply through an unknown connection counts as arrived."""
    clients = Clients(Times())
    udp = SimpleNamespace(reader=object(), writer=object())
    clients.wrap("a", "192.0.2.7", PEER, udp, is_http=False)
    clients.wrap("b", "192.0.2.7", PEER, None, is_http=True)
    arrived: list[bool] = []
    for id in ("a", "b"):
        clients.write_reply(id, arrived.append)
        clients.remove(id, PEER)
    assert arrived == [True, True]
