"""The addresses and ports of this machine."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

LOOKUP = 5.0  # seconds for the resolver

_SIOCGIFADDR = 0x8915
# Nothing is sent to this address (RFC 5737); the kernel only chooses a route to it.
_ELSEWHERE = "192.0.2.1"


def facing(peer: str) -> IPv4Address | None:
    """Return this machine's IPv4 address on the way to `peer`, an IP address; None if unknown."""
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
    """Parse an address in any form that connect() accepts: 127.1, 0x7f000001, ::ffff:127.0.0.1.

    None for a name.
    """
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        # Python accepts four decimal numbers only; a resolver accepts more.
        try:
            return IPv4Address(socket.inet_aton(host))
        except (OSError, ValueError):
            return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def is_own(address: Address) -> bool:
    """Return True if this machine has this address."""
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
    """Return True for an address or a name of this machine."""
    name = socket.gethostname().lower()
    if host in ("localhost", name, f"{name}.local"):
        return True
    try:
        return is_own(ipaddress.ip_address(host))
    except ValueError:
        return False


def is_inside(host: Address | str) -> bool:
    """Return True for an address in any form, or a name, that leads to this machine.

    These are loopback, link-local, unspecified and own addresses. No DNS look-ups: False for
    names other than this machine's own.
    """
    address = parse_address(host) if isinstance(host, str) else host
    if address is None:
        return is_local(str(host))
    return address.is_loopback or address.is_link_local or address.is_unspecified or is_own(address)


async def resolve(host: str, *, limit: float = LOOKUP) -> list[Address]:
    """Return the addresses of a host, which may be an address in any form.

    Empty without an answer within `limit` seconds.
    """
    if literal := parse_address(host):
        return [literal]
    try:
        async with asyncio.timeout(limit):
            # The same call as in asyncio.open_connection, for the same result.
            found = await asyncio.get_running_loop().getaddrinfo(
                host, None, type=socket.SOCK_STREAM
            )
    except (OSError, UnicodeError):
        return []
    addresses = [parse_address(str(entry[4][0])) for entry in found]
    return [address for address in dict.fromkeys(addresses) if address]


def is_served(host: str, port: int, listening: Iterable[tuple[str, int]]) -> bool:
    """Return True if a server that listens on these addresses and ports answers at `host`.

    Always False for a name. A server may listen on all addresses.
    """
    wanted = parse_address(host)
    for own, own_port in listening:
        address = parse_address(own)
        everywhere = address is None or address.is_unspecified
        if wanted and port == own_port and (everywhere or wanted == address):
            return True
    return False


def addresses(*, lan_first: bool = False) -> list[IPv4Address]:
    """Return the IPv4 addresses at which others can reach this machine, the likeliest first.

    These are private ones, the default route's first. With `lan_first`, for a router, that is
    the last.
    """
    default = facing(_ELSEWHERE)
    found = [default, *_interface_addresses()] if default else _interface_addresses()

    def rank(address: IPv4Address) -> tuple[bool, bool]:
        is_default, is_public = address == default, not address.is_private
        return (is_default, is_public) if lan_first else (is_public, not is_default)

    return sorted((one for one in dict.fromkeys(found) if not one.is_loopback), key=rank)


def _interface_addresses() -> list[IPv4Address]:
    """Return the address of each network interface; none where that is not known."""
    found = []
    try:
        import fcntl

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            for _, name in socket.if_nameindex():
                request = struct.pack("256s", name.encode()[:15])
                with suppress(OSError):  # it has no address
                    answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
                    found.append(IPv4Address(answer[20:24]))
    except (ImportError, OSError):
        pass
    return found
