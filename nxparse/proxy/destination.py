"""Decides whether a request is answered here, goes on to another server, or is refused.

The proxy must not become a way into its own machine: servers that listen on loopback
expect only clients of this machine, and a connection of the proxy to itself would
repeat without end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address
from typing import NamedTuple

from nxparse.inspect.recorded import Headers
from nxparse.proxy import network, upstream
from nxparse.proxy.network import Address
from nxparse.server import endpoints
from nxparse.server.endpoints import Claim, Endpoint, Hosts, Service
from nxparse.server.reply import refusal
from nxparse.text import printable

INSIDE = refusal(403, "The proxy does not connect to itself or to its own machine")


class Arrival(NamedTuple):
    """A request, where it would be sent, and how it arrived.

    `ports` are those that uploads arrive at. `upstream` is the server that a reverse or
    upstream mode names for every request, if any.
    """

    method: str
    path: str
    host: str
    port: int
    host_header: str
    ports: Sequence[int]
    upstream: tuple[str, int] | None


class Destinations:
    """Who answers which request. `own` is the address in the option nx_dns."""

    def __init__(self, hosts: Hosts, own: IPv4Address | None = None) -> None:
        self.hosts = hosts
        self._own = str(own)

    def claim(self, arrival: Arrival, *, at_us: bool = False) -> Claim | None:
        """Decide whether a request is answered here, without resolving names."""
        claim = self._claim(arrival, at_us)
        # Names are compared first: system calls find out whether an address is ours.
        if claim or at_us or not self._is_at_us(arrival):
            return claim
        return self._claim(arrival, True)

    async def resolve(self, arrival: Arrival) -> Claim | None:
        """Decide whether a request is answered here or refused; None if it goes upstream."""
        claim = self.claim(arrival)
        if claim or arrival.upstream:  # else the upstream server resolves the name
            return claim
        addresses = await upstream.resolve(endpoints.bare_host(arrival.host))
        at_us = any(self._is_local(str(address)) for address in addresses)
        if at_us and arrival.port in arrival.ports:
            return self.claim(arrival, at_us=True)
        return _inside(arrival.host, addresses)

    async def refuse_tunnel(self, arrival: Arrival) -> Claim | None:
        """The refusal of a CONNECT to a host that is this machine; None for others."""
        name = endpoints.bare_host(arrival.host)
        if name in self.hosts or arrival.upstream:
            return None
        return _inside(arrival.host, await upstream.resolve(name))

    def refuse_browser(self, claim: Claim, method: str, headers: Headers) -> Claim:
        """Refuse a request that a web page makes a browser send, unless it only reads."""
        origin = None if claim.refusal else endpoints.page_origin(method, headers)
        if origin is None:
            return claim
        reason = f"it comes from a web page, {printable(origin) or '(not named)'}"
        return Claim(claim.host, endpoints.FROM_A_PAGE, reason)

    def is_unknown(self, claim: Claim, endpoint: Endpoint) -> bool:
        """May a new model want what is requested, and does it get no useful answer?"""
        if claim.refusal:
            return False
        # The page at a host that only nx_hosts names: a camera may expect something else.
        foreign = claim.host in self.hosts and claim.host not in endpoints.SAMSUNG_HOSTS
        return endpoint.is_unsolved or (endpoint.service is Service.PAGE and foreign)

    def _claim(self, arrival: Arrival, at_us: bool) -> Claim | None:
        return endpoints.claim(
            arrival.method,
            arrival.path,
            endpoints.bare_host(arrival.host),
            arrival.host_header,
            hosts=self.hosts,
            at_us=at_us,
            is_local=self._is_local,
        )

    def _is_at_us(self, arrival: Arrival) -> bool:
        """Would the request be sent to this machine, and a port that uploads arrive at?"""
        return (
            arrival.upstream != (arrival.host, arrival.port)
            and arrival.port in arrival.ports
            and self._is_local(endpoints.bare_host(arrival.host))
        )

    def _is_local(self, host: str) -> bool:
        """Is this a name or an address of this machine, or the address in nx_dns?"""
        return network.is_local(host) or host == self._own


def refuses_connection(
    host: str, port: int, *, named: bool, listening: Iterable[tuple[str, int]]
) -> bool:
    """Must the proxy not connect to this host? Names of other machines are not resolved.

    `named` is true for the server of a mode, and for name servers: these may be on this
    machine, as long as they are not this process, which listens on `listening`.
    """
    if not upstream.refuses_literal(endpoints.bare_host(host)):
        return False
    return not named or network.is_served(host, port, listening)


def _inside(host: str, addresses: Sequence[Address]) -> Claim | None:
    for address in addresses:
        if upstream.refuses(address):
            return Claim(host, INSIDE, upstream.describe_refused(host, str(address)))
    return None
