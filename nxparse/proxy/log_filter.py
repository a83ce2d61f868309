"""Hides log records of mitmproxy about the sink and about refused heads."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from nxparse.proxy.sink import Sink


class ProxyLogFilter(logging.Filter):
    """Drops log records that would puzzle users, or hold a whole refused head.

    `streams` and `refused` take a client's address and port, as in the record, and tell
    whether it streams to the sink, or has sent a head that was refused.
    """

    def __init__(
        self, sink: Sink, streams: Callable[[Any], bool], refused: Callable[[Any], bool]
    ) -> None:
        super().__init__()
        self._sink = sink
        self._streams = streams
        self._refused = refused

    def filter(self, record: logging.LogRecord) -> bool:
        message, client = record.getMessage(), getattr(record, "client", None)
        if message.startswith("Client closed connection before completing request headers: "):
            return not self._refused(client)
        if self._sink.address is None:
            return True
        host, port = self._sink.address
        if message in (f"server connect {host}:{port}", f"server disconnect {host}:{port}"):
            return False
        return message != f"Streaming request to {host}." or not self._streams(client)
