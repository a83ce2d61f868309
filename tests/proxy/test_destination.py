"""Requests that are answered here, passed on, or refused."""

from __future__ import annotations

from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import pytest

from nxparse.proxy import network
from nxparse.proxy.destination import (
    Destinations,
    describe_refused,
    refuse_browser,
    refuses_connection,
)
from nxparse.proxy.network import Address
from nxparse.server.endpoints import Claim, Hosts

ADDRESSES = {"evil.test": "127.0.0.1", "rebind.test": "127.0.0.1", "www.example.org": "192.0.2.1"}
REVERSE = ("inner.test", 80)


@pytest.fixture(autouse=True)
def _resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(host: str) -> list[Address]:
        return [ip_address(ADDRESSES.get(host, host))]

    monkeypatch.setattr(network, "resolve", resolve)


def arrival(
    host: str,
    port: int = 80,
    *,
    method: str = "GET",
    header: str = "",
    named: tuple[str, int] | None = None,
) -> Any:
    """A flow of a request that arrived at port 8080; `named` is the server of its mode."""
    request = SimpleNamespace(method=method, path="/x", host=host, port=port, host_header=header)
    client = SimpleNamespace(
        proxy_mode=SimpleNamespace(address=named), sockname=("192.0.2.1", 8080)
    )
    return SimpleNamespace(request=request, client_conn=client)


HOSTS = Destinations(Hosts(("camera.test",)))


@pytest.mark.parametrize(
    ("flow", "status"),
    [
        pytest.param(arrival("gld.samsungosp.com"), 404, id="ours"),
        pytest.param(arrival("camera.test", 9), 404, id="in-nx_hosts-on-any-port"),
        pytest.param(arrival("www.example.org"), None, id="another"),
        pytest.param(arrival("evil.test"), 404, id="name-of-this-machine"),
        pytest.param(arrival("evil.test", header="evil.test"), 404, id="rebinding"),
        pytest.param(arrival("evil.test", 9), 403, id="another-port-of-this-machine"),
        pytest.param(arrival("127.0.0.1", 9), 403, id="loopback"),
        pytest.param(arrival("evil.test", 8080), 404, id="own-port-of-this-machine"),
        pytest.param(arrival("inner.test", named=REVERSE), None, id="named-by-the-mode"),
    ],
)
async def test_resolve(flow: Any, status: int | None) -> None:
    """Requests for our hosts are answered here; local servers cannot be reached."""
    claim = await HOSTS.resolve(flow)
    reply = claim.endpoint(flow.request.method, flow.request.path).reply if claim else None
    assert (reply and reply.status) == status


@pytest.mark.parametrize(
    ("flow", "refused"),
    [
        pytest.param(arrival("evil.test", 22), True, id="this-machine"),
        pytest.param(arrival("www.example.org", 443), False, id="another"),
        pytest.param(arrival("camera.test", 443), False, id="ours"),
        pytest.param(arrival("evil.test", named=REVERSE), False, id="named-by-the-mode"),
    ],
)
async def test_refuse_tunnel(flow: Any, refused: bool) -> None:
    """A tunnel to this machine is refused."""
    assert bool(await HOSTS.refuse_tunnel(flow)) is refused


@pytest.mark.parametrize(
    ("host", "port", "named", "refused"),
    [
        ("127.0.0.1", 9, False, True),
        ("127.0.0.1", 9, True, False),
        ("127.0.0.1", 8081, True, True),
        ("www.example.org", 8081, False, False),
    ],
    ids=["loopback", "named-by-the-mode", "this-process", "another-machine"],
)
def test_refuses_connection(host: str, port: int, named: bool, refused: bool) -> None:
    """A mode may name a server of this machine, but not this process."""
    found = refuses_connection(host, port, named=named, listening=lambda: [("0.0.0.0", 8081)])
    assert found is refused


def test_refuse_browser() -> None:
    """A request from a web page is refused with 403, even if its path is unknown."""
    claim = HOSTS.claim(arrival("www.ospserver.net", method="POST"))
    assert claim
    assert HOSTS.is_unknown(claim, claim.endpoint("POST", "/x"))
    refused = refuse_browser(claim, "POST", (("Origin", "http://evil.test"),))
    endpoint = refused.endpoint("POST", "/x")
    assert endpoint.reply
    assert endpoint.reply.status == 403
    assert refused.reason == "it comes from a web page, http://evil.test"


ODD = "\x1b]0;title\x07" + "x" * 10_000


async def test_odd_reasons() -> None:
    """The reason of a refusal is short and printable for any Host and Origin."""
    at_us = await HOSTS.resolve(arrival("evil.test", header=ODD))
    page = refuse_browser(Claim("www.ospserver.net"), "POST", (("Origin", ODD),))
    for claim in (at_us, page):
        assert claim
        assert claim.refusal
        assert len(claim.reason) < 200
        assert claim.reason.isprintable()


def test_describe_refused() -> None:
    """The reason has the name, escaped, and its address."""
    shown = describe_refused("evil.example\n", "127.0.0.1")
    assert shown.startswith("evil.example? (127.0.0.1) is a loopback")
