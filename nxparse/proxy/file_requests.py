"""Requests for saved files, which the file server answers in place of the requested host."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from nxparse.proxy import adapter
from nxparse.proxy.clients import Clients
from nxparse.proxy.file_server import FileServer
from nxparse.server.backend import Backend
from nxparse.server.endpoints import Endpoint
from nxparse.server.reply import Reply


class FileRequests:
    """The current requests, by flow id. Use in the event loop's thread only."""

    def __init__(self, clients: Clients) -> None:
        self.server = FileServer()
        self._clients = clients
        self._current: dict[str, tuple[Any, Callable[[], None]]] = {}

    async def begin(self, flow: Any, backend: Backend, endpoint: Endpoint) -> Reply | None:
        """Redirect a request to the file server. Returns the reply if it is refused."""
        client, request = flow.client_conn, flow.request
        address = await self.server.open()
        fields = adapter.fields(request.headers)
        found = await backend.in_thread(
            backend.gateway.file,
            backend.config,
            adapter.address(client),
            endpoint,
            request.method,
            fields,
        )
        if isinstance(found, Reply):
            return found
        request.stream = lambda _: []  # discard a body, which HTTP/2 does not announce
        self._clients.stream_reply(client.id)
        path, destination = request.path, adapter.redirect(request, address)
        request.path = self.server.offer(found, partial(self._clients.abort, client.id))

        def restore() -> None:
            adapter.restore(request, destination)
            request.path = path

        self._current[flow.id] = client, restore
        return None

    def connects(self, client: Any, address: tuple[Any, ...]) -> bool:
        """Return whether this is the address of the file server, and this client gets a file."""
        return address[:2] == self.server.address and any(
            one.id == client.id for one, _ in self._current.values()
        )

    def __contains__(self, flow: Any) -> bool:
        return flow.id in self._current

    def start(self, flow: Any) -> None:
        """Stream the body of a response whose head has arrived."""
        if flow.id in self._current:
            self._current[flow.id][1]()
            flow.response.stream = True
            adapter.label(flow, "answered", "saved file")

    def end(self, flow: Any) -> None:
        """End a request whose response is complete or was aborted."""
        if flow.id in self._current:
            self._current.pop(flow.id)[1]()
