"""Servers on loopback, with a function for each connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

SECRET = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecret"


@contextmanager
def server(serve: Callable[[socket.socket], None], address: str = "127.0.0.1") -> Iterator[int]:
    """Call `serve` in a thread for each connection to a port, which is yielded."""
    with socket.create_server((address, 0)) as listening:

        def one(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                serve(connection)

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    threading.Thread(target=one, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


@contextmanager
def web_server(
    reply: bytes = SECRET, address: str = "127.0.0.1"
) -> Iterator[tuple[int, list[bytes]]]:
    """Give every request the same reply. Yields the port, and the requests received."""
    received: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        received.append(connection.recv(65536))
        connection.sendall(reply)

    with server(answer, address) as port:
        yield port, received
