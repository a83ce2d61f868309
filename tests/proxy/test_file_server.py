"""The loopback server that saved files are streamed from."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from nxparse.proxy.file_server import FileServer, Limits
from nxparse.server.files import FileReply, reply_with
from nxparse.store.saved import OpenFile, SavedFile, identity_of, open_unchanged

LARGE = 64 << 20  # bytes, more than the buffers of two sockets
SHORT = Limits(claim=0.2, head=0.2, stall=0.2)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def opened(folder: Path, size: int) -> OpenFile:
    """A new file of this size, mostly a hole."""
    path = folder / "CLIP.MP4"
    path.write_bytes(b"\0\0\0\x18ftypmp42")
    os.truncate(path, size)
    found = open_unchanged([SavedFile(path, identity_of(path.stat()))])
    assert found
    return found


def offered(file: OpenFile, method: str = "GET", **headers: str) -> FileReply:
    reply = reply_with(file, method, list(headers.items()), download=False)
    assert isinstance(reply, FileReply)
    return reply


def is_closed(file: OpenFile) -> bool:
    return file._fd == -1


async def request(server: FileServer, path: str) -> bytes:
    """Request a path and return everything that comes back."""
    reader, writer = await asyncio.open_connection(*await server.open())
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    try:
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def run(
    threads: ThreadPoolExecutor,
    work: Callable[[FileServer], Awaitable[None]],
    limits: Limits = Limits(),  # noqa: B008
) -> None:
    async def main() -> None:
        server = FileServer(threads, limits)
        try:
            await work(server)
        finally:
            server.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("method", "range_", "body"),
    [
        ("GET", "", slice(None)),
        ("GET", "bytes=4-9", slice(4, 10)),
        ("GET", "bytes=300000-", slice(300_000, None)),
        ("HEAD", "", slice(0, 0)),
    ],
)
def test_sends(
    tmp_path: Path, threads: ThreadPoolExecutor, method: str, range_: str, body: slice
) -> None:
    """The head and the requested bytes arrive; then the file is closed."""

    async def work(server: FileServer) -> None:
        file = opened(tmp_path, 700_000)
        content = (tmp_path / "CLIP.MP4").read_bytes()
        path = server.offer(offered(file, method, Range=range_), lambda: None)
        head, _, sent = (await request(server, path)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 206" if range_ else b"HTTP/1.1 200")
        assert sent == content[body]
        await eventually(lambda: is_closed(file))
        assert await request(server, path) == b"", "a token is good for one request"

    run(threads, work)


@pytest.mark.parametrize("path", ["/", "/x", "/../etc/passwd", "x"])
def test_no_token(tmp_path: Path, threads: ThreadPoolExecutor, path: str) -> None:
    """Without a token there is no response at all."""

    async def work(server: FileServer) -> None:
        file = opened(tmp_path, 1000)
        server.offer(offered(file), lambda: None)
        assert await request(server, path) == b""
        assert not is_closed(file)

    run(threads, work)


def test_no_request(threads: ThreadPoolExecutor) -> None:
    """A connection that requests nothing is closed soon."""

    async def work(server: FileServer) -> None:
        reader, writer = await asyncio.open_connection(*await server.open())
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()

    run(threads, work, SHORT)


def test_unclaimed(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    """A file that is never requested is closed."""

    async def work(server: FileServer) -> None:
        file = opened(tmp_path, 1000)
        path = server.offer(offered(file), lambda: None)
        await eventually(lambda: is_closed(file))
        assert await request(server, path) == b""

    run(threads, work, SHORT)


@pytest.mark.parametrize("ends", [True, False], ids=["disconnects", "stalls"])
def test_a_reader_that_vanishes(tmp_path: Path, threads: ThreadPoolExecutor, ends: bool) -> None:
    """The file is closed; a reader that only stops reading is disconnected."""

    async def work(server: FileServer) -> None:
        file, abandoned = opened(tmp_path, LARGE), asyncio.Event()
        path = server.offer(offered(file), abandoned.set)
        reader, writer = await asyncio.open_connection(*await server.open(), limit=1024)
        writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        assert await reader.read(10)
        if ends:
            writer.transport.abort()
        await eventually(lambda: is_closed(file))
        assert abandoned.is_set() is not ends
        # The only thread is free.
        assert await asyncio.get_running_loop().run_in_executor(threads, lambda: True)
        writer.transport.abort()

    run(threads, work, Limits() if ends else SHORT)


def test_a_file_that_shrinks(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    """The connection is aborted, so that the file does not seem complete."""

    async def work(server: FileServer) -> None:
        file = opened(tmp_path, 700_000)
        path = server.offer(offered(file), lambda: None)
        os.truncate(tmp_path / "CLIP.MP4", 10)
        _, _, sent = (await request(server, path)).partition(b"\r\n\r\n")
        assert len(sent) < 700_000
        await eventually(lambda: is_closed(file))

    run(threads, work)


def test_close(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    """At the end, offered files and those being sent are closed."""

    async def work(server: FileServer) -> None:
        files = [opened(tmp_path, LARGE), opened(tmp_path, LARGE)]
        paths = [server.offer(offered(file), lambda: None) for file in files]
        reader, writer = await asyncio.open_connection(*await server.open(), limit=1024)
        writer.write(f"GET {paths[0]} HTTP/1.1\r\n\r\n".encode())
        assert await reader.read(10)
        server.close()
        await eventually(lambda: all(is_closed(file) for file in files))
        assert server.address is None
        writer.transport.abort()

    run(threads, work)
