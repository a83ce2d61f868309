"""The uploads that were refused or cut during the last hour, for the page."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from nxparse.text import printable

KEPT = 3600.0  # seconds
MAX_FAILURES = 50
MAX_REASON = 200  # characters


class Failure(NamedTuple):
    """An upload that was not accepted. `at` is a Unix time, `client` the camera's address."""

    at: float
    client: str
    reason: str


class Failures:
    """A list in memory. One thread may add while others read."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._failures: deque[Failure] = deque(maxlen=MAX_FAILURES)

    def add(self, client: str, reason: str) -> None:
        """Record that an upload of this client was refused or cut."""
        self._failures.append(Failure(self._clock(), client, printable(reason, MAX_REASON)))

    def recent(self, client: str | None = None) -> list[Failure]:
        """Return the failures of one client, or of all; the latest first."""
        now = self._clock()
        return [
            one
            for one in reversed(tuple(self._failures))
            if abs(now - one.at) <= KEPT and client in (None, one.client)
        ]
