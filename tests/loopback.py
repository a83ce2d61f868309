"""A scripted server on loopback: connections, and the faults that it can cause."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from enum import Enum, auto
from typing import Self

HOST = "127.0.0.1"
TIMEOUT = 10.0  # seconds; only a failing test waits that long
GRACE = 2.0  # seconds for a client to disconnect at the end of a test


class Act(Enum):
    """Actions of a server other than sending."""

    CLOSE = auto()
    """Close the connection."""
    RESET = auto()
    """Abort the connection (RST)."""
    SHUT = auto()
    """Close the sending half of the connection, but continue to read."""
    READ_ON = auto()
    """Send nothing more, and discard what arrives until the client disconnects."""
    STALL = auto()
    """Neither send nor read until the test ends, so that the client's window fills up."""

    # Mail servers only.
    TLS = auto()
    """Wait for the client to start TLS."""

    # Web servers only.
    READ = auto()
    """Read a whole request."""
    READ_HEAD = auto()
    """Read the head of a request, and no byte of its body."""
    READ_SOME = auto()
    """Read the head, and half of the body, at most a megabyte."""


class LoopbackServer:
    """Calls `serve` for one connection after the other. Use it in a with statement.

    Its records are complete when that ends. A ConnectionError ends a connection.
    """

    def __init__(self, host: str = HOST, tls: ssl.SSLContext | None = None) -> None:
        self.host = host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self._tls = tls
        self._connection: socket.socket | None = None
        self._last: object = None  # the address of the connection that ends the server
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scripted server", daemon=True)

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
        if self._thread.is_alive() and self._connection:  # the client stays connected
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
            self._thread.join(TIMEOUT)
        self._listener.close()

    def serve(self) -> None:
        raise NotImplementedError

    @property
    def socket(self) -> socket.socket:
        """The current connection."""
        assert self._connection is not None
        return self._connection

    def receive(self, size: int = 1 << 16) -> bytes:
        """Receive at least a byte."""
        if hasattr(socket, "TCP_QUICKACK"):  # else the client waits 40 ms
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        if data := self.socket.recv(size):
            return data
        raise ConnectionAbortedError

    def start_tls(self) -> None:
        assert self._tls is not None
        self._connection = self._tls.wrap_socket(self.socket, server_side=True)

    def act(self, act: Act) -> None:
        match act:
            case Act.SHUT:
                self.socket.shutdown(socket.SHUT_WR)
                return
            case Act.READ_ON:
                while True:
                    self.receive()
            case Act.STALL:
                self._stopped.wait()
            case Act.RESET:
                linger = struct.pack("ii", 1, 0)
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        raise ConnectionAbortedError

    def _run(self) -> None:
        while True:
            self._connection, client = self._listener.accept()
            if client == self._last:
                self._connection.close()
                return
            with contextlib.suppress(OSError):
                self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.serve()
            self._connection.close()
