"""The CPU time that nx_addon adds to the start of mitmdump, and the memory that it adds.

Each start is a process of its own, with the certificates, compiled modules and state of an
earlier one. The goal is for CPU time, which depends less on other load.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from statistics import median

from tests.bench.process import resident
from tests.bench.table import Goal, Row, Table, in_turns
from tests.mitmdump import ADDON, MITMDUMP

MOST_TIME = 5.0  # percent
MOST_MEMORY = 6.0  # MiB
# A program is idle after SETTLED seconds at less than this share of a CPU.
BUSY = 0.02
SETTLED = 0.5
LISTENS = re.compile(r"proxy listening at")


@dataclass(frozen=True)
class Start:
    """The figures of one start."""

    listening: float  # seconds until it listens
    cpu: float  # seconds of CPU time until then
    idle_cpu: float  # seconds of CPU time until it is idle
    rss: float  # MiB when it is idle


def main(short: bool) -> Iterator[Table]:
    runs = 1 if short else 15
    with tempfile.TemporaryDirectory() as folder:
        contenders: dict[str, Callable[[], Start]] = {
            "bare mitmdump": partial(start, Path(folder)),
            "with nx_addon": partial(start, Path(folder), "-s", str(ADDON)),
        }
        in_turns(1, contenders)
        starts = in_turns(runs, contenders)
    typical = {
        name: Start(*(median(values) for values in zip(*map(astuple, found), strict=True)))
        for name, found in starts.items()
    }
    bare, ours = typical.values()
    goals = [
        Goal("slower by", 100 * (ours.cpu / bare.cpu - 1), "%", at_most=MOST_TIME),
        Goal("larger by", ours.rss - bare.rss, "MiB", at_most=MOST_MEMORY),
    ]
    yield Table(
        f"Start and idle memory, medians of {runs}",
        "program",
        [
            Row(
                name,
                {
                    "listens after, s": one.listening,
                    "CPU time till then, s": one.cpu,
                    "till idle, s": one.idle_cpu,
                    "idle RSS, MiB": one.rss,
                },
                goals if one is ours else (),
            )
            for name, one in typical.items()
        ],
    )


def start(folder: Path, *arguments: str) -> Start:
    """Start mitmdump, wait until it is idle, and stop it."""
    mode = ("--mode", "regular@127.0.0.1:0", "--set", f"confdir={folder / 'mitmproxy'}")
    environ = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "PYTHONPYCACHEPREFIX": str(folder / "compiled"),
    }
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    begin = time.monotonic()
    process = subprocess.Popen(
        [MITMDUMP, *mode, *arguments],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line)
            if LISTENS.search(line):
                break
        else:
            raise AssertionError(f"mitmdump does not start:\n{''.join(lines)}")
        listening, cpu = time.monotonic() - begin, cpu_time(process.pid)
        return Start(listening, cpu, idle(process.pid), resident(process.pid))
    finally:
        process.kill()
        process.communicate()


def idle(pid: int) -> float:
    """Wait until a process is idle. Returns the CPU time that it has used, in seconds."""
    before, now = -SETTLED, cpu_time(pid)
    while now - before > BUSY * SETTLED:
        time.sleep(SETTLED)
        before, now = now, cpu_time(pid)
    return now


def cpu_time(pid: int) -> float:
    """Return the CPU time of the current threads of a process, in seconds."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(one.read_text().split()[0]) for one in threads) / 1e9
