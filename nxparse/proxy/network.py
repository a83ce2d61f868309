"""The addresses and ports of this machine."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

_SIOCGIFADDR = 0x8915
# Nothing is sent there (RFC 5737): it only makes the kernel choose a route.
_ELSEWHERE = "192.0.2.1"


def facing(peer: str) -> IPv4Address | None:
    """The IPv4 address of this machine that `peer`, an IP address, can reach; None if unknown."""
    address = ipaddress.ip_address(peer.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return facing(_ELSEWHERE)
        address = address.ipv4_mapped
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return IPv4Address(probe.getsockname()[0])
    except OSError:
        return None


def parse_address(host: str) -> Address | None:
    """The address in any form that connecting takes: 127.1, 0x7f000001, ::ffff:127.0.0.1.

    None if this is a name.
    """
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        # Python's parser takes four decimal numbers only; a resolver takes more.
        try:
            return IPv4Address(socket.inet_aton(host))
        except (OSError, ValueError):
            return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def is_own(address: Address) -> bool:
    """Does this machine have this address?"""
    if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
        return False
    if not _binds(address):
        return False
    # With the sysctl ip_nonlocal_bind any address can be bound to.
    lax = address.version == 4 and _binds(IPv4Address(_ELSEWHERE))
    return not lax or facing(str(address)) == address


def _binds(address: Address) -> bool:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def is_local(host: str) -> bool:
    """Is this an address or a name of this machine?"""
    name = socket.gethostname().lower()
    if host in ("localhost", name, f"{name}.local"):
        return True
    try:
        return is_own(ipaddress.ip_address(host))
    except ValueError:
        return False


def is_served(host: str, port: int, listening: Iterable[tuple[str, int]]) -> bool:
    """Does a server that listens on one of these addresses and ports answer at this one?

    `host` is an address; a name is none of them. A server may listen on all addresses.
    """
    wanted = parse_address(host)
    for own, own_port in listening:
        address = parse_address(own)
        everywhere = address is None or address.is_unspecified
        if wanted and port == own_port and (everywhere or wanted == address):
            return True
    return False


def addresses() -> list[IPv4Address]:
    """The IPv4 addresses that others can reach this machine by, the default route's first."""
    found = []
    try:
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            for _, name in socket.if_nameindex():
                request = struct.pack("256s", name.encode()[:15])
                try:
                    answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
                except OSError:
                    continue
                found.append(IPv4Address(answer[20:24]))
    except (ImportError, OSError):
        pass
    default = facing(_ELSEWHERE)
    if default:
        found.insert(0, default)
    return [address for address in dict.fromkeys(found) if not address.is_loopback]
