"""Decides whether a request is answered here, forwarded to its server, or refused.

The proxy refuses connections to its own machine; `upstream` explains why.
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


class RequestHead(NamedTuple):
    """The head of a request, with the server it would be sent to (`host` and `port`).

    Uploads arrive at one of `ports`. `upstream` is the server that a reverse or upstream
    mode names for all requests, if any.
    """

    method: str
    path: str
    host: str
    port: int
    host_header: str
    ports: Sequence[int]
    upstream: tuple[str, int] | None


class Destinations:
    """The decisions for our hosts. `own` is the address in the option nx_dns."""

    def __init__(self, hosts: Hosts, own: IPv4Address | None = None) -> None:
        self.hosts = hosts
        self._own = str(own)

    def claim(self, head: RequestHead, *, at_us: bool = False) -> Claim | None:
        """Decide whether a request is answered here, without resolving names."""
        claim = self._claim(head, at_us)
        # Names are compared first: system calls find out whether an address is ours.
        if claim or at_us or not self._is_at_us(head):
            return claim
        return self._claim(head, True)

    async def resolve(self, head: RequestHead) -> Claim | None:
        """Decide whether a request is answered here or refused; None if it goes upstream."""
        claim = self.claim(head)
        if claim or head.upstream:  # an upstream server resolves the name itself
            return claim
        addresses = await upstream.resolve(endpoints.bare_host(head.host))
        at_us = any(self._is_local(str(address)) for address in addresses)
        if at_us and head.port in head.ports:
            return self.claim(head, at_us=True)
        return _inside(head.host, addresses)

    async def refuse_tunnel(self, head: RequestHead) -> Claim | None:
        """Return the refusal of a CONNECT to this machine; None for other hosts."""
        name = endpoints.bare_host(head.host)
        if name in self.hosts or head.upstream:
            return None
        return _inside(head.host, await upstream.resolve(name))

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

    def _claim(self, head: RequestHead, at_us: bool) -> Claim | None:
        return endpoints.claim(
            head.method,
            head.path,
            endpoints.bare_host(head.host),
            head.host_header,
            hosts=self.hosts,
            at_us=at_us,
            is_local=self._is_local,
        )

    def _is_at_us(self, head: RequestHead) -> bool:
        """Would the request be sent to this machine, and a port that uploads arrive at?"""
        return (
            head.upstream != (head.host, head.port)
            and head.port in head.ports
            and self._is_local(endpoints.bare_host(head.host))
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
    if not upstream.refuses_literal(endpoints.bare_host(host)):
        return False
    return not named or network.is_served(host, port, listening)


def _inside(host: str, addresses: Sequence[Address]) -> Claim | None:
    for address in addresses:
        if upstream.refuses(address):
            return Claim(host, INSIDE, upstream.describe_refused(host, str(address)))
    return None
