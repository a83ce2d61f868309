"""The endpoints that answer requests."""

from __future__ import annotations

import pytest

from nxparse.server import endpoints
from nxparse.server.endpoints import (
    NOT_FOUND,
    SAMSUNG_HOSTS,
    Endpoint,
    Hosts,
    Service,
    bare_host,
    fixed,
)
from nxparse.server.hotspot import GLD, MSN, YAHOO
from nxparse.server.reply import refusal

EMAIL = "/social/columbus/email"
TIME = "/security/sso/initialize/time"
LIST = "/social/columbus/serviceproviders/list"
ACCOUNT = "/security/sso/userprofiles/authentication/emailid"
TOKEN = "0f" * 16
GATEWAY = "snsgw.samsungmobile.com"
AN_EMAIL = Endpoint(Service.EMAIL)
A_PAGE = Endpoint(Service.PAGE)
GLD_CHECK = Endpoint(Service.CHECK, reply=GLD)
YAHOO_CHECK = Endpoint(Service.CHECK, reply=YAHOO.redirect, check=YAHOO)
MSN_CHECK = Endpoint(Service.CHECK, reply=MSN.redirect, check=MSN)
UNKNOWN = fixed(NOT_FOUND)
# Not found, even if the map of the protocol has an entry.
REFUSED = fixed(refusal(404, "refused"))


def not_with(method: str, allow: str) -> Endpoint:
    return fixed(refusal(405, f"Not with {method}", (("Allow", allow),)))


@pytest.mark.parametrize(
    ("request_", "endpoint"),
    [
        # Hotspot checks: the method, the host, the path.
        (("GET", "gld.samsungosp.com", "/"), GLD_CHECK),
        (("HEAD", "gld.samsungosp.com", "/"), GLD_CHECK),
        (("GET", "gld.samsungosp.com", "/?x=/y"), GLD_CHECK),
        (("GET", "www.yahoo.co.kr", "/"), YAHOO_CHECK),
        (("GET", "www.msn.com", "/?x"), MSN_CHECK),
        (("POST", "gld.samsungosp.com", "/"), not_with("POST", "GET, HEAD")),
        (("GET", "gld.samsungosp.com", "/x"), UNKNOWN),
        # The page.
        (("GET", "www.samsungimaging.com", "/"), A_PAGE),
        (("GET", "", "/"), A_PAGE),
        (("GET", "", "/older/x"), Endpoint(Service.PAGE, "x")),
        (("GET", "", "/thumbnail/x.1"), Endpoint(Service.THUMBNAIL, "x.1")),
        (("GET", "", "/file/x.1?y"), Endpoint(Service.OPEN, "x.1")),
        (("HEAD", "", "/download/x.1"), Endpoint(Service.DOWNLOAD, "x.1")),
        (("GET", "", "/readme"), Endpoint(Service.README)),
        (("GET", "", "/file/../x"), UNKNOWN),
        # E-mail.
        (("POST", "www.ospserver.net", f"{EMAIL}?DUID=123456789033"), AN_EMAIL),
        (("POST", "", EMAIL), AN_EMAIL),
        (("GET", "www.ospserver.net", EMAIL), not_with("GET", "POST")),
        (("post", "www.ospserver.net", EMAIL), not_with("post", "POST")),
        (("M" * 21, "www.ospserver.net", EMAIL), not_with("M" * 20, "POST")),
        (("POST", "www.ospserver.net", f"/{EMAIL}"), UNKNOWN),
        (("POST", "www.ospserver.net", "/social/columbus/%65mail"), UNKNOWN),
        (("OPTIONS", "www.ospserver.net", "*"), UNKNOWN),
        # The social gateway.
        (("POST", GATEWAY, "/facebook/auth"), Endpoint(Service.LOGIN, "facebook")),
        (("POST", "", "/flickr/auth?x=/y"), Endpoint(Service.LOGIN, "flickr")),
        (("POST", GATEWAY, "/flickr/photo"), Endpoint(Service.PHOTO, "flickr")),
        (("POST", GATEWAY, "/flickr/video"), UNKNOWN),
        (("POST", GATEWAY, "/youtube/video"), Endpoint(Service.VIDEO, "youtube")),
        (("PUT", GATEWAY, f"/upload/{TOKEN}?x"), Endpoint(Service.FILE, TOKEN)),
        (("PUT", GATEWAY, "/upload/"), Endpoint(Service.FILE, "")),
        (("GET", "", TIME), Endpoint(Service.TIME)),
        (("GET", "", LIST), Endpoint(Service.LIST)),
        (("POST", "", ACCOUNT), Endpoint(Service.ACCOUNT)),
        (("POST", GATEWAY, f"/upload/{TOKEN}"), not_with("POST", "PUT")),
        # Paths that look like one of these.
        *(
            (("POST", GATEWAY, path), UNKNOWN)
            for path in (
                *("/x/auth", "/Facebook/auth", "/facebook%2f..%2f/auth", "/%66acebook/auth"),
                *("//auth", "/auth", "/facebook/x/auth", "//facebook/auth", "/facebook//auth"),
                *("/facebook/../picasa/auth", "/facebook/auth/", "/facebook/authx"),
                *("/facebook\0/auth", "/*/auth", "/facebook", "/facebook/Auth"),
            )
        ),
        *(
            (("PUT", GATEWAY, path), UNKNOWN)
            for path in (f"/upload/{TOKEN}/SAM_4371.JPG", f"/upload//{TOKEN}", "/upload/../x")
        ),
    ],
)  # fmt: skip
def test_find(request_: tuple[str, str, str], endpoint: Endpoint) -> None:
    """Each request for one of our hosts has an endpoint, which may be a refusal with a reason."""
    assert endpoints.find(*request_) == endpoint


@pytest.mark.parametrize(
    ("endpoint", "kinds"),
    [
        (AN_EMAIL, {"upload"}),
        (Endpoint(Service.FILE, "x"), {"upload"}),
        (A_PAGE, {"page"}),
        (Endpoint(Service.THUMBNAIL, "x.1"), {"page"}),
        (Endpoint(Service.OPEN, "x.1"), {"page", "file"}),
        (Endpoint(Service.DOWNLOAD, "x.1"), {"page", "file"}),
        (Endpoint(Service.README), {"page"}),
        (Endpoint(Service.LOGIN, "flickr"), set()),
        (Endpoint(Service.LIST), {"unknown"}),
        (Endpoint(Service.ACCOUNT), {"unknown"}),
        (GLD_CHECK, set()),
        (YAHOO_CHECK, set()),
        (UNKNOWN, {"unknown"}),
        (not_with("GET", "POST"), {"unknown"}),
        (fixed(refusal(403, "no")), set()),
    ],
)
def test_kinds(endpoint: Endpoint, kinds: set[str]) -> None:
    """Each endpoint has the properties of its kind."""
    names = ("upload", "page", "file", "unknown")
    assert {name for name in names if getattr(endpoint, f"is_{name}")} == kinds


OWN = ("192.168.1.2", "198.51.100.80", "mypc", "127.0.0.1")


@pytest.mark.parametrize(
    ("request_", "target", "host", "at_us", "answer"),
    [
        # For one of our hosts, at any address.
        ("GET /x", "www.ospserver.net", "www.ospserver.net", 0, UNKNOWN),
        ("POST /social/columbus/email", "8.8.8.8", GATEWAY, 0, AN_EMAIL),
        ("POST /social/columbus/email", GATEWAY, "", 0, AN_EMAIL),
        ("GET /", "8.8.8.8", "Www.Yahoo.co.kr:80", 0, YAHOO_CHECK),
        ("GET /", "gld.samsungosp.com", "gld.samsungosp.com", 1, GLD_CHECK),
        # For others.
        ("GET /", "www.example.org", "www.example.org", 0, None),
        ("GET /news", "www.yahoo.co.kr", "www.yahoo.co.kr", 0, None),
        ("POST /social/columbus/email", "a.example", "", 0, None),
        ("GET /", "192.168.1.2", "192.168.1.2", 0, None),
        # For this machine.
        ("GET /", "198.51.100.80", "", 1, A_PAGE),
        ("POST /social/columbus/email", "198.51.100.80", "", 1, AN_EMAIL),
        ("GET /robots.txt", "192.168.1.2", "", 1, UNKNOWN),
        ("GET /", "192.168.1.2", "192.168.1.2:8080", 1, A_PAGE),
        ("GET /", "192.168.1.2", "mypc", 1, A_PAGE),
        ("GET /", "192.168.1.2", "127.0.0.1", 1, A_PAGE),
        ("GET /", "198.51.100.80", "www.msn.com", 1, MSN_CHECK),
        # For this machine under another name: an old name, or a page that rebinds its own.
        ("GET /", "192.168.1.2", "evil.example", 1, REFUSED),
        ("GET /", "evil.example", "evil.example", 1, REFUSED),
        ("GET /", "192.168.1.2", "192.168.1.2.evil.example", 1, REFUSED),
        ("GET /", "192.168.1.2", "www.ospserver.net.evil.ex", 1, REFUSED),
        ("GET /", "192.168.1.2", "8.8.8.8", 1, REFUSED),
        ("GET /news", "192.168.1.2", "www.yahoo.co.kr", 1, REFUSED),
        ("POST /social/columbus/email", "10.0.0.1", "evil.ex", 1, REFUSED),
    ],
)
def test_claim(request_: str, target: str, host: str, at_us: bool, answer: Endpoint | None) -> None:
    """Requests for our hosts, or to this machine without another name, are claimed."""
    method, path = request_.split()
    is_local = OWN.__contains__
    found = endpoints.claim(
        method, path, target, host, hosts=Hosts(), at_us=bool(at_us), is_local=is_local
    )
    expected = UNKNOWN if answer is REFUSED else answer
    assert (found and found.endpoint(method, path)) == expected
    assert bool(found and found.refusal and host in found.reason) is (answer is REFUSED)


@pytest.mark.parametrize(
    ("method", "headers", "origin"),
    [
        ("POST", [("Origin", "http://evil.example")], "http://evil.example"),
        ("POST", [("origin", "null")], "null"),
        ("PUT", [("Origin", "")], ""),
        ("POST", [("Sec-Fetch-Site", "same-origin")], ""),
        ("PUT", [("SEC-FETCH-MODE", "no-cors")], ""),
        ("OPTIONS", [("Origin", "http://evil.example")], "http://evil.example"),
        ("POST", [("User-Agent", "sdeClient"), ("Accept-Language", "ko")], None),
        ("POST", [("X-Origin", "here"), ("Second-Fetch", "1")], None),
        ("GET", [("Origin", "http://evil.example"), ("Sec-Fetch-Mode", "navigate")], None),
        ("HEAD", [("Sec-Fetch-Mode", "navigate")], None),
    ],
)
def test_page_origin(method: str, headers: list[tuple[str, str]], origin: str | None) -> None:
    """The origin of a request from a web page is found; cameras and visitors have none."""
    assert endpoints.page_origin(method, headers) == origin


@pytest.mark.parametrize(
    ("host", "bare"),
    [
        ("WWW.OspServer.Net", "www.ospserver.net"),
        ("www.ospserver.net:80", "www.ospserver.net"),
        (" www.ospserver.net.\t", "www.ospserver.net"),
        ("[2001:DB8::1]:80", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("", ""),
        ("::1", "::1"),
    ],
)
def test_bare_host(host: str, bare: str) -> None:
    """Port, letter case and a final dot are removed from a host."""
    assert bare_host(host) == bare


@pytest.mark.parametrize(
    ("host", "ours", "resolves"),
    [
        *((host, True, True) for host in SAMSUNG_HOSTS),
        ("Camera.example.:80", True, True),
        ("a.b.example.net", True, True),
        ("www.camera.example", False, False),
        ("camera.example.org", False, False),
        ("chn.ospserver.net", False, False),
        ("www.ospserver.net.example", False, False),
        ("yahoo.co.kr", False, False),
        ("", False, False),
    ],
)
def test_hosts(host: str, ours: bool, resolves: bool) -> None:
    """Samsung's hosts, and the names and globs in nx_hosts, are ours, regardless of case."""
    hosts = Hosts(("CAMERA.example", "*.EXAMPLE.net"))
    assert (host in hosts, hosts.resolves(host)) == (ours, resolves)


@pytest.mark.parametrize(
    ("further", "yahoo", "msn"),
    [
        ((), True, False),
        (("www.msn.com",), True, True),
        (("*.msn.com",), True, True),
        (("www.yahoo.co.kr", "*.yahoo.*"), True, False),
    ],
)
def test_shared_hosts_in_dns(further: tuple[str, ...], yahoo: bool, msn: bool) -> None:
    """DNS answers for Yahoo, and for MSN only if it is in nx_hosts; neither is one of our hosts."""
    hosts = Hosts(further)
    for host, resolves in (("www.yahoo.co.kr", yahoo), ("www.msn.com", msn)):
        for name in (host, host.upper(), f"{host}:80", f"{host}."):
            assert (name in hosts, hosts.resolves(name)) == (False, resolves)
