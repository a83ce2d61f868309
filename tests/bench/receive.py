"""How fast uploads are received, and what that takes, beside three that promise less.

- *nx_addon*: mitmdump as README starts it. Its 200 means that the upload has
  been fsynced. The photos are saved after it.
- *naive addon*: mitmproxy keeps the body, the standard library takes it apart,
  the files are written, 200 (`tests.bench.naive_addon`).
- *Flask*: werkzeug's server, made to accept the end that cameras write; the
  files are written and copied, 200 (`tests.bench.flask_receiver`).
- *bound*: mitmproxy streams the body to nothing, 200 (`tests.bench.dropping_addon`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

from tests import camera
from tests.bench.process import Usage, resident
from tests.bench.table import Goal, Row, Table, in_turns
from tests.bench.upload import MB, request
from tests.mitmdump import ROOT, Proxy, eventually

PHOTO = 1_300_000  # bytes; what an NX300 may make of a photo before it sends it
LAST = 1000  # bytes of an upload that are held back
PAUSE = 0.05  # seconds, in which everything before them is taken
HERE = Path(__file__).parent
NOTE = """\
Medians; of RSS, the most that the whole process had, over what it has when it is idle. It and
the CPU time are told until the photos are saved. Only nx_addon fsyncs. The naive addon takes
16 times the size of an upload, so it is not asked to receive a large one."""

T = TypeVar("T")


@dataclass(frozen=True)
class Contender:
    """A receiver that runs: its port, its process, how much memory that has when it is idle, and
    the folder that photos are saved in, if they are.
    """

    port: int
    pid: int
    idle: float
    folder: Path | None


@dataclass(frozen=True)
class Taken:
    """What uploads took: seconds until all were answered, seconds until all were saved, CPU
    seconds and MiB of memory until then.
    """

    answered: float
    saved: float
    cpu: float
    grown: float


def main(short: bool = False) -> Iterator[Table]:
    cameras, medium, large, runs = (16, 5, 50, 3) if short else (64, 20, 500, 7)
    with contenders() as everybody:
        streaming = {name: one for name, one in everybody.items() if name != "naive addon"}
        last = measured(everybody, 10 * runs, last_byte)
        single = measured(everybody, runs, partial(taken, count=1, size=medium * MB))
        whole = measured(streaming, runs, partial(taken, count=1, size=large * MB))
        crowd = measured(everybody, runs, partial(taken, count=cameras, size=PHOTO))
    latency = told(last, lambda seconds: 1000 * seconds)
    together = told(crowd, lambda it: it.answered)
    speed = told(whole, lambda it: large / it.answered)
    grown = told(whole, lambda it: it.grown, max)
    small = Goal("grown by", grown["nx_addon"], "MiB", at_most=16, structural=True)
    rows = [
        Row("1.3 MB: last byte to reply, ms", latency, [beside("Flask", latency, at_most=1)]),
        Row(f"{medium} MB: MB/s", told(single, lambda it: medium / it.answered)),
        Row(f"{medium} MB: RSS, MiB", told(single, lambda it: it.grown, max)),
        Row(
            f"{large} MB: MB/s",
            speed,
            [beside("Flask", speed, at_least=1.3), beside("bound", speed, at_least=0.7)],
        ),
        Row(f"{large} MB: s until saved", told(whole, lambda it: it.saved)),
        Row(f"{large} MB: CPU, s/GB", told(whole, lambda it: 1000 * it.cpu / large)),
        Row(f"{large} MB: RSS, MiB", grown, [small]),
        Row(f"{cameras} x 1.3 MB: s", together, [beside("Flask", together, at_most=1)]),
        Row(f"{cameras} x 1.3 MB: RSS, MiB", told(crowd, lambda it: it.grown, max)),
    ]
    yield Table("Receiving uploads", "what", rows, NOTE)


def measured(
    among: Mapping[str, Contender], runs: int, measure: Callable[[Contender], T]
) -> dict[str, list[T]]:
    return in_turns(runs, {name: partial(measure, one) for name, one in among.items()})


def told(
    results: Mapping[str, Sequence[T]],
    figure: Callable[[T], float],
    among: Callable[[Sequence[float]], float] = median,
) -> dict[str, float]:
    """A figure for each contender, of those of all its runs."""
    return {name: among([figure(one) for one in runs]) for name, runs in results.items()}


def beside(name: str, figures: Mapping[str, float], **limit: float) -> Goal:
    return Goal(f"of {name}", figures["nx_addon"] / figures[name], **limit)


def last_byte(contender: Contender) -> float:
    """Send a photo at the pace of a camera. Returns the seconds from its last byte to the reply."""
    sent = b"".join(request(PHOTO))
    connection = camera.connect(contender.port)
    connection.sendall(sent[:-LAST])
    time.sleep(PAUSE)
    start = time.perf_counter()
    connection.sendall(sent[-LAST:])
    reply = connection.recv(1 << 16)
    seconds = time.perf_counter() - start
    assert b" 200 " in reply, reply
    connection.close()
    settle(contender, 1)
    return seconds


def taken(contender: Contender, count: int, size: int) -> Taken:
    """Send so many photos of so many bytes at once, as fast as they are taken."""

    def send(number: int) -> None:
        heard = camera.send(contender.port, *request(size, number))
        assert heard.status == 200, heard

    with ThreadPoolExecutor(count) as cameras:
        used = Usage(contender.pid)
        start = time.perf_counter()
        list(cameras.map(send, range(count)))
        answered = time.perf_counter() - start
        settle(contender, count)
        saved = time.perf_counter() - start
        cpu, peak = used.cpu(), used.peak()
    os.sync()  # nobody is to wait for what another one has left to write
    return Taken(answered, saved, cpu, peak - contender.idle)


def settle(contender: Contender, count: int) -> None:
    """Wait until so many photos are saved, and delete them."""
    if folder := contender.folder:
        eventually(lambda: len([*folder.rglob("SAM_*.JPG")]) == count, "all photos are saved")
        for path in folder.rglob("SAM_*.JPG"):
            path.unlink()


@contextmanager
def contenders() -> Iterator[dict[str, Contender]]:
    with ExitStack() as started:
        yield {
            "nx_addon": started.enter_context(mitmdump(ROOT / "nx_addon.py")),
            "naive addon": started.enter_context(mitmdump(HERE / "naive_addon.py")),
            "Flask": started.enter_context(flask()),
            "bound": started.enter_context(mitmdump(HERE / "dropping_addon.py", saves=False)),
        }


@contextmanager
def mitmdump(script: Path, *, saves: bool = True) -> Iterator[Contender]:
    with tempfile.TemporaryDirectory() as folder:
        proxy = Proxy(Path(folder), script=script)
        proxy.start()
        try:
            if script.name == "nx_addon.py":
                proxy.wait_for("port 53: ")
            yield warm(proxy.port, proxy.process.pid, Path(folder) if saves else None)
        finally:
            proxy.kill()


@contextmanager
def flask() -> Iterator[Contender]:
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.flask_receiver", folder],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # as mitmdump: Linux shares the CPUs among sessions
        )
        with process:
            assert process.stdout
            try:
                port = int(process.stdout.readline())
                yield warm(port, process.pid, Path(folder))
            finally:
                process.kill()


def warm(port: int, pid: int, folder: Path | None) -> Contender:
    """What the first upload makes it import is not counted."""
    last_byte(Contender(port, pid, 0.0, folder))
    return Contender(port, pid, resident(pid), folder)
