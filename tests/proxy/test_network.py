from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
import subprocess
import sys
from ipaddress import IPv4Address

import pytest

from nxparse.proxy import network
from tests.mitmdump import ROOT

LOOPBACK = IPv4Address("127.0.0.1")
# The documentation's address for nobody: it only chooses the default route.
ELSEWHERE = "192.0.2.1"

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="is different elsewhere")


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has no descriptor left."""

    def fail(*arguments: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", fail)


class TestFacing:
    @pytest.mark.parametrize("peer", ["127.0.0.1", "::ffff:127.0.0.1"])
    def test_loopback(self, peer: str) -> None:
        """A peer on this machine sees its loopback address, also through an IPv6 socket."""
        assert network.facing(peer) == LOOPBACK

    @pytest.mark.parametrize("peer", ["::1", "fe80::1", "fe80::1%eth0", "2001:db8::1"])
    def test_ipv6(self, peer: str) -> None:
        """To an IPv6 peer the address of the default route is the best guess."""
        assert network.facing(peer) == network.facing(ELSEWHERE)

    def test_own_address(self) -> None:
        """The address that faces others faces itself."""
        address = network.facing(ELSEWHERE)
        if address is None:
            pytest.skip("this machine has no network")
        assert network.facing(str(address)) == address

    @linux_only
    def test_no_route(self) -> None:
        """Without a route to the peer there is no answer."""
        assert network.facing("255.255.255.255") is None

    @pytest.mark.usefixtures("no_sockets")
    def test_no_descriptors(self) -> None:
        """K11: what cannot be found out is unknown."""
        assert network.facing("127.0.0.1") is None

    @pytest.mark.parametrize("peer", ["", "camera", "127.1"])
    def test_no_address(self, peer: str) -> None:
        """A name is no address."""
        with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
            network.facing(peer)


class TestIsLocal:
    @pytest.mark.parametrize(
        ("host", "expected"),
        [
            ("localhost", True),
            ("box", True),
            ("box.local", True),
            ("box.example.com", False),
            ("local", False),
            ("", False),
            ("127.0.0.1", True),
            pytest.param("127.9.9.9", True, marks=linux_only),
            ("0.0.0.0", False),
            ("192.0.2.1", False),
            ("255.255.255.255", False),
            ("224.0.0.1", False),
            ("127.1", False),
            ("127.0.0.1:80", False),
            ("::", False),
            ("2001:db8::1", False),
            ("ff02::1", False),
            ("fe80::1%nowhere", False),
            ("www.samsungimaging.com", False),
        ],
    )
    def test_table(self, monkeypatch: pytest.MonkeyPatch, host: str, expected: bool) -> None:
        """Only this machine's own names and addresses are local, nothing that means others."""
        monkeypatch.setattr(socket, "gethostname", lambda: "Box")
        assert network.is_local(host) is expected

    @pytest.mark.parametrize("host", ["::1", "::ffff:127.0.0.1"])
    def test_ipv6(self, host: str) -> None:
        """Loopback has an IPv6 address too, where there is IPv6."""
        try:
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
        except OSError:
            pytest.skip("this machine has no IPv6")
        assert network.is_local(host) is True

    def test_without_ipv6(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A kernel without IPv6 has no IPv6 address."""
        real = socket.socket

        def old(family: int, kind: int) -> socket.socket:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            return real(family, kind)

        monkeypatch.setattr(socket, "socket", old)
        assert network.is_local("::1") is False

    @pytest.mark.usefixtures("no_sockets")
    def test_no_descriptors(self) -> None:
        """K11: what cannot be found out is not taken for this machine's."""
        assert network.is_local("192.0.2.1") is False


class TestAddresses:
    def test_this_machine(self) -> None:
        """Each address is this machine's own, stands there once, and can be reached by others."""
        found = network.addresses()
        assert [str(address) for address in found if not network.is_local(str(address))] == []
        assert len(set(found)) == len(found)
        assert [address for address in found if address.is_loopback] == []

    def test_default_route_first(self) -> None:
        """The likeliest address comes first."""
        default = network.facing(ELSEWHERE)
        if default is None:
            pytest.skip("this machine has no network")
        assert network.addresses()[0] == default

    @pytest.mark.parametrize(
        ("interfaces", "default", "expected"),
        [
            ({}, None, []),
            ({}, "192.168.1.2", ["192.168.1.2"]),
            ({}, "127.0.0.1", []),
            ({"lo": "127.0.0.1"}, None, []),
            ({"lo": "127.0.0.1", "eth0": "192.168.1.2"}, None, ["192.168.1.2"]),
            ({"eth0": "192.168.1.2"}, "192.168.1.2", ["192.168.1.2"]),
            (
                {"lo": "127.0.0.1", "wlan0": "10.0.0.1", "tun0": None, "eth0": "192.168.1.2"},
                "192.168.1.2",
                ["192.168.1.2", "10.0.0.1"],
            ),
        ],
        ids=["nothing", "default only", "loopback", "lo", "one", "the default", "many"],
    )
    def test_table(
        self,
        monkeypatch: pytest.MonkeyPatch,
        interfaces: dict[str, str | None],
        default: str | None,
        expected: list[str],
    ) -> None:
        """Interfaces without an IPv4 address, and loopback, do not count."""
        fcntl = pytest.importorskip("fcntl")

        def answer(fd: int, request: int, name: bytes) -> bytes:
            address = interfaces[name.rstrip(b"\0").decode()]
            if address is None:
                raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
            return struct.pack("20s4s232x", name[:20], IPv4Address(address).packed)

        monkeypatch.setattr(socket, "if_nameindex", lambda: list(enumerate(interfaces)))
        monkeypatch.setattr(fcntl, "ioctl", answer)
        monkeypatch.setattr(network, "facing", lambda peer: default and IPv4Address(default))
        assert [str(address) for address in network.addresses()] == expected

    def test_without_fcntl(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """On Windows only the address of the default route is known."""
        monkeypatch.setitem(sys.modules, "fcntl", None)
        monkeypatch.setattr(network, "facing", lambda peer: IPv4Address("192.168.1.2"))
        assert network.addresses() == [IPv4Address("192.168.1.2")]

    @pytest.mark.usefixtures("no_sockets")
    def test_no_descriptors(self) -> None:
        """K11: what cannot be found out is left out."""
        assert network.addresses() == []


class TestParseAddress:
    @pytest.mark.parametrize(
        ("host", "address"),
        [
            ("192.168.1.2", "192.168.1.2"),
            ("127.1", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("0x7f.0.0.1", "127.0.0.1"),
            ("0177.0.0.1", "127.0.0.1"),
            ("::ffff:192.168.1.2", "192.168.1.2"),
            ("[::1]", "::1"),
            ("fe80::1%eth0", "fe80::1%eth0"),
            ("www.example.org", None),
            ("127.0.0.1.example.org", None),
            ("", None),
            ("a\0b", None),
            ("사진", None),
        ],
    )
    def test_table(self, host: str, address: str | None) -> None:
        """Every form that connecting takes is an address; names are none."""
        found = network.parse_address(host)
        assert (found and str(found)) == address


class TestIsServed:
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
    def test_table(self, host: str, listening: list[tuple[str, int]], served: bool) -> None:
        """Address and port must be the same; a wildcard is every address."""
        assert network.is_served(host, 80, listening) is served


NONLOCAL = """
import ipaddress, socket
from nxparse.proxy.network import is_own
print([is_own(ipaddress.ip_address(one)) for one in ("10.9.9.1", "10.9.9.2", "127.0.0.1")])
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and iproute2")
def test_a_machine_that_lets_bind_to_any_address() -> None:
    """With ip_nonlocal_bind, as routers may have it, other machines' addresses are not ours."""
    name = f"nx{os.getpid()}bind"
    inside = ["ip", "netns", "exec", name]
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for command in (
            "ip link set lo up",
            "ip address add 10.9.9.1/32 dev lo",
            "sysctl -q net.ipv4.ip_nonlocal_bind=1",
        ):
            subprocess.run([*inside, *command.split()], check=True)
        asking = [*inside, sys.executable, "-c", NONLOCAL]
        told = subprocess.run(asking, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False)
    assert told == "[True, False, True]\n"
