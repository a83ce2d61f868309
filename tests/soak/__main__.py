"""Many cameras for a long time, on bad days: is anything lost, mixed up, or does anything grow?

    python -m tests.soak [--minutes 10] [--seed N] [--cameras 64] [--pace SECONDS]

A real mitmdump with the addon, and cameras that send to it (`cameras`), among
faults of all kinds (`faults`). In the end all is well again, everything that
waits is delivered, and the ledger is balanced (`ledger`). Exit status 1 if
anything is wrong; the folder with all files and logs is then kept.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from statistics import median
from threading import Event

from nxparse.spool import Spool
from tests.soak.cameras import Camera
from tests.soak.faults import Life, World
from tests.soak.ledger import Ledger

DRAIN = 180.0  # seconds in which everything must be delivered when all is well
# A life of the proxy is judged if it has so many samples behind its first seconds.
WARM_UP = 10.0
SAMPLES = 60
MAX_GROWTH = 24 << 20  # bytes of memory, from the first third to the last
MAX_MORE = 8  # descriptors, likewise
MIB = 1 << 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--cameras", type=int, default=64)
    parser.add_argument("--pace", type=float, default=8.0, help="mean pause of a camera, in s")
    given = parser.parse_args()
    print(f"{given.cameras} cameras, {given.minutes:g} minutes, --seed {given.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    ledger = Ledger()
    with World(folder, given.seed, ledger) as world:
        problems = [*_run(world, ledger, given), *ledger.problems()]
        print(*ledger.summary(), sep="\n")
        print("faults      ", ", ".join(f"{n} x {one}" for one, n in sorted(world.counts.items())))
        for life in world.lives:
            print("process     ", _figures(life))
        if problems:
            shutil.copytree(world.uploads, folder / "uploads-kept")
    print(*(problems or ["nothing is lost, nothing is mixed up, nothing has grown"]), sep="\n")
    if not problems:
        shutil.rmtree(folder)
        return 0
    for number, log in enumerate(world.logs, 1):
        (folder / f"log-{number}").write_text(log)
    print(f"{len(problems)} problems; everything is kept in {folder}")
    return 1


def _run(world: World, ledger: Ledger, given: argparse.Namespace) -> Iterator[str]:
    """Let it happen, and clean up. Yields problems of the proxy."""
    over, watched = Event(), Event()
    idle = world.descriptors()
    restarts = max(8.0, min(75.0, given.minutes * 60 / 7))
    faults = [
        (world.restart, restarts, 0.2, 2.0),
        (world.mail_outage, 30.0, 2.0, 12.0),
        (world.failing_command, 15.0, 1.0, 4.0),
    ]
    if world.has_own_disk:
        faults.append((world.full_disk, 20.0, 1.0, 6.0))
    else:
        print("the disk is never full: to mount a small one needs root")
    with ThreadPoolExecutor(given.cameras + len(faults) + 1) as pool:
        pool.submit(world.watch, watched)
        jobs = [pool.submit(world.recur, *fault, over) for fault in faults]
        for index in range(given.cameras):
            camera = Camera(index, given.seed, lambda: world.port, ledger, given.pace)
            jobs.append(pool.submit(camera.run, over))
        try:
            wait(jobs, given.minutes * 60, FIRST_EXCEPTION)
            over.set()
            for job in jobs:
                job.result()
            world.faulty = False
            yield from _drain(world)
            yield from _rest(world, idle)
        finally:
            over.set()
            watched.set()
    if status := world.stop():
        yield f"the proxy ended with {status}"
    world.collect()
    for log in world.logs:
        if "Traceback" in log or "has crashed" in log:
            yield f"a traceback: {log[max(0, log.find('Traceback') - 500) :][:2500]}"
    for left in world.leftovers():
        yield f"left behind: {left}"
    for life in world.lives:
        memory, descriptors = _growth(life)
        if memory > MAX_GROWTH or descriptors > MAX_MORE:
            yield f"it grows: {_figures(life)}"


def _drain(world: World) -> Iterator[str]:
    """Let everything that waits be delivered, now that nothing is in the way."""
    deadline = time.monotonic() + DRAIN
    spool = Spool(world.uploads / ".nx", alone=False)
    try:
        while waiting := spool.waiting():
            if time.monotonic() > deadline:
                yield f"{len(waiting)} deliveries still wait, such as {waiting[0]}"
                return
            for delivery in waiting:
                if delivery.next_try > time.time():
                    spool.hurry(delivery.arrival.id)
            time.sleep(1)
    finally:
        spool.close()


def _rest(world: World, idle: list[str]) -> Iterator[str]:
    """When all cameras have gone, the proxy must have closed what was opened for them."""
    deadline = time.monotonic() + 30
    while (now := world.descriptors()) and len(now) > len(idle) and time.monotonic() < deadline:
        time.sleep(0.5)
    print(f"descriptors   {len(idle)} when it started, {len(now)} when all cameras had gone")
    if len(now) > len(idle):
        yield f"descriptors are left open: {now}, at first there were {idle}"


def _growth(life: Life) -> tuple[float, float]:
    """How much memory and how many descriptors more there were in the last third than in the first.

    Of memory this is the median, of descriptors the least: these come and go with connections.
    """
    thirds = _thirds(life)
    if not thirds:
        return 0.0, 0.0
    return thirds[1][0] - thirds[0][0], thirds[1][1] - thirds[0][1]


def _thirds(life: Life) -> list[tuple[float, int]]:
    warm = [one for one in life.samples if one[0] > life.samples[0][0] + WARM_UP]
    if len(warm) < SAMPLES:
        return []
    third = len(warm) // 3
    return [
        (median(memory for _, memory, _ in part), min(count for _, _, count in part))
        for part in (warm[:third], warm[-third:])
    ]


def _figures(life: Life) -> str:
    if not life.samples:
        return f"{life.end}, too short"
    seconds = life.samples[-1][0] - life.samples[0][0]
    text = f"{seconds:4.0f} s"
    if thirds := _thirds(life):
        (memory, count), (memory_then, count_then) = thirds
        text += (
            f", memory {memory / MIB:.1f} then {memory_then / MIB:.1f} MiB"
            f", descriptors {count} then {count_then}"
        )
    return f"{text}, {life.end}"


if __name__ == "__main__":
    sys.exit(main())
