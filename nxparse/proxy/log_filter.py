"""Hides log records of mitmproxy that would confuse users."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from nxparse.proxy.file_server import FileServer
from nxparse.proxy.sink import Sink


class ProxyLogFilter(logging.Filter):
    """Drops mitmproxy's records about our own servers, and about request heads that we refused.

    `streams` and `refused` return whether a client, given by its address and port as in
    the record, streams to the sink, or has sent a refused head, which mitmproxy would log
    as a whole.
    """

    def __init__(
        self,
        sink: Sink,
        streams: Callable[[Any], bool],
        refused: Callable[[Any], bool],
        files: FileServer | None = None,
    ) -> None:
        super().__init__()
        self._sink = sink
        self._files = files
        self._streams = streams
        self._refused = refused

    def filter(self, record: logging.LogRecord) -> bool:
        message, client = record.getMessage(), getattr(record, "client", None)
        if message.startswith("Client closed connection before completing request headers: "):
            return not self._refused(client)
        for server in (self._sink, self._files):
            if server and server.address:
                host, port = server.address[:2]
                if message in (f"server connect {host}:{port}", f"server disconnect {host}:{port}"):
                    return False
        if self._sink.address is None:
            return True
        host = self._sink.address[0]
        if message == f"Streaming response from {host}.":
            return self._files is None
        return message != f"Streaming request to {host}." or not self._streams(client)
