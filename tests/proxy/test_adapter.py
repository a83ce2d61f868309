"""Flows of mitmproxy: read, changed and marked."""

from __future__ import annotations

import pytest
from mitmproxy import http
from mitmproxy.test import tflow

from nxparse.proxy import adapter

URL = "http://www.ospserver.net/social/columbus/email?password=s3cret"


def flow(**headers: str) -> http.HTTPFlow:
    """An upload with these headers."""
    request = http.Request.make("POST", URL, b"password=s3cret", headers)
    request.headers.pop("content-length", None)
    for name, value in headers.items():
        request.headers[name.replace("_", "-")] = value
    found = tflow.tflow(req=request)
    found.client_conn.peername = ("192.0.2.7", 4000)
    found.client_conn.sockname = ("192.0.2.1", 8080)
    return found


@pytest.mark.parametrize(
    ("headers", "length", "has_body"),
    [
        ({"content_length": "5"}, 5, True),
        ({"content_length": "0"}, 0, False),
        ({"transfer_encoding": "chunked"}, None, True),
        ({}, None, False),
    ],
)
def test_body(headers: dict[str, str], length: int | None, has_body: bool) -> None:
    """The head of a request announces a body by its length or as chunks."""
    found = flow(**headers)
    announced = adapter.body_info(found)
    assert (announced.client, announced.length) == ("192.0.2.7", length)
    assert adapter.has_body(found.request) is has_body


def test_label() -> None:
    """The mark shows the outcome; the comment is printable and short."""
    found = flow()
    adapter.label(found, "unknown", "x\x1b" + "y" * 300)
    assert found.marked == ":question:"
    assert found.comment.isprintable()
    assert found.comment.startswith("unknown: x?y")
    assert len(found.comment) == adapter.MAX_COMMENT
