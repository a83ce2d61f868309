"""Host names that a camera asks for and that are not answered here.

Who has asked for one of our hosts most likely is a camera. What else it asks
for may be what a new model needs, and is told once for each name.
"""

from __future__ import annotations

import re
from collections import OrderedDict

from nxparse.text import printable

MAX_CAMERAS = 1000
# A phone that somebody has opened our page on asks for far more than any camera.
MAX_NAMES = 20

_HOST = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


class UnknownHosts:
    """Which clients may be cameras, and what they have asked for. For one thread."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, set[str]] = OrderedDict()

    def seen(self, client: str) -> None:
        """This client has asked for one of our hosts."""
        self._names.setdefault(client, set())
        self._names.move_to_end(client)
        while len(self._names) > MAX_CAMERAS:
            self._names.popitem(last=False)

    def asked(self, client: str, name: str, how: str) -> str | None:
        """What to tell when a client asks for a name that is none of ours, `how` says by what."""
        names = self._names.get(client)
        if not name or names is None or name in names or len(names) >= MAX_NAMES:
            return None
        names.add(name)
        shown = printable(name)
        told = f"{client}: also asks {how} for {shown}, which is not answered here"
        # Whoever asks is free to call a host * or $(reboot).
        if not _HOST.fullmatch(shown):
            return told
        return f"{told}; if its uploads fail, try --set nx_hosts={shown}"
