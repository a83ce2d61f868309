"""Saved files, sent to a browser."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.test import tflow

from nxparse.proxy import file_requests
from nxparse.proxy.file_requests import send_file
from nxparse.proxy.loopback import LoopbackServer
from nxparse.server.files import FileReply, open_unchanged, reply_with
from nxparse.store.records import LocalCopy, identity_of

LARGE = 64 << 20  # bytes, more than the buffers of two sockets


class Clients:
    """The connections of clients, with the number of bytes `delivered` to them."""

    def __init__(self) -> None:
        self.aborted = False
        self.delivered: int | None = None

    def abort(self, client: Any) -> None:
        self.aborted = True

    def written(self, client: Any) -> int | None:
        return self.delivered


class Backend:
    """A backend with one thread."""

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(1)

    async def in_thread(self, work: Callable[..., Any], *values: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.threads, work, *values)


@pytest.fixture
async def server() -> AsyncIterator[LoopbackServer]:
    found = LoopbackServer()
    found.open()
    yield found
    found.close()


def clip(folder: Path, size: int) -> Path:
    """A video of this size."""
    path = folder / "CLIP.MP4"
    path.write_bytes(b"\0\0\0\x18ftypmp42")
    os.truncate(path, size)
    return path


@asynccontextmanager
async def requested(
    server: LoopbackServer,
    path: Path,
    method: str = "GET",
    range_: str = "",
    clients: Any = Clients(),  # noqa: B008
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that has requested the file. Waits until file and thread are released."""
    backend: Any = Backend()
    file = open_unchanged([LocalCopy(path, identity_of(path.stat()))])
    assert file
    reply = reply_with(file, method, (("Range", range_),), download=False)
    assert isinstance(reply, FileReply)
    flow = tflow.tflow()
    if clients.delivered is not None:
        flow.client_conn.alpn = b"h2"
    server.redirect(flow, partial(send_file, reply, backend, clients, flow.client_conn))
    reader, writer = await asyncio.open_connection(flow.request.host, flow.request.port, limit=1024)
    writer.write(f"GET {flow.request.path} HTTP/1.1\r\n\r\n".encode())
    yield reader, writer
    async with asyncio.timeout(30):
        while file._fd != -1:
            await asyncio.sleep(0.01)
        assert await backend.in_thread(lambda: True)
    writer.transport.abort()


@pytest.mark.parametrize(
    ("method", "range_", "body"),
    [
        ("GET", "", slice(None)),
        ("GET", "bytes=4-9", slice(4, 10)),
        ("GET", "bytes=300000-", slice(300_000, None)),
        ("HEAD", "", slice(0, 0)),
    ],
)
async def test_a_file(
    tmp_path: Path, server: LoopbackServer, method: str, range_: str, body: slice
) -> None:
    """The head and the requested bytes are streamed."""
    path = clip(tmp_path, 700_000)
    async with requested(server, path, method, range_) as (reader, _):
        head, _, sent = (await reader.read()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 206" if range_ else b"HTTP/1.1 200")
    assert sent == path.read_bytes()[body]


@pytest.mark.parametrize("end", ["disconnects", "stalls", "mitmproxy-ends"])
async def test_a_reader_that_vanishes(
    tmp_path: Path, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """File and thread are released, and a browser that stops reading is disconnected."""
    clients = Clients()
    if end == "stalls":
        monkeypatch.setattr(file_requests, "STALL", 0.2)
    path = clip(tmp_path, LARGE)
    async with requested(server, path, clients=clients) as (reader, writer):
        assert await reader.read(10)
        if end == "disconnects":
            writer.transport.abort()
        elif end == "mitmproxy-ends":
            server.close()
    assert clients.aborted == (end == "stalls")


@pytest.mark.parametrize("end", ["reads on", "disconnects", "stalls"])
async def test_a_backlog(
    tmp_path: Path, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """A file is not read further while mitmproxy buffers many bytes for a slow client."""
    if end == "stalls":
        monkeypatch.setattr(file_requests, "STALL", 0.2)
    clients = Clients()
    clients.delivered = 5  # by an earlier request
    path = clip(tmp_path, LARGE)
    received = 0
    async with requested(server, path, clients=clients) as (reader, writer):
        while received < file_requests.MAX_BACKLOG:
            received += len(await reader.read(1 << 20))
        if end == "reads on":
            clients.delivered += LARGE
        if end == "disconnects":
            writer.transport.abort()
        else:
            while chunk := await reader.read(1 << 20):
                received += len(chunk)
    assert (received > LARGE) == (end == "reads on")
    assert not clients.aborted, "it may have other requests"


async def test_a_file_that_shrinks(tmp_path: Path, server: LoopbackServer) -> None:
    """If a file shrinks, the connection is aborted, so that it does not seem complete."""
    path = clip(tmp_path, 700_000)
    async with requested(server, path) as (reader, _):
        os.truncate(path, 10)
        with suppress(ConnectionError):
            assert len(await reader.read()) < 700_000
