"""How much memory uploads take: the peak of a whole mitmdump, by the size of what it receives.

The alternative, in the same run, is mitmproxy without the addon, whose way is to
keep the body of a request until it is complete: it forwards the upload to a
server that swallows it.
"""

from __future__ import annotations

import re
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import bodies, camera
from tests.proxy import Proxy, eventually

MIB = 1 << 20
LIMIT = 16 * MIB


@dataclass(frozen=True)
class Load:
    """Uploads, one after another, of these sizes in bytes."""

    name: str
    sizes: Sequence[int]


LOADS = (
    Load("1 MB", [1 * MIB]),
    Load("500 MB", [500 * MIB]),
    Load("40 x 20 MB", [20 * MIB] * 40),
)


def main() -> None:
    print("Peak RSS of mitmdump, in MiB\n")
    print(f"{'uploads':<12}{'nx_addon':>10}{'grown':>8}{'bare mitmproxy':>17}{'grown':>8}")
    base: tuple[float, float] | None = None
    for load in LOADS:
        ours, bare = peak_with_addon(load.sizes), peak_without(load.sizes)
        base = base or (ours, bare)
        print(
            f"{load.name:<12}{ours:>10.1f}{ours - base[0]:>8.1f}{bare:>17.1f}{bare - base[1]:>8.1f}"
        )
    print(f"\nThe goal is to grow by at most {LIMIT // MIB} MiB over 1 MB.")


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
    with tempfile.TemporaryDirectory() as folder, swallowing_server() as port:
        (Path(folder) / "nothing.py").write_text(script)
        with Proxy(Path(folder), script=Path(folder) / "nothing.py") as proxy:
            for number, size in enumerate(sizes):
                upload(proxy.port, size, number, host=f"localhost:{port}")
            return peak(proxy.process.pid)


def upload(port: int, size: int, number: int, host: str = "www.ospserver.net") -> None:
    """Send one photo of so many bytes without having it in memory."""
    mark = b"@PHOTO@"
    before, after = bodies.body([(f"SAM_{number}.JPG", mark)]).split(mark)
    head = bodies.request(b"", host=host)
    length = len(before) + size + len(after)
    connection = camera.connect(port)
    connection.sendall(head.replace(b"Content-Length: 0", b"Content-Length: %d" % length) + before)
    piece = bodies.jpeg(MIB, number)
    for _ in range(size // MIB):
        connection.sendall(piece)
    connection.sendall(after)
    heard = camera.hear(connection)
    assert heard.status == 200, heard


def peak(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert match
    return int(match[1]) / 1024


@contextmanager
def swallowing_server() -> Iterator[int]:
    """A server that reads a request to its end and answers 200."""

    def serve(listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(65536)
                head, _, rest = data.partition(b"\r\n\r\n")
                match = re.search(rb"Content-Length: (\d+)", head)
                left = int(match[1]) - len(rest) if match else 0
                while left > 0:
                    left -= len(connection.recv(1 << 20))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        yield listening.getsockname()[1]


if __name__ == "__main__":
    main()
