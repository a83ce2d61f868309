"""Decides whether a request is answered here, forwarded to its server, or refused.

The proxy refuses connections to its own machine: servers on loopback expect only local
clients, and a connection of the proxy to itself would loop forever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from ipaddress import IPv4Address
from typing import Any

from nxparse.inspect.recorded import Headers
from nxparse.proxy import adapter, network
from nxparse.proxy.network import Address
from nxparse.server import endpoints
from nxparse.server.endpoints import Claim, Endpoint, Hosts, Service, bare_host
from nxparse.server.reply import refusal
from nxparse.text import printable

INSIDE = refusal(403, "The proxy does not connect to itself or to its own machine")


class Destinations:
    """The decisions for our hosts. `own` is the address in the option nx_dns."""

    def __init__(self, hosts: Hosts, own: IPv4Address | None = None) -> None:
        self.hosts = hosts
        self._own = str(own) if own else None

    def claim(self, flow: Any, addresses: Sequence[Address] = ()) -> Claim | None:
        """Decide whether a request is answered here.

        `addresses` are those of its server, as far as they have been resolved.
        """
        request = flow.request
        claim = partial(
            endpoints.claim,
            request.method,
            request.path,
            bare_host(request.host),
            request.host_header or "",
            hosts=self.hosts,
            is_local=self._is_local,
        )
        # Names are compared first: system calls find out whether an address is ours.
        if found := claim(at_us=False):
            return found
        return claim(at_us=True) if self._is_at_us(flow, addresses) else None

    async def resolve(self, flow: Any) -> Claim | None:
        """Decide whether a request is answered here or refused; None if it goes upstream."""
        claim = self.claim(flow)
        # The server of a reverse or upstream mode resolves the name itself.
        if claim or adapter.named_by_mode(flow.client_conn):
            return claim
        host = flow.request.host
        addresses = await network.resolve(bare_host(host))
        return self.claim(flow, addresses) or _inside(host, addresses)

    async def refuse_tunnel(self, flow: Any) -> str:
        """Return why a CONNECT to this machine is refused; empty for other hosts."""
        host = bare_host(flow.request.host)
        if host in self.hosts or adapter.named_by_mode(flow.client_conn):
            return ""
        claim = _inside(flow.request.host, await network.resolve(host))
        return claim.reason if claim else ""

    def is_unknown(self, claim: Claim, endpoint: Endpoint) -> bool:
        """Return whether an accepted request may be that of a new model, without a useful reply."""
        # A camera may expect something other than our page from a host in nx_hosts.
        foreign = claim.host in self.hosts and claim.host not in endpoints.SAMSUNG_HOSTS
        return endpoint.is_unknown or (endpoint.service is Service.PAGE and foreign)

    def _is_at_us(self, flow: Any, addresses: Sequence[Address]) -> bool:
        """Would the request be sent to this machine, and a port that uploads arrive at?"""
        request, own = flow.request, flow.client_conn.sockname
        if adapter.named_by_mode(flow.client_conn) == (request.host, request.port):
            return False
        # 80 and 443 may be redirected to the port of this process.
        if request.port not in (80, 443, *(own[1:2] if own else ())):
            return False
        return any(self._is_local(one) for one in (bare_host(request.host), *map(str, addresses)))

    def _is_local(self, host: str) -> bool:
        """Return whether this is a name or address of this machine, or the address in nx_dns."""
        return network.is_local(host) or host == self._own


def refuse_browser(claim: Claim, method: str, headers: Headers) -> Claim:
    """Return a refusal for a POST or PUT that a web page made a browser send; else `claim`."""
    origin = None if claim.refusal else endpoints.page_origin(method, headers)
    if origin is None:
        return claim
    reason = f"it comes from a web page, {printable(origin) or '(not named)'}"
    return Claim(claim.host, endpoints.FROM_A_PAGE, reason)


def refuses_connection(
    host: str, port: int, *, named: bool, listening: Callable[[], Iterable[tuple[str, int]]]
) -> bool:
    """Return whether the proxy refuses to connect to this host. No DNS look-ups.

    `named` is true for the server of a mode, and for name servers. These may be on this
    machine, unless they are this process: `listening` returns its addresses and ports.
    """
    if not network.is_inside(bare_host(host)):
        return False
    return not named or network.is_served(host, port, listening())


def describe_refused(host: str, address: str = "") -> str:
    """Return why the proxy does not connect to a host that has this address."""
    where = printable(host if address in ("", host) else f"{host} ({address})")
    return f"{where} is a loopback, link-local or own address, which the proxy does not connect to"


def _inside(host: str, addresses: Sequence[Address]) -> Claim | None:
    for address in addresses:
        if network.is_inside(address):
            return Claim(host, INSIDE, describe_refused(host, str(address)))
    return None
