"""Hides log records of mitmproxy that would confuse users."""

from __future__ import annotations

import logging
from collections.abc import Callable

from nxparse.proxy.loopback import LoopbackServer


class ProxyLogFilter(logging.Filter):
    """Drops records about our loopback server, and about request heads that we refused.

    mitmproxy would log such a head as a whole. `refused` returns whether this client, an
    address and port, has sent one.
    """

    def __init__(self, server: LoopbackServer, refused: Callable[[object], bool]) -> None:
        super().__init__()
        self._server = server
        self._refused = refused

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if message.startswith("Client closed connection before completing request headers: "):
            return not self._refused(getattr(record, "client", None))
        if self._server.address is None:
            return True
        host, port = self._server.address
        return message not in (
            f"server connect {host}:{port}",
            f"server disconnect {host}:{port}",
            f"Streaming request to {host}.",
            f"Streaming response from {host}.",
        )
