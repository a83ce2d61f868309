"""The state that the addons share."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from mitmproxy.http import Request
from mitmproxy.test import tflow

from nxparse.config import OPTIONS, ConfigError
from nxparse.proxy.state import State
from nxparse.proxy.transport import Times


def options(**values: object) -> SimpleNamespace:
    return SimpleNamespace(**{option.name: option.default for option in OPTIONS} | values)


def test_configure(caplog: pytest.LogCaptureFixture) -> None:
    """A likely mistake is logged once; nx_dir cannot change while uploads are received."""
    state = State(Times())
    state.configure(options(nx_hosts=["*"], nx_retry_for="2d"), {})
    assert [message.partition(" ")[0] for message in caplog.messages] == ["nx_hosts=*"]
    assert state.config
    assert state.config.retry_for == 2 * 86400
    caplog.clear()
    state.configure(options(nx_hosts=["*"], nx_retry_for="3"), {})
    assert [message.partition(" ")[0] for message in caplog.messages] == ["nx_retry_for=3"]
    state.backend = SimpleNamespace(config=state.config)  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="nx_dir cannot be changed"):
        state.configure(options(nx_dir="elsewhere"), {})


def test_foreign_requests(caplog: pytest.LogCaptureFixture) -> None:
    """A camera's request to another host is logged, but not if only its front page is ours."""
    caplog.set_level("INFO")
    state = State(Times())
    state.configure(options(nx_hosts=["www.msn.com"]), {})
    for host in ("www.msn.com", "new.example.org"):
        flow = tflow.tflow(req=Request.make("GET", f"http://{host}/x"))
        state.unknown_hosts.seen(flow.client_conn.peername[0])
        state.note_foreign(flow)
    assert ["new.example.org" in message for message in caplog.messages] == [True]


@pytest.mark.parametrize(("header", "unknown"), [(b"", True), (b"evil.test", False)])
def test_is_unknown(caplog: pytest.LogCaptureFixture, header: bytes, unknown: bool) -> None:
    """A request without Host counts as unknown; with another Host, the option for it is logged."""
    state = State(Times())
    flow = tflow.tflow(req=Request.make("GET", "http://127.0.0.1/x"))
    flow.request.headers.fields = ((b"Host", header),) if header else ()
    claim = state.destinations.claim(flow)
    assert claim
    endpoint, found = state.choose_endpoint(flow, claim)
    assert endpoint.reply
    assert (endpoint.reply.status, found) == (404, unknown)
    remedy = "this machine; if its uploads fail, try --set nx_hosts=evil.test\n"
    assert (remedy in caplog.text) is not unknown
