"""Limits for DNS queries that are forwarded to other name servers, and loop detection.

A name server of this machine may be the DNS mode itself, directly or through another
DNS server. Without a limit, one query would then cause thousands.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

from nxparse.proxy import network
from nxparse.proxy.limits import Reminder

PORT = 53
MAX_QUERIES = 200  # in flight; more than the browsers of a household need
MAX_SAME = 8  # of them for one name and type
MAX_AGE = 30.0  # seconds; mitmproxy abandons a query earlier, not always with a hook

logger = logging.getLogger(__name__)


class ForeignQueries:
    """Queries that wait for another name server, by id. Not thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[str, tuple[float, tuple[str, int]]] = {}  # since when, question
        self._reminder = Reminder(clock)
        self._loop: list[str] = []  # the name servers that are this process, as logged

    def find_loop(self, servers: Iterable[str], listening: Sequence[tuple[str, int]]) -> bool:
        """Return True if one of these name servers is this process, and log a change.

        `listening` has the addresses and ports of the DNS mode.
        """
        found = [
            server
            for server in servers
            if network.is_inside(server) and network.is_served(server, PORT, listening)
        ]
        if found and found != self._loop:
            logger.warning(
                f"the name server {' and '.join(found)} is this process, so other names cannot be "
                f"resolved and get SERVFAIL; set another server: --set dns_name_servers=9.9.9.9"
            )
        self._loop = found
        return bool(found)

    def begin(self, id: str, name: str, kind: int) -> bool:
        """Record a query for a name and type. Returns False if there are too many, and warns."""
        now, question = self._clock(), (name.lower().removesuffix("."), kind)
        self.end(id)
        waiting = self._waiting.items()
        self._waiting = {other: since for other, since in waiting if now < since[0] + MAX_AGE}
        same = sum(asked == question for _, asked in self._waiting.values())
        if len(self._waiting) >= MAX_QUERIES or same >= MAX_SAME:
            if self._reminder.is_due():
                logger.warning(
                    "too many DNS queries wait for a name server: further ones get SERVFAIL; if "
                    "the name servers of this machine lead back to it, set dns_name_servers"
                )
            return False
        self._waiting[id] = now, question
        return True

    def end(self, id: str) -> None:
        """Record that a query was answered or failed."""
        self._waiting.pop(id, None)
