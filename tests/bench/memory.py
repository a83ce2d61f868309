"""Memory use of uploads: the peak of mitmdump, by the size of the upload.

Compared with mitmproxy without the addon, which holds the body of a request in memory
until it is complete. It forwards the upload to a server that discards it.
"""

from __future__ import annotations

import re
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests import camera
from tests.bench.process import peak
from tests.bench.table import Goal, Row, Table
from tests.bench.upload import request
from tests.mitmdump import Proxy, eventually
from tests.upstream import server

MIB = 1 << 20
LIMIT = 16


# The sizes of uploads in bytes, one after another.
LOADS = {"1 MB": [MIB], "500 MB": [500 * MIB], "40 x 20 MB": [20 * MIB] * 40}
SHORT_LOADS = {"1 MB": [MIB], "100 MB": [100 * MIB], "5 x 20 MB": [20 * MIB] * 5}


def main(short: bool = False) -> Iterator[Table]:
    rows: list[Row] = []
    least: tuple[float, float] | None = None
    for name, sizes in (SHORT_LOADS if short else LOADS).items():
        ours, bare = peak_with_addon(sizes), peak_without(sizes)
        least = least or (ours, bare)
        grown = ours - least[0]
        figures = {
            "nx_addon, MiB": ours,
            "grown": grown,
            "bare mitmproxy, MiB": bare,
            "grown, bare": bare - least[1],
        }
        goal = Goal("grown by", grown, "MiB", at_most=LIMIT, structural=True)
        rows.append(Row(name, figures, [goal]))
    yield Table("Peak RSS of mitmdump while it receives uploads", "uploads", rows)


def peak_with_addon(sizes: Sequence[int]) -> float:
    with tempfile.TemporaryDirectory() as folder, Proxy(Path(folder)) as proxy:
        for number, size in enumerate(sizes):
            upload(proxy.port, size, number)

        def all_saved() -> bool:
            return sum(1 for _ in proxy.uploads.glob("[0-9]*/SAM_*.JPG")) == len(sizes)

        eventually(all_saved, "everything is saved")
        return peak(proxy.process.pid)


def peak_without(sizes: Sequence[int]) -> float:
    script = "from mitmproxy import ctx\ndef running(): print('port 53: none')\n"
    with tempfile.TemporaryDirectory() as folder, server(swallow) as port:
        (Path(folder) / "nothing.py").write_text(script)
        with Proxy(Path(folder), script=Path(folder) / "nothing.py") as proxy:
            for number, size in enumerate(sizes):
                upload(proxy.port, size, number, host=f"localhost:{port}")
            return peak(proxy.process.pid)


def upload(port: int, size: int, number: int, host: str = "www.ospserver.net") -> None:
    """Send a photo of `size` bytes without holding it in memory."""
    connection = camera.connect(port)
    for piece in request(size, number, host):
        connection.sendall(piece)
    reply = camera.read_reply(connection)
    assert reply.status == 200, reply


def swallow(connection: socket.socket) -> None:
    """Read a request to its end and answer 200."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, rest = data.partition(b"\r\n\r\n")
    match = re.search(rb"Content-Length: (\d+)", head)
    left = int(match[1]) - len(rest) if match else 0
    while left > 0:
        left -= len(connection.recv(1 << 20))
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
