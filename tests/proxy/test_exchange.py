"""Exchanges, from the head of a request to the acknowledgement of its reply."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nxparse.proxy import exchange
from nxparse.proxy.exchange import Exchange
from nxparse.server.backend import Backend, open_backend
from nxparse.server.endpoints import Endpoint, Service
from nxparse.server.receive import BodyInfo, EmailReceiver
from nxparse.server.reply import ACCEPTED
from tests import bodies
from tests.box import configured


@pytest.fixture
async def backend(folder: Path) -> AsyncIterator[Backend]:
    backend = open_backend(configured(folder))
    assert backend
    yield backend
    backend.hand_over()
    await backend.end(lambda act: None, timeout=60.0)


async def sent(backend: Backend, data: bytes) -> Exchange:
    """A request by e-mail whose body has been received."""
    info = BodyInfo("192.0.2.7", bodies.CONTENT_TYPE, len(data))
    endpoint = Endpoint(Service.EMAIL)
    one = Exchange(backend, "client", info, endpoint)
    await one.begin()
    for start in range(0, len(data), 100):
        assert one.receive(data[start : start + 100]) == []
    one.receive(b"")
    return one


async def answered(one: Exchange) -> Exchange:
    await asyncio.wait_for(one.finish(), 30)
    return one


async def test_a_client_that_leaves_early(
    backend: Backend, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a request is left whose client leaves while it is begun."""
    reopens, left = threading.Event(), threading.Event()

    def reopen() -> None:
        reopens.set()
        assert left.wait(30)

    monkeypatch.setattr(backend, "is_in_place", lambda: False)
    monkeypatch.setattr(backend, "reopen", reopen)
    info = BodyInfo("192.0.2.7", bodies.CONTENT_TYPE, 100)
    one = Exchange(backend, "client", info, Endpoint(Service.EMAIL))
    begun = asyncio.ensure_future(one.begin())
    await asyncio.to_thread(reopens.wait, 30)
    await one.cut("it left")
    left.set()
    await begun
    assert list((folder / ".nx" / "spool").iterdir()) == []


async def test_tiny_chunks(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunks of one turn of the event loop reach the receiver together."""
    fed: list[int] = []
    feed = EmailReceiver.feed

    def recorded(self: EmailReceiver, chunk: bytes) -> None:
        fed.append(len(chunk))
        feed(self, chunk)

    monkeypatch.setattr(EmailReceiver, "feed", recorded)
    data = bodies.body([("SAM_1.JPG", bodies.jpeg(5000))])
    one = await answered(await sent(backend, data))
    assert one.reply is ACCEPTED
    assert fed == [len(data)]
    assert one.outcome()[0] == "received"
    assert [delivery.target for delivery in backend.spool.waiting()] == ["save"]


@pytest.mark.parametrize("arrived", [True, False, None], ids=["arrived", "lost", "not known"])
async def test_a_repeat_while_the_reply_is_on_its_way(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, arrived: bool | None
) -> None:
    """A repeat waits for the result of the first reply. If that is lost, it is a duplicate."""
    data = bodies.body([("SAM_1.JPG", b"x")])
    if arrived is None:
        monkeypatch.setattr(exchange, "REPLY_WATCH", 0.1)
    first = await answered(await sent(backend, data))
    second = await sent(backend, data)
    waiting = asyncio.ensure_future(answered(second))
    if arrived is not None:
        await asyncio.sleep(0.05)
        assert not waiting.done()
        first.settle_reply(arrived)
    await asyncio.wait_for(waiting, 30)
    assert second.reply is ACCEPTED
    assert second.result
    assert second.result.is_duplicate is not bool(arrived)
    assert len(backend.spool.waiting()) == (2 if arrived else 1)


@pytest.mark.parametrize("complete", [True, False], ids=["before the reply", "in the body"])
async def test_end_of_mitmproxy(backend: Backend, complete: bool) -> None:
    """If mitmproxy ends after the body but before the reply, a repeat is a duplicate."""
    data = bodies.body([("SAM_1.JPG", b"x")])
    one = await sent(backend, data)
    if complete:
        await answered(one)
    else:
        one.pending.complete = False
    one.end_now("mitmproxy ends")
    one.settle_reply(True)  # too late

    again = await answered(await sent(backend, data))
    assert again.result
    assert again.result.is_duplicate is complete


async def test_a_slow_disk_delays_nothing_else(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six endless fsyncs block neither name resolution nor new uploads."""
    uploads = [
        await sent(backend, bodies.body([(f"SAM_{number}.JPG", b"x")])) for number in range(7)
    ]
    begun, end, fsync = threading.Semaphore(0), threading.Event(), os.fsync

    def stuck(fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode):  # the folder may be synced for another upload
            begun.release()
            assert end.wait(60)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", stuck)
    try:
        slow = [asyncio.ensure_future(answered(one)) for one in uploads[:6]]
        for _ in slow:
            await asyncio.wait_for(asyncio.to_thread(begun.acquire), 30)
        monkeypatch.setattr(os, "fsync", fsync)
        assert await asyncio.wait_for(asyncio.get_running_loop().getaddrinfo("localhost", 80), 30)
        assert (await answered(uploads[6])).reply is ACCEPTED
        assert not any(one.done() for one in slow)
    finally:
        end.set()
    assert {one.reply for one in await asyncio.gather(*slow)} == {ACCEPTED}
