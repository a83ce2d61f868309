"""Connections that may carry a password."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest

from nxparse.deliver.privacy import is_loopback, is_private
from tests.far import appear_far
from tests.smtp_servers import HOST, Authority

LOOPBACK = ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", "localhost", "LocalHost"]
OTHER = ["192.0.2.1", "::ffff:192.0.2.1", "fe80::1%eth0", "0.0.0.0", "localhost.example", ""]
OTHER += ["127.0.0.1.example"]


@pytest.mark.parametrize(
    ("host", "expected"), [*((host, True) for host in LOOPBACK), *((host, False) for host in OTHER)]
)
def test_is_loopback(host: str, expected: bool) -> None:
    """Only loopback addresses, and the name localhost, are on this machine."""
    assert is_loopback(host) is expected


def test_far_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to another machine is not, whatever name it was opened for."""
    appear_far(monkeypatch)
    with (
        socket.create_server((HOST, 0)) as server,
        socket.create_connection(("localhost", server.getsockname()[1])) as connection,
    ):
        assert not is_private(connection)


def test_tls_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With TLS, a connection to another machine is private."""
    appear_far(monkeypatch)
    context = ssl.create_default_context(cafile=str(Authority(tmp_path).file))
    with socket.create_server((HOST, 0)) as server:
        plain = socket.create_connection(server.getsockname())
        with context.wrap_socket(
            plain, server_hostname=HOST, do_handshake_on_connect=False
        ) as connection:
            assert is_private(connection)
