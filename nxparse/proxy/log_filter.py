"""Hides log records of mitmproxy that would confuse users."""

from __future__ import annotations

import logging

from nxparse.proxy.state import State


class ProxyLogFilter(logging.Filter):
    """Drops records about our loopback server, and about request heads that we refused.

    mitmproxy would log such a head as a whole.
    """

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if message.startswith("Client closed connection before completing request headers: "):
            return not self._state.clients.has_refused_head(getattr(record, "client", None))
        if self._state.server.address is None:
            return True
        host, port = self._state.server.address
        return message not in (
            f"server connect {host}:{port}",
            f"server disconnect {host}:{port}",
            f"Streaming request to {host}.",
            f"Streaming response from {host}.",
        )
