"""Addresses that the proxy refuses to connect to: loopback, link-local, unspecified, own.

Servers on loopback expect only local clients, and a connection of the proxy to itself
would loop forever.
"""

from __future__ import annotations

import asyncio
import socket

from nxparse.proxy import network
from nxparse.proxy.network import Address
from nxparse.text import printable

LOOKUP = 5.0  # seconds for the resolver; the address is checked again once connected


async def resolve(host: str, *, limit: float = LOOKUP) -> list[Address]:
    """Return the addresses of a host, which may be an address in any form.

    Empty without an answer within `limit` seconds.
    """
    literal = network.parse_address(host)
    if literal:
        return [literal]
    try:
        async with asyncio.timeout(limit):
            # The same call as in asyncio.open_connection, for the same result.
            found = await asyncio.get_running_loop().getaddrinfo(
                host, None, type=socket.SOCK_STREAM
            )
    except (OSError, UnicodeError):
        return []
    addresses = [network.parse_address(str(entry[4][0])) for entry in found]
    return [address for address in dict.fromkeys(addresses) if address]


def refuses(address: Address) -> bool:
    """Return True for an address that the proxy must not connect to for a client."""
    return (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or network.is_own(address)
    )


def refuses_literal(host: str) -> bool:
    """The same for an address in any form or a name of this machine; False for other names."""
    literal = network.parse_address(host)
    return refuses(literal) if literal else network.is_local(host)


def describe_refused(host: str, address: str = "") -> str:
    """Return why the proxy does not connect to a host that has this address."""
    where = printable(host if address in ("", host) else f"{host} ({address})")
    return f"{where} is a loopback, link-local or own address, which the proxy does not connect to"
