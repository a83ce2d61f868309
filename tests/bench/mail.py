"""How much memory it takes to mail an upload, by its size.

The alternative, in the same run, is what most programs do: make an EmailMessage,
attach the photo, and hand it to smtplib, in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_server

from tests.bench.memory import MIB, peak, upload
from tests.proxy import Proxy

LIMIT = 32
SIZES = (1, 20, 100)

USUAL = """
import resource, smtplib, sys
from email.message import EmailMessage
port, size = int(sys.argv[1]), int(sys.argv[2])
message = EmailMessage()
message["From"], message["To"] = "camera@example.org", "somebody@example.org"
message.set_content("Sent from Samsung Camera.")
photo = bytes(range(256)) * (size // 256)
message.add_attachment(photo, maintype="image", subtype="jpeg", filename="SAM_0.JPG")
with smtplib.SMTP("127.0.0.1", port) as server:
    server.send_message(message)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def main() -> None:
    print("Peak RSS while an upload is mailed, in MiB\n")
    print(f"{'upload':<10}{'nx_addon':>10}{'grown':>8}{'smtplib alone':>16}{'grown':>8}")
    base: tuple[float, float] | None = None
    for size in SIZES:
        ours, usual = peak_of_proxy(size * MIB), peak_of_smtplib(size * MIB)
        base = base or (ours, usual)
        grown = ours - base[0], usual - base[1]
        print(f"{size:>4} MB   {ours:>10.1f}{grown[0]:>8.1f}{usual:>16.1f}{grown[1]:>8.1f}")
    print(f"\nThe goal is to grow by at most {LIMIT} MiB over 1 MB.")


def peak_of_proxy(size: int) -> float:
    with tempfile.TemporaryDirectory() as folder, mail_sink() as port:
        options = ("--set", f"nx_smtp=smtp://127.0.0.1:{port}", "--set", "nx_senders=*")
        with Proxy(Path(folder), *options) as proxy:
            upload(proxy.port, size, 0)
            proxy.wait_for("mailed to")
            return peak(proxy.process.pid)


def peak_of_smtplib(size: int) -> float:
    with mail_sink() as port:
        command = [sys.executable, "-c", USUAL, str(port), str(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(done.stdout)


@contextmanager
def mail_sink() -> Iterator[int]:
    """A mail server that takes everything and keeps nothing."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                connection.sendall(b"220 sink\r\n")
                while line := lines.readline():
                    verb = line.split()[0].upper() if line.split() else b""
                    if verb == b"DATA":
                        connection.sendall(b"354 go ahead\r\n")
                        while lines.readline() != b".\r\n":
                            pass
                    connection.sendall(b"221 bye\r\n" if verb == b"QUIT" else b"250 OK\r\n")

    with create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
