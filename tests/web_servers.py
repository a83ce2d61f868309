"""A web server on loopback that follows a script, for the tests.

It says what its script tells it to, however wrong that is, and notes what it
hears, byte for byte. It is the other side of the wire and uses nothing of
nxparse. Use it in a with statement; what it has noted is complete when that ends.
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
TIMEOUT = 10.0  # seconds; only a test that fails waits that long
GRACE = 2.0  # seconds for a client to go, when a test is over


class Act(Enum):
    """What a WebServer can do besides talking."""

    HEAD = auto()
    """Read the head of a request, and no byte of its body."""
    SOME = auto()
    """Read the head and some of the body: half of it, at most a megabyte."""
    POST = auto()
    """Read a whole request."""
    CLOSE = auto()
    """Close the connection: with an RST if something has come that was not read."""
    RESET = auto()
    """Break the connection off (RST)."""
    SILENCE = auto()
    """Say nothing more and do not tell, but listen on until the client goes."""
    STALL = auto()
    """Neither say nor read anything more, until the client's window is full."""


Step = bytes | Act | Iterable[bytes]
"""Bytes to say, once or over and over again; or something to do."""

Script = bytes | Sequence[Step]
"""What to do with a connection; then it is closed. Bytes alone are said to a whole request."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Post:
    """A request as far as it came. `body` is empty where the server keeps none."""

    line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    size: int
    secure: bool

    def header(self, name: str) -> str:
        """The only header of this name."""
        (value,) = (value for other, value in self.headers if other.lower() == name.lower())
        return value


class WebServer:
    """A server that has a script for each connection, and the last one for all that follow.

    `posts` has a request for each connection that brought the head of one;
    `connections` counts them all. `keep`: the bodies, not only their sizes.
    With `tls` it talks TLS from the first byte.
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
        self.posts: list[Post] = []
        self.connections = 0
        self._scripts = list(scripts or (OK,))
        self._tls = tls
        self._keep = keep
        self._stopped = threading.Event()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self._connection: socket.socket | None = None
        self._last: object = None  # the address of the connection that says: no more will come
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
        if self._thread.is_alive() and self._connection:  # a client that does not go
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
            self._thread.join(TIMEOUT)
        self._listener.close()

    @property
    def post(self) -> Post:
        """The only request."""
        (found,) = self.posts
        return found

    def _run(self) -> None:
        while True:
            self._connection, client = self._listener.accept()
            try:
                if client == self._last:
                    return
                # Whatever a client does to the connection is its own affair.
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
            for step in (Act.POST, script) if isinstance(script, bytes) else script:
                if isinstance(step, Act):
                    self._act(connection, step)
                else:
                    for piece in (step,) if isinstance(step, bytes) else step:
                        connection.sendall(piece)
        finally:
            self._note(isinstance(connection, ssl.SSLSocket))

    def _note(self, secure: bool) -> None:
        if not self._head:
            return
        line, *lines = self._head.decode("latin-1").split("\r\n")
        headers = (line.partition(": ") for line in lines)
        found = tuple((name, value) for name, _, value in headers)
        self.posts.append(Post(line, found, bytes(self._body), self._size, secure))

    def _act(self, connection: socket.socket, act: Act) -> None:
        match act:
            case Act.HEAD:
                self._read_head(connection)
            case Act.SOME:
                length = self._read_head(connection)
                self._read_body(connection, min(length // 2, 1 << 20))
            case Act.POST:
                self._read_body(connection, self._read_head(connection))
            case Act.SILENCE:
                while connection.recv(1 << 16):
                    pass
            case Act.STALL:
                self._stopped.wait()
            case Act.RESET:
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                raise ConnectionAbortedError
            case Act.CLOSE:
                raise ConnectionAbortedError

    def _read_head(self, connection: socket.socket) -> int:
        """Read as far as the blank line, if that is not done; return the size of the body."""
        head = bytearray()
        # Byte by byte, so that what is not to be read is left to the system.
        while not self._head and not head.endswith(b"\r\n\r\n"):
            head += _received(connection, 1)
        self._head = self._head or bytes(head[:-4])
        lengths = (
            line for line in self._head.split(b"\r\n") if line.startswith(b"Content-Length: ")
        )
        return int(next(lengths, b": 0").partition(b": ")[2])

    def _read_body(self, connection: socket.socket, size: int) -> None:
        while self._size < size:
            data = _received(connection, min(size - self._size, 1 << 16))
            self._size += len(data)
            if self._keep:
                self._body += data


def _received(connection: socket.socket, size: int) -> bytes:
    data = connection.recv(size)
    if not data:
        raise ConnectionAbortedError
    return data
