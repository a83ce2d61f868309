"""A scripted web server on loopback.

It follows its script, and records the requests byte for byte. It does not use nxparse. The
records are complete when the with statement ends.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.loopback import HOST, Act, LoopbackServer

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


class WebServer(LoopbackServer):
    """A server with a script for each connection; the last one serves all further connections.

    `posts` are the requests, `connections` is the number of connections. Without `store_bodies`,
    only the sizes of bodies are recorded. With `tls` it is an https server.
    """

    def __init__(
        self,
        *scripts: Script,
        tls: ssl.SSLContext | None = None,
        host: str = HOST,
        store_bodies: bool = True,
    ) -> None:
        super().__init__(host, tls)
        self.secure = tls is not None
        self.posts: list[Request] = []
        self.connections = 0
        self._scripts = list(scripts or (OK,))
        self._store_bodies = store_bodies
        self._head = b""
        self._body = bytearray()
        self._size = 0

    @property
    def post(self) -> Request:
        """The only request."""
        (found,) = self.posts
        return found

    def serve(self) -> None:
        self._head, self._body, self._size = b"", bytearray(), 0
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        try:
            if self.secure:
                self.start_tls()
            for step in (Act.READ, script) if isinstance(script, bytes) else script:
                if isinstance(step, Act):
                    self._read_or_act(step)
                else:
                    for piece in (step,) if isinstance(step, bytes) else step:
                        self.socket.sendall(piece)
        finally:
            if self._head:
                line, *lines = self._head.decode("latin-1").split("\r\n")
                fields = [field.partition(": ") for field in lines]
                headers = tuple((name, value) for name, _, value in fields)
                self.posts.append(Request(line, headers, bytes(self._body), self._size))

    def _read_or_act(self, act: Act) -> None:
        match act:
            case Act.READ:
                self._read_body(self._read_head())
            case Act.READ_HEAD:
                self._read_head()
            case Act.READ_SOME:
                self._read_body(min(self._read_head() // 2, 1 << 20))
            case _:
                self.act(act)

    def _read_head(self) -> int:
        """Read the head of the request unless that is done. Returns the size of the body."""
        head = bytearray()
        # Byte by byte, so that no byte of the body is read.
        while not self._head and not head.endswith(b"\r\n\r\n"):
            head += self.receive(1)
        self._head = self._head or bytes(head[:-4])
        _, _, rest = self._head.partition(b"\r\nContent-Length: ")
        return int(rest.partition(b"\r\n")[0] or 0)

    def _read_body(self, size: int) -> None:
        while self._size < size:
            data = self.receive(min(size - self._size, 1 << 16))
            self._size += len(data)
            if self._store_bodies:
                self._body += data
