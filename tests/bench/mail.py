"""Time and memory to mail an upload, in comparison with Flask-Mail.

Each one mails in a process of its own (`tests.bench.mailer`), to a server that discards
everything.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median

from nxparse.framing import boundary_of
from nxparse.scanner import Scanner
from nxparse.store.spool import Spool
from nxparse.upload import from_parts
from tests import bodies, camera
from tests.bench.process import peak
from tests.bench.table import Goal, Row, Table, in_turns
from tests.bench.upload import MB, body, photo, request
from tests.mitmdump import ROOT, Proxy

SIZES = {"1.3 MB": 1_300_000, "20 MB": 20 * MB, "100 MB": 100 * MB}
LIMIT = 32  # MiB


def main(short: bool = False) -> Iterator[Table]:
    with mail_sink() as port:
        yield Table(
            "Mailing an upload",
            "upload",
            [beside_flask(name, size, port, 3 if short else 5) for name, size in SIZES.items()],
            "Medians; RSS is the growth of the process.",
        )
        yield Table(
            "Peak RSS of mitmdump while it receives and mails an upload",
            "upload",
            list(of_mitmdump(port)),
        )


def beside_flask(name: str, size: int, port: int, runs: int) -> Row:
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
        incoming = spool.begin()
        scanner = Scanner(boundary_of(bodies.CONTENT_TYPE))
        for piece in body(size):
            incoming.write(piece)
            scanner.feed(piece)
        found = from_parts(scanner.close(incoming.fetch), scanner.deviations, incoming.fetch)
        deliveries = {"mail": [bodies.RECIPIENT]}
        spool.accept(incoming, "192.0.2.7", found, deliveries)
    return folder


def stored(folder: Path, size: int) -> Path:
    """The same photo as a file."""
    path = folder / "SAM_0.JPG"
    with path.open("wb") as file:
        file.writelines(photo(size))
    return path


def of_mitmdump(port: int) -> Iterator[Row]:
    least = 0.0
    options = ("--set", f"nx_smtp=smtp://127.0.0.1:{port}", "--set", "nx_senders=*")
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory() as folder, Proxy(Path(folder), *options) as proxy:
            assert camera.send(proxy.port, *request(size)).status == 200
            proxy.wait_for("mailed to")
            found = peak(proxy.process.pid)
        least = least or found
        goal = Goal("grown by", found - least, "MiB", at_most=LIMIT, structural=True)
        yield Row(name, {"nx_addon, MiB": found}, [goal])


@contextmanager
def mail_sink() -> Iterator[int]:
    """A mail server that accepts and discards everything. Yields its port."""

    def serve() -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                connection, _ = listening.accept()
                with connection:
                    discard(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]


def discard(connection: socket.socket) -> None:
    """Serve one client, which waits for each reply."""
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
