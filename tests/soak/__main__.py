"""Soak test: many cameras and many faults at the same time, for minutes or hours.

    python -m tests.soak [--minutes 10] [--seed N] [--cameras 64] [--pace SECONDS]

A real mitmdump with the addon receives uploads from `cameras` while `faults` happen. At the end
the faults stop, all deliveries are made, and the `ledger` reports photos that are lost or mixed up.
Memory and descriptors must not grow. Exit status 1 if anything is wrong; the folder with all files
and logs is then kept. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from random import randrange
from statistics import median
from threading import Event

from nxparse.store.spool import Spool
from tests.soak.cameras import Camera
from tests.soak.faults import World
from tests.soak.ledger import Ledger

MAX_PRINTED = 20  # problems
DRAIN = 180.0  # seconds in which everything must be delivered after the last fault
QUIET = 30.0  # seconds in which connections must be closed after the last camera
# If there are enough samples of a process after its warm-up, the median of its memory must not grow
# by more than this from the first third to the last. The least number of descriptors is printed
# only: it depends on the number of connections, which is higher on a slow machine.
WARM_UP = 10.0
ENOUGH = 60
MORE_MEMORY = 24 << 20
# Python 3.11 prints a traceback when it cancels one of mitmproxy's connections at its end.
CANCELLED = re.compile(r"Exception in callback StreamReaderProtocol.*?CancelledError\n", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=randrange(1 << 32))
    parser.add_argument("--cameras", type=int, default=64)
    parser.add_argument("--pace", type=float, default=6.0, help="mean pause of a camera, seconds")
    given = parser.parse_args()
    print(f"--minutes {given.minutes:g} --seed {given.seed} --cameras {given.cameras}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    ledger = Ledger()
    with World(folder, given.seed, ledger) as world:
        problems = [*_run(world, ledger, given), *_checked(world), *ledger.problems()]
        if problems and world.has_own_disk:
            shutil.copytree(world.uploads, folder / "uploads.kept")
    print(*ledger.summary(), sep="\n")
    print(f"faults      {', '.join(f'{n} x {name}' for name, n in sorted(world.counts.items()))}")
    lost = sum(problem.startswith("LOST") for problem in problems)
    print(*problems[:MAX_PRINTED], f"LOST {lost}, other problems {len(problems) - lost}", sep="\n")
    if problems:
        for number, log in enumerate(world.logs, 1):
            (folder / f"log.{number}").write_text(log)
        print(f"all files are in {folder}")
    else:
        shutil.rmtree(folder)
    return bool(problems)


def _run(world: World, ledger: Ledger, given: argparse.Namespace) -> Iterator[str]:
    """Run cameras and faults, then let everything be delivered. Yields the problems."""
    over, unwatched = Event(), Event()
    before = world.proxy.descriptors()
    faults = [
        (world.restart, given.minutes * 10, 0.2, 2.0),
        (world.mail_outage, 30.0, 2.0, 12.0),
        (world.failing_command, 15.0, 1.0, 4.0),
        (world.full_disk, 20.0, 1.0, 6.0),
    ]
    if not world.has_own_disk:
        print("without root no small disk can be mounted, so the disk is never full")
        faults.pop()
    cameras = [
        Camera(index, given.seed, lambda: world.port, ledger, given.pace)
        for index in range(given.cameras)
    ]
    with ThreadPoolExecutor(len(cameras) + len(faults) + 1) as pool:
        try:
            pool.submit(world.watch, unwatched)
            jobs = [pool.submit(world.recur, *fault, over) for fault in faults]
            jobs += [pool.submit(camera.run, over) for camera in cameras]
            wait(jobs, given.minutes * 60, FIRST_EXCEPTION)
            over.set()
            for job in jobs:
                job.result()
            world.faulty = False
            yield from _drain(world)
            deadline = time.monotonic() + QUIET
            while len(after := world.proxy.descriptors()) > len(before):
                if time.monotonic() > deadline:
                    yield f"descriptors are left open: {after}, at the start {before}"
                    break
                time.sleep(0.5)
            print(f"descriptors {len(before)} at the start, {len(after)} after the last camera")
        finally:
            over.set()
            unwatched.set()
    world.end(world.proxy.stop)
    world.collect()


def _drain(world: World) -> Iterator[str]:
    """Wait until everything is delivered."""
    deadline = time.monotonic() + DRAIN
    spool = Spool(world.uploads / ".nx", alone=False)
    while waiting := spool.waiting():
        if time.monotonic() > deadline:
            yield f"{len(waiting)} deliveries are pending, the first is {waiting[0]}"
            break
        for delivery in waiting:
            if delivery.next_try > time.time():
                spool.retry_now(delivery.arrival.id)
        time.sleep(1)
    spool.close()


def _checked(world: World) -> Iterator[str]:
    """Print the figures of each process, and yield the problems in them."""
    for log in world.logs:
        _, traceback, rest = CANCELLED.sub("", log).partition("Traceback")
        if traceback:
            yield f"a traceback in a log: {rest[:3000]}"
    for path in world.left_behind():
        yield f"left behind: {path}"
    for end, samples in world.lives:
        figures = f"process     {end}"
        warm = [one for one in samples if one[0] > samples[0][0] + WARM_UP]
        if len(warm) >= ENOUGH:
            thirds = warm[: len(warm) // 3], warm[-len(warm) // 3 :]
            early, late = (median(memory for _, memory, _ in third) for third in thirds)
            few, more = (min(count for _, _, count in third) for third in thirds)
            figures += f", {samples[-1][0] - samples[0][0]:.0f} s, memory {early / 1e6:.1f} then "
            figures += f"{late / 1e6:.1f} MB, descriptors {few} then {more}"
            if late - early > MORE_MEMORY:
                yield f"memory grows: {figures}"
        print(figures)
        if end not in ("stop: 0", "kill: -9"):
            yield f"the proxy ended with {end}"


if __name__ == "__main__":
    sys.exit(main())
