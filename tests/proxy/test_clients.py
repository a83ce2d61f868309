"""The connections of clients."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from nxparse.proxy.clients import Clients
from nxparse.proxy.transport import HeldReader, OneSegmentWriter, Pending, Times


class Transport:
    """Records the data written to it, and whether it was aborted or closed."""

    def __init__(self) -> None:
        self.aborted = self.closed = False
        self.written = b""

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.closed = True

    def write(self, data: bytes) -> None:
        self.written += data


def connected(id: str = "a", *, tls: bool = False, mode: str = "regular") -> Any:
    """mitmproxy's object for a client."""
    proxy_mode = SimpleNamespace(type_name=mode)
    return SimpleNamespace(
        id=id, peername=("192.0.2.7", id), tls=tls, alpn=None, proxy_mode=proxy_mode
    )


def wrapped(clients: Clients, client: Any) -> tuple[Any, Transport]:
    """The wrapped streams of a new connection, and its transport."""
    transport = Transport()
    writer = SimpleNamespace(transport=transport, close=transport.close, write=transport.write)
    streams = SimpleNamespace(reader=asyncio.StreamReader(), writer=writer)
    clients.wrap(client, streams)
    return streams, transport


@pytest.mark.parametrize("mode", ["dns", "socks5"])
async def test_not_http(mode: str) -> None:
    """The limits of a request head do not apply to other protocols."""
    clients, client = Clients(Times(head=0.01)), connected(mode=mode)
    streams, transport = wrapped(clients, client)
    inner = streams.reader._reader
    inner.feed_data(b"\5\1\0")
    assert await streams.reader.read(9) == b"\5\1\0"
    asyncio.get_running_loop().call_later(0.1, inner.feed_data, b"\5")
    assert await streams.reader.read(9) == b"\5"
    assert transport.written == b""


async def test_wrapped() -> None:
    """Reader and writer of a TCP connection are replaced, and closed at its end."""
    clients, client = Clients(Times()), connected()
    streams, transport = wrapped(clients, client)
    assert isinstance(streams.reader, HeldReader)
    assert isinstance(streams.writer, OneSegmentWriter)
    clients.remove(client)
    assert transport.closed
    clients.abort(client)
    assert not transport.aborted


@pytest.mark.parametrize("answered", [False, True])
async def test_abort_pending(answered: bool) -> None:
    """At the end only connections whose request has no reply yet are aborted."""
    clients, client = Clients(Times()), connected()
    _, transport = wrapped(clients, client)
    _, idle = wrapped(clients, connected("b"))
    pending = Pending()
    clients.begin(client, pending)
    if answered:
        pending.answered.set()
    clients.abort_pending()
    assert (transport.aborted, idle.aborted) == (not answered, False)


async def test_after_a_reload() -> None:
    """No limit applies to the heads of older connections: no hook reports these to the addon."""
    clients = Clients(Times(head=0.01))
    streams, transport = wrapped(clients, connected())
    clients.abort_pending()
    streams.reader.feed_data(b"GET")
    assert await streams.reader.read(9) == b"GET"
    asyncio.get_running_loop().call_later(0.1, streams.reader.feed_data, b" /")
    assert await streams.reader.read(9) == b" /"
    assert transport.written == b""


@pytest.mark.parametrize("tls", [False, True])
async def test_refused_head(caplog: pytest.LogCaptureFixture, tls: bool) -> None:
    """A refused head is logged, and answered unless the client uses TLS."""
    clients, client = Clients(Times(head=0.01)), connected(tls=tls)
    streams, transport = wrapped(clients, client)
    streams.reader.feed_data(b"GET")
    await streams.reader.read(1 << 16)
    with pytest.raises(ConnectionAbortedError):
        await asyncio.wait_for(streams.reader.read(1 << 16), 30)
    await asyncio.sleep(0)  # the reply is written in the next turn
    line = "192.0.2.7: connection closed: its request head is not complete after 0 s"
    assert caplog.messages == [line]
    assert transport.written.startswith(b"" if tls else b"HTTP/1.1 408 Request Timeout\r\n")
    assert bool(transport.written) is not tls
    assert clients.has_refused_head(client.peername)
    clients.remove(client)
    assert not clients.has_refused_head(client.peername)


def test_other_connections() -> None:
    """UDP is not wrapped, and a reply through an unknown connection counts as arrived."""
    clients = Clients(Times())
    udp = SimpleNamespace(reader=object(), writer=object())
    arrived: list[bool] = []
    for client, streams in ((connected("a", mode="dns"), udp), (connected("b"), None)):
        clients.wrap(client, streams)
        clients.watch_reply(client, arrived.append)
        clients.remove(client)
    assert arrived == [True, True]
