"""Decides whether a request is answered here, forwarded to its server, or refused.

The proxy refuses connections to its own machine: servers on loopback expect only local
clients, and a connection of the proxy to itself would loop forever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
        self._own = str(own)

    def claim(self, flow: Any, *, at_us: bool = False) -> Claim | None:
        """Decide whether a request is answered here, without resolving names.

        With `at_us`, the name of its server is known to resolve to this machine.
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
        return claim(at_us=False) or (claim(at_us=True) if at_us or self._is_at_us(flow) else None)

    async def resolve(self, flow: Any) -> Claim | None:
        """Decide whether a request is answered here or refused; None if it goes upstream."""
        claim = self.claim(flow)
        # The server of a reverse or upstream mode resolves the name itself.
        if claim or adapter.named_by_mode(flow.client_conn):
            return claim
        host = flow.request.host
        addresses = await network.resolve(bare_host(host))
        if _is_upload_port(flow) and any(self._is_local(str(one)) for one in addresses):
            return self.claim(flow, at_us=True)
        return _inside(host, addresses)

    async def refuse_tunnel(self, flow: Any) -> Claim | None:
        """Return the refusal of a CONNECT to this machine; None for other hosts."""
        host = bare_host(flow.request.host)
        if host in self.hosts or adapter.named_by_mode(flow.client_conn):
            return None
        return _inside(flow.request.host, await network.resolve(host))

    def refuse_browser(self, claim: Claim, method: str, headers: Headers) -> Claim:
        """Return a refusal for a POST or PUT that a web page made a browser send; else `claim`."""
        origin = None if claim.refusal else endpoints.page_origin(method, headers)
        if origin is None:
            return claim
        reason = f"it comes from a web page, {printable(origin) or '(not named)'}"
        return Claim(claim.host, endpoints.FROM_A_PAGE, reason)

    def is_unknown(self, claim: Claim, endpoint: Endpoint) -> bool:
        """Return whether a request may be that of a new model, and gets no useful reply."""
        if claim.refusal:
            return False
        # A camera may expect something other than our page from a host in nx_hosts.
        foreign = claim.host in self.hosts and claim.host not in endpoints.SAMSUNG_HOSTS
        return endpoint.is_unknown or (endpoint.service is Service.PAGE and foreign)

    def _is_at_us(self, flow: Any) -> bool:
        """Would the request be sent to this machine, and a port that uploads arrive at?"""
        request = flow.request
        return (
            adapter.named_by_mode(flow.client_conn) != (request.host, request.port)
            and _is_upload_port(flow)
            and self._is_local(bare_host(request.host))
        )

    def _is_local(self, host: str) -> bool:
        """Return whether this is a name or address of this machine, or the address in nx_dns."""
        return network.is_local(host) or host == self._own


def refuses_connection(
    host: str, port: int, *, named: bool, listening: Iterable[tuple[str, int]]
) -> bool:
    """Return whether the proxy refuses to connect to this host. No DNS look-ups.

    `named` is true for the server of a mode, and for name servers. These may be on this
    machine, unless they are this process, which listens on `listening`.
    """
    if not network.is_inside(bare_host(host)):
        return False
    return not named or network.is_served(host, port, listening)


def describe_refused(host: str, address: str = "") -> str:
    """Return why the proxy does not connect to a host that has this address."""
    where = printable(host if address in ("", host) else f"{host} ({address})")
    return f"{where} is a loopback, link-local or own address, which the proxy does not connect to"


def _is_upload_port(flow: Any) -> bool:
    # 80 and 443 may be redirected to the port of this process.
    own = flow.client_conn.sockname
    return flow.request.port in (80, 443, *(own[1:2] if own else ()))


def _inside(host: str, addresses: Sequence[Address]) -> Claim | None:
    for address in addresses:
        if network.is_inside(address):
            return Claim(host, INSIDE, describe_refused(host, str(address)))
    return None
