"""Clients with many, slow, large or broken connections."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import re
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import h2.connection
import h2.events
import pytest

from tests import bodies, camera
from tests.bench.process import peak
from tests.mitmdump import TIMEOUT, Proxy, addon_script, eventually, free_port
from tests.namespace import call_in, namespace, needs_namespace
from tests.upstream import server

FRAME = 1 << 17  # bytes in a WebSocket frame
MEMORY = 8.0  # MiB that a client may cost
START = b"GET / HTTP/1.1\r\nHost: gld.samsungosp.com\r\n"


def upload(name: str, size: int = 20_000) -> tuple[bytes, dict[str, bytes]]:
    photo = bodies.jpeg(size)
    return bodies.request(bodies.body([(name, photo)])), {name: photo}


def with_times(folder: Path, times: str) -> Path:
    """A script: the addon with these time limits."""
    return addon_script(folder, f"addons = nx_addon.make_addons(nx_addon.Times({times}))")


def with_descriptors(folder: Path, soft: int, hard: int, *statements: str) -> Path:
    """A script: the addon in a process with these limits of descriptors."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))"
    return addon_script(folder, limit, *statements)


# Servers that are not ours


def read_head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(1 << 16)
        if not data:
            raise ConnectionError
        head += data
    return head


def receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := connection.recv(1 << 16)):
        data += more
    return data


def count_bodies(connection: socket.socket) -> None:
    """Answer each request with the length of its body."""
    while True:
        head, _, body = read_head(connection).partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        body += receive(connection, int(length[1]) - len(body)) if length else b""
        text = str(len(body)).encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))


def switch_protocols(connection: socket.socket) -> None:
    """Accept a tunnel and echo, or accept a WebSocket and answer each frame."""
    head = read_head(connection)
    if head.startswith(b"CONNECT "):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    else:
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        )
    received = 0
    while data := connection.recv(1 << 16):
        if head.startswith(b"CONNECT "):
            connection.sendall(data)
            continue
        received += len(data)
        if received >= FRAME:
            received -= FRAME
            connection.sendall(b"\x82\x02ok")


# Request heads


def encrypted(port: int, host: str, *protocols: str) -> ssl.SSLSocket:
    """A TLS connection to a host through the proxy."""
    connection = camera.connect(port)
    connection.sendall(f"CONNECT {host}:443 HTTP/1.1\r\n\r\n".encode())
    assert read_head(connection).startswith(b"HTTP/1.1 200 ")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(protocols)
    return context.wrap_socket(connection, server_hostname=host)


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (START, b"X-A: " + b"b" * 57 + b"\r\n"),
        (b"GET /", b"x" * 64),
        (START + b"X-A: ", b"b" * 64),
    ],
    ids=["many lines", "request line", "one header"],
)
def test_an_endless_head(shared: Proxy, start: bytes, piece: bytes) -> None:
    """A head without end is refused early, in one line, and costs no memory."""
    before, lines = peak(shared.process.pid), shared.log.count("request head exceeds")
    connection = camera.connect(shared.port)
    with contextlib.suppress(OSError):
        connection.sendall(start)
        for _ in range(40):
            connection.sendall(piece * (1 << 14))

    shared.wait_for(r"127\.0\.0\.1: connection closed: its request head exceeds 64 KiB", lines + 1)
    assert peak(shared.process.pid) - before < MEMORY
    assert connection.recv(1000).startswith(b"HTTP/1.1 431 ")
    assert "before completing request headers" not in shared.log
    connection.close()


@pytest.mark.parametrize(
    ("start", "piece"),
    [(b"3\r\nabc\r\n0\r\n", b"X-A: b\r\n"), (b"3;", b"x" * 8)],
    ids=["trailers", "chunk size"],
)
@pytest.mark.parametrize("path", ["/social/columbus/email", "/new"])
def test_endless_framing(shared: Proxy, path: str, start: bytes, piece: bytes) -> None:
    """Trailers or a chunk size without end cost no memory, and end the connection."""
    head = f"POST {path} HTTP/1.1\r\nHost: www.ospserver.net\r\nTransfer-Encoding: chunked\r\n\r\n"
    before = peak(shared.process.pid)
    connection = camera.connect(shared.port)
    connection.sendall(head.encode() + start)
    with pytest.raises(ConnectionError):
        send_endlessly(connection, piece * 8192)
    assert peak(shared.process.pid) - before < MEMORY
    connection.close()


def send_endlessly(connection: socket.socket, data: bytes) -> None:
    for _ in range(256):
        connection.sendall(data)


def test_an_endless_head_in_tls(shared: Proxy) -> None:
    """A head without end is refused inside TLS, too."""
    connection = encrypted(shared.port, "gld.samsungosp.com")
    before, lines = peak(shared.process.pid), shared.log.count("request head exceeds")
    with contextlib.suppress(OSError):
        connection.sendall(START)
        for _ in range(256):  # 16 MiB in all
            connection.sendall(b"X-A: b\r\n" * 8192)
    shared.wait_for("connection closed: its request head exceeds 64 KiB", lines + 1)
    assert peak(shared.process.pid) - before < MEMORY
    connection.close()


def test_slow_heads(folder: Path) -> None:
    """A hundred heads that never end delay no upload, and their connections are closed."""
    request, photos = upload("SAM_1.JPG")
    with Proxy(folder, script=with_times(folder, "head=1")) as proxy:
        slow = [camera.connect(proxy.port) for _ in range(100)]
        for connection in slow:
            connection.sendall(START)

        assert camera.send(proxy.port, request).body == camera.ACCEPTED

        for connection in slow:
            assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")
            connection.close()
        proxy.wait_for("its request head is not complete after 1 s", 100)
        proxy.wait_for("saved as")
        assert proxy.saved() == photos
        assert "before completing request headers" not in proxy.log


def test_what_is_no_head_is_not_limited(folder: Path) -> None:
    """A large body, an idle connection, a WebSocket and a tunnel to other hosts are not limited."""
    with server(count_bodies) as counting, server(switch_protocols) as switching:
        modes = [
            *("--mode", "regular@127.0.0.4:0"),
            *("--mode", f"reverse:http://127.0.0.1:{counting}@127.0.0.1:0"),
            *("--mode", f"reverse:http://127.0.0.1:{switching}@127.0.0.2:0"),
            *("--mode", f"upstream:http://127.0.0.1:{switching}@127.0.0.3:0"),
        ]
        with Proxy(folder, *modes, script=with_times(folder, "head=0.1")) as proxy:
            hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
            ports = [int(proxy.wait_for(rf"listening at {host}:(\d+)")[1]) for host in hosts]
            client = http.client.HTTPConnection("127.0.0.1", ports[0], timeout=TIMEOUT)
            for pause in (0.0, 0.2, 0.0):
                client.request("POST", "/", body=b"x" * (1 << 20))
                assert client.getresponse().read() == b"%d" % (1 << 20)
                time.sleep(pause)
            client.close()

            with camera.connect(ports[1], hosts[1]) as connection:
                connection.sendall(
                    b"GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
                    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                )
                assert read_head(connection).startswith(b"HTTP/1.1 101 ")
                frame = b"\x82\xff" + FRAME.to_bytes(8, "big") + bytes(4) + b"x" * FRAME
                for _ in range(4):
                    connection.sendall(frame)
                    assert receive(connection, 4) == b"\x82\x02ok"
                    time.sleep(0.05)

            with camera.connect(ports[2], hosts[2]) as connection:
                connection.sendall(b"CONNECT example.org:4711 HTTP/1.1\r\n\r\n")
                assert read_head(connection).startswith(b"HTTP/1.1 200 ")
                for _ in range(3):
                    connection.sendall(b"\x00" * FRAME)
                    assert receive(connection, FRAME) == b"\x00" * FRAME
                    time.sleep(0.2)


# Descriptors


def test_many_connections(folder: Path) -> None:
    """More connections than the soft limit of descriptors leave room for an upload."""
    request, photos = upload("SAM_1.JPG")
    with Proxy(folder, script=with_descriptors(folder, 200, 4000)) as proxy:
        idle = [camera.connect(proxy.port) for _ in range(300)]

        assert camera.send(proxy.port, request).body == camera.ACCEPTED
        proxy.wait_for("saved as")
        assert proxy.saved() == photos
        for connection in idle:
            connection.close()


def test_too_many_connections(folder: Path) -> None:
    """A client's connections beyond the limit are closed, others are served."""
    request, photos = upload("SAM_1.JPG")
    with Proxy(folder, script=with_descriptors(folder, 400, 400)) as proxy:
        many = [camera.connect(proxy.port) for _ in range(50)]
        for connection in many:
            connection.sendall(START + b"\r\n")
        for connection in many[:50]:
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
            connection.close()
        proxy.wait_for("client disconnect", times=50)

        many = [camera.connect(proxy.port) for _ in range(100)]
        proxy.wait_for(r"127\.0\.0\.1: has 50 connections open; further ones are closed\n")
        for connection in many[50:]:
            assert connection.recv(100) == b""
        many[0].sendall(START + b"\r\n")
        assert many[0].recv(100).startswith(b"HTTP/1.1 200 ")
        other = camera.connect(proxy.port, source="127.0.0.2")
        other.sendall(request)
        assert camera.read_reply(other).body == camera.ACCEPTED
        proxy.wait_for("saved as")
        assert proxy.saved() == photos
        assert proxy.log.count("further ones are closed") == 1
        for connection in many:
            connection.close()


def test_out_of_descriptors(folder: Path) -> None:
    """A lack of descriptors does not fill the log."""
    delay = "import asyncio.constants; asyncio.constants.ACCEPT_RETRY_DELAY = 0.1"
    script = with_descriptors(folder, 60, 60, delay)
    with Proxy(folder, script=script) as proxy:
        many = [camera.connect(proxy.port, source=f"127.0.0.{i % 9 + 1}") for i in range(100)]
        proxy.wait_for("new connections have to wait: Too many open files\n")
        time.sleep(0.5)  # five attempts to accept
        assert proxy.log.count("have to wait") == 1
        assert "in _accept_connection" not in proxy.log
        for connection in many:
            connection.close()


def test_a_client_that_goes_on_sending(folder: Path) -> None:
    """A client that still sends while it is answered leaves no socket behind."""
    request, _ = upload("SAM_1.JPG")
    with Proxy(folder) as proxy:
        camera.send(proxy.port, request)
        proxy.wait_for("saved as")
        before = proxy.descriptors().count("socket:")

        def go_on() -> None:
            connection = camera.connect(proxy.port)
            with contextlib.suppress(OSError):
                # mitmproxy answers 400, and would leave this connection open.
                connection.sendall(START + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n")
                while True:
                    connection.sendall(b"x" * 100_000)
            connection.close()

        threads = [threading.Thread(target=go_on) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
        assert not any(thread.is_alive() for thread in threads)
        eventually(lambda: proxy.descriptors().count("socket:") <= before, "all sockets are closed")


# Bodies


def test_tiny_chunks(folder: Path) -> None:
    """A body in chunks of one byte does not delay other clients for long."""
    request, photos = upload("SAM_1.JPG", 120_000)
    head, body = request.split(b"\r\n\r\n", 1)
    head = re.sub(rb"Content-Length: *\d+", b"Transfer-Encoding: chunked", head)
    wire = head.replace(b"HTTP/1.0", b"HTTP/1.1") + b"\r\n\r\n"
    wire += b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    with Proxy(folder) as proxy:
        replies: list[camera.Reply] = []
        sending = threading.Thread(target=lambda: replies.append(camera.send(proxy.port, wire)))
        sending.start()
        answers = [time.monotonic()]
        while sending.is_alive():
            assert camera.send(proxy.port, START + b"\r\n").status == 200
            answers.append(time.monotonic())
        assert replies[0].body == camera.ACCEPTED
        # A share of the whole time does not depend on the load of the machine. It is at least
        # 0.7 if all chunks of a read are handled at once, else at most 0.3.
        longest = max(after - before for before, after in itertools.pairwise(answers))
        assert longest < 0.5 * (answers[-1] - answers[0])
        proxy.wait_for("saved as")
        assert proxy.saved() == photos


def test_a_large_unknown_body(shared: Proxy) -> None:
    """A large body to an unknown path costs no memory: only its beginning is collected."""
    before, size = peak(shared.process.pid), 16 << 20
    head = b"POST /new HTTP/1.1\r\nHost: www.ospserver.net\r\nContent-Length: %d\r\n\r\n" % size
    assert camera.send(shared.port, head, bytes(size)).status == 404
    assert peak(shared.process.pid) - before < MEMORY


@pytest.mark.parametrize(
    "fields",
    [
        *("5\r\nContent-Length: 5", "5\r\nContent-Length: 6", "5\r\nTransfer-Encoding: chunked"),
        *("five", "-1", "+5", "0x10", "5, 5", ""),
    ],
)
def test_a_length_that_cannot_be_right(shared: Proxy, fields: str) -> None:
    """A request with an ambiguous or malformed length is refused in one line."""
    lines = shared.log.count("malformed request refused")
    head = "POST /social/columbus/email HTTP/1.1\r\nHost: www.ospserver.net"
    request = f"{head}\r\nContent-Length: {fields}\r\n\r\n12345"
    assert camera.send(shared.port, request.encode()).status == 400
    shared.wait_for(r"127\.0\.0\.1: malformed request refused: .*\n", lines + 1)
    assert "Traceback" not in shared.log


def test_no_length_of_no_content(shared: Proxy) -> None:
    """A reply with status 204 has no Content-Length."""
    request = b"GET /favicon.ico HTTP/1.1\r\nHost: www.samsungimaging.com\r\n\r\n"
    reply = camera.send(shared.port, request)
    assert reply.status == 204
    assert "Content-Length" not in reply.headers


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
def test_the_end_of_a_client_of_another_host(folder: Path, encrypted: bool) -> None:
    """The server of another host gets EOF as soon as its client disconnects."""
    script = with_times(folder, f"notice={2 * TIMEOUT}")
    request = b"GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n"
    listening = socket.create_server(("127.0.0.1", 0))
    reverse = f"reverse:http://127.0.0.1:{listening.getsockname()[1]}@127.0.0.1:0"
    modes = ("--mode", "regular@127.0.0.2:0", "--mode", reverse)
    with listening, Proxy(folder, *modes, script=script) as proxy:
        port = proxy.wait_for(r"listening at 127\.0\.0\.1:(\d+)")[1]
        connection = camera.connect(int(port))
        if encrypted:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = context.wrap_socket(connection)
        connection.sendall(request)
        server, _ = listening.accept()
        with server:
            server.settimeout(TIMEOUT)
            assert server.recv(1 << 16).startswith(b"GET / ")
            server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            assert read_head(connection).startswith(b"HTTP/1.1 200 ")
            connection.sendall(request)
            assert server.recv(1 << 16).startswith(b"GET / ")
            connection.close()
            assert server.recv(1 << 16) == b""


# HTTP/2


class Http2:
    """A browser that speaks HTTP/2 over TLS through the proxy."""

    def __init__(self, port: int, host: str) -> None:
        self._socket = encrypted(port, host, "h2")
        assert self._socket.selected_alpn_protocol() == "h2"
        self._host = host
        self._h2 = h2.connection.H2Connection()
        self._h2.initiate_connection()

    def request(
        self, method: str, path: str, body: bytes = b"", *fields: tuple[str, str]
    ) -> tuple[int, bytes]:
        stream = self._h2.get_next_available_stream_id()
        self._send_head(stream, method, path, *fields, is_all=not body)
        for start in range(0, len(body), 1 << 14):
            self._h2.send_data(stream, body[start : start + (1 << 14)])
        if body:
            self._h2.end_stream(stream)
        status, content, ended = 0, b"", False
        while not ended:
            for event in self._receive():
                match event:
                    case h2.events.ResponseReceived():
                        status = int(dict(event.headers)[b":status"])
                    case h2.events.DataReceived():
                        content += event.data
                    case h2.events.StreamEnded() | h2.events.StreamReset():
                        ended = True
        return status, content

    def open(self, path: str) -> int:
        """Request a page, and wait for the head of the reply. Returns the stream."""
        stream = self._h2.get_next_available_stream_id()
        self._send_head(stream, "GET", path, is_all=True)
        self._wait_for(h2.events.ResponseReceived)
        return stream

    def cancel(self, stream: int) -> None:
        """End a stream before its end."""
        self._h2.reset_stream(stream)
        self._socket.sendall(self._h2.data_to_send())

    def announce(self, path: str, streams: int) -> None:
        """Send only the heads of uploads."""
        for _ in range(streams):
            stream = self._h2.get_next_available_stream_id()
            head = [(":method", "POST"), (":path", path), (":authority", self._host)]
            kind = [("content-type", bodies.CONTENT_TYPE), ("content-length", "100")]
            self._h2.send_headers(stream, [*head, (":scheme", "https"), *kind])
        self._socket.sendall(self._h2.data_to_send())

    def begin(self, stream: int, path: str, data: bytes) -> None:
        """Begin an upload, and wait until mitmproxy has read this much of it."""
        self._send_head(stream, "POST", path, ("content-type", bodies.CONTENT_TYPE))
        self._h2.send_data(stream, data)
        self._h2.ping(bytes(8))
        self._wait_for(h2.events.PingAckReceived)

    def send(self, stream: int, data: bytes) -> None:
        """Send the rest of an upload, as fast as mitmproxy accepts it."""
        while data:
            size = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
            if size:
                self._h2.send_data(stream, data[:size])
                data = data[size:]
            else:
                self._wait_for(h2.events.WindowUpdated)
        self._h2.end_stream(stream)
        self._socket.sendall(self._h2.data_to_send())

    def _send_head(
        self, stream: int, method: str, path: str, *fields: tuple[str, str], is_all: bool = False
    ) -> None:
        head = [(":method", method), (":path", path), (":authority", self._host)]
        self._h2.send_headers(stream, [*head, (":scheme", "https"), *fields], end_stream=is_all)

    def _receive(self) -> list[h2.events.Event]:
        self._socket.sendall(self._h2.data_to_send())
        data = self._socket.recv(1 << 16)
        assert data, "the connection ended"
        return self._h2.receive_data(data)

    def _wait_for(self, awaited: type[h2.events.Event]) -> None:
        while not any(isinstance(one, awaited) for one in self._receive()):
            pass

    def close(self) -> None:
        self._socket.close()


def test_http2(folder: Path) -> None:
    """Requests with and without a body are answered over HTTP/2 as over HTTP/1.

    Bodies are streamed: mitmproxy may hold only small ones.
    """
    photo = bodies.jpeg(20_000)
    body = bodies.body([("SAM_1.JPG", photo)])
    kind = ("content-type", bodies.CONTENT_TYPE)
    with Proxy(folder, "--set", "body_size_limit=100k") as proxy:
        client = Http2(proxy.port, "www.ospserver.net")
        assert client.request("GET", "/")[0] == 200
        assert client.request("GET", "/social/columbus/email")[0] == 405
        assert client.request("GET", "/unknown")[0] == 404
        assert client.request("POST", "/social/columbus/email", b"", kind)[0] == 400
        path = "/social/columbus/email"
        assert client.request("POST", path, body, kind) == (200, camera.ACCEPTED.encode())
        proxy.wait_for("saved as")
        assert proxy.saved() == {"SAM_1.JPG": photo}
        links: list[bytes] = []

        def is_listed() -> bool:
            links[:] = re.findall(rb'"(/file/[^"]+)"', client.request("GET", "/")[1])
            return bool(links)

        eventually(is_listed, "the page lists the photo")
        for discarded in (b"", bytes(200_000)):
            assert client.request("GET", links[0].decode(), discarded) == (200, photo)
        client.close()
        assert "Traceback" not in proxy.log


def test_two_uploads_over_http2(folder: Path) -> None:
    """An upload may pause while another one on the same connection continues."""
    photos = {"SAM_1.JPG": bodies.jpeg(2_000_000), "SAM_2.JPG": bodies.jpeg(20_000)}
    first, second = (bodies.body([one]) for one in photos.items())
    with Proxy(folder) as proxy:
        client = Http2(proxy.port, "www.ospserver.net")
        client.begin(1, "/social/columbus/email", first[:1])
        client.begin(3, "/social/columbus/email", second[:1])
        client.send(1, first[1:])
        client.send(3, second[1:])
        eventually(lambda: proxy.saved() == photos, "both are saved")
        client.close()


@pytest.mark.parametrize("what", ["uploads", "files"])
def test_a_client_of_http2_that_vanishes(folder: Path, what: str) -> None:
    """Nothing is left of its requests: mitmproxy connects to our server for five at a time."""
    with Proxy(folder, script=with_times(folder, "connect=0.2")) as proxy:
        camera.send(proxy.port, upload("SAM_1.JPG")[0])
        proxy.wait_for("saved as")
        spool = proxy.uploads / ".nx" / "spool"
        client = Http2(proxy.port, "www.ospserver.net")
        [page] = re.findall(rb'"(/file/[^"]+)"', client.request("GET", "/")[1])
        if what == "uploads":
            client.announce("/social/columbus/email", 20)
            eventually(lambda: len([*spool.iterdir()]) == 20, "all are begun")
        else:
            for _ in range(20):
                client.open(page.decode())
        client.close()
        opened = re.compile(r"/spool/\w|JPG")
        eventually(lambda: not any(map(opened.search, proxy.descriptors())), "all is closed")
        assert list(spool.iterdir()) == []


def test_another_proxy_in_between(folder: Path) -> None:
    """In upstream mode, requests for our hosts do not go to the other proxy."""
    mode = f"upstream:http://127.0.0.1:{free_port()}@127.0.0.1:0"
    request, photos = upload("SAM_1.JPG")
    with Proxy(folder, "--mode", mode) as proxy:
        assert camera.send(proxy.port, request).status == 200
        proxy.wait_for("saved as")
        assert proxy.saved() == photos


# A camera whose Wi-Fi fails


@needs_namespace
def test_a_reply_that_is_never_acknowledged(folder: Path) -> None:
    """If the reply is lost, a repeat is a duplicate, and the next one is delivered."""
    request, photos = upload("SAM_1.JPG")
    drop = (
        "nft 'add table ip lossy; add chain ip lossy output { type filter hook output priority 0; }"
        "; add rule ip lossy output tcp sport 8080 meta length > 100 drop'"
    )
    script = with_times(folder, "acknowledge=1.0")
    with (
        namespace("wire", drop) as inside,
        Proxy(folder, "--mode", "regular@8080", namespace=inside[-1], script=script) as proxy,
    ):
        with call_in(inside[-1], camera.connect, 8080) as connection:
            connection.sendall(request)
            proxy.wait_for("saved as .*SAM_1.JPG")
            proxy.wait_for("a duplicate will be ignored")
        subprocess.run([*inside, "nft", "delete", "table", "ip", "lossy"], check=True)

        for _ in range(2):
            assert call_in(inside[-1], camera.send, 8080, request).status == 200
        # The first repeat gets the lost reply; the second is a new upload.
        proxy.wait_for("duplicate of upload .* ignored")
        proxy.wait_for(r"saved as \S*SAM_1\S*\.JPG|is there already", 2)
        assert proxy.log.count("duplicate of upload") == 1
        assert photos.items() <= proxy.saved().items()
