"""The addresses and ports of this machine."""

from __future__ import annotations

import ipaddress
import socket
import struct
from ipaddress import IPv4Address

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


def is_local(host: str) -> bool:
    """Is this an address or a name of this machine?"""
    name = socket.gethostname().lower()
    if host in ("localhost", name, f"{name}.local"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    if address.is_unspecified or address.is_multicast or host == "255.255.255.255":
        return False
    # Only an address of this machine can be bound to.
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


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
