"""What 10,000 waiting deliveries cost: the start, the page, an upload, the command line.

They wait for a mail server that does not answer. Beside it, in turns, is the
same program with nothing waiting.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import pytest

from nxparse.spool import Spool
from tests import bodies, camera
from tests.bench.table import Goal, Row, Table, in_turns
from tests.faults import make_lazy
from tests.proxy import ROOT, Proxy

WAITING = 10_000
SHORT_WAITING = 1_000
MOST_SECONDS = 5.0
MAIL = ("--set", "nx_smtp=smtp://127.0.0.1:9", "--set", "nx_senders=*")  # nobody is there
PAGE = b"GET / HTTP/1.1\r\nHost: www.samsungimaging.com\r\n\r\n"


def main(short: bool) -> Iterator[Table]:
    waiting, runs = (SHORT_WAITING, 5) if short else (WAITING, 21)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folders = {"nothing waits": Path(name) / "empty", f"{waiting:,} wait": Path(name) / "full"}
        for folder in folders.values():
            folder.mkdir()
        fill(Path(name) / "full" / "uploads" / ".nx", waiting)
        proxies = {}
        starts = {}
        for title, folder in folders.items():
            begin = time.monotonic()
            proxies[title] = stack.enter_context(Proxy(folder, *MAIL))
            starts[title] = time.monotonic() - begin
        figures: dict[str, dict[str, float]] = {title: {} for title in folders}
        for column, action in (("page", page), ("an upload", upload), ("outbox", outbox)):
            contenders = {title: timed(action, proxy) for title, proxy in proxies.items()}
            for title, seconds in in_turns(runs, contenders).items():
                figures[title][f"{column}, ms"] = 1000 * median(seconds)
    yield Table(
        f"A long queue, medians of {runs}",
        "queue",
        [
            Row(
                title,
                {"ready after, s": starts[title], **figures[title]},
                [Goal("ready after", starts[title], "s", at_most=MOST_SECONDS)],
            )
            for title in folders
        ],
        "`outbox` is the command `python -m nxparse outbox`, which lists all that waits.",
    )


def fill(root: Path, waiting: int) -> None:
    """Let so many deliveries wait there, without waiting for the disk."""
    body = bodies.body([("SAM_1.JPG", bodies.jpeg(1000))])
    with pytest.MonkeyPatch.context() as patch:
        make_lazy(patch)
        spool = Spool(root)
        for _ in range(waiting):
            incoming = spool.begin()
            incoming.write(body)
            sender, to = bodies.SENDER, {"mail": [bodies.RECIPIENT]}
            spool.accept(incoming, "192.0.2.7", sender, bodies.CONTENT_TYPE, to)
        spool.close()


def timed(action: Callable[[Proxy], object], proxy: Proxy) -> Callable[[], float]:
    def once() -> float:
        begin = time.monotonic()
        action(proxy)
        return time.monotonic() - begin

    return once


def page(proxy: Proxy) -> None:
    assert camera.send(proxy.port, PAGE).status == 200


def upload(proxy: Proxy) -> None:
    photo = bodies.jpeg(20_000, time.monotonic_ns())
    request = bodies.request(bodies.body([("SAM_2.JPG", photo)]))
    assert camera.send(proxy.port, request).status == 200


def outbox(proxy: Proxy) -> None:
    command = [sys.executable, "-m", "nxparse", "outbox", "--dir", str(proxy.uploads)]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
