"""The camera's side of the network: raw sockets, without nxparse."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

TIMEOUT = 30.0  # seconds; only a test that fails waits that long
# struct tcp_info, linux/tcp.h: u32 tcpi_data_segs_in
_DATA_SEGS_IN = 152

A, AAAA, HTTPS = 1, 28, 65
ACCEPTED = '<Response Status="succ" />'


@dataclass(frozen=True)
class Reply:
    """A reply, and the number of its TCP segments."""

    head: str
    body: str
    segments: int

    @property
    def status(self) -> int:
        return int(self.head.split()[1])

    @property
    def headers(self) -> dict[str, str]:
        """The headers, with their names as spelled."""
        lines = self.head.split("\r\n")[1:]
        return dict(line.split(": ", 1) for line in lines)


def connect(port: int, host: str = "127.0.0.1", source: str = "") -> socket.socket:
    connection = socket.create_connection((host, port), TIMEOUT, (source, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read_reply(connection: socket.socket) -> Reply:
    """Read a reply up to the end of the connection, and close it."""
    with connection:
        received = b""
        while data := connection.recv(1 << 16):
            received += data
        head, _, body = received.partition(b"\r\n\r\n")
        return Reply(head.decode(), body.decode(), segments_in(connection))


def segments_in(connection: socket.socket) -> int:
    """The number of TCP segments with data that have arrived."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    (count,) = struct.unpack_from("I", info, _DATA_SEGS_IN)
    return int(count)


def send(port: int, *pieces: bytes, host: str = "127.0.0.1", half_close: bool = False) -> Reply:
    """Send a request in these pieces, half-close the connection if asked to, and read the reply."""
    connection = connect(port, host)
    for piece in pieces:
        connection.sendall(piece)
    if half_close:
        connection.shutdown(socket.SHUT_WR)
    return read_reply(connection)


def is_served(port: int) -> bool:
    """Return whether a hotspot check is answered. mitmproxy listens before nx_addon is ready."""
    try:
        return send(port, b"GET / HTTP/1.0\r\nHost: gld.samsungosp.com\r\n\r\n").status == 200
    except (OSError, IndexError):  # refused, or closed without a reply
        return False


def reset(connection: socket.socket) -> None:
    """Close a connection with an RST instead of a FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def segmented(request: bytes, size: int) -> Iterable[bytes]:
    return (request[start : start + size] for start in range(0, len(request), size))


def resolve(
    name: str, server: tuple[str, int], kind: int = A, timeout: float = TIMEOUT
) -> tuple[int, list[str]]:
    """Query a DNS server. Returns the response code and the addresses in the answer."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, kind, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout)
        client.sendto(query, server)
        answer = client.recv(4096)
    _, flags, _, records, _, _ = struct.unpack_from(">6H", answer)
    position = len(query)
    found = []
    for _ in range(records):
        while answer[position] and answer[position] < 0xC0:
            position += answer[position] + 1
        position += 2 if answer[position] else 1
        type_, _, _, length = struct.unpack_from(">HHIH", answer, position)
        position += 10
        if type_ == A:
            found.append(socket.inet_ntoa(answer[position : position + length]))
        position += length
    return flags & 15, found
