"""Limits for descriptors, for connections of a client, and for repeated log lines."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

# An upload takes four: the client, both ends of the connection to the loopback server, the file.
DESCRIPTORS = 65536
MAX_CONNECTIONS = 2000  # of one client; a browser opens about a hundred
MIN_CONNECTIONS = 32
FEW_CONNECTIONS = 8  # that a client may have, however many others have
REMIND = 60.0  # seconds between two log lines about the same problem
Clock = Callable[[], float]

logger = logging.getLogger(__name__)


def raise_descriptor_limit(wanted: int = DESCRIPTORS) -> int:
    """Raise the soft limit of open files as far as allowed; return the limit, 0 for none."""
    if sys.platform == "win32":
        return 0
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 0
    wanted = max(soft, wanted if hard == resource.RLIM_INFINITY else min(wanted, hard))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted


def connections_allowed(descriptors: int) -> int:
    """Return the number of connections allowed to a client: they use half of the descriptors."""
    if not descriptors:
        return MAX_CONNECTIONS
    return max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, descriptors // 8))


class Reminder:
    """Limits the log lines about a problem that persists."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._logged = -REMIND

    def is_due(self) -> bool:
        """Return whether to log the problem now: True once a minute."""
        now = self._clock()
        if now < self._logged + REMIND:
            return False
        self._logged = now
        return True


class ConnectionLimit:
    """Counts the connections of each client address, which may have at most `most`.

    If all together have four times as many, a client may have a few.
    """

    def __init__(self, most: int = MAX_CONNECTIONS, *, clock: Clock = time.monotonic) -> None:
        self.most = most
        self._open: Counter[str] = Counter()
        self._reminder = Reminder(clock)

    def opened(self, address: str) -> bool:
        """Count a connection. Returns False above the limit, and warns once a minute."""
        self._open[address] += 1
        is_full = self._open.total() > 4 * self.most
        allowed = min(self.most, FEW_CONNECTIONS) if is_full else self.most
        if self._open[address] <= allowed:
            return True
        if self._reminder.is_due():
            logger.warning(f"{address}: has {allowed} connections open; further ones are closed")
        return False

    def closed(self, address: str) -> None:
        """Record the end of a connection, allowed or not."""
        self._open[address] -= 1
        if self._open[address] <= 0:
            del self._open[address]


def limit_accept_errors(*, clock: Clock = time.monotonic) -> None:
    """Log failed accepts of the running event loop once a minute.

    asyncio reports a hundred a second once descriptors run out, each with a traceback.
    Other errors go to the previous handler.
    """
    loop, reminder = asyncio.get_running_loop(), Reminder(clock)
    previous = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if context.get("message") == "socket.accept() out of system resource":
            if reminder.is_due():
                reason = getattr(context.get("exception"), "strerror", None)
                logger.error(f"new connections have to wait: {reason}")
        elif previous:
            previous(loop, context)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)
