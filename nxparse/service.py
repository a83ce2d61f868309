"""Who answers what: the map of the protocol.

One table says for each method, host and path which service it is. A new camera
that asks for something else gets a new row, and if need be a new reply.

"Our" hosts are those that Samsung's cameras ask for, and whatever the user
adds (`Hosts`). Everything for one of them is answered here, if only by 404: the
real servers are gone, and DNS may well point back at us.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from fnmatch import fnmatchcase

from nxparse.hotspot import GLD
from nxparse.page import PAGE
from nxparse.reply import Reply, refusal

# Hard-coded in the firmware of the cameras (wiki page "Email-service" of
# ge0rg/samsung-nx-hacks; ge0rg/samsung-nx-emailservice, commit 3b9fb37).
SAMSUNG_HOSTS = (
    "gld.samsungosp.com",
    "www.samsungimaging.com",
    "samsungimaging.com",
    "www.ospserver.net",
    "snsgw.samsungmobile.com",
)


class Upload(Enum):
    """A service that takes photos; it is answered when they are safe."""

    EMAIL = auto()


@dataclass(frozen=True, slots=True)
class Row:
    method: str
    host: str  # a glob; "*" is any host of ours, or none
    path: str
    answer: Reply | Upload


TABLE = (
    Row("GET", "gld.samsungosp.com", "/", GLD),
    Row("GET", "*", "/", PAGE),
    Row("POST", "*", "/social/columbus/email", Upload.EMAIL),
)

NOT_FOUND = refusal(404, "Nobody knows this path")


def find(method: str, host: str, path: str) -> Reply | Upload:
    """The answer to a request for one of our hosts.

    `host` is a bare name in lower case (`bare_host`). `path` may have a query.
    What no row knows is 404, or 405 if only the method is wrong.
    """
    path = path.partition("?")[0] or "/"
    wanted = "GET" if method == "HEAD" else method
    allowed: list[str] = []
    for row in TABLE:
        if row.path != path or not fnmatchcase(host, row.host):
            continue
        if row.method == wanted:
            return row.answer
        allowed += ["GET", "HEAD"] if row.method == "GET" else [row.method]
    if allowed:
        methods = ", ".join(dict.fromkeys(allowed))
        return refusal(405, f"Not with {method[:20]}", (("Allow", methods),))
    return NOT_FOUND


def known(method: str, path: str) -> bool:
    """Does this request make sense even without one of our host names?

    A camera may leave out Host, and people type this machine's own address.
    """
    path = path.partition("?")[0] or "/"
    wanted = "GET" if method == "HEAD" else method
    return any(row.path == path and row.method == wanted for row in TABLE)


def bare_host(host: str) -> str:
    """A host as in a URL, a Host header or a DNS question: lower case, no port, no final dot."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".") if host.count(":") <= 1 else host


class Hosts:
    """The host names that are answered here: Samsung's, and `further` names or globs."""

    def __init__(self, further: tuple[str, ...] = ()) -> None:
        self._names = frozenset(SAMSUNG_HOSTS)
        self._globs = tuple(glob.lower() for glob in further)

    def __contains__(self, host: str) -> bool:
        name = bare_host(host)
        return name in self._names or any(fnmatchcase(name, glob) for glob in self._globs)
