"""Host names that a camera asks for and that are not answered here.

A client that asks for one of our hosts most likely is a camera. The other hosts
it asks for may be what a new model needs, and each is logged once. Many cameras
look others up first, so the last names of every client are remembered.
"""

from __future__ import annotations

import re
from collections import OrderedDict

from nxparse.text import format_list, printable

MAX_CLIENTS = 1000
# A phone that somebody has opened our page on asks for far more than any camera.
MAX_NAMES = 20
MAX_NAME = 255  # characters, as in DNS

_HOST = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


class UnknownHosts:
    """Which clients may be cameras, and what all have asked for. For one thread."""

    def __init__(self) -> None:
        # By client; the names as keys, in the order they were asked for.
        self._cameras: OrderedDict[str, dict[str, None]] = OrderedDict()
        self._others: OrderedDict[str, dict[str, None]] = OrderedDict()

    def seen(self, client: str) -> str | None:
        """Note that this client has asked for one of our hosts.

        Returns a line about the other names that it has asked for before, the first time.
        """
        names = self._others.pop(client, {})
        _touch(self._cameras, client).update(names)
        if not names:
            return None
        shown = format_list([printable(name) for name in names], MAX_NAMES)
        return (
            f"{client}: asked for {shown} before, which nx_addon does not answer; if its uploads "
            f"fail, try --set nx_hosts=NAME with one of them"
        )

    def asked(self, client: str, name: str, how: str) -> str | None:
        """Note that a client asks for a name that is none of ours; `how` is HTTP or DNS.

        Returns a line about it, if the client is a camera and the name new.
        """
        if not name or len(name) > MAX_NAME:
            return None
        if client not in self._cameras:
            earlier = _touch(self._others, client)
            earlier.pop(name, None)
            earlier[name] = None
            if len(earlier) > MAX_NAMES:
                del earlier[next(iter(earlier))]
            return None
        names = self._cameras[client]
        if name in names or len(names) >= MAX_NAMES:
            return None
        names[name] = None
        shown = printable(name)
        told = f"{client}: also asks {how} for {shown}, which is not answered here"
        # Whoever asks is free to call a host * or $(reboot).
        if not _HOST.fullmatch(shown):
            return told
        return f"{told}; if its uploads fail, try --set nx_hosts={shown}"

    def names(self, client: str) -> list[str]:
        """The names that this client has asked for and that are none of ours, as they came.

        At most MAX_NAMES; not fit for a line of the log.
        """
        return [*self._cameras.get(client, {}), *self._others.get(client, {})]


def _touch(clients: OrderedDict[str, dict[str, None]], client: str) -> dict[str, None]:
    """The names of a client, which now is the last one to be forgotten."""
    names = clients.setdefault(client, {})
    clients.move_to_end(client)
    if len(clients) > MAX_CLIENTS:
        clients.popitem(last=False)
    return names
