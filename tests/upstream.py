"""A server on loopback that gives every request the same answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

SECRET = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret"


@contextmanager
def web_server(
    reply: bytes = SECRET, address: str = "127.0.0.1"
) -> Iterator[tuple[int, list[bytes]]]:
    """Yields the port, and the requests that it has received."""
    received: list[bytes] = []
    with socket.create_server((address, 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        received.append(connection.recv(65536))
                        connection.sendall(reply)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1], received
