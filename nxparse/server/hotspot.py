"""What a camera wants to hear before it believes that it is on the Internet.

Before any upload a camera fetches one known page. If the answer is not what it
expects, it takes the network for a hotspot with a captive portal, opens its
browser, and the upload never starts. There are three families.

The NX check asks ``GET http://gld.samsungosp.com/``. An NX300 is content with
any 200 (wiki page "Email-service" of ge0rg/samsung-nx-hacks). The NX mini
wants what this answer has: no body, an ETag, and nginx as the server
(ge0rg/samsung-nx-emailservice, commit b475ee7).

The Yahoo check (ST200F, WB850F) asks ``GET http://www.yahoo.co.kr/``, the MSN
check (WB35F, WB37F, DV150F and more) ``GET http://www.msn.com/``. Some of them
want to be sent on as Yahoo and MSN did years ago, to plain http:, others to get
a cookie of that domain, its leading dot included (commits 2ede8d0, 77fd71c,
57f95a0, c2f8031; the article "Samsung WB850F Firmware Reverse Engineering" on
op-co.de). Nobody has a list of who wants what. So each camera gets both in
turn, and since it tries again when it was not content, its second try is good.
Which one was good is remembered: what it goes on to do tells.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from nxparse.server.reply import Reply

GLD = Reply(200, headers=(("Server", "nginx/notreally"), ("ETag", '"deadbeef"')))

MAX_CAMERAS = 1000


@dataclass(frozen=True, slots=True)
class PortalCheck:
    """A page that cameras check, and the two answers that they may want."""

    redirect: Reply
    cookie: Reply


def _check(domain: str, site: str, body: bytes) -> PortalCheck:
    link = f'<!DOCTYPE html><title>Moved</title><a href="{site}">{site}</a>'
    cookie = f"samsung=hotspot; Domain=.{domain}; Path=/"
    return PortalCheck(
        Reply(302, link.encode(), (("Location", site),), reason="FOUND"),
        Reply(200, body, (("Set-Cookie", cookie),)),
    )


YAHOO = _check("yahoo.co.kr", "http://yahoo.com", b"YAHOO!")
MSN = _check("msn.com", "http://msn.com", b"MSN")


class PortalState:
    """Whose turn which answer is, for each camera by its address. For one thread."""

    def __init__(self) -> None:
        self._given: OrderedDict[tuple[str, PortalCheck], Reply] = OrderedDict()
        self._good: set[tuple[str, PortalCheck]] = set()

    def answer(self, client: str, check: PortalCheck) -> Reply:
        """The redirect and the cookie in turn, or once more what was good."""
        camera = client, check
        given = self._given.pop(camera, check.cookie)
        if camera not in self._good:
            given = check.cookie if given is check.redirect else check.redirect
        self._good.discard(camera)
        self._given[camera] = given
        while len(self._given) > MAX_CAMERAS:
            forgotten, _ = self._given.popitem(last=False)
            self._good.discard(forgotten)
        return given

    def passed(self, client: str) -> None:
        """This camera goes on: the last answer that it got was good."""
        self._good.update(camera for camera in self._given if camera[0] == client)
