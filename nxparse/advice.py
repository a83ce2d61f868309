"""What the user has to do so that a camera finds this proxy, told at start.

A camera knows its hosts by name and nothing but port 80. So two things must be
true: the names lead to this machine, and its port 80 leads to this process.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nxparse.service import SAMSUNG_HOSTS

# mitmproxy, on a TCP port: "... failed to listen on *:80 with [Errno 13] ...";
# on a UDP port: "Failed to bind UDP socket to 0.0.0.0:53 ... (os error 13)".
_PLACE = re.compile(r"(?:listen on|bind UDP socket to) \S*:(\d+)")
_NUMBER = re.compile(r"(?:Errno|os error) (\d+)")

COMMAND = "sudo mitmdump -s nx_addon.py --mode regular@80 --mode dns@53"


@dataclass(frozen=True, slots=True)
class Listening:
    """What this process serves: the ports of each kind of proxy, and the addresses it has."""

    regular: Sequence[int]
    transparent: Sequence[int]
    dns: Sequence[int]
    addresses: Sequence[str]


def lines(here: Listening) -> list[str]:
    """One line each for the address, for port 80, and for DNS."""
    if not here.regular and not here.transparent:
        return ["no HTTP is served by this process: start it with --mode regular@80"]
    address = here.addresses[0] if here.addresses else "the address of this machine"
    return [
        f"cameras must reach {' or '.join(here.addresses) or address}, "
        f"port 80 for HTTP and port 53 for DNS",
        _http(here, address),
        _dns(here, address),
    ]


def _http(here: Listening, address: str) -> str:
    if 80 in here.regular:
        return "port 80: served by this process"
    port, mode = (
        (here.transparent[0], "transparent") if here.transparent else (here.regular[0], "regular")
    )
    rule = (
        "nft 'add table ip nx; "
        "add chain ip nx prerouting { type nat hook prerouting priority dstnat; }; "
        f"add rule ip nx prerouting ip daddr {address} tcp dport 80 redirect to :{port}'"
    )
    return (
        f"port 80: not served by this process, which has port {port} ({mode}). "
        f"Redirect it: {rule}; or start with: {COMMAND}"
    )


def _dns(here: Listening, address: str) -> str:
    names = "/".join(SAMSUNG_HOSTS)
    if 53 in here.dns:
        return "port 53: served by this process; make it the DNS server of the camera"
    return (
        f"port 53: not served by this process. Start with: {COMMAND}; "
        f"or let the network's DNS server answer, in dnsmasq: address=/{names}/{address}"
    )


def explained(complaint: str) -> str | None:
    """What to do about a port that mitmproxy says it cannot have. None for other complaints."""
    place = _PLACE.search(complaint)
    number = _NUMBER.search(complaint)
    if not place or not number:
        return None
    port = int(place[1])
    code = int(number[1])
    if code == errno.EACCES:
        return (
            f"port {port} needs a privilege: start with sudo, or as a systemd service with "
            f"AmbientCapabilities=CAP_NET_BIND_SERVICE, or use a port above 1023 and redirect"
        )
    if code == errno.EADDRINUSE:
        hint = (
            "; systemd-resolved and dnsmasq are described in README, "
            "or take one address only: --mode dns@ADDRESS:53"
            if port == 53
            else ""
        )
        return (
            f"port {port} is taken: see by whom with sudo ss -lntup 'sport = :{port}', "
            f"stop that, or use another port{hint}"
        )
    return None
