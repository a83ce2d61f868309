"""The server on a loopback port that mitmproxy sends redirected requests to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from mitmproxy.http import Request
from mitmproxy.test import tflow

from nxparse.proxy.loopback import Handler, LoopbackServer

URL = "http://www.ospserver.net/social/columbus/email"


@pytest.fixture
async def server() -> AsyncIterator[LoopbackServer]:
    found = LoopbackServer(head_within=0.2)
    found.open()
    yield found
    found.close()


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")
    await writer.drain()
    writer.close()
    await writer.wait_closed()


def redirected(server: LoopbackServer, handler: Handler = hello) -> tuple[Any, str]:
    """A flow that was redirected, and the path that mitmproxy requests."""
    flow: Any = tflow.tflow(req=Request.make("POST", URL))
    server.redirect(flow, handler)
    return flow, flow.request.path


async def request(server: LoopbackServer, data: bytes) -> bytes:
    """Send these bytes. Returns the response."""
    assert server.address
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 30)
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("target", ["{}", "http://www.ospserver.net{}"])
async def test_a_request(server: LoopbackServer, target: str) -> None:
    """The handler answers a redirected request once; then the destination can be restored."""
    flow, path = redirected(server)
    assert flow.request.url == f"http://127.0.0.1:{server.address and server.address[1]}{path}"
    head = f"POST {target.format(path)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    assert await request(server, head) == b"hello"
    assert await request(server, head) == b"", "a path is valid for one request"
    assert server.restore(flow)
    assert flow.request.url == URL
    server.withdraw(flow)
    assert not server.restore(flow)


HEADS = [b"GET / HTTP/1.1\r\n\r\n", b"GET x HTTP/1.1\r\n\r\n", b"\r\n\r\n", b"x" * 100_000, b""]


@pytest.mark.parametrize("head", HEADS, ids=["root", "no-path", "empty", "long", "nothing"])
async def test_other_programs(server: LoopbackServer, head: bytes) -> None:
    """Without a valid path there is no response, and the connection ends."""
    flow, path = redirected(server)
    assert await request(server, head) == b""
    server.withdraw(flow)
    assert await request(server, f"GET {path} HTTP/1.1\r\n\r\n".encode()) == b""


@pytest.mark.parametrize("end", ["requested", "withdrawn", "closed"])
async def test_unused(server: LoopbackServer, end: str) -> None:
    """A redirection that ends without being used is reported once."""
    unused: list[bool] = []
    flow: Any = tflow.tflow()
    server.redirect(flow, hello, lambda: unused.append(True))
    if end == "requested":
        await request(server, f"GET {flow.request.path} HTTP/1.1\r\n\r\n".encode())
    elif end == "closed":
        server.close()
    server.withdraw(flow)
    assert unused == ([] if end == "requested" else [True])


async def test_close(server: LoopbackServer) -> None:
    """A closed server aborts its connections and stops listening; closing again does nothing."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    address = server.address
    assert address
    assert address[0] == "127.0.0.1"
    head = f"GET {redirected(server, endless)[1]} HTTP/1.1\r\n\r\n".encode()
    waiting = asyncio.ensure_future(request(server, head))
    await asyncio.wait_for(begun.wait(), 30)
    server.close()
    server.close()
    await asyncio.wait_for(ended.wait(), 30)
    assert (await waiting, server.address) == (b"", None)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)
