"""The HTTP client of deliveries, against a real server that follows a script."""

from __future__ import annotations

import errno
import gc
import itertools
import socket
import traceback
import warnings
from collections.abc import Iterator, Mapping

import pytest

from nxparse.deliver import http_client
from nxparse.deliver.errors import DeliveryError, TemporaryError, UnreachableError
from nxparse.deliver.http_client import Origin, Response, parse_url
from tests.deliver.failures import Like, failure_of
from tests.far import appear_far
from tests.smtp_servers import Authority
from tests.web_servers import HOST, OK, Act, Script, WebServer, reply

pytestmark = pytest.mark.usefixtures("no_authorities")

SECRET = "s3cret"
AUTHORIZATION = {"Authorization": SECRET}


@pytest.fixture(autouse=True)
def _timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let failing tests time out within seconds."""
    for name in ("CONNECT_TIMEOUT", "IO_TIMEOUT"):
        monkeypatch.setattr(http_client, name, 10.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONNECT_TIMEOUT", "IO_TIMEOUT", "EARLY_TIMEOUT"):
        monkeypatch.setattr(http_client, name, 0.3)


def at(running: WebServer) -> Origin:
    return Origin(running.secure, running.host, running.port)


def post(to: WebServer | Origin, size: int = 3, headers: Mapping[str, str] = {}) -> Response:
    """Post `size` bytes."""
    chunks = (bytes(min(size - at, 1 << 18)) for at in range(0, size, 1 << 18))
    headers = {**headers, "Content-Length": str(size)}
    origin = at(to) if isinstance(to, WebServer) else to
    return http_client.request(origin, "POST", "/x", headers, chunks)


def outcome(to: WebServer | Origin, size: int = 3, headers: Mapping[str, str] = {}) -> object:
    """Post `size` bytes. Returns the status, or the error with SERVER for the origin."""
    origin = at(to) if isinstance(to, WebServer) else to
    try:
        return post(origin, size, headers).status
    except DeliveryError as error:
        return failure_of(error, origin, [SECRET])[:2]


@pytest.mark.parametrize(
    ("url", "origin", "text"),
    [
        ("http://h", Origin(False, "h", 80), "h"),
        ("HTTPS://H.Example/A?b#c", Origin(True, "h.example", 443), "h.example"),
        ("https://me:password@h:80", Origin(True, "h", 80), "h:80"),
        ("https://h:/x", Origin(True, "h", 443), "h"),
        ("http://[::1]:8080/", Origin(False, "::1", 8080), "[::1]:8080"),
        ("http://[2001:DB8::192.0.2.1]", Origin(False, "2001:db8::192.0.2.1", 80),
            "[2001:db8::192.0.2.1]"),
        ("http://Bücher.example/", Origin(False, "xn--bcher-kva.example", 80),
            "xn--bcher-kva.example"),
    ],
)  # fmt: skip
def test_url(url: str, origin: Origin, text: str) -> None:
    """The server of a URL; its text leaves out the usual port."""
    found, parts = parse_url(url)
    assert (found, str(found)) == (origin, text)
    assert parts.scheme in ("http", "https")


@pytest.mark.parametrize(
    "url",
    [
        "", "h/path", "ftp://s3cret@h/", "http:///s3cret", "http://:80/s3cret",
        "http://me:s3cret@h:port/", "http://h:0/s3cret", "http://me:s3cret@[h]/",
        "http://me:s3/cret@h/", "http://me:s3cret@h..example/", "http://ho\x01st/s3cret",
        "http://h h/s3cret", "http://[fe80::1%25lo]/s3cret", "http://h\ud800/s3cret",
    ],
)  # fmt: skip
def test_wrong_url(url: str) -> None:
    """URLs without a usable server are refused, and not repeated."""
    with pytest.raises(ValueError, match=r"^not an HTTP URL$") as caught:
        parse_url(url)
    assert SECRET not in "".join(traceback.format_exception_only(caught.value))


def test_request() -> None:
    """Request and response arrive unchanged."""
    answer = reply("404 f\xc3\xbcr dich", body=b"123456789")
    with WebServer(answer) as running:
        headers = {"Content-Length": "3", "User-Agent": "nx_addon"}
        origin, chunks = at(running), [b"ab", b"c"]
        response = http_client.request(origin, "POST", "/a?b", headers, chunks)
    assert response == Response(404, b"123456789")
    assert (running.post.line, running.post.body) == ("POST /a?b HTTP/1.1", b"abc")
    assert dict(running.post.headers) == {
        "Accept-Encoding": "identity",
        "Connection": "close",
        "Content-Length": "3",
        "Host": str(origin),
        "User-Agent": "nx_addon",
    }


CLOSED = "SERVER: Remote end closed connection without response"
LOST = (TemporaryError, Like(f"{CLOSED}|SERVER: Connection reset by peer|SERVER: Broken pipe"
    "|SERVER: EOF occurred in violation of protocol.*"))  # fmt: skip
INVALID = (TemporaryError, "SERVER: the reply is not valid HTTP")
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n"
ENDLESS = itertools.repeat(b"X: y\r\n" * 1000)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        # The status decides, even if the rest is malformed.
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\n", 200, id="HTTP/1.0"),
        pytest.param(HEAD + b"\r\ndone", 200, id="body-until-EOF"),
        pytest.param((Act.READ, CHUNKED + b"what?\r\n", ENDLESS), 200, id="chunk-size-invalid"),
        pytest.param(CHUNKED + b"-5\r\ndone\r\n", 200, id="chunk-size-negative"),
        pytest.param(CHUNKED + b"-" + b"f" * 20 + b"\r\n", 200, id="chunk-size-far-too-small"),
        pytest.param(CONTINUE + OK, 200, id="100-after-the-body"),
        pytest.param((Act.READ_HEAD, CONTINUE, Act.READ, OK), 200, id="100-before-the-body"),
        pytest.param((Act.READ_HEAD, OK, Act.READ), 200, id="early-but-reads-on"),
        # Lost
        pytest.param((), LOST, id="close-at-once"),
        pytest.param((Act.READ_SOME, Act.RESET), LOST, id="reset-in-the-body"),
        pytest.param((Act.READ,), LOST, id="close-after-the-body"),
        # Not HTTP
        pytest.param(b"garbage s3cret\r\n\r\n", INVALID, id="garbage-with-a-secret"),
        pytest.param(b"HTTP/1.1 abc OK\r\n\r\n", INVALID, id="status-not-a-number"),
        pytest.param(b"HTTP/2 200 OK\r\n\r\n", INVALID, id="HTTP/2"),
        pytest.param((Act.READ, HEAD, ENDLESS), INVALID, id="headers-endless"),
    ],
)  # fmt: skip
def test_response(script: Script, expected: object) -> None:
    """A valid status counts, even if the rest of the response is malformed."""
    with WebServer(script) as running:
        assert outcome(running) == expected
    assert running.connections == 1


@pytest.mark.parametrize(
    "script",
    [pytest.param((Act.READ_ON,), id="reads"), pytest.param((Act.STALL,), id="does-not-read")],
)
def test_timeout(script: Script, impatient: None) -> None:
    """Servers that do not reply, or do not read, time out."""
    with WebServer(script, store_bodies=False) as running:
        found = outcome(running, 16 << 20)
    assert found == (TemporaryError, Like("SERVER: .*timed out"))


REFUSED = reply("413 Too Large")
EARLY = (TemporaryError, Like("SERVER replied 200 before it had the whole upload: .+"))


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param((Act.READ_HEAD, REFUSED), 413, id="413-close"),
        pytest.param((Act.READ_SOME, REFUSED, Act.RESET), 413, id="413-reset"),
        pytest.param((Act.READ_HEAD, REFUSED, Act.READ_ON), 413, id="413-reads-on"),
        pytest.param((Act.READ_SOME, OK), EARLY, id="200-close"),
        pytest.param((Act.READ_SOME, Act.RESET), LOST, id="reset"),
    ],
)
def test_early_response(script: Script, expected: object, tls: bool, trusted: Authority) -> None:
    """A response before the end of the body counts, unless it reports success."""
    with WebServer(script, tls=trusted.context() if tls else None, store_bodies=False) as running:
        assert outcome(running, 32 << 20) == expected


def test_early_response_then_stall(impatient: None) -> None:
    """An early response is read after sending has timed out."""
    with WebServer((Act.READ_SOME, REFUSED, Act.STALL), store_bodies=False) as running:
        assert outcome(running, 32 << 20) == 413


def test_cannot_connect(monkeypatch: pytest.MonkeyPatch, impatient: None) -> None:
    """A failed connection raises UnreachableError."""
    with WebServer() as running:
        pass
    assert outcome(running) == (UnreachableError, "SERVER: Connection refused")
    with socket.create_server((HOST, 0)) as silent:
        found = outcome(Origin(True, HOST, silent.getsockname()[1]))
    assert found == (UnreachableError, Like("SERVER: .*timed out"))

    def resolve(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    found = outcome(Origin(False, "missing.example", 80))
    assert found == (UnreachableError, "SERVER: Name or service not known")


def test_body_that_cannot_be_read(impatient: None) -> None:
    """If the body cannot be read, the request is cut off, which is a temporary error."""

    def body() -> Iterator[bytes]:
        yield b"x"
        raise OSError(errno.EIO, "Input/output error")

    with WebServer() as running, pytest.raises(TemporaryError, match="Input/output error"):
        http_client.request(at(running), "POST", "/", {"Content-Length": "2"}, body())
    assert running.post.size == 1


@pytest.mark.parametrize(
    "script", [OK, (Act.READ_SOME,), b"garbage\r\n", HEAD + b"\r\n" + b"a" * 10_000]
)
def test_connection_is_closed(script: Script) -> None:
    """The connection is always closed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with WebServer(script) as running:
            outcome(running)
        gc.collect()
    found = [str(one.message) for one in caught]
    assert [one for one in found if str(running.port) in one] == []


class TestSecrets:
    def test_unencrypted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without TLS, other machines get only requests without secrets."""
        appear_far(monkeypatch)
        with WebServer() as running:
            assert outcome(running) == 200
        with WebServer() as running:
            found = outcome(running, headers=AUTHORIZATION)
        reason = "SERVER: passwords and tokens are not sent over http://, use https://"
        assert found == (UnreachableError, reason)
        assert running.posts == []

    def test_encrypted(self, trusted: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
        """With TLS, other machines get secrets."""
        appear_far(monkeypatch)
        with WebServer(tls=trusted.context()) as running:
            assert outcome(running, headers=AUTHORIZATION) == 200
        assert running.post.header("Authorization") == SECRET

    def test_not_tls(self) -> None:
        """A server that does not support TLS gets nothing."""
        with WebServer((reply("400 Bad Request"), Act.READ_ON)) as running:
            found = outcome(Origin(True, HOST, running.port), headers=AUTHORIZATION)
        assert isinstance(found, tuple)
        assert found[0] is UnreachableError
        assert running.posts == []

    @pytest.mark.parametrize("certificate", ["self-signed", "another name"])
    def test_certificate(self, certificate: str, trusted: Authority) -> None:
        """A server without a valid certificate gets nothing."""
        if certificate == "self-signed":
            tls, reason = trusted.self_signed(), "self-signed certificate"
        else:
            tls, reason = trusted.context("mail.example"), "IP address mismatch, .*"
        with WebServer(tls=tls) as running:
            found = outcome(running, headers=AUTHORIZATION)
        assert found == (UnreachableError, Like(rf"SERVER: .*failed: {reason} \(_ssl\.c:\d+\)"))
        assert running.posts == []
