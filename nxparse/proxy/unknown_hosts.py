"""Host names that cameras ask for and that nx_addon does not answer.

A client that asks for one of our hosts is most likely a camera. Other hosts that it
asks for may be needed by a new model, so each is logged once. Many cameras look these
up first; therefore the last names of each client are remembered.
"""

from __future__ import annotations

import logging
import re
from collections import OrderedDict

from nxparse.text import format_list, printable

MAX_CLIENTS = 1000
MAX_NAMES = 20  # of a client; a phone that opens our page asks for far more than a camera
MAX_NAME = 255  # characters, as in DNS

logger = logging.getLogger(__name__)
_HOST = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


class UnknownHosts:
    """Clients that may be cameras, and the names that each client asked for. Not thread-safe."""

    def __init__(self) -> None:
        # By client; the names as keys, the oldest first.
        self._cameras: OrderedDict[str, dict[str, None]] = OrderedDict()
        self._others: OrderedDict[str, dict[str, None]] = OrderedDict()

    def seen(self, address: str) -> None:
        """Record that a client asked for one of our hosts; log the names it asked for before."""
        names = self._others.pop(address, {})
        _touch(self._cameras, address).update(names)
        if not names:
            return
        shown = format_list([printable(name) for name in names], MAX_NAMES)
        remedy = "; if its uploads fail, try --set nx_hosts=NAME with one of them"
        if len(names) == 1:
            remedy = host_remedy(shown)
        logger.info(f"{address}: asked for {shown} before, which nx_addon does not answer{remedy}")

    def asked(self, address: str, name: str, verb: str) -> None:
        """Record that a client requested or looked up (`verb`) a name that is not ours.

        Logs it if the client is a camera and the name is new.
        """
        if not name or len(name) > MAX_NAME:
            return
        if address not in self._cameras:
            earlier = _touch(self._others, address)
            earlier.pop(name, None)
            earlier[name] = None
            if len(earlier) > MAX_NAMES:
                del earlier[next(iter(earlier))]
            return
        names = self._cameras[address]
        if name not in names and len(names) < MAX_NAMES:
            names[name] = None
            shown = printable(name)
            remedy = host_remedy(shown)
            logger.info(f"{address}: also {verb} {shown}, which nx_addon does not answer{remedy}")


def host_remedy(name: str) -> str:
    """Return the option that answers this host, for the end of a line in the log."""
    # A client may send any name, also * or $(reboot).
    return f"; if its uploads fail, try --set nx_hosts={name}" if _HOST.fullmatch(name) else ""


def _touch(clients: OrderedDict[str, dict[str, None]], address: str) -> dict[str, None]:
    """Return the names of a client, which becomes the last one to be dropped."""
    names = clients.setdefault(address, {})
    clients.move_to_end(address)
    if len(clients) > MAX_CLIENTS:
        clients.popitem(last=False)
    return names
