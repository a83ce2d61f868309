"""A transparent proxy on a router, with the rules of README, in network namespaces.

    camera 10.99.0.2 ── 10.99.0.1 router 10.99.1.1 ── 10.99.1.2 internet

mitmdump runs on the router with its DNS mode. "Internet" has a web server and counts
packets.
"""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import bodies, camera, readme
from tests.camera import Reply
from tests.mitmdump import ROOT, Proxy
from tests.namespace import call_in, namespace, needs_namespace, run

pytestmark = needs_namespace

UNUSED = "198.51.100.80"  # as in README
OTHER = "10.99.1.2"


class Network:
    """Three namespaces, and commands in them."""

    def __init__(self, rooms: ExitStack) -> None:
        # The commands that enter them.
        names = ("camera", "router", "internet")
        self.inside = {room: rooms.enter_context(namespace(room)) for room in names}
        self._wire("camera", "10.99.0.2", "router", "10.99.0.1")
        self._wire("internet", "10.99.1.2", "router", "10.99.1.1")
        for room, gateway in (
            ("camera", "10.99.0.1"),
            ("router", OTHER),
            ("internet", "10.99.1.1"),
        ):
            self.do(room, "ip", "route", "add", "default", "via", gateway)
        self.do("router", "sysctl", "-q", "net.ipv4.ip_forward=1")
        counter = "add chain ip seen input { type filter hook input priority 0; }"
        rule = "add rule ip seen input counter"
        self.do("internet", "nft", f"add table ip seen; {counter}; {rule}")

    def do(self, room: str, *command: str, stdin: bytes = b"") -> str:
        return run(*self.inside[room], *command, stdin=stdin)

    def packets_seen_upstream(self) -> int:
        listing = self.do("internet", "nft", "list", "table", "ip", "seen")
        match = re.search(r"counter packets (\d+)", listing)
        assert match
        return int(match[1])

    def resolve(self, name: str, server: str) -> tuple[int, list[str]]:
        """Query a DNS server from the camera."""
        return call_in(self.inside["camera"][-1], camera.resolve, name, (server, 53))

    def send(self, host: str, request: bytes, port: int = 80) -> Reply:
        """Send a request from the camera."""
        return call_in(self.inside["camera"][-1], camera.send, port, request, host=host)

    def _wire(self, room: str, address: str, other: str, other_address: str) -> None:
        here, there = f"{room[:3]}0", f"to{room[:3]}0"
        command = ("ip", "link", "add", here, "netns", self.inside[room][-1], "type", "veth")
        run(*command, "peer", "name", there, "netns", self.inside[other][-1])
        for where, device, ip in ((room, here, address), (other, there, other_address)):
            self.do(where, "ip", "address", "add", f"{ip}/24", "dev", device)
            self.do(where, "ip", "link", "set", device, "up")


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with ExitStack() as rooms:
        yield Network(rooms)


def load_rules(network: Network) -> None:
    (rules,) = readme.blocks("nft")
    network.do("router", "nft", "-f", "-", stdin=rules.encode())


@pytest.fixture
def open_port(network: Network) -> Iterator[None]:
    """Port 8080 without the rule that closes it."""
    network.do("router", "nft", "flush", "chain", "ip", "nx", "input")
    yield
    load_rules(network)


@pytest.fixture(scope="module")
def router(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    load_rules(network)
    command, _ = readme.lines("transparent@8080")
    modes = [*shlex.split(command)[3:], "--mode", "dns@53"]
    # The proxy itself, so that other names fail at once.
    modes += ["--set", "dns_name_servers=127.0.0.1"]
    folder = tmp_path_factory.mktemp("router")
    with Proxy(folder, *modes, namespace=network.inside["router"][-1]) as proxy:
        yield proxy


def test_a_camera_behind_the_router(network: Network, router: Proxy) -> None:
    """DNS, hotspot check and upload work without a packet to the upstream network."""
    for host in ("gld.samsungosp.com", "www.ospserver.net"):
        assert network.resolve(host, "10.99.0.1") == (0, [UNUSED])

    check = b"GET / HTTP/1.1\r\nHost: gld.samsungosp.com\r\n\r\n"
    reply = network.send(UNUSED, check)
    assert 'ETag: "deadbeef"' in reply.head
    assert (reply.body, reply.segments) == ("", 1)

    photo = bodies.jpeg(400_000)
    upload = bodies.request(bodies.body([("SAM_1.JPG", photo)]))
    reply = network.send(UNUSED, upload)
    assert (reply.body, reply.segments) == ('<Response Status="succ" />', 1)
    router.wait_for("10.99.0.2: from .*SAM_1.JPG")
    router.wait_for("saved as .*SAM_1.JPG")
    assert router.saved() == {"SAM_1.JPG": photo}

    for path in ("/unknown", "/social/columbus/email"):
        request = f"GET {path} HTTP/1.1\r\nHost: www.ospserver.net\r\n\r\n".encode()
        reply = network.send(UNUSED, request)
        assert reply.head.startswith("HTTP/1.1 4")

    assert network.packets_seen_upstream() == 0


ROUTER = "10.99.0.1"
GET = "GET / HTTP/1.1\r\nHost: {}\r\n\r\n"


@pytest.mark.usefixtures("open_port")
@pytest.mark.parametrize(
    ("host", "port", "request_", "status", "body"),
    [
        pytest.param(UNUSED, 80, "GET / HTTP/1.0\r\n\r\n", 200, "It works", id="no-host"),
        pytest.param(UNUSED, 80, "GET /new HTTP/1.0\r\n\r\n", 404, "", id="no-host-unknown"),
        pytest.param(ROUTER, 8080, GET.format("10.99.0.1:8080"), 200, "It works", id="own"),
        pytest.param(
            ROUTER,
            8080,
            GET.format("www.example.org").replace("/", "http://www.example.org/", 1),
            404,
            "",
            id="used-as-a-proxy",
        ),
        pytest.param(UNUSED, 80, GET.format("evil.example"), 404, "", id="rebinding"),
        pytest.param(UNUSED, 80, GET.format("www.yahoo.co.kr").replace("/", "/x", 1), 404, ""),
        pytest.param(ROUTER, 8080, GET.format(ROUTER).replace("/", "/robots.txt", 1), 404, ""),
    ],
)
def test_requests_to_the_router(
    network: Network, router: Proxy, host: str, port: int, request_: str, status: int, body: str
) -> None:
    """A request to the router's address, or the one in nx_dns, is never passed on."""
    packets, connections = network.packets_seen_upstream(), router.log.count("server connect")

    reply = network.send(host, request_.encode(), port)

    assert reply.head.startswith(f"HTTP/1.1 {status} ")
    assert body in reply.body
    assert network.packets_seen_upstream() == packets
    assert router.log.count("server connect") == connections


@pytest.mark.parametrize(("header", "status"), [("Host: evil.example\r\n", 404), ("", 200)])
def test_uploads_to_the_address(network: Network, router: Proxy, header: str, status: int) -> None:
    """An upload needs no Host; with a foreign one, it is refused and not stored."""
    name = f"HOST_{status}.JPG"
    upload = bodies.request(bodies.body([(name, bodies.jpeg(3000))]))
    upload = upload.replace(b"Host: www.ospserver.net\r\n", header.encode())
    unknown = list(router.uploads.glob(".nx/unknown/*"))

    reply = network.send(UNUSED, upload)

    assert reply.head.startswith(f"HTTP/1.1 {status} ")
    if status == 200:
        router.wait_for(f"saved as .*{name}")
    assert (name in router.saved()) is (status == 200)
    assert list(router.uploads.glob(".nx/unknown/*")) == unknown
    assert router.quarantined() == []


@pytest.mark.usefixtures("open_port")
def test_another_protocol_to_the_router(network: Network, router: Proxy) -> None:
    """A connection without HTTP to the router's own port is closed, not passed to itself."""
    lines = router.log.count("\n")
    assert call_in(network.inside["camera"][-1], send_another_protocol) == b""
    assert router.log.count("\n") < lines + 10


def send_another_protocol() -> bytes:
    with camera.connect(8080, ROUTER) as connection:
        connection.sendall(b"\x00 no protocol")
        return connection.recv(100)


@pytest.mark.usefixtures("router")
def test_port_8080_is_closed(network: Network) -> None:
    """Port 8080 can only be reached by redirection, from either side of the router."""
    for room, address in (("internet", "10.99.1.1"), ("camera", ROUTER)):
        with pytest.raises(TimeoutError):
            call_in(network.inside[room][-1], socket.create_connection, (address, 8080), 0.5)


def test_other_addresses_are_not_touched(network: Network, router: Proxy) -> None:
    """Requests to other addresses pass the router unchanged."""
    listening = call_in(network.inside["internet"][-1], socket.create_server, (OTHER, 80))
    with listening, ThreadPoolExecutor(1) as pool:
        pool.submit(answer, listening)
        before = router.log.count("client connect")
        request = b"GET / HTTP/1.1\r\nHost: www.ospserver.net\r\n\r\n"

        reply = network.send(OTHER, request)

        assert reply.body == "10.99.0.2"
        assert router.log.count("client connect") == before
        assert network.packets_seen_upstream() > 0


def answer(listening: socket.socket) -> None:
    """Answer a request with the address of the client."""
    connection, (client, _) = listening.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + client.encode())


def test_the_lines_at_start(router: Proxy) -> None:
    """The log has the rule for the address in nx_dns, and the router's own for DNS."""
    assert f"cameras must reach {UNUSED}, port 80 for HTTP; and {ROUTER} or " in router.log
    assert "port 80: redirect it to port 8080" in router.log
    assert f"ip daddr {UNUSED} tcp dport 80 redirect to :8080" in router.log
    assert f"port 53: served by this process; enter {ROUTER} as the DNS server" in router.log


def test_an_unknown_camera(network: Network, router: Proxy, tmp_path: Path) -> None:
    """As README describes it, an unknown request is logged, saved and reported."""
    request = b"GET /check?id=8801234 HTTP/1.1\r\nHost: www.ospserver.net\r\n\r\n"

    reply = network.send(UNUSED, request)
    assert reply.head.startswith("HTTP/1.1 404 ")

    stored = router.wait_for(
        r"10\.99\.0\.2: unknown request: GET http://www\.ospserver\.net/check\?id=8801234"
        r"; saved to (uploads/\.nx/unknown/\S+\.mitm)\n"
    )[1]
    assert network.resolve("www.example.com", ROUTER) is not None
    router.wait_for("10.99.0.2: also looked up www.example.com, .*--set nx_hosts=www.example.com")

    path = tmp_path / "report.md"
    reading = Proxy(tmp_path, "-nr", str(router.folder / stored), "--set", f"nx_report={path}")
    assert reading.run() == 0
    assert "10.99.0.2: GET http://www.ospserver.net/check?id=8801234: " in reading.log
    report = path.read_text()
    assert "?id=<digits 7 #" in report
    assert "www.ospserver.net" in report
    assert "8801234" not in report
    assert "10.99.0.2" not in report


def test_recording_on_a_router(network: Network, router: Proxy, tmp_path: Path) -> None:
    """With README's rule, look-ups at any DNS server are in the log of the recording."""
    _, command = readme.lines("transparent@8080")
    arguments = shlex.split(command.replace("8080", "8081"))[3:]
    (rule,) = re.findall("`(ip saddr CAMERA .*?)`", (ROOT / "README.md").read_text())
    network.do("router", "nft", "add rule ip nx prerouting " + rule.replace("CAMERA", "10.99.0.2"))
    try:
        modes = [*arguments, "--set", "dns_name_servers=127.0.0.1"]
        with Proxy(tmp_path, *modes, namespace=network.inside["router"][-1]) as proxy:
            network.resolve("new.example.com", OTHER)
            proxy.wait_for("DNS QUERY .*new.example.com")
    finally:
        load_rules(network)
