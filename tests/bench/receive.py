"""The speed of receiving uploads, compared with Flask and with mitmproxy alone.

- *nx_addon*: mitmdump as in README. The upload is fsynced and committed before the reply,
  and its photos are saved after it.
- *Flask*: werkzeug's server, patched to accept the bodies of cameras. The photos are
  written before the reply, without fsync (`tests.bench.flask_receiver`).
- *Flask, fsync*: the same with fsync of each photo and of the folder.
- *bound*: mitmproxy discards the body (`tests.bench.dropping_addon`).
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

PHOTO = 1_300_000  # bytes; a photo as an NX300 may reduce it before sending
CAMERAS = 64  # that send at a time
HERE = Path(__file__).parent
NOTE = """\
Medians of all runs. CPU time is the process's, until the photos are saved. RSS is the peak of
the process over its idle size. Only nx_addon and the column "Flask, fsync" survive a power cut."""

T = TypeVar("T")


@dataclass(frozen=True)
class Contender:
    """A running receiver. `idle` is its memory in MiB when it is idle."""

    port: int
    pid: int
    idle: float
    folder: Path | None


@dataclass(frozen=True)
class Cost:
    """The cost of uploads until all are answered and saved, in seconds, CPU seconds and MiB."""

    answered: float
    saved: float
    cpu: float
    grown: float


def main(short: bool = False) -> Iterator[Table]:
    uploads, large, runs = (64, 50, 3) if short else (256, 500, 7)
    with contenders() as running:
        single = measured(running, 10 * runs, first_byte)
        whole = measured(running, runs, partial(cost, count=1, size=large * MB))
        crowd = measured(running, runs, partial(cost, count=uploads, size=PHOTO))
    latency = combined(single, lambda seconds: 1000 * seconds)
    speed = combined(whole, lambda it: large / it.answered)
    cpu = combined(whole, lambda it: 1000 * it.cpu / large)
    together = combined(crowd, lambda it: it.answered)
    grown = combined(whole, lambda it: it.grown, max)
    small = Goal("grown by", grown["nx_addon"], "MiB", at_most=16, structural=True)
    yield Table(
        "Receiving uploads",
        "figure",
        [
            Row(
                f"{large} MB: MB/s",
                speed,
                [ratio("Flask", speed, at_least=1.3), ratio("bound", speed, at_least=0.65)],
            ),
            Row(f"{large} MB: s until saved", combined(whole, lambda it: it.saved)),
            Row(f"{large} MB: CPU, s/GB", cpu, [ratio("Flask", cpu, at_most=1)]),
            Row(f"{large} MB: RSS, MiB", grown, [small]),
            Row(
                f"{uploads} x 1.3 MB, {CAMERAS} at a time: s",
                together,
                [ratio("Flask", together, at_most=1), ratio("bound", together, at_most=1.6)],
            ),
            Row(
                f"{uploads} x 1.3 MB, {CAMERAS} at a time: RSS, MiB",
                combined(crowd, lambda it: it.grown, max),
            ),
            Row("1.3 MB: first byte to reply, ms", latency, [ratio("Flask", latency, at_most=0.6)]),
        ],
        NOTE,
    )


def measured(
    among: Mapping[str, Contender], runs: int, measure: Callable[[Contender], T]
) -> dict[str, list[T]]:
    return in_turns(runs, {name: partial(measure, one) for name, one in among.items()})


def combined(
    results: Mapping[str, Sequence[T]],
    figure: Callable[[T], float],
    among: Callable[[Sequence[float]], float] = median,
) -> dict[str, float]:
    """Combine a figure of all runs of each contender."""
    return {name: among([figure(one) for one in runs]) for name, runs in results.items()}


def ratio(name: str, figures: Mapping[str, float], **limit: float) -> Goal:
    return Goal(f"of {name}", figures["nx_addon"] / figures[name], **limit)


def first_byte(contender: Contender) -> float:
    """Send one photo. Returns the seconds from its first byte to the reply."""
    sent = request(PHOTO)
    start = time.perf_counter()
    reply = camera.send(contender.port, *sent)
    seconds = time.perf_counter() - start
    assert reply.status == 200, reply
    settle(contender, 1)
    return seconds


def cost(contender: Contender, count: int, size: int) -> Cost:
    """Send `count` photos of `size` bytes, at most `CAMERAS` at a time."""

    def send(number: int) -> None:
        reply = camera.send(contender.port, *request(size, number))
        assert reply.status == 200, reply

    with ThreadPoolExecutor(min(count, CAMERAS)) as cameras:
        used = Usage(contender.pid)
        start = time.perf_counter()
        list(cameras.map(send, range(count)))
        answered = time.perf_counter() - start
        settle(contender, count)
        saved = time.perf_counter() - start
        cpu, peak = used.cpu(), used.peak()
    os.sync()  # the next contender must not wait for the writes of this one
    return Cost(answered, saved, cpu, peak - contender.idle)


def settle(contender: Contender, count: int) -> None:
    """Wait until `count` photos are saved, and delete them."""
    if folder := contender.folder:
        eventually(lambda: len([*folder.rglob("SAM_*.JPG")]) == count, "all photos are saved")
        for path in folder.rglob("SAM_*.JPG"):
            path.unlink()


@contextmanager
def contenders() -> Iterator[dict[str, Contender]]:
    with ExitStack() as started:
        yield {
            "nx_addon": started.enter_context(mitmdump(ROOT / "nx_addon.py")),
            "Flask": started.enter_context(flask()),
            "Flask, fsync": started.enter_context(flask("--fsync")),
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
def flask(*arguments: str) -> Iterator[Contender]:
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.flask_receiver", folder, *arguments],
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
    """Send an upload first, so that imports are not measured."""
    first_byte(Contender(port, pid, 0.0, folder))
    return Contender(port, pid, resident(pid), folder)
