"""What the addons of nx_addon.py share."""

from __future__ import annotations

import logging
from typing import Any

from nxparse.config import Config
from nxparse.proxy import adapter
from nxparse.proxy.clients import Clients
from nxparse.proxy.destination import Destinations
from nxparse.proxy.exchange import Exchange
from nxparse.proxy.sink import Sink
from nxparse.proxy.transport import Times
from nxparse.proxy.unknown_hosts import UnknownHosts
from nxparse.server import endpoints
from nxparse.server.backend import Backend
from nxparse.server.endpoints import Claim

logger = logging.getLogger(__name__)


class State:
    """The options, the connections, and the requests that have no reply yet.

    `backend` is None while no uploads are received. `loaded` are flows from a file, to be
    reported. For the event loop's thread.
    """

    def __init__(self, times: Times) -> None:
        self.clients = Clients(times)
        self.config: Config | None = None
        self.destinations = Destinations(endpoints.Hosts())
        self.backend: Backend | None = None
        self.sink = Sink()
        self.exchanges: dict[str, Exchange] = {}  # by the id of the flow
        self.unacknowledged: set[Exchange] = set()  # whose replies are on their way
        self.loaded: list[Any] = []
        self._unknown_hosts = UnknownHosts()

    def configure(self, config: Config) -> None:
        """Use these options from now on."""
        self.config = config
        self.destinations = Destinations(endpoints.Hosts(config.hosts), config.dns)
        if self.backend:
            self.backend.configure(config)

    @property
    def reports(self) -> bool:
        """Is a report of the loaded flows wanted?"""
        return bool(self.config and self.config.report)

    def exchanges_of(self, client: Any) -> list[Exchange]:
        """The requests of a client to our hosts."""
        return [one for one in self.exchanges.values() if one.connection.id == client.id]

    def is_uploading(self, peername: object) -> bool:
        """Has this peer a request to one of our hosts?"""
        return any(one.connection.peername == peername for one in self.exchanges.values())

    def claim(self, flow: Any) -> Claim | None:
        """Who answers a request here; None if it goes upstream. Resolves no names."""
        return self.destinations.claim(adapter.arrival(flow))

    def note_camera(self, client: Any) -> None:
        """A client has asked for one of our hosts."""
        if line := self._unknown_hosts.seen(adapter.name(client)):
            logger.info(line)

    def note_other(self, client: Any, host: str, protocol: str) -> None:
        """A client has asked for another host, in HTTP or DNS."""
        host = endpoints.bare_host(host)
        if line := self._unknown_hosts.asked(adapter.name(client), host, protocol):
            logger.info(line)
