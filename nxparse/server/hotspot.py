"""The replies to the hotspot checks of the cameras.

Before an upload a camera fetches a page with known content. If the reply differs, it takes
the network for a hotspot with a login page, opens its browser, and does not upload.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from nxparse.server.reply import Reply

# The NX family requests http://gld.samsungosp.com/. An NX300 accepts any 200 (wiki page
# "Email-service" of ge0rg/samsung-nx-hacks). The NX mini expects no body, an ETag, and nginx
# as the server (ge0rg/samsung-nx-emailservice, commit b475ee7).
GLD = Reply(200, headers=(("Server", "nginx/notreally"), ("ETag", '"deadbeef"')))

MAX_CAMERAS = 1000


class PortalCheck(NamedTuple):
    """A hotspot check with two replies: some models expect a redirect, others a cookie.

    The cookie is one of the site's domain, with its leading dot (commits 2ede8d0, 77fd71c,
    57f95a0, c2f8031; "Samsung WB850F Firmware Reverse Engineering" on op-co.de).
    """

    redirect: Reply
    cookie: Reply


def _check(domain: str, site: str, body: bytes) -> PortalCheck:
    link = f'<!DOCTYPE html><title>Moved</title><a href="{site}">{site}</a>'
    cookie = f"samsung=hotspot; Domain=.{domain}; Path=/"
    return PortalCheck(
        Reply(302, link.encode(), (("Location", site),), reason="FOUND"),
        Reply(200, body, (("Set-Cookie", cookie),)),
    )


# For the ST200F and WB850F; and for the WB35F, WB37F, DV150F and more.
YAHOO = _check("yahoo.co.kr", "http://yahoo.com", b"YAHOO!")
MSN = _check("msn.com", "http://msn.com", b"MSN")


class PortalState:
    """The last reply to each camera, by its address. Not thread-safe.

    Which model expects which reply is unknown, so each camera gets both in turn: it retries
    after a wrong one. If it goes on to another request, the last reply was right.
    """

    def __init__(self) -> None:
        # The last reply, and the one for the next check.
        self._replies: OrderedDict[tuple[str, PortalCheck], tuple[Reply, Reply]] = OrderedDict()

    def answer(self, client: str, check: PortalCheck) -> Reply:
        """Return the redirect and the cookie in turn, or the last one again if it was right."""
        _, reply = self._replies.pop((client, check), (check.cookie, check.redirect))
        other = check.cookie if reply is check.redirect else check.redirect
        self._replies[client, check] = reply, other
        if len(self._replies) > MAX_CAMERAS:
            self._replies.popitem(last=False)
        return reply

    def passed(self, client: str) -> None:
        """Record that this camera passed its check: the last reply was right."""
        for camera, (last, _) in self._replies.items():
            if camera[0] == client:
                self._replies[camera] = last, last
