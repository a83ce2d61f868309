"""Log records of mitmproxy that are hidden."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from nxparse.proxy.log_filter import ProxyLogFilter

CAMERA, OTHER = ("192.0.2.7", 40000), ("192.0.2.8", 40000)
SERVER = ("127.0.0.1", 4711)
HEAD = "Client closed connection before completing request headers: b'GET / HTTP/1.1'"


@pytest.mark.parametrize(
    ("message", "client", "server", "shown"),
    [
        ("server connect 127.0.0.1:4711", CAMERA, SERVER, False),
        ("server disconnect 127.0.0.1:4711", CAMERA, SERVER, False),
        ("server connect 127.0.0.1:4712", CAMERA, SERVER, True),
        ("server connect example.org:80 (127.0.0.1:4711)", CAMERA, SERVER, True),
        ("server connect 127.0.0.1:4711", CAMERA, None, True),
        ("Streaming request to 127.0.0.1.", CAMERA, SERVER, False),
        ("Streaming response from 127.0.0.1.", CAMERA, SERVER, False),
        ("Streaming request to 192.0.2.1.", CAMERA, SERVER, True),
        ("client connect", CAMERA, SERVER, True),
        (HEAD, OTHER, SERVER, False),
        (HEAD, CAMERA, SERVER, True),
        (HEAD, None, SERVER, True),
        ("error: 100%", CAMERA, SERVER, True),
    ],
)
def test_filter(message: str, client: object, server: object, shown: bool) -> None:
    """Log lines about the loopback server, or about a refused head, are hidden."""
    state: Any = SimpleNamespace(
        server=SimpleNamespace(address=server),
        clients=SimpleNamespace(has_refused_head=lambda peer: peer == OTHER),
    )
    record = logging.makeLogRecord({"msg": message} | ({"client": client} if client else {}))
    assert ProxyLogFilter(state).filter(record) is shown
