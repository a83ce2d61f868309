"""Who answers what."""

from __future__ import annotations

import pytest

from nxparse import service
from nxparse.hotspot import GLD
from nxparse.page import PAGE
from nxparse.reply import Reply, refusal
from nxparse.service import NOT_FOUND, SAMSUNG_HOSTS, Hosts, Upload, bare_host

EMAIL = "/social/columbus/email"


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
        pytest.param("GET", "www.samsungimaging.com", "/", PAGE, id="page"),
        pytest.param("GET", "", "/", PAGE, id="page-no-host"),
        pytest.param("GET", "192.0.2.1", "/", PAGE, id="page-address"),
        pytest.param("POST", "www.ospserver.net", f"{EMAIL}?DUID=123456789033", Upload.EMAIL,
            id="email"),
        pytest.param("POST", "www.ospserver.net", EMAIL, Upload.EMAIL, id="email-no-query"),
        pytest.param("POST", "", EMAIL, Upload.EMAIL, id="email-no-host"),
        pytest.param("POST", "snsgw.samsungmobile.com", EMAIL, Upload.EMAIL,
            id="email-other-host"),
        pytest.param("POST", "www.ospserver.net", f"{EMAIL}?DUID={'9' * 8192}", Upload.EMAIL,
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
        pytest.param("GET", "www.ospserver.net", "/security/sso/initialize/time", NOT_FOUND,
            id="unknown"),
    ],
)  # fmt: skip
def test_find(method: str, host: str, path: str, answer: Reply | Upload) -> None:
    """Each request for one of our hosts has an answer, if only a refusal that says why."""
    assert service.find(method, host, path) == answer


def test_not_found() -> None:
    """What no row knows is a 404 in the words of a camera."""
    assert refusal(404, "Nobody knows this path") == NOT_FOUND


@pytest.mark.parametrize(
    ("method", "path", "known"),
    [
        pytest.param("POST", f"{EMAIL}?DUID=1", True, id="email"),
        pytest.param("GET", "/", True, id="page"),
        pytest.param("HEAD", "", True, id="page-head"),
        pytest.param("GET", EMAIL, False, id="wrong-method"),
        pytest.param("POST", "/", False, id="post-to-the-page"),
        pytest.param("GET", "/favicon.ico", False, id="unknown-path"),
    ],
)
def test_known(method: str, path: str, known: bool) -> None:
    """A request without one of our host names makes sense where method and path do."""
    assert service.known(method, path) is known


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
