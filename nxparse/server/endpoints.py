"""The map of the protocol: which service answers a request.

One table lists the service for each method, host and path. To support a camera with other
requests, add a row, and a reply if needed.

Our hosts are those of Samsung's firmware and those the user adds (`Hosts`). Every request
for one of them is answered here, if only by 404: the real servers are gone, and DNS may
point back at us. At two other hosts only the hotspot check is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from fnmatch import fnmatchcase
from typing import NamedTuple

from nxparse.deliver import routes
from nxparse.server.hotspot import GLD, MSN, YAHOO, PortalCheck
from nxparse.server.reply import Reply, refusal
from nxparse.text import printable

# Hard-coded in the firmware of the cameras (wiki page "Email-service" of
# ge0rg/samsung-nx-hacks; ge0rg/samsung-nx-emailservice, commit 3b9fb37).
SAMSUNG_HOSTS = (
    "gld.samsungosp.com",
    "www.samsungimaging.com",
    "samsungimaging.com",
    "www.ospserver.net",
    "snsgw.samsungmobile.com",
)
# Other devices may need these sites, so only the hotspot check is answered.
SHARED_HOSTS = {"www.yahoo.co.kr": YAHOO, "www.msn.com": MSN}
# www.msn.com is not among them: it still exists, and other devices may need it.
DNS_HOSTS = (*SAMSUNG_HOSTS, "www.yahoo.co.kr")


EMAIL_PATH = "/social/columbus/email"


class Service(Enum):
    """The kind of an endpoint, and the title of its requests."""

    FIXED = "unknown"  # or always the same reply
    CHECK = "hotspot check"
    PAGE = "page"  # the web page
    THUMBNAIL = "thumbnail"
    OPEN = "saved file"
    DOWNLOAD = "download of a saved file"
    README = "readme"
    EMAIL = "upload by e-mail"  # answered when the photos are stored
    FILE = "file for a social site"  # that was announced
    LOGIN = "login to {}"
    PHOTO = "photo announced to {}"
    VIDEO = "video announced to {}"
    TIME = "time"  # for the ST1000
    ACCOUNT = "login to AllShare"  # the right reply is unknown
    LIST = "list of sites"  # the right reply is unknown


class Endpoint(NamedTuple):
    """The service that answers a request.

    `argument` replaces the `*` in its path. `reply` is set for FIXED and CHECK; for a
    CHECK with two replies it is the one to show in a replay, and `check` has both.
    """

    service: Service
    argument: str = ""
    reply: Reply | None = None
    check: PortalCheck | None = None

    @property
    def title(self) -> str:
        """The requests of this endpoint, in a few words."""
        return self.service.value.format(self.argument)

    @property
    def is_upload(self) -> bool:
        """Whether it receives photos."""
        return self.service in (Service.EMAIL, Service.FILE)

    @property
    def is_page(self) -> bool:
        """Whether it is for a browser."""
        return self.is_file or self.service in (Service.PAGE, Service.THUMBNAIL, Service.README)

    @property
    def is_file(self) -> bool:
        """Whether it is a saved file, which has to be streamed."""
        return self.service in (Service.OPEN, Service.DOWNLOAD)

    @property
    def is_unknown(self) -> bool:
        """Whether a new model may need a better reply. Such requests are saved to unknown/."""
        if self.service is Service.FIXED and self.reply:
            return self.reply.status in (404, 405)
        return self.service in (Service.ACCOUNT, Service.LIST)


def fixed(reply: Reply) -> Endpoint:
    """An endpoint that always gives this reply."""
    return Endpoint(Service.FIXED, reply=reply)


def _check(check: PortalCheck) -> Endpoint:
    return Endpoint(Service.CHECK, reply=check.redirect, check=check)


class Row(NamedTuple):
    """A request and its answer.

    The host "*" is any host of ours, or none. `*` in `path` is one of `arguments`.
    """

    method: str
    host: str
    path: str
    answer: Service | Endpoint
    arguments: frozenset[str] | None = None  # None: any without a slash

    def argument(self, path: str) -> str | None:
        """Return the text in place of the `*`; None if this is not the path."""
        before, star, after = self.path.partition("*")
        if not star:
            return "" if path == before else None
        middle = path.removeprefix(before).removesuffix(after)
        if path != before + middle + after or "/" in middle:
            return None
        return middle if self.arguments is None or middle in self.arguments else None


TABLE = (
    Row("GET", "gld.samsungosp.com", "/", Endpoint(Service.CHECK, reply=GLD)),
    *(Row("GET", host, "/", _check(check)) for host, check in SHARED_HOSTS.items()),
    Row("GET", "*", "/", Service.PAGE),
    Row("GET", "*", "/older/*", Service.PAGE),
    Row("GET", "*", "/thumbnail/*", Service.THUMBNAIL),
    Row("GET", "*", "/file/*", Service.OPEN),
    Row("GET", "*", "/download/*", Service.DOWNLOAD),
    Row("GET", "*", "/readme", Service.README),
    Row("GET", "*", "/favicon.ico", fixed(Reply(204))),  # every browser asks for one
    Row("POST", "*", EMAIL_PATH, Service.EMAIL),
    Row("POST", "*", "/*/auth", Service.LOGIN, routes.SITES),
    Row("POST", "*", "/*/photo", Service.PHOTO, routes.SITES),
    Row("POST", "*", "/*/video", Service.VIDEO, routes.VIDEO_SITES),
    Row("PUT", "*", "/upload/*", Service.FILE),
    # The ST1000 requests these two before an upload; the right reply to the second is
    # unknown (samsung-nx-emailservice, commit 593f35b).
    Row("GET", "*", "/security/sso/initialize/time", Service.TIME),
    Row("GET", "*", "/social/columbus/serviceproviders/list", Service.LIST),
    # AllShare on the NX300 (commit 519790b).
    Row("POST", "*", "/security/sso/userprofiles/authentication/emailid", Service.ACCOUNT),
)

NOT_FOUND = refusal(404, "Unknown path")
FROM_A_PAGE = refusal(403, "Requests from web pages are refused")


def find(method: str, host: str, path: str) -> Endpoint:
    """Return the endpoint for a request to one of our hosts.

    `host` is a bare name in lower case (`bare_host`). `path` may have a query.
    An unknown path gets 404, a known one with another method 405.
    """
    wanted = "GET" if method == "HEAD" else method
    path = path.partition("?")[0] or "/"
    allowed: list[str] = []
    for row in TABLE:
        argument = row.argument(path)
        if argument is None or row.host not in ("*", host):
            continue
        if row.method == wanted:
            answer = row.answer
            return answer if isinstance(answer, Endpoint) else Endpoint(answer, argument)
        allowed += ["GET", "HEAD"] if row.method == "GET" else [row.method]
    if allowed:
        methods = ", ".join(dict.fromkeys(allowed))
        return fixed(refusal(405, f"Not with {method[:20]}", (("Allow", methods),)))
    return fixed(NOT_FOUND)


class Claim(NamedTuple):
    """A request that is answered here: the host it is for, or why it is refused."""

    host: str
    refusal: Reply | None = None
    reason: str = ""

    def endpoint(self, method: str, path: str) -> Endpoint:
        """Return the endpoint for this request, which may be the refusal."""
        return fixed(self.refusal) if self.refusal else find(method, self.host, path)


def claim(
    method: str,
    path: str,
    target: str,
    host: str,
    *,
    hosts: Hosts,
    at_us: bool,
    is_local: Callable[[str], bool],
) -> Claim | None:
    """Return the claim to a request that is answered here; None if it is for another server.

    `target` is where the request would be sent, and `host` its Host header, empty
    without one. `at_us` means that `target` is an address of this machine, or the
    address in nx_dns, and a port that uploads arrive at. If such a request names a
    host, that must be one of `hosts`, or one for which `is_local` is true: a web page
    can make any other name resolve to this machine, and could then read our page.
    """
    names = [bare_host(name) for name in (target, host) if name]
    for name in names:
        # At a shared host nothing but the hotspot check is answered.
        if name in hosts or (name in SHARED_HOSTS and (method, path) == ("GET", "/")):
            return Claim(name)
    if not at_us:
        return None
    if not host or is_local(names[-1]):
        return Claim(names[-1])
    return Claim(
        names[-1], NOT_FOUND, f"{printable(names[-1])} is not a name or an address of this machine"
    )


def page_origin(method: str, headers: Sequence[tuple[str, str]]) -> str | None:
    """Return the web page that sent a request other than GET or HEAD; None if none did.

    Browsers add Origin or Sec-Fetch-* to such requests, cameras do not.
    """
    if method in ("GET", "HEAD"):
        return None
    for name, value in headers:
        if name.lower() == "origin":
            return value
    return "" if any(name.lower().startswith("sec-fetch-") for name, _ in headers) else None


def bare_host(host: str) -> str:
    """Return a host in lower case, without port and final dot."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".") if host.count(":") <= 1 else host


class Hosts:
    """The host names that are answered here: Samsung's, and `further` names or globs."""

    def __init__(self, further: tuple[str, ...] = ()) -> None:
        self._globs = tuple(glob.lower() for glob in further)

    def __contains__(self, host: str) -> bool:
        """Return whether every request for this host is answered here."""
        name = bare_host(host)
        return name not in SHARED_HOSTS and self._named(name)

    def resolves(self, host: str) -> bool:
        """Return whether our DNS resolves this name to us."""
        name = bare_host(host)
        return name in DNS_HOSTS or self._named(name)

    def _named(self, name: str) -> bool:
        return name in SAMSUNG_HOSTS or any(fnmatchcase(name, glob) for glob in self._globs)
