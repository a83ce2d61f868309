"""What the user has to do so that a camera finds this proxy, told at start.

A camera knows its hosts by name and nothing but port 80. So two things must be
true: the names lead to an address, and port 80 of that address leads here.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nxparse.server.endpoints import DNS_HOSTS

# mitmproxy, on a TCP port: "... failed to listen on *:80 with [Errno 13] ...";
# on a UDP port: "Failed to bind UDP socket to 0.0.0.0:53 ... (os error 13)".
_PLACE = re.compile(r"(?:listen on|bind UDP socket to) \S*:(\d+)")
_NUMBER = re.compile(r"(?:Errno|os error) (\d+)")


@dataclass(frozen=True, slots=True)
class Listening:
    """What this process serves: its ports for each mode, and under which addresses.

    `addresses` are those that cameras may be sent to, the likeliest first.
    `command` starts mitmproxy with the addon and no mode.
    """

    regular: Sequence[int]
    transparent: Sequence[int]
    dns: Sequence[int]
    addresses: Sequence[str]
    command: str

    @property
    def complete(self) -> str:
        """The command that serves all that a camera needs."""
        return f"{self.command} --mode regular@80 --mode dns@53"


def lines(here: Listening) -> list[str]:
    """One line each for the address, for port 80, and for DNS."""
    if not here.regular and not here.transparent:
        return [f"no HTTP is served by this process: start it with {here.complete}"]
    addresses = here.addresses or ["ADDRESS"]
    return [
        f"cameras must reach {' or '.join(addresses)}, port 80 for HTTP and port 53 for DNS",
        f"port 80: {_http(here, addresses)}",
        f"port 53: {_dns(here, addresses)}",
    ]


def _http(here: Listening, addresses: Sequence[str]) -> str:
    if 80 in here.regular:
        return "served by this process"
    port = here.transparent[0] if here.transparent else here.regular[0]
    told = rule(addresses, port)
    if here.transparent:
        return f"redirect it to port {port} of this process, if that is not done yet: {told}"
    return (
        f"not served by this process, which listens on port {port}. "
        f"Start it with: {here.complete}; or redirect the port: {told}"
    )


def _dns(here: Listening, addresses: Sequence[str]) -> str:
    if 53 in here.dns:
        return "served by this process; let it be the DNS server of the camera"
    return (
        f"not served by this process. Start it with: {here.complete}; or let the DNS server "
        f"of your network answer, in dnsmasq: {dnsmasq(addresses[0])}"
    )


def rule(addresses: Sequence[str], port: int) -> str:
    """The command that redirects port 80 of these addresses."""
    where = addresses[0] if len(addresses) == 1 else f"{{ {', '.join(addresses)} }}"
    return (
        "nft 'add table ip nx; "
        "add chain ip nx prerouting { type nat hook prerouting priority dstnat; }; "
        f"add rule ip nx prerouting ip daddr {where} tcp dport 80 redirect to :{port}'"
    )


def dnsmasq(address: str, further: Sequence[str] = ()) -> str:
    """The line that lets the cameras' hosts, and further ones, lead to an address."""
    return f"address=/{'/'.join(dict.fromkeys((*DNS_HOSTS, *further)))}/{address}"


def explained(complaint: str) -> str | None:
    """What to do about a port that mitmproxy says it cannot have. None for other complaints."""
    place = _PLACE.search(complaint)
    number = _NUMBER.search(complaint)
    if not place or not number:
        return None
    port = int(place[1])
    match int(number[1]):
        case errno.EACCES:
            return (
                f"port {port} needs a privilege: start with sudo, or as a systemd service with "
                f"AmbientCapabilities=CAP_NET_BIND_SERVICE, or use a port above 1023 and redirect"
            )
        case errno.EADDRINUSE:
            hint = (
                "; README tells about systemd-resolved and dnsmasq, "
                "or take one address only: --mode dns@ADDRESS:53"
                if port == 53
                else ""
            )
            return (
                f"port {port} is taken: see by whom with sudo ss -lntup 'sport = :{port}', "
                f"stop that, or use another port{hint}"
            )
        case errno.EADDRNOTAVAIL:
            return f"port {port}: this machine does not have that address; see ip address"
    return None
