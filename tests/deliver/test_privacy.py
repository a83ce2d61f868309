"""Connections that may carry a password."""

from __future__ import annotations

import pytest

from nxparse.deliver.privacy import is_loopback

LOOPBACK = ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", "localhost", "LocalHost"]
OTHER = ["192.0.2.1", "::ffff:192.0.2.1", "fe80::1%eth0", "0.0.0.0", "localhost.example", ""]
OTHER += ["127.0.0.1.example"]


@pytest.mark.parametrize(
    ("host", "expected"), [*((host, True) for host in LOOPBACK), *((host, False) for host in OTHER)]
)
def test_is_loopback(host: str, expected: bool) -> None:
    """Only loopback addresses, and the name localhost, are on this machine."""
    assert is_loopback(host) is expected
