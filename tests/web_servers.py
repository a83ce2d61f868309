"""A scripted web server on loopback.

It replies whatever its script contains, and records the requests byte for byte. It uses nothing of
nxparse. The records are complete when the with statement ends.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Self

HOST = "127.0.0.1"
TIMEOUT = 10.0  # seconds; reached only by tests that fail
GRACE = 2.0  # seconds for the client to disconnect at the end of a test


class Act(Enum):
    """What a WebServer can do besides sending."""

    READ = auto()
    """Read a whole request."""
    READ_HEAD = auto()
    """Read the head of a request, and no byte of its body."""
    READ_SOME = auto()
    """Read the head, and half of the body, at most a megabyte."""
    READ_ON = auto()
    """Read and discard until the client disconnects."""
    STALL = auto()
    """Neither send nor read until the test ends."""
    RESET = auto()
    """Reset the connection."""


Step = bytes | Act | Iterable[bytes]
"""Bytes to send, once or repeatedly; or an Act."""

Script = bytes | Sequence[Step]
"""The steps of a connection, which is closed afterwards. Bytes alone reply to a whole request."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def reply(status: str, *headers: str, body: bytes = b"") -> bytes:
    """A response, such as `reply("404 Not Found", "X: y")`."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


@dataclass(frozen=True, slots=True)
class Request:
    """A request as far as it was read. `body` is empty if the server does not store bodies."""

    line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    size: int

    def header(self, name: str) -> str:
        """The only header of this name."""
        (value,) = (value for other, value in self.headers if other.lower() == name.lower())
        return value


class WebServer:
    """A server with a script for each connection; the last one serves all further connections.

    `posts` are the requests, `connections` is the number of connections. Without `keep`, only the
    sizes of bodies are recorded. With `tls` it is an https server.
    """

    def __init__(
        self,
        *scripts: Script,
        tls: ssl.SSLContext | None = None,
        host: str = HOST,
        keep: bool = True,
    ) -> None:
        self.host = host
        self.secure = tls is not None
        self.posts: list[Request] = []
        self.connections = 0
        self._scripts = list(scripts or (OK,))
        self._tls = tls
        self._keep = keep
        self._stopped = threading.Event()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self._connection: socket.socket | None = None
        self._last: object = None  # the address of the connection that ends the server
        self._head = b""
        self._body = bytearray()
        self._size = 0
        self._thread = threading.Thread(target=self._run, name="scripted web server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(self._listener.family) as last:
            last.bind((self.host, 0))
            self._last = last.getsockname()
            self._stopped.set()
            last.connect((self.host, self.port))
        self._thread.join(GRACE)
        if self._thread.is_alive() and self._connection:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
            self._thread.join(TIMEOUT)
        self._listener.close()

    @property
    def post(self) -> Request:
        """The only request."""
        (found,) = self.posts
        return found

    def _run(self) -> None:
        while True:
            self._connection, client = self._listener.accept()
            try:
                if client == self._last:
                    return
                # The client may do to the connection what it likes.
                with contextlib.suppress(OSError):
                    self._serve(self._connection)
            finally:
                self._connection.close()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head, self._body, self._size = b"", bytearray(), 0
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        try:
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self._connection = connection
            for step in (Act.READ, script) if isinstance(script, bytes) else script:
                if isinstance(step, Act):
                    self._act(connection, step)
                else:
                    for piece in (step,) if isinstance(step, bytes) else step:
                        connection.sendall(piece)
        finally:
            if self._head:
                line, *lines = self._head.decode("latin-1").split("\r\n")
                fields = [field.partition(": ") for field in lines]
                headers = tuple((name, value) for name, _, value in fields)
                self.posts.append(Request(line, headers, bytes(self._body), self._size))

    def _act(self, connection: socket.socket, act: Act) -> None:
        match act:
            case Act.READ:
                self._read_body(connection, self._read_head(connection))
            case Act.READ_HEAD:
                self._read_head(connection)
            case Act.READ_SOME:
                self._read_body(connection, min(self._read_head(connection) // 2, 1 << 20))
            case Act.READ_ON:
                while connection.recv(1 << 16):
                    pass
            case Act.STALL:
                self._stopped.wait()
            case Act.RESET:
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                raise ConnectionAbortedError

    def _read_head(self, connection: socket.socket) -> int:
        """Read the head of the request unless that is done. Returns the size of the body."""
        head = bytearray()
        # Byte by byte, so that no byte of the body is read.
        while not self._head and not head.endswith(b"\r\n\r\n"):
            head += _receive(connection, 1)
        self._head = self._head or bytes(head[:-4])
        _, _, rest = self._head.partition(b"\r\nContent-Length: ")
        return int(rest.partition(b"\r\n")[0] or 0)

    def _read_body(self, connection: socket.socket, size: int) -> None:
        while self._size < size:
            data = _receive(connection, min(size - self._size, 1 << 16))
            self._size += len(data)
            if self._keep:
                self._body += data


def _receive(connection: socket.socket, size: int) -> bytes:
    data = connection.recv(size)
    if not data:
        raise ConnectionAbortedError
    return data
