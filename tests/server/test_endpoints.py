"""Who answers what."""

from __future__ import annotations

from typing import Any

import pytest

from nxparse.deliver import routes
from nxparse.server import endpoints
from nxparse.server.endpoints import (
    DNS_HOSTS,
    NOT_FOUND,
    SAMSUNG_HOSTS,
    SHARED_HOSTS,
    Endpoint,
    Hosts,
    Service,
    bare_host,
    fixed,
)
from nxparse.server.hotspot import GLD, MSN, YAHOO, PortalCheck
from nxparse.server.reply import Reply, refusal

EMAIL = "/social/columbus/email"
GATEWAY = "snsgw.samsungmobile.com"
AN_EMAIL = Endpoint(Service.EMAIL)
A_PAGE = Endpoint(Service.PAGE)
# Not found whatever the map of the protocol says.
REFUSED = object()


def endpoint(answer: Reply | PortalCheck | Endpoint) -> Endpoint:
    """The endpoint that gives this answer."""
    match answer:
        case PortalCheck():
            return Endpoint(Service.CHECK, reply=answer.redirect, check=answer)
        case Reply():
            return Endpoint(Service.CHECK, reply=GLD) if answer is GLD else fixed(answer)
        case _:
            return answer


def not_with(method: str, allow: str) -> Reply:
    return refusal(405, f"Not with {method}", (("Allow", allow),))


@pytest.mark.parametrize(
    ("method", "host", "path", "answer"),
    [
        pytest.param("GET", "gld.samsungosp.com", "/", GLD, id="hotspot"),
        pytest.param("HEAD", "gld.samsungosp.com", "/", GLD, id="hotspot-head"),
        pytest.param("GET", "gld.samsungosp.com", "/?x=/y", GLD, id="hotspot-query"),
        pytest.param("GET", "gld.samsungosp.com", "", GLD, id="hotspot-no-path"),
        pytest.param("GET", "gld.samsungosp.com", "?x", GLD, id="hotspot-only-query"),
        pytest.param("GET", "www.samsungimaging.com", "/", A_PAGE, id="page"),
        pytest.param("GET", "", "/", A_PAGE, id="page-no-host"),
        pytest.param("GET", "192.0.2.1", "/", A_PAGE, id="page-address"),
        pytest.param("GET", "", "/thumbnail/x.1", Endpoint(Service.THUMBNAIL, "x.1"), id="thumb"),
        pytest.param("GET", "", "/thumbnail/x/1", NOT_FOUND, id="thumbnail-with-a-slash"),
        pytest.param("GET", "www.yahoo.co.kr", "/", YAHOO, id="yahoo"),
        pytest.param("HEAD", "www.yahoo.co.kr", "/", YAHOO, id="yahoo-head"),
        pytest.param("GET", "www.msn.com", "/", MSN, id="msn"),
        pytest.param("GET", "www.msn.com", "/?x", MSN, id="msn-query"),
        pytest.param("GET", "msn.com", "/", A_PAGE, id="msn-other-host"),
        pytest.param("POST", "www.ospserver.net", f"{EMAIL}?DUID=123456789033", AN_EMAIL,
            id="email"),
        pytest.param("POST", "www.ospserver.net", EMAIL, AN_EMAIL, id="email-no-query"),
        pytest.param("POST", "", EMAIL, AN_EMAIL, id="email-no-host"),
        pytest.param("POST", GATEWAY, EMAIL, AN_EMAIL, id="email-other-host"),
        pytest.param("POST", "www.ospserver.net", f"{EMAIL}?DUID={'9' * 8192}", AN_EMAIL,
            id="email-long-query"),
        pytest.param("GET", "www.ospserver.net", EMAIL, not_with("GET", "POST"), id="email-get"),
        pytest.param("HEAD", "www.ospserver.net", EMAIL, not_with("HEAD", "POST"),
            id="email-head"),
        pytest.param("PUT", "www.ospserver.net", EMAIL, not_with("PUT", "POST"), id="email-put"),
        pytest.param("post", "www.ospserver.net", EMAIL, not_with("post", "POST"),
            id="email-lower-case"),
        pytest.param("M" * 21, "www.ospserver.net", EMAIL, not_with("M" * 20, "POST"),
            id="email-long-method"),
        pytest.param("POST", "gld.samsungosp.com", "/", not_with("POST", "GET, HEAD"),
            id="hotspot-post"),
        pytest.param("PUT", "www.samsungimaging.com", "/", not_with("PUT", "GET, HEAD"),
            id="page-put"),
        pytest.param("GET", "gld.samsungosp.com", "/x", NOT_FOUND, id="hotspot-other-path"),
        pytest.param("POST", "www.ospserver.net", f"/{EMAIL}", NOT_FOUND, id="two-slashes"),
        pytest.param("POST", "www.ospserver.net", f"{EMAIL};x", NOT_FOUND, id="parameter"),
        pytest.param("POST", "www.ospserver.net", f"{EMAIL}/", NOT_FOUND, id="slash-behind"),
        pytest.param("POST", "www.ospserver.net", "/social/columbus/%65mail", NOT_FOUND,
            id="percent"),
        pytest.param("POST", "www.ospserver.net", f"{EMAIL}\0", NOT_FOUND, id="nul"),
        pytest.param("OPTIONS", "www.ospserver.net", "*", NOT_FOUND, id="asterisk"),
        pytest.param("POST", "www.yahoo.co.kr", "/", not_with("POST", "GET, HEAD"),
            id="yahoo-post"),
        pytest.param("GET", "www.msn.com", "/x", NOT_FOUND, id="msn-other-path"),
        pytest.param("GET", "www.ospserver.net", "/social/columbus", NOT_FOUND, id="unknown"),
    ],
)  # fmt: skip
def test_find(method: str, host: str, path: str, answer: Reply | PortalCheck | Endpoint) -> None:
    """Each request for one of our hosts has an answer, if only a refusal that says why."""
    assert endpoints.find(method, host, path) == endpoint(answer)


TIME = "/security/sso/initialize/time"
LIST = "/social/columbus/serviceproviders/list"
ACCOUNT = "/security/sso/userprofiles/authentication/emailid"
TOKEN = "0f" * 16


@pytest.mark.parametrize(
    ("method", "path", "answer"),
    [
        pytest.param("POST", "/facebook/auth", Endpoint(Service.LOGIN, "facebook"), id="login"),
        pytest.param(
            "POST", "/flickr/auth?x=/y", Endpoint(Service.LOGIN, "flickr"), id="login-query"
        ),
        pytest.param("POST", "/picasa/photo", Endpoint(Service.PHOTO, "picasa"), id="photo"),
        pytest.param("POST", "/youtube/video", Endpoint(Service.VIDEO, "youtube"), id="video"),
        pytest.param("PUT", f"/upload/{TOKEN}", Endpoint(Service.FILE, TOKEN), id="file"),
        pytest.param("PUT", f"/upload/{TOKEN}?x", Endpoint(Service.FILE, TOKEN), id="file-query"),
        pytest.param(
            "PUT", "/upload/a%2fb", Endpoint(Service.FILE, "a%2fb"), id="file-quoted-slash"
        ),
        pytest.param("PUT", "/upload/", Endpoint(Service.FILE, ""), id="file-empty"),
        pytest.param("GET", TIME, Endpoint(Service.TIME), id="time"),
        pytest.param("HEAD", TIME, Endpoint(Service.TIME), id="time-head"),
        pytest.param("GET", LIST, Endpoint(Service.LIST), id="list"),
        pytest.param("POST", ACCOUNT, Endpoint(Service.ACCOUNT), id="account"),
        pytest.param("GET", "/facebook/auth", not_with("GET", "POST"), id="login-get"),
        pytest.param("PUT", "/facebook/photo", not_with("PUT", "POST"), id="photo-put"),
        pytest.param("POST", f"/upload/{TOKEN}", not_with("POST", "PUT"), id="file-post"),
        pytest.param("GET", f"/upload/{TOKEN}", not_with("GET", "PUT"), id="file-get"),
        pytest.param("POST", TIME, not_with("POST", "GET, HEAD"), id="time-post"),
        pytest.param("GET", ACCOUNT, not_with("GET", "POST"), id="account-get"),
        pytest.param("POST", "/x/auth", NOT_FOUND, id="S06-unknown-site"),
        pytest.param("POST", "/Facebook/auth", NOT_FOUND, id="S06-upper-case"),
        pytest.param("POST", "/facebook%2f..%2f/auth", NOT_FOUND, id="S06-quoted-path"),
        pytest.param("POST", "/%66acebook/auth", NOT_FOUND, id="S06-quoted-letter"),
        pytest.param("POST", "//auth", NOT_FOUND, id="S06-no-site"),
        pytest.param("POST", "/auth", NOT_FOUND, id="S06-no-slash"),
        pytest.param("POST", "/facebook/x/auth", NOT_FOUND, id="S06-slash-in-the-middle"),
        pytest.param("POST", "//facebook/auth", NOT_FOUND, id="S06-two-slashes"),
        pytest.param("POST", "/facebook//auth", NOT_FOUND, id="S06-two-slashes-behind"),
        pytest.param("POST", "/facebook/../picasa/auth", NOT_FOUND, id="S06-path"),
        pytest.param("POST", "/facebook/auth/", NOT_FOUND, id="S06-slash-behind"),
        pytest.param("POST", "/facebook/authx", NOT_FOUND, id="S06-longer"),
        pytest.param("POST", "/facebook\0/auth", NOT_FOUND, id="S06-nul"),
        pytest.param("POST", "/*/auth", NOT_FOUND, id="S06-asterisk"),
        pytest.param("POST", "/facebook", NOT_FOUND, id="site-alone"),
        pytest.param("POST", "/facebook/auth/key", NOT_FOUND, id="path-of-phones"),
        pytest.param("POST", "/facebook/Auth", NOT_FOUND, id="service-in-upper-case"),
        pytest.param("PUT", f"/upload/{TOKEN}/SAM_4371.JPG", NOT_FOUND, id="S09-with-a-name"),
        pytest.param("PUT", f"/upload//{TOKEN}", NOT_FOUND, id="file-two-slashes"),
        pytest.param("PUT", "/upload/../x", NOT_FOUND, id="file-path"),
        pytest.param("PUT", "/upload", NOT_FOUND, id="file-no-slash"),
        pytest.param("PUT", "/xupload/x", NOT_FOUND, id="file-other-path"),
    ],
)
@pytest.mark.parametrize("host", [GATEWAY, ""], ids=["gateway", "no-host"])
def test_calls(host: str, method: str, path: str, answer: Reply | Endpoint) -> None:
    """S06: what the social gateway is asked is a call, with the site or the token in its path."""
    assert endpoints.find(method, host, path) == endpoint(answer)


@pytest.mark.parametrize("site", sorted(routes.SITES))
def test_sites(site: str) -> None:
    """At each site a camera can log in and announce photos, at some also videos."""
    names = ("auth", "photo", "video")
    found = {name: endpoints.find("POST", GATEWAY, f"/{site}/{name}") for name in names}
    video = Endpoint(Service.VIDEO, site) if site in routes.VIDEO_SITES else NOT_FOUND
    assert found == {
        "auth": Endpoint(Service.LOGIN, site),
        "photo": Endpoint(Service.PHOTO, site),
        "video": endpoint(video),
    }


@pytest.mark.parametrize(
    ("answer", "is_upload", "is_page", "is_unsolved"),
    [
        pytest.param(AN_EMAIL, True, False, False, id="email"),
        pytest.param(Endpoint(Service.FILE, "x"), True, False, False, id="file"),
        pytest.param(A_PAGE, False, True, False, id="page"),
        pytest.param(Endpoint(Service.THUMBNAIL, "x.1"), False, True, False, id="thumbnail"),
        pytest.param(Endpoint(Service.LOGIN, "flickr"), False, False, False, id="login"),
        pytest.param(Endpoint(Service.LIST), False, False, True, id="list"),
        pytest.param(Endpoint(Service.ACCOUNT), False, False, True, id="account"),
        pytest.param(GLD, False, False, False, id="check"),
        pytest.param(NOT_FOUND, False, False, True, id="unknown-path"),
        pytest.param(refusal(405, "no"), False, False, True, id="unknown-method"),
        pytest.param(refusal(403, "no"), False, False, False, id="refused"),
    ],
)
def test_kinds(answer: Reply | Endpoint, is_upload: bool, is_page: bool, is_unsolved: bool) -> None:
    """An endpoint has the properties that the addon decides by."""
    found = endpoint(answer)
    assert (found.is_upload, found.is_page, found.is_unsolved) == (is_upload, is_page, is_unsolved)


@pytest.mark.parametrize(
    ("method", "host", "path", "check"),
    [
        pytest.param("GET", "www.yahoo.co.kr", "/", True, id="yahoo"),
        pytest.param("GET", "www.msn.com", "/", True, id="msn"),
        pytest.param("GET", "WWW.MSN.com", "/", True, id="upper-case"),
        pytest.param("GET", "www.msn.com:80", "/", True, id="port"),
        pytest.param("GET", "www.msn.com.", "/", True, id="dot"),
        pytest.param("POST", "www.msn.com", "/", False, id="post"),
        pytest.param("GET", "www.msn.com", "/x", False, id="path"),
        pytest.param("GET", "www.msn.com", "/index.html", False, id="page"),
        pytest.param("GET", "msn.com", "/", False, id="domain"),
        pytest.param("GET", "yahoo.com", "/", False, id="where-it-leads"),
        pytest.param("GET", "www.msn.com.example", "/", False, id="look-alike"),
        pytest.param("GET", "gld.samsungosp.com", "/", False, id="ours-anyway"),
        pytest.param("GET", "", "/", False, id="no-host"),
    ],
)
def test_is_check(method: str, host: str, path: str, check: bool) -> None:
    """At a host that others want too, only a camera's check is ours."""
    assert endpoints.is_check(method, host, path) is check


def test_not_found() -> None:
    """What no row knows is a 404 in the words of a camera."""
    assert refusal(404, "Nobody knows this path") == NOT_FOUND


OWN = ("192.168.1.2", "198.51.100.80", "mypc", "127.0.0.1")


@pytest.mark.parametrize(
    ("request_", "target", "host", "at_us", "answer"),
    [
        # For one of our hosts, wherever it goes.
        pytest.param("GET /x", "www.ospserver.net", "www.ospserver.net", 0, NOT_FOUND, id="ours"),
        pytest.param("POST /social/columbus/email", "8.8.8.8", GATEWAY, 0, AN_EMAIL, id="header"),
        pytest.param("POST /social/columbus/email", GATEWAY, "", 0, AN_EMAIL, id="target"),
        pytest.param("GET /", "8.8.8.8", "Www.Yahoo.co.kr:80", 0, YAHOO, id="check"),
        pytest.param("GET /", "gld.samsungosp.com", "gld.samsungosp.com", 1, GLD, id="gld"),
        # For others.
        pytest.param("GET /", "www.example.org", "www.example.org", 0, None, id="other"),
        pytest.param("GET /news", "www.yahoo.co.kr", "www.yahoo.co.kr", 0, None, id="news"),
        pytest.param("POST /social/columbus/email", "a.example", "", 0, None, id="other-email"),
        pytest.param("GET /", "192.168.1.2", "192.168.1.2", 0, None, id="own-other-port"),
        # For this machine and nobody else.
        pytest.param("GET /", "198.51.100.80", "", 1, A_PAGE, id="no-host"),
        pytest.param("POST /social/columbus/email", "198.51.100.80", "", 1, AN_EMAIL, id="email"),
        pytest.param("GET /robots.txt", "192.168.1.2", "", 1, NOT_FOUND, id="unknown-path"),
        pytest.param("GET /", "192.168.1.2", "192.168.1.2:8080", 1, A_PAGE, id="own-address"),
        pytest.param("GET /", "192.168.1.2", "mypc", 1, A_PAGE, id="own-name"),
        pytest.param("GET /", "192.168.1.2", "127.0.0.1", 1, A_PAGE, id="loopback"),
        pytest.param("GET /", "198.51.100.80", "www.msn.com", 1, MSN, id="check-at-us"),
        # For this machine under another name: an old name, or a page that rebinds its own.
        pytest.param("GET /", "192.168.1.2", "evil.example", 1, REFUSED, id="rebinding"),
        pytest.param("GET /", "evil.example", "evil.example", 1, REFUSED, id="rebinding-proxied"),
        pytest.param("GET /", "192.168.1.2", "192.168.1.2.evil.example", 1, REFUSED, id="prefix"),
        pytest.param("GET /", "192.168.1.2", "www.ospserver.net.evil.ex", 1, REFUSED, id="ours-."),
        pytest.param("GET /", "192.168.1.2", "8.8.8.8", 1, REFUSED, id="other-address"),
        pytest.param("GET /news", "192.168.1.2", "www.yahoo.co.kr", 1, REFUSED, id="news-at-us"),
        pytest.param("POST /social/columbus/email", "10.0.0.1", "evil.ex", 1, REFUSED, id="post"),
    ],
)
def test_claim(request_: str, target: str, host: str, at_us: bool, answer: Any) -> None:
    """Ours are our hosts, and what arrives at this machine for no other name."""
    method, path = request_.split()
    is_local = OWN.__contains__
    found = endpoints.claim(
        method, path, target, host, hosts=Hosts(), at_us=bool(at_us), is_local=is_local
    )
    wanted = endpoint(NOT_FOUND if answer is REFUSED else answer) if answer else None
    assert (found and found.endpoint(method, path)) == wanted
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
    """A browser names the page that makes it send something; a camera and a reader do not."""
    assert endpoints.page_origin(method, headers) == origin


@pytest.mark.parametrize(
    ("host", "bare"),
    [
        pytest.param("www.ospserver.net", "www.ospserver.net", id="as-captured"),
        pytest.param("WWW.OspServer.Net", "www.ospserver.net", id="upper-case"),
        pytest.param("www.ospserver.net:80", "www.ospserver.net", id="port"),
        pytest.param("www.ospserver.net.", "www.ospserver.net", id="dot"),
        pytest.param("www.ospserver.net.:80", "www.ospserver.net", id="dot-and-port"),
        pytest.param(" www.ospserver.net\t", "www.ospserver.net", id="blanks"),
        pytest.param("192.0.2.1:8080", "192.0.2.1", id="ipv4"),
        pytest.param("[2001:DB8::1]:80", "2001:db8::1", id="ipv6-port"),
        pytest.param("[2001:db8::1]", "2001:db8::1", id="ipv6"),
        pytest.param("2001:db8::1", "2001:db8::1", id="ipv6-bare"),
        pytest.param("[2001:db8::1", "2001:db8::1", id="ipv6-open"),
        pytest.param("", "", id="empty"),
        pytest.param(":80", "", id="port-alone"),
    ],
)
def test_bare_host(host: str, bare: str) -> None:
    """A host is the same host with a port, in capitals, or with a final dot."""
    assert bare_host(host) == bare


@pytest.mark.parametrize("host", SAMSUNG_HOSTS)
def test_samsung_hosts_are_ours(host: str) -> None:
    """Every name in the firmware is ours, however it is written."""
    spellings = [host, host.upper(), f"{host}.", f"{host}:80"]
    assert [spelling in Hosts() for spelling in spellings] == [True] * 4


def test_samsung_hosts() -> None:
    """These names are answered without any configuration, and no others."""
    assert SAMSUNG_HOSTS == (
        "gld.samsungosp.com",
        "www.samsungimaging.com",
        "samsungimaging.com",
        "www.ospserver.net",
        "snsgw.samsungmobile.com",
    )


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        pytest.param("camera.example", True, id="name"),
        pytest.param("CAMERA.example:80", True, id="name-upper-case"),
        pytest.param("a.b.example.net", True, id="glob"),
        pytest.param("example.net", False, id="beside-the-glob"),
        pytest.param("www.camera.example", False, id="below-the-name"),
        pytest.param("camera.example.org", False, id="above-the-name"),
        pytest.param("chn.ospserver.net", False, id="another-of-samsung"),
        pytest.param("ospserver.net", False, id="domain"),
        pytest.param("www.ospserver.net.example", False, id="look-alike"),
        pytest.param("", False, id="empty"),
    ],
)
def test_further_hosts(host: str, ours: bool) -> None:
    """The user adds names and globs, without case; everything else is somebody else's."""
    hosts = Hosts(("Camera.example", "*.EXAMPLE.net"))
    assert (host in hosts) is ours
    assert "www.ospserver.net" in hosts


def test_shared_hosts() -> None:
    """Two checks are at hosts that are not ours; DNS leads to us for the one that is gone."""
    assert SHARED_HOSTS == {"www.yahoo.co.kr": YAHOO, "www.msn.com": MSN}
    assert (*SAMSUNG_HOSTS, "www.yahoo.co.kr") == DNS_HOSTS


SPELLINGS = ("{}", "{}:80", "{}.", "{}.:80")


def spelled(host: str) -> list[str]:
    return [form.format(name) for name in (host, host.upper()) for form in SPELLINGS]


@pytest.mark.parametrize(
    ("further", "yahoo", "msn"),
    [
        pytest.param((), True, False, id="none"),
        pytest.param(("www.msn.com",), True, True, id="name"),
        pytest.param(("WWW.MSN.COM",), True, True, id="upper-case"),
        pytest.param(("*.msn.com",), True, True, id="glob"),
        pytest.param(("*",), True, True, id="everything"),
        pytest.param(("msn.com", "*.example.com"), True, False, id="others"),
        pytest.param(("www.yahoo.co.kr", "*.yahoo.*"), True, False, id="yahoo"),
    ],
)
def test_shared_hosts_in_dns(further: tuple[str, ...], yahoo: bool, msn: bool) -> None:
    """DNS leads to us for Yahoo, for MSN only if it is named; neither is ever wholly ours."""
    hosts = Hosts(further)
    assert {hosts.resolves(name) for name in spelled("www.yahoo.co.kr")} == {yahoo}
    assert {hosts.resolves(name) for name in spelled("www.msn.com")} == {msn}
    both = spelled("www.yahoo.co.kr") + spelled("www.msn.com")
    assert [name for name in both if name in hosts] == []


@pytest.mark.parametrize(
    ("host", "resolves"),
    [
        *(pytest.param(host, True, id=host) for host in SAMSUNG_HOSTS),
        pytest.param("Camera.EXAMPLE.", True, id="name"),
        pytest.param("a.b.example.net", True, id="glob"),
        pytest.param("yahoo.co.kr", False, id="yahoo-domain"),
        pytest.param("m.yahoo.co.kr", False, id="yahoo-other-name"),
        pytest.param("yahoo.com", False, id="where-yahoo-leads"),
        pytest.param("ospserver.net", False, id="domain"),
        pytest.param("example.org", False, id="others"),
        pytest.param("", False, id="empty"),
    ],
)
def test_resolves(host: str, resolves: bool) -> None:
    """DNS leads to us for what is answered here, and for nothing else."""
    assert Hosts(("camera.example", "*.example.net")).resolves(host) is resolves
