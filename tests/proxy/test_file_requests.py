"""Requests for saved files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.test import tflow

from nxparse.proxy.clients import Clients
from nxparse.proxy.file_requests import FileRequests
from nxparse.proxy.loopback import LoopbackServer
from nxparse.proxy.transport import Times
from nxparse.server.endpoints import NOT_FOUND, Endpoint, Service
from nxparse.server.files import reply_with
from nxparse.store.saved import LocalCopy, OpenFile, identity_of, open_unchanged

LARGE = 64 << 20  # bytes, more than the buffers of two sockets
URL = "http://192.0.2.1/file/x.1"
OPEN = Endpoint(Service.OPEN, "x.1")


class Backend:
    """A backend with one thread and one file, `file`."""

    def __init__(self, folder: Path, size: int) -> None:
        self.config = None
        self.services = self
        self.threads = ThreadPoolExecutor(1)
        self.path = folder / "CLIP.MP4"
        self.path.write_bytes(b"\0\0\0\x18ftypmp42")
        os.truncate(self.path, size)
        self.opened: OpenFile | None = None

    def file(
        self, config: object, client: str, endpoint: Endpoint, method: str, headers: Any
    ) -> Any:
        self.opened = open_unchanged([LocalCopy(self.path, identity_of(self.path.stat()))])
        return (
            reply_with(self.opened, method, headers, download=False) if self.opened else NOT_FOUND
        )

    async def in_thread(self, work: Callable[..., Any], *values: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.threads, work, *values)

    async def closes(self) -> bool:
        """Wait until the file is closed, and the thread is free."""
        async with asyncio.timeout(30):
            while self.opened and self.opened._fd != -1:
                await asyncio.sleep(0.01)
        return await self.in_thread(lambda: True) is True


class Requests:
    """The requests of a client, and the server."""

    def __init__(self) -> None:
        self.server = LoopbackServer()
        self.server.open()
        self.files = FileRequests(self.server, Clients(Times()))
        self.flow: Any = tflow.tflow(resp=True)
        self.flow.request.url = URL

    async def begin(self, backend: Any) -> Any:
        return await self.files.begin(self.flow, backend, OPEN)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Request the file as mitmproxy does."""
        request = self.flow.request
        reader, writer = await asyncio.open_connection(request.host, request.port, limit=1024)
        writer.write(f"GET {request.path} HTTP/1.1\r\n\r\n".encode())
        return reader, writer


@pytest.fixture
async def requests() -> AsyncIterator[Requests]:
    found = Requests()
    yield found
    found.files.close()
    found.server.close()


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
    tmp_path: Path, requests: Requests, method: str, range_: str, body: slice
) -> None:
    """The head and the requested bytes are streamed; the flow shows its own destination."""
    backend, flow = Backend(tmp_path, 700_000), requests.flow
    flow.request.method, flow.request.headers["Range"] = method, range_
    assert await requests.begin(backend) is None
    assert flow.request.url != URL
    reader, writer = await requests.connect()
    head, _, sent = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 206" if range_ else b"HTTP/1.1 200")
    assert sent == backend.path.read_bytes()[body]
    assert await backend.closes()
    requests.files.start(flow)
    assert (flow.request.url, flow.response.stream) == (URL, True)
    requests.files.end(flow)


async def test_no_file(tmp_path: Path, requests: Requests) -> None:
    """A refused request is not redirected."""
    backend = Backend(tmp_path, 1000)
    backend.file = lambda *_: NOT_FOUND  # type: ignore[method-assign]
    assert await requests.begin(backend) is NOT_FOUND
    assert requests.flow.request.url == URL


@pytest.mark.parametrize("end", ["flow", "all"])
async def test_a_file_that_is_never_requested(tmp_path: Path, requests: Requests, end: str) -> None:
    """It is closed when its flow ends, or mitmproxy does."""
    backend = Backend(tmp_path, 1000)
    await requests.begin(backend)
    if end == "flow":
        requests.files.end(requests.flow)
        assert requests.flow.request.url == URL
    else:
        requests.files.close()
    assert await backend.closes()


@pytest.mark.parametrize("end", ["disconnects", "mitmproxy-ends"])
async def test_a_reader_that_vanishes(tmp_path: Path, requests: Requests, end: str) -> None:
    """The file is closed, and the thread is free."""
    backend = Backend(tmp_path, LARGE)
    await requests.begin(backend)
    reader, writer = await requests.connect()
    assert await reader.read(10)
    if end == "disconnects":
        writer.transport.abort()
    elif end == "mitmproxy-ends":
        requests.server.close()
    assert await backend.closes()
    writer.transport.abort()


async def test_a_file_that_shrinks(tmp_path: Path, requests: Requests) -> None:
    """The connection is aborted, so that the file does not seem complete."""
    backend = Backend(tmp_path, 700_000)
    await requests.begin(backend)
    os.truncate(backend.path, 10)
    reader, writer = await requests.connect()
    with suppress(ConnectionError):
        assert len(await reader.read()) < 700_000
    writer.close()
    assert await backend.closes()
