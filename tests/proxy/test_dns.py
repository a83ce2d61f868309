"""Loops and limits of DNS queries that are passed on."""

from __future__ import annotations

import pytest

from nxparse.proxy import network
from nxparse.proxy.dns import MAX_AGE, MAX_QUERIES, MAX_SAME, ForeignQueries
from nxparse.proxy.limits import REMIND
from tests.clock import Clock

A, AAAA = 1, 28
OWN = network.facing("192.0.2.1")
needs_network = pytest.mark.skipif(OWN is None, reason="this machine has no network")


@pytest.mark.parametrize(
    ("servers", "listening", "loop"),
    [
        pytest.param(["127.0.0.1"], [("0.0.0.0", 53)], "127.0.0.1", id="loopback"),
        pytest.param(["127.0.0.53"], [("0.0.0.0", 53), ("::", 53)], "127.0.0.53", id="resolved"),
        pytest.param(
            [str(OWN)], [("0.0.0.0", 53)], str(OWN), id="own-address", marks=needs_network
        ),
        pytest.param(["198.51.100.1", "127.0.0.1"], [("", 53)], "127.0.0.1", id="the-second"),
        pytest.param(["127.0.0.53"], [("127.0.0.2", 53)], "", id="another-address"),
        pytest.param(["127.0.0.1"], [("0.0.0.0", 5353)], "", id="another-port"),
        pytest.param(["198.51.100.1"], [("0.0.0.0", 53)], "", id="another-machine"),
        pytest.param(["127.0.0.1"], [], "", id="no-dns-mode"),
    ],
)
def test_find_loop(
    caplog: pytest.LogCaptureFixture,
    servers: list[str],
    listening: list[tuple[str, int]],
    loop: str,
) -> None:
    """A name server is this process if the DNS mode listens on its address and port 53.

    That is logged once, with the option to set.
    """
    queries = ForeignQueries()
    assert [queries.find_loop(servers, listening) for _ in range(2)] == [bool(loop)] * 2
    assert not queries.find_loop(["198.51.100.1"], listening)
    assert caplog.text.count(f"the name server {loop} is this process") == bool(loop)
    assert ("--set dns_name_servers=" in caplog.text) is bool(loop)


def test_the_limit_of_all() -> None:
    """The number of pending queries is limited; one that ends makes room."""
    queries = ForeignQueries(Clock())
    assert all(queries.begin(str(n), f"{n}.example", A) for n in range(MAX_QUERIES))
    assert not queries.begin("more", "more.example", A)
    queries.end("7")
    assert queries.begin("more", "more.example", A)
    assert not queries.begin("again", "again.example", A)


def test_the_limit_of_the_same() -> None:
    """The limit for one name and type is lower, in any spelling; others are not affected."""
    queries = ForeignQueries(Clock())
    assert all(queries.begin(str(n), "www.example", A) for n in range(MAX_SAME))
    assert not queries.begin("same", "WWW.example.", A)
    assert queries.begin("type", "www.example", AAAA)
    assert queries.begin("name", "ftp.example", A)
    assert queries.begin("3", "www.example", A), "a repeated query counts once"
    queries.end("3")
    assert queries.begin("same", "www.example", A)


def test_a_query_without_an_end() -> None:
    """A query without an end stops counting after MAX_AGE."""
    clock = Clock()
    queries = ForeignQueries(clock)
    assert all(queries.begin(str(n), "www.example", A) for n in range(MAX_SAME))
    clock.now += MAX_AGE - 1
    assert not queries.begin("more", "www.example", A)
    clock.now += 1
    assert queries.begin("more", "www.example", A)
    queries.end("never begun")


def test_lines_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    """A warning is logged at most once a minute."""
    clock = Clock()
    queries = ForeignQueries(clock)
    for minute in range(2):
        for number in range(MAX_SAME + 3):
            queries.begin(f"{minute}-{number}", "example.org", A)
        assert caplog.text.count("too many DNS queries wait") == minute + 1
        clock.now += REMIND
