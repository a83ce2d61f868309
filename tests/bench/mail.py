"""The time and memory to mail an upload, in comparison with Flask-Mail.

Each one mails in a process of its own (`tests.bench.mailer`), to a server that discards
everything.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median

from nxparse.store.spool import Spool
from tests import arrivals, bodies
from tests.bench.table import Goal, Row, Table, in_turns
from tests.bench.upload import MB, body, photo
from tests.mitmdump import ROOT
from tests.upstream import server

SIZES = {"1.3 MB": 1_300_000, "20 MB": 20 * MB, "100 MB": 100 * MB}
LIMIT = 32  # MiB


def main(short: bool = False) -> Iterator[Table]:
    with server(discard) as port:
        yield Table(
            "Mailing an upload",
            "upload",
            [comparison(name, size, port, 3 if short else 5) for name, size in SIZES.items()],
            "Medians; RSS is the growth of the process.",
        )


def comparison(name: str, size: int, port: int, runs: int) -> Row:
    def medians(figure: str) -> tuple[float, float]:
        ours, usual = (
            median(one[figure] for one in found[it]) for it in ("nx_addon", "Flask-Mail")
        )
        return ours, usual

    found = in_turns(
        runs,
        {
            "nx_addon": partial(mailed, "nx_addon", accepted, size, port),
            "Flask-Mail": partial(mailed, "Flask-Mail", stored, size, port),
        },
    )
    seconds, cpu, grown = medians("seconds"), medians("cpu"), medians("grown")
    goals = [
        Goal("times as fast", seconds[1] / seconds[0], at_least=4),
        Goal("of the memory", grown[0] / grown[1], at_most=1 / 20),
        Goal("grown by", grown[0], "MiB", at_most=LIMIT, structural=True),
    ]
    return Row(
        name,
        {
            "nx_addon, ms": 1000 * seconds[0],
            "Flask-Mail, ms": 1000 * seconds[1],
            "CPU, ms": 1000 * cpu[0],
            "CPU, Flask-Mail": 1000 * cpu[1],
            "RSS, MiB": grown[0],
            "RSS, Flask-Mail": grown[1],
        },
        goals if size == max(SIZES.values()) else (),
    )


def mailed(
    name: str, prepare: Callable[[Path, int], Path], size: int, port: int
) -> dict[str, float]:
    """Mail an upload; return seconds, CPU seconds, and the growth of the process in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        path = prepare(Path(folder), size)
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.mailer", name, path, str(port)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
        )
    took: dict[str, float] = json.loads(done.stdout)
    return took


def accepted(folder: Path, size: int) -> Path:
    """A spool with an upload to be mailed."""
    with closing(Spool(folder)) as spool:
        arrivals.accept(spool, b"".join(body(size)), {"mail": [bodies.RECIPIENT]})
    return folder


def stored(folder: Path, size: int) -> Path:
    """The same photo as a file."""
    path = folder / "SAM_0.JPG"
    with path.open("wb") as file:
        file.writelines(photo(size))
    return path


def discard(connection: socket.socket) -> None:
    """Accept and discard all mail of a client, which waits for each reply."""
    connection.sendall(b"220 sink\r\n")
    while verb := connection.recv(4096)[:4].upper():
        if verb == b"DATA":
            connection.sendall(b"354 go ahead\r\n")
            end = b""
            while end != b"\r\n.\r\n":
                data = connection.recv(1 << 20)
                if not data:
                    return
                end = (end + data[-5:])[-5:]
        connection.sendall(b"221 bye\r\n" if verb == b"QUIT" else b"250 OK\r\n")
