"""Limits of what clients may use of the process: descriptors and connections."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

# An upload takes four: client, mitmproxy's connection to the sink, the sink's end, the file.
DESCRIPTORS = 65536
MAX_CONNECTIONS = 2000  # of one client; a browser opens about a hundred
MIN_CONNECTIONS = 32
REMIND = 60.0  # seconds between two log lines about the same problem

logger = logging.getLogger(__name__)


def raise_descriptor_limit(wanted: int = DESCRIPTORS) -> int:
    """Raise the soft limit of open files as far as allowed. Returns the limit, 0 if there is none.

    Windows has no such limit. An operating system that refuses keeps what it has.
    """
    if sys.platform == "win32":
        return 0
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 0
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if wanted <= soft:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted


def connections_allowed(descriptors: int) -> int:
    """The connections that one client may have: half of the descriptors if all upload."""
    if not descriptors:
        return MAX_CONNECTIONS
    return max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, descriptors // 8))


class ConnectionLimit:
    """Counts the connections of each client address."""

    def __init__(
        self, most: int = MAX_CONNECTIONS, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.most = most
        self._clock = clock
        self._open: Counter[str] = Counter()
        self._warned: dict[str, float] = {}

    def opened(self, address: str) -> bool:
        """Count a connection. Returns False if it is one too many, and warns now and then."""
        self._open[address] += 1
        if self._open[address] <= self.most:
            return True
        now = self._clock()
        if self._warned.get(address, -REMIND) <= now - REMIND:
            self._warned[address] = now
            logger.warning(f"{address}: has {self.most} connections open; further ones are closed")
        return False

    def closed(self, address: str) -> None:
        """A connection has ended, whether it was allowed or not."""
        self._open[address] -= 1
        if self._open[address] <= 0:
            del self._open[address]
            self._warned.pop(address, None)


class AcceptErrors:
    """An exception handler for the event loop that logs failures to accept once a minute.

    asyncio reports each with a traceback, a hundred of them a second when the
    process has no descriptors left. Other exceptions go to the handler before.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._others: Any = None
        self._clock = clock
        self._logged = -REMIND

    def install(self) -> None:
        """Handle the exceptions of the running event loop."""
        loop = asyncio.get_running_loop()
        self._others = loop.get_exception_handler()
        loop.set_exception_handler(self)

    def uninstall(self) -> None:
        """Let the handler before handle them again."""
        with suppress(RuntimeError):  # there is no event loop any more
            loop = asyncio.get_running_loop()
            if loop.get_exception_handler() is self:
                loop.set_exception_handler(self._others)

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if context.get("message") != "socket.accept() out of system resource":
            if self._others:
                self._others(loop, context)
            else:
                loop.default_exception_handler(context)
            return
        now = self._clock()
        if self._logged <= now - REMIND:
            self._logged = now
            reason = getattr(context.get("exception"), "strerror", None)
            logger.error(f"new connections have to wait: {reason}")
