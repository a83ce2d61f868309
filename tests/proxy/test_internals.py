"""Access to mitmproxy's internals, on objects with its attributes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nxparse.config import OPTIONS
from nxparse.proxy import internals


class Options(SimpleNamespace):
    def __contains__(self, name: str) -> bool:
        return hasattr(self, name)

    def default(self, name: str) -> object:
        return ["path"]


def master(options: Options | None = None, **addons: object) -> Any:
    return SimpleNamespace(options=options, addons=SimpleNamespace(get=addons.get))


@pytest.mark.parametrize(
    ("view", "options", "inspected"),
    [
        (object(), {}, True),
        (None, {"save_stream_file": "x"}, True),
        (None, {"hardump": "x"}, True),
        (None, {"flow_detail": 3}, True),
        (None, {"flow_detail": 2}, False),
        (None, {}, False),
    ],
    ids=["mitmweb", "saved", "har", "bodies", "no-bodies", "nothing"],
)
def test_is_inspected(view: object, options: dict[str, object], inspected: bool) -> None:
    """Bodies stay in flows only if the user can see them."""
    values = Options(**{"save_stream_file": None, "hardump": ""} | options)
    assert internals.is_inspected(master(values, view=view)) is inspected


@pytest.mark.parametrize(("columns", "shown"), [(["path"], True), (["method"], False)])
def test_show_comments(columns: list[str], shown: bool) -> None:
    """mitmweb shows comments unless the user has chosen its columns."""
    options = Options(web_columns=columns)
    internals.show_comments(master(options))
    assert ("comment" in options.web_columns) is shown


def test_unknown_option(caplog: pytest.LogCaptureFixture) -> None:
    """A misspelt option of ours is logged with the names of all options."""
    internals.warn_about_unknown(SimpleNamespace(deferred={"nx_dri": "x", "other": "y"}))
    names = ", ".join(option.name for option in OPTIONS)
    assert caplog.messages == [f"there is no option nx_dri: the options are {names}"]


def test_another_mitmproxy(caplog: pytest.LogCaptureFixture) -> None:
    """If mitmproxy stores its connections elsewhere, that is logged, and they are left alone."""
    client = SimpleNamespace(id="a")
    assert internals.streams(master(), client) is None
    internals.abort_connection(master(), client, object())
    assert len(caplog.messages) == 1


def test_listening() -> None:
    """The addresses of one mode, or of all modes and mitmweb, are listed."""

    def server(mode: str, *addresses: tuple[str, int]) -> object:
        return SimpleNamespace(mode=SimpleNamespace(type_name=mode), listen_addrs=addresses)

    proxies = SimpleNamespace(
        servers=[server("regular", ("0.0.0.0", 80)), server("dns", ("0.0.0.0", 53))]
    )
    web = Options(web_host="127.0.0.1", web_port=8081)
    assert internals.listening(master(web, proxyserver=proxies), "dns") == [("0.0.0.0", 53)]
    assert internals.listening(master(web, proxyserver=proxies))[-1] == ("127.0.0.1", 8081)
