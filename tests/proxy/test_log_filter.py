from __future__ import annotations

import logging

import pytest

from nxparse.proxy.log_filter import ProxyLogFilter
from nxparse.proxy.loopback import LoopbackServer

CAMERA = ("192.0.2.7", 40000)
OTHER = ("192.0.2.8", 40000)
HEAD = "Client closed connection before completing request headers: b'GET / HTTP/1.1'"


@pytest.mark.parametrize(
    ("message", "client", "shown"),
    [
        ("server connect 127.0.0.1:4711", CAMERA, False),
        ("server disconnect 127.0.0.1:4711", CAMERA, False),
        ("server connect 127.0.0.1:4712", CAMERA, True),
        ("server connect example.org:80 (127.0.0.1:4711)", CAMERA, True),
        ("Streaming request to 127.0.0.1.", CAMERA, False),
        ("Streaming response from 127.0.0.1.", CAMERA, False),
        ("Streaming request to 192.0.2.1.", CAMERA, True),
        ("client connect", CAMERA, True),
        (HEAD, OTHER, False),
        (HEAD, CAMERA, True),
        ("error: 100%", CAMERA, True),
    ],
)
def test_filter(message: str, client: tuple[str, int], shown: bool) -> None:
    """Log lines about the loopback server, or about a refused head, are hidden."""
    server = LoopbackServer()
    server.address = "127.0.0.1", 4711
    log_filter = ProxyLogFilter(server, OTHER.__eq__)
    record = logging.makeLogRecord({"msg": message, "client": client})
    assert log_filter.filter(record) is shown


def test_no_server() -> None:
    """Without that server nothing is hidden, nor of records that name no client."""
    log_filter = ProxyLogFilter(LoopbackServer(), lambda _: False)
    for message in ("server connect 127.0.0.1:4711", HEAD):
        assert log_filter.filter(logging.makeLogRecord({"msg": message}))
