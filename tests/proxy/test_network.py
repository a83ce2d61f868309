from __future__ import annotations

import asyncio
import errno
import socket
import struct
import subprocess
import sys
import threading
from ipaddress import IPv4Address

import pytest

from nxparse.proxy import network
from tests.mitmdump import ROOT
from tests.namespace import namespace, needs_namespace

LOOPBACK = IPv4Address("127.0.0.1")
# An unused address (RFC 5737). It only selects the default route.
ELSEWHERE = "192.0.2.1"

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="differs on other systems")


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has no descriptor left."""

    def fail(*arguments: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", fail)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("127.0.0.1", LOOPBACK),
        ("::ffff:127.0.0.1", LOOPBACK),
        ("::1", network.facing(ELSEWHERE)),
        ("fe80::1%eth0", network.facing(ELSEWHERE)),
        ("2001:db8::1", network.facing(ELSEWHERE)),
        pytest.param("255.255.255.255", None, marks=linux_only),
    ],
)
def test_facing(peer: str, address: IPv4Address | None) -> None:
    """The local address that faces a peer is found; for IPv6, that of the default route."""
    assert network.facing(peer) == address


@pytest.mark.usefixtures("no_sockets")
def test_no_descriptors() -> None:
    """Without free descriptors, no address is found, and none is local."""
    assert network.facing("127.0.0.1") is None
    assert network.is_local("192.0.2.1") is False
    assert network.addresses() == []


FOREIGN = ["box.example.com", "local", "", "www.samsungimaging.com", "127.1", "127.0.0.1:80"]
FOREIGN += ["0.0.0.0", "192.0.2.1", "255.255.255.255", "224.0.0.1"]
FOREIGN += ["::", "2001:db8::1", "ff02::1", "fe80::1%nowhere"]


def test_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this machine's own names and addresses are local."""
    monkeypatch.setattr(socket, "gethostname", lambda: "Box")
    assert [host for host in FOREIGN if network.is_local(host)] == []
    own = ["localhost", "box", "box.local", "127.0.0.1"]
    own += ["127.9.9.9"] if sys.platform == "linux" else []
    assert [host for host in own if not network.is_local(host)] == []


@pytest.mark.parametrize("host", ["::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("has_ipv6", [True, False])
def test_is_local_ipv6(monkeypatch: pytest.MonkeyPatch, host: str, has_ipv6: bool) -> None:
    """The IPv6 loopback address is local if the machine supports IPv6."""
    real = socket.socket
    try:
        real(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        pytest.skip("this machine has no IPv6")

    def old(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, kind)

    if not has_ipv6:
        monkeypatch.setattr(socket, "socket", old)
    assert network.is_local(host) is has_ipv6


ROUTER = {"eth0": "192.168.1.9", "br0": "10.0.0.1", "eth1": "9.9.9.9"}
PC = {"docker0": "172.17.0.1", "wlan0": "10.0.0.1", "tun0": None, "eth0": "192.168.1.2"}


class TestAddresses:
    def test_this_machine(self) -> None:
        """The addresses are this machine's own; on a router, the default route's is last."""
        found = network.addresses()
        assert [str(address) for address in found if not network.is_local(str(address))] == []
        assert [address for address in found if address.is_loopback] == []
        default = network.facing(ELSEWHERE)
        if default:
            assert network.addresses(lan_first=True)[-1] == default

    @pytest.mark.parametrize(
        ("interfaces", "default", "lan_first", "expected"),
        [
            ({}, None, False, ""),
            ({}, "192.168.1.2", False, "192.168.1.2"),
            ({}, "127.0.0.1", False, ""),
            ({"lo": "127.0.0.1", "wlan0": "192.168.1.2"}, None, False, "192.168.1.2"),
            (PC, "192.168.1.2", False, "192.168.1.2 172.17.0.1 10.0.0.1"),
            (ROUTER, "192.168.1.9", True, "10.0.0.1 9.9.9.9 192.168.1.9"),
            (ROUTER, "192.168.1.9", False, "192.168.1.9 10.0.0.1 9.9.9.9"),
        ],
        ids=["nothing", "default-only", "loopback", "no-route", "pc", "router", "not-transparent"],
    )
    def test_order(
        self,
        monkeypatch: pytest.MonkeyPatch,
        interfaces: dict[str, str | None],
        default: str | None,
        lan_first: bool,
        expected: str,
    ) -> None:
        """Private addresses come first, the default route's last on a router."""
        fcntl = pytest.importorskip("fcntl")

        def answer(fd: int, request: int, name: bytes) -> bytes:
            address = interfaces[name.rstrip(b"\0").decode()]
            if address is None:
                raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
            return struct.pack("20s4s232x", name[:20], IPv4Address(address).packed)

        monkeypatch.setattr(socket, "if_nameindex", lambda: list(enumerate(interfaces)))
        monkeypatch.setattr(fcntl, "ioctl", answer)
        monkeypatch.setattr(network, "facing", lambda peer: default and IPv4Address(default))
        found = network.addresses(lan_first=lan_first)
        assert " ".join(map(str, found)) == expected

    def test_without_fcntl(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On Windows only the address of the default route is known."""
        monkeypatch.setitem(sys.modules, "fcntl", None)
        monkeypatch.setattr(network, "facing", lambda peer: IPv4Address("192.168.1.2"))
        assert network.addresses() == [IPv4Address("192.168.1.2")]


SPELLINGS = ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001"]
SPELLINGS += ["0177.0.0.1", "::ffff:127.0.0.1", "::ffff:7f00:1", "[::ffff:127.0.0.1]"]
ADDRESSES = dict.fromkeys(SPELLINGS, "127.0.0.1") | {
    "192.168.1.2": "192.168.1.2",
    "::ffff:192.168.1.2": "192.168.1.2",
    "[::1]": "::1",
    "fe80::1%eth0": "fe80::1%eth0",
}
NAMES = ["", "nothing.invalid", "x" * 300, "a..b", "\0", "\uff41" * 70]


async def test_addresses_in_any_form() -> None:
    """Every form of an address that connect() accepts is parsed, and not looked up."""
    assert {host: str(network.parse_address(host)) for host in ADDRESSES} == ADDRESSES
    assert [str(*await network.resolve(host)) for host in ADDRESSES] == [*ADDRESSES.values()]


@pytest.mark.parametrize("host", NAMES)
async def test_no_address(host: str) -> None:
    """A name is not parsed as an address. One that does not resolve is not inside."""
    assert network.parse_address(host) is None
    assert await network.resolve(host) == []
    assert not network.is_inside(host)


async def test_own_name() -> None:
    """A name of this machine is inside, and so are its addresses."""
    found = await network.resolve("localhost")
    assert found
    assert all(network.is_inside(one) for one in ("localhost", *found))


async def test_a_silent_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolving ends after `limit` seconds. The event loop is not blocked."""
    answer = threading.Event()
    calling = threading.get_ident()

    def silent(*_: object, **__: object) -> list[object]:
        assert threading.get_ident() != calling, "the resolver blocks the event loop"
        answer.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    try:
        async with asyncio.timeout(5):
            assert await network.resolve("slow.example", limit=0.01) == []
    finally:
        answer.set()


INSIDE = [*SPELLINGS, "127.255.255.254", "::1", "169.254.169.254", "fe80::1", "fe80::1%eth0"]
INSIDE += ["0", "0.0.0.0", "0x0", "::", "[::]"]
INSIDE += [str(own) for own in [network.facing(ELSEWHERE)] if own]
OUTSIDE = ["198.51.100.80", "192.168.77.66", "2001:db8::1"]


def test_is_inside() -> None:
    """Addresses of this machine are inside; other machines of the network are not."""
    assert [host for host in INSIDE + OUTSIDE if network.is_inside(host)] == INSIDE


@pytest.mark.parametrize(
    ("host", "listening", "served"),
    [
        ("127.0.0.1", [("127.0.0.1", 80)], True),
        ("192.168.1.2", [("127.0.0.1", 80)], False),
        ("192.168.1.2", [("0.0.0.0", 80)], True),
        ("::1", [("::", 80)], True),
        ("127.0.0.1", [("127.0.0.1", 81), ("0.0.0.0", 82)], False),
        ("127.0.0.1", [("localhost", 80)], True),
        ("localhost", [("127.0.0.1", 80)], False),
        ("127.0.0.1", [], False),
    ],
)
def test_is_served(host: str, listening: list[tuple[str, int]], served: bool) -> None:
    """Address and port must match; a wildcard matches every address."""
    assert network.is_served(host, 80, listening) is served


NONLOCAL = """
import ipaddress, socket
from nxparse.proxy.network import is_own
print([is_own(ipaddress.ip_address(one)) for one in ("10.9.9.1", "10.9.9.2", "127.0.0.1")])
"""


@needs_namespace
def test_nonlocal_bind() -> None:
    """With ip_nonlocal_bind, addresses of other machines do not count as ours."""
    lax = "sysctl -q net.ipv4.ip_nonlocal_bind=1"
    with namespace("bind", "ip address add 10.9.9.1/32 dev lo", lax) as inside:
        asking = [*inside, sys.executable, "-c", NONLOCAL]
        shown = subprocess.run(asking, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert shown == "[True, False, True]\n"
