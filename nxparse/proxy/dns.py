"""Queries of the DNS mode that go on to other name servers: loops found, numbers bounded.

A name server of this machine may be the DNS mode itself, directly or by way of
another DNS server. Without a bound one query then makes thousands.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable

from nxparse.proxy import network, upstream

PORT = 53
MAX_QUERIES = 200  # in flight; a house full of browsers stays below
MAX_SAME = 8  # of them for one name and type
MAX_AGE = 30.0  # seconds; mitmproxy gives a query up earlier, not always with a hook
QUIET = 60.0  # seconds between two lines about too many queries

logger = logging.getLogger(__name__)


def served_here(servers: Iterable[str], listening: Iterable[tuple[str, int]]) -> list[str]:
    """Those name servers that are this process.

    `servers` are IP addresses, and `listening` the addresses and ports of the DNS mode.
    """
    listening = list(listening)
    return [
        server
        for server in servers
        if upstream.refuses_literal(server) and network.is_served(server, PORT, listening)
    ]


def describe_loop(servers: list[str]) -> str:
    """What is wrong with these name servers, which are this process, and what to set."""
    return (
        f"the name server {' and '.join(servers)} is this process, so other names cannot be "
        f"resolved and get SERVFAIL; name a server outside: --set dns_name_servers=9.9.9.9"
    )


class ForeignQueries:
    """Queries that wait for another name server, by id. For one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[str, tuple[float, tuple[str, int]]] = {}  # the oldest first
        self._same: Counter[tuple[str, int]] = Counter()
        self._warned = -QUIET
        self._loop: list[str] = []  # the name servers that are this process, as logged

    def find_loop(self, servers: Iterable[str], listening: Iterable[tuple[str, int]]) -> bool:
        """Is one of these name servers this process? Logged when it changes."""
        found = served_here(servers, listening)
        if found and found != self._loop:
            logger.warning(describe_loop(found))
        self._loop = found
        return bool(found)

    def begin(self, id: str, name: str, kind: int) -> bool:
        """Note a query for a name and a type. False if there are too many: it must not go on."""
        now, question = self._clock(), (name.lower().removesuffix("."), kind)
        while self._waiting:
            oldest, (begun, _) = next(iter(self._waiting.items()))
            if now < begun + MAX_AGE:
                break
            self.end(oldest)
        self.end(id)
        if len(self._waiting) >= MAX_QUERIES or self._same[question] >= MAX_SAME:
            self._warn(now)
            return False
        self._waiting[id] = now, question
        self._same[question] += 1
        return True

    def end(self, id: str) -> None:
        """Note that a query has been answered or has failed."""
        if id in self._waiting:
            _, question = self._waiting.pop(id)
            self._same[question] -= 1
            if not self._same[question]:
                del self._same[question]

    def _warn(self, now: float) -> None:
        if now >= self._warned + QUIET:
            self._warned = now
            logger.warning(
                "too many DNS queries wait for a name server: further ones get SERVFAIL; if the "
                "name servers of this machine lead back to it, set dns_name_servers"
            )
