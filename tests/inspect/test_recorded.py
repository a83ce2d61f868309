from __future__ import annotations

import pytest

from nxparse.inspect import recorded
from nxparse.inspect.recorded import RecordedRequest, parse


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(
            b"GET http://X.example:80/a?b HTTP/1.1\r\nHost: y\r\n\r\n",
            RecordedRequest("GET", "x.example", "/a?b", (("Host", "y"),), b""),
            id="absolute",
        ),
        pytest.param(
            b"GET http://x.example HTTP/1.1\r\n\r\n",
            RecordedRequest("GET", "x.example", "/", (), b""),
            id="absolute-without-path",
        ),
        pytest.param(
            b"PUT /x HTTP/1.0\nA:1\nno colon\nA: 2\n\nbody\n\n",
            RecordedRequest("PUT", "", "/x", (("A", "1"), ("A", "2")), b"body\n\n", "HTTP/1.0"),
            id="lf-only",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a\r\nX: cut",
            RecordedRequest("GET", "a", "/", (("Host", "a"), ("X", "cut")), b""),
            id="cut-in-head",
        ),
        pytest.param(b"--B\r\nGET / HTTP/1.1\r\n", None, id="a-body"),
        pytest.param(b"get / HTTP/1.1\r\n\r\n", None, id="lower-case"),
        pytest.param(b"", None, id="empty"),
    ],
)
def test_parse(data: bytes, expected: RecordedRequest | None) -> None:
    """Requests are parsed leniently; other data is not a request."""
    assert parse(data) == expected


def test_header() -> None:
    """The first header with a name counts, regardless of case."""
    headers = (("A", "1"), ("a", "2"))
    assert [recorded.header(headers, name) for name in ("a", "A", "b")] == ["1", "1", ""]
