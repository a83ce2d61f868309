"""The HTTP client of deliveries, against a real server that follows a script."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nxparse.deliver import http_client
from nxparse.deliver.http_client import ConnectError, NoResponseError, Origin, Response
from tests.web_servers import HOST, OK, Act, Script, WebServer


def post(running: WebServer, body: list[bytes], **limits: float) -> Response:
    headers = {"Content-Length": str(sum(map(len, body)))}
    origin = Origin(False, HOST, running.port)
    return http_client.request(origin, "POST", "/x", headers, body, max_body=4, **limits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (Origin(True, "h", 443), "h"),
        (Origin(False, "h", 80), "h"),
        (Origin(True, "h", 80), "h:80"),
        (Origin(False, "::1", 8080), "[::1]:8080"),
        (Origin(False, "::1", 80), "[::1]"),
    ],
)
def test_origin(origin: Origin, expected: str) -> None:
    """An origin is written as in a URL."""
    assert str(origin) == expected


def test_reply_is_bounded() -> None:
    """No more of a reply is read than the caller asks for."""
    with WebServer(b"HTTP/1.1 404 Gone\r\nX-Y: z\r\nContent-Length: 9\r\n\r\n123456789") as running:
        response = post(running, [b"ab", b"c"])
    assert (response.status, response.reason, response.headers["x-y"]) == (404, "Gone", "z")
    assert (response.body, response.broken) == (b"1234", None)
    assert running.post.body == b"abc"


def test_redirect_is_not_followed() -> None:
    """A redirect is a reply like any other."""
    with WebServer(OK) as other:
        location = f"Location: http://{HOST}:{other.port}/\r\n".encode()
        with WebServer(b"HTTP/1.1 307 There\r\n" + location + b"\r\n") as running:
            assert post(running, [b"x"]).status == 307
        assert other.connections == 0


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param((Act.POST, Act.STALL), "timed out", id="silent"),
        pytest.param((Act.POST,), "Remote end closed connection without response", id="closed"),
        pytest.param(b"\x07\r\n\r\n", "BadStatusLine", id="garbage"),
    ],
)
def test_no_reply(script: Script, expected: str) -> None:
    """A server that does not reply is not waited for without end."""
    with WebServer(script) as running, pytest.raises(NoResponseError, match=expected):
        post(running, [b"x"], answer=0.3)


def test_early_reply() -> None:
    """A reply counts even if the server hangs up in the middle of the body."""
    large = [bytes(1 << 20)] * 64
    with WebServer((Act.SOME, b"HTTP/1.1 413 No\r\n\r\n"), keep=False) as running:
        response = post(running, large)
    assert response.status == 413
    assert response.broken is not None


def test_nobody_listens() -> None:
    """A refused connection is told apart from a lost one."""
    with WebServer() as running:
        pass
    with pytest.raises(ConnectError, match="Connection refused"):
        post(running, [b"x"])


def test_body_that_cannot_be_read() -> None:
    """An error of the body is raised as it is."""

    def body() -> Iterator[bytes]:
        yield b"x"
        raise OSError("the disk is tired")

    with WebServer() as running, pytest.raises(OSError, match=r"^the disk is tired$"):
        http_client.request(
            Origin(False, HOST, running.port),
            "POST",
            "/",
            {"Content-Length": "2"},
            body(),
            max_body=1,
        )
