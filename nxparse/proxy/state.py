"""The state that the addons of nx_addon.py share."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from nxparse import config
from nxparse.config import Config, ConfigError
from nxparse.inspect.show import describe_request
from nxparse.proxy import adapter, advice
from nxparse.proxy.clients import Clients
from nxparse.proxy.destination import Destinations, refuse_browser
from nxparse.proxy.exchange import Exchange
from nxparse.proxy.loopback import LoopbackServer
from nxparse.proxy.transport import Times
from nxparse.proxy.unknown_hosts import UnknownHosts, host_remedy
from nxparse.server import endpoints
from nxparse.server.backend import Backend
from nxparse.server.endpoints import Claim, Endpoint
from nxparse.server.hotspot import PortalState

logger = logging.getLogger(__name__)


class State:
    """The options, the connections, and the requests that have no reply yet.

    `backend` is None while no uploads are received. `loaded` has the flows read from a
    file if a report is wanted. Use it in the event loop's thread only.
    """

    def __init__(self, times: Times) -> None:
        self.clients = Clients(times)
        self.config: Config | None = None
        self.destinations = Destinations(endpoints.Hosts())
        self.backend: Backend | None = None
        self.server = LoopbackServer()
        self.exchanges: dict[str, Exchange] = {}  # by the id of the flow
        self.unacknowledged: set[Exchange] = set()  # replied, but not known to have arrived
        self.loaded: list[Any] = []
        self.unknown_hosts = UnknownHosts()
        self._portal = PortalState()
        self._doubts: list[str] = []  # as logged

    def configure(self, options: Any, environ: Mapping[str, str]) -> None:
        """Parse the options and use them from now on. Raises ConfigError."""
        values = {option.name: getattr(options, option.name) for option in config.OPTIONS}
        parsed = config.parse(values, environ)
        if self.backend and parsed.dir != self.backend.config.dir:
            raise ConfigError("nx_dir cannot be changed while uploads arrive: restart")
        logged, self._doubts = self._doubts, advice.doubts(values, parsed, environ)
        for doubt in self._doubts:
            if doubt not in logged:
                logger.warning(doubt)
        self.config = parsed
        self.destinations = Destinations(endpoints.Hosts(parsed.hosts), parsed.dns)
        if self.backend:
            self.backend.configure(parsed)

    @property
    def wants_report(self) -> bool:
        """Whether a report of the loaded flows is wanted."""
        return bool(self.config and self.config.report)

    def has_exchange(self, client: Any) -> bool:
        """Return whether a client has an unanswered request to one of our hosts."""
        return any(one.client_id == client.id for one in self.exchanges.values())

    def choose_endpoint(self, flow: Any, claim: Claim) -> tuple[Endpoint, bool]:
        """Choose the endpoint for a request, and return whether the request is unknown.

        Logs a refusal. Otherwise records the client as a camera, and the progress of its
        hotspot check, on which the reply may depend.
        """
        request, address = flow.request, adapter.address(flow.client_conn)
        headers = adapter.fields(request.headers)
        claim = refuse_browser(claim, request.method, headers)
        endpoint = claim.endpoint(request.method, request.path)
        if claim.refusal:
            line = describe_request(request.method, request.pretty_url)
            remedy = host_remedy(claim.host) if claim.refusal is endpoints.NOT_FOUND else ""
            logger.warning(f"{address}: {line} is refused: {claim.reason}{remedy}")
            return endpoint, False
        self.unknown_hosts.seen(address)
        if endpoint.check:
            endpoint = endpoint._replace(reply=self._portal.answer(address, endpoint.check))
        elif not endpoint.reply and not endpoint.is_page:
            self._portal.passed(address)
        return endpoint, self.destinations.is_unknown(claim, endpoint)

    def end_exchanges(self, reason: str) -> bool:
        """End all exchanges. Returns whether a client is still waiting for a reply.

        A camera that gets no reply sends its upload again.
        """
        waiting = bool(self.exchanges)
        for exchange in (*self.exchanges.values(), *self.unacknowledged):
            exchange.end_now(reason)
        self.exchanges.clear()
        self.unacknowledged.clear()
        return waiting

    def is_ours(self, flow: Any) -> bool:
        """Return whether a flow is for one of our hosts, now or when it was recorded."""
        if hasattr(flow.request, "questions"):
            return any(self.destinations.hosts.resolves(q.name) for q in flow.request.questions)
        return adapter.is_labelled(flow) or self.destinations.claim(flow) is not None

    def loaded_from_cameras(self) -> list[Any]:
        """Return the loaded flows of clients that have asked for one of our hosts."""
        cameras = {adapter.address(one.client_conn) for one in self.loaded if self.is_ours(one)}
        return [one for one in self.loaded if adapter.address(one.client_conn) in cameras]

    def note_foreign(self, flow: Any) -> None:
        """Record a request that is not answered here."""
        host = endpoints.bare_host(flow.request.pretty_host)
        # At www.msn.com only the front page is answered, whatever the options are.
        if not self.destinations.hosts.resolves(host):
            self.unknown_hosts.asked(adapter.address(flow.client_conn), host, "requested")

    def note_question(self, flow: Any, type_a: int) -> None:
        """Record a DNS query of a client. `type_a` is the type of address records."""
        question, address = flow.request.question, adapter.address(flow.client_conn)
        if question and self.destinations.hosts.resolves(question.name):
            self.unknown_hosts.seen(address)
        elif question and question.type == type_a:
            self.unknown_hosts.asked(address, endpoints.bare_host(question.name), "looked up")
