"""Brings the Wi-Fi upload of Samsung's cameras back to life, inside mitmproxy.

    mitmdump -s nx_addon.py

The cameras' hosts are answered here; nothing for them ever goes upstream. What
happens to a request for one of them, hook by hook:

    client_connected   the client's reader and writer are wrapped (nxparse.transport)
    requestheaders     service.find says who answers; a body is streamed into a
                       Receiver, with a drain in the place of the server
    request            the body is whole: the Receiver decides, in a thread
    response           our reply takes the place of the drain's, in one segment
    error              the body was cut: what came of it goes into quarantine

mitmproxy forwards a request whose hook raises. So each hook for our hosts
catches everything and answers 500, and `server_connect` refuses connections to
our hosts, whatever made mitmproxy want them.

This is the only module that imports mitmproxy.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from mitmproxy.connection import Client

from nxparse import service
from nxparse.receive import Receiver
from nxparse.reply import Reply, refusal
from nxparse.transport import Drain, Pending

FAILED = refusal(500, "nx_addon has failed, see its log")
STOP_TIMEOUT = 10.0  # seconds that a delivery may take to end when mitmproxy does

logger = logging.getLogger("nx_addon")


@dataclass(slots=True)
class Exchange:
    """A request for one of our hosts, until it is answered."""

    client: Client
    pending: Pending
    answer: Reply | service.Upload
    receiver: Receiver | None = None
    drain: Drain | None = None
    # Where the camera wanted to go, while the request says: to the drain.
    destination: tuple[str, int, str] | None = None
    reply: Reply | None = None
