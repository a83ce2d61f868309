"""The cost of a long queue: 10,000 uploads for a mail server that is down.

Everything is measured with an empty queue as well. The queues are in /dev/shm if it exists.
"""

from __future__ import annotations

import http.client
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median

from nxparse.deliver.errors import Outcome
from nxparse.deliver.outbox import Outbox
from nxparse.store.records import Delivery
from nxparse.store.spool import Spool
from nxparse.upload import File, Upload
from tests import arrivals, bodies, camera
from tests.bench.table import Goal, Row, Table, in_turns
from tests.mitmdump import ROOT, Proxy

MEMORY = Path("/dev/shm")
# If a delivery examined all others, it would cost many times as much.
NOT_CONSTANT = 3.0
PAGE = b"GET / HTTP/1.1\r\nHost: www.samsungimaging.com\r\n\r\n"
UPLOAD = bodies.request(bodies.body([("SAM_1.JPG", bodies.jpeg(1 << 16))]))
COMMAND_HOST = "outbox.invalid"
COMMAND_SCRIPT = f"""
import time
from mitmproxy import ctx, http

def request(flow):
    if flow.request.host == "{COMMAND_HOST}":
        start = time.perf_counter()
        ctx.master.commands.call("nx.outbox")
        flow.response = http.Response.make(200, str(time.perf_counter() - start))
"""


def main(short: bool) -> Iterator[Table]:
    count, runs, uploads = (1_000, 1, 10) if short else (10_000, 5, 40)
    with ExitStack() as opened:
        server = opened.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))  # not listening
        few, many = (
            Queue(Path(opened.enter_context(_folder())), size, server.getsockname()[1])
            for size in (0, count)
        )
        columns = "empty", f"{count:,} wait"

        def compared(times: int, *measure: Callable[[], float]) -> dict[str, float]:
            found = in_turns(times, dict(zip(columns, measure, strict=True)))
            return {column: median(figures) for column, figures in found.items()}

        start = compared(runs, few.start, many.start)
        with few.proxy() as idle, many.proxy() as busy:
            listing = compared(runs, few.listing, many.listing)
            command = compared(runs, lambda: _command(idle.port), lambda: _command(busy.port))
            page = compared(
                uploads, lambda: _reply(idle.port, PAGE), lambda: _reply(busy.port, PAGE)
            )
            reply = compared(
                uploads, lambda: _reply(idle.port, UPLOAD), lambda: _reply(busy.port, UPLOAD)
            )
        delivery = compared(1, few.delivery, many.delivery)
    slower, dearer = (one[columns[1]] / one[columns[0]] for one in (reply, delivery))
    yield Table(
        f"A queue of {count:,} uploads beside an empty one",
        "figure",
        [
            Row(
                "start until ready, s",
                start,
                [Goal("ready in", start[columns[1]], "s", at_most=5)],
            ),
            Row("python -m nxparse outbox, s of CPU time", listing),
            Row("nx.outbox, s", command),
            Row("the page, s", page),
            Row(
                "the reply to an upload, s",
                reply,
                [Goal("of that beside an empty queue", slower, at_most=1.5)],
            ),
            Row(
                "a delivery without a target, s of CPU time",
                delivery,
                [Goal("of an empty one", dearer, at_most=1.5, structural=dearer > NOT_CONSTANT)],
            ),
        ],
        f"Medians of {runs}; of {uploads} pages and uploads. All waiting uploads are delivered;"
        " the empty queue has those of the reply.",
    )


class Queue:
    """A folder with `size` uploads that wait to be mailed."""

    def __init__(self, folder: Path, size: int, port: int) -> None:
        self._folder = folder
        self._port = port
        self._state = folder / "uploads" / ".nx"
        with closing(Spool(self._state)) as spool:
            for number in range(size):
                body = bodies.body([(f"SAM_{number}.JPG", b"%d" % number)])
                arrivals.accept(spool, body, {"mail": [bodies.RECIPIENT]})

    def proxy(self) -> Proxy:
        (self._folder / "ask.py").write_text(COMMAND_SCRIPT)
        smtp = f"nx_smtp=smtp://127.0.0.1:{self._port}"
        return Proxy(self._folder, "--set", smtp, "--set", "nx_senders=*", "-s", "ask.py")

    def start(self) -> float:
        """Return the seconds from the start of mitmdump until nx_addon is ready."""
        begin = time.monotonic()
        with self.proxy():
            return time.monotonic() - begin

    def listing(self) -> float:
        """Return the CPU seconds to list the queue."""
        command = [sys.executable, "-m", "nxparse", "outbox", "--dir", self._folder / "uploads"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def delivery(self) -> float:
        """Return the CPU seconds for each delivery, without a real target."""
        count = 0

        def deliver(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
            nonlocal count
            count += 1
            return Outcome("gone")

        def abandon(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
            raise AssertionError("a delivery failed")

        with closing(Spool(self._state)) as spool:
            outbox = Outbox(spool, lambda target: deliver, abandon, retry_for=3600, clock=time.time)
            begin = time.process_time()
            outbox.deliver_due("mail")
            return (time.process_time() - begin) / count


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)


def _command(port: int) -> float:
    """Return the seconds that nx.outbox takes; mitmdump does nothing else meanwhile."""
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("GET", f"http://{COMMAND_HOST}/")
        return float(connection.getresponse().read())


def _reply(port: int, request: bytes) -> float:
    """Return the seconds from the start of a request to the end of its reply."""
    begin = time.perf_counter()
    reply = camera.send(port, request)
    assert reply.status == 200, reply
    return time.perf_counter() - begin
