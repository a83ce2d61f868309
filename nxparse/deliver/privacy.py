"""Connections that may carry a password: those over TLS, and those to this machine."""

from __future__ import annotations

import ipaddress
import socket
import ssl


def is_private(connection: socket.socket) -> bool:
    """Whether a connection uses TLS or its peer has a loopback address."""
    return isinstance(connection, ssl.SSLSocket) or is_loopback(str(connection.getpeername()[0]))


def is_loopback(host: str) -> bool:
    """Whether a host is a loopback address, or `localhost` (RFC 6761 section 6.3)."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    # Python 3.11 does not recognise IPv4-mapped loopback addresses.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
