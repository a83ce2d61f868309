"""Addresses that the proxy refuses to connect to."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading

import pytest

from nxparse.proxy import network, upstream

LOOPBACK = [ipaddress.ip_address("127.0.0.1")]
OWN = network.facing("192.0.2.1")


@pytest.mark.parametrize(
    ("address", "refused"),
    [
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("0.0.0.0", True),
        ("::", True),
        ("169.254.169.254", True),
        ("fe80::1", True),
        ("fe80::1%eth0", True),
        pytest.param(str(OWN), True, marks=pytest.mark.skipif(not OWN, reason="no network")),
        ("198.51.100.80", False),
        ("192.168.77.66", False),
        ("2001:db8::1", False),
    ],
)
def test_refuses(address: str, refused: bool) -> None:
    """Addresses of this machine are refused; other machines of the network are not."""
    assert upstream.refuses(ipaddress.ip_address(address)) is refused
    assert upstream.refuses_literal(address) is refused


SPELLINGS = ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001"]
SPELLINGS += ["0177.0.0.1", "::ffff:127.0.0.1", "::ffff:7f00:1", "[::ffff:127.0.0.1]"]


@pytest.mark.parametrize("host", SPELLINGS)
async def test_spellings(host: str) -> None:
    """An address is recognised in every form that connect() accepts."""
    assert await upstream.resolve(host) == LOOPBACK
    assert upstream.refuses_literal(host)


@pytest.mark.parametrize("host", ["0", "0.0.0.0", "0x0", "::", "[::]"])
def test_unspecified(host: str) -> None:
    """The unspecified address, this machine for connect(), is refused."""
    assert upstream.refuses_literal(host)


async def test_a_name() -> None:
    """A name of this machine is refused, and so are its addresses."""
    assert upstream.refuses_literal("localhost")
    found = await upstream.resolve("localhost")
    assert found
    assert all(upstream.refuses(address) for address in found)


@pytest.mark.parametrize("host", ["", "nothing.invalid", "x" * 300, "a..b", "\0", "\uff41" * 70])
async def test_no_address(host: str) -> None:
    """A name that does not resolve has no address and is left to mitmproxy."""
    assert await upstream.resolve(host) == []
    assert not upstream.refuses_literal(host)


async def test_a_silent_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolving ends after `limit` seconds. The event loop is not blocked."""
    answer = threading.Event()
    calling = threading.get_ident()

    def silent(*_: object, **__: object) -> list[object]:
        assert threading.get_ident() != calling, "the resolver blocks the event loop"
        answer.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    try:
        async with asyncio.timeout(5):
            assert await upstream.resolve("slow.example", limit=0.01) == []
    finally:
        answer.set()


def test_describe_refused() -> None:
    """The reason has the name, escaped, and its address."""
    shown = upstream.describe_refused("evil.example\n", "127.0.0.1")
    assert shown.startswith("evil.example? (127.0.0.1) is a loopback")
