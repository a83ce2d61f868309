"""An upload as a POST: what a server gets, and what becomes of what it says, if anything."""

from __future__ import annotations

import base64
import errno
import gc
import http.client
import itertools
import logging
import os
import re
import socket
import time
import traceback
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nxparse import upload
from nxparse.deliver import http_client
from nxparse.deliver.errors import (
    DeliveryError,
    PermanentError,
    TemporaryError,
    TooLargeError,
    UnreachableError,
)
from nxparse.deliver.forward import Server, send, server
from nxparse.deliver.http_client import Origin
from nxparse.deliver.outbox import MIN_WAIT
from nxparse.deliver.save import folder_for
from nxparse.multipart import Encoded
from tests import bodies
from tests.box import NOON, Box
from tests.far import appear_far
from tests.faults import contents, make_lazy
from tests.smtp_servers import Authority
from tests.web_servers import HOST, OK, Act, Script, WebServer

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=60)

ID = "20260101T120000Z-0123abcd"
HOUR = 3600.0
PHOTOS = {"SAM_1.JPG": bodies.jpeg(5000, 1), "SAM_2.JPG": bodies.jpeg(700, 2)}
BODY = bodies.body(list(PHOTOS.items()))
OTHER, OTHERS = bodies.body([("SAM_3.JPG", b"3")]), bodies.body([("SAM_4.JPG", b"4")])
SECRETS = ("geheim", "s3cret", base64.b64encode(b"me:geheim").decode())


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here should take long, and what does should not take minutes."""
    for name in ("CONNECT", "ANSWER"):
        monkeypatch.setattr(http_client, name, 5.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for in vain."""
    for name in ("CONNECT", "ANSWER"):
        monkeypatch.setattr(http_client, name, 0.3)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes in part, and is waited for in vain then."""
    monkeypatch.setattr(http_client, "ANSWER", 0.7)


@pytest.fixture(autouse=True)
def _trusting_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine trusts no authority, which is also quicker than to read a hundred of them."""
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    monkeypatch.setenv("SSL_CERT_DIR", os.devnull)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority that this machine trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    return authority


def encoded(body: bytes = BODY, *, part: int = 0, id: str = ID) -> Encoded:
    """What is forwarded of an upload by e-mail: all of it, or one of its files."""
    found = upload.read(body, bodies.CONTENT_TYPE)
    files = found.files[part - 1 : part] if part else found.files
    return upload.encoded(found, files, id)


def large(size: int = 64 << 20) -> Encoded:
    """A body that does not fit into the buffers of a connection."""
    return Encoded("x/y; boundary=b", size, [(0, size)], lambda start, end: bytes(end - start))


def at(running: WebServer, *, login: str = "", path: str = "", host: str = "") -> Server:
    scheme = "https" if running.secure else "http"
    address = host or (f"[{running.host}]" if ":" in running.host else running.host)
    return server(f"{scheme}://{login}{address}:{running.port}{path}")


@dataclass(frozen=True, eq=False)
class Like:
    """Equal to every text that this pattern fits."""

    pattern: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and bool(re.fullmatch(self.pattern, other))


Failure = tuple[type[DeliveryError], str | Like, float | None]


def outcome(body: Encoded, to: Server) -> str | Failure:
    """What `send` returned, or what it raised: with SERVER for the server."""
    try:
        return send(body, ID, to, NOON)
    except DeliveryError as error:
        everything = "".join(traceback.format_exception(error)) + repr(error)
        assert not [secret for secret in SECRETS if secret in everything]
        told = str(error).replace(str(to), "SERVER")
        return type(error), told, getattr(error, "retry_after", None)


def temporary(text: str | Like, retry_after: float | None = None) -> Failure:
    return TemporaryError, text, retry_after


def unreachable(text: str | Like, retry_after: float | None = None) -> Failure:
    return UnreachableError, text, retry_after


def permanent(text: str | Like) -> Failure:
    return PermanentError, text, None


def too_large(text: str) -> Failure:
    return TooLargeError, text, None


def reply(status: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


HTTPS, PLAIN = Origin(True, "h", 443), Origin(False, "h", 80)


class TestServer:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            pytest.param("http://h", Server(PLAIN, "/"),
                id="http"),
            pytest.param("https://h", Server(HTTPS, "/"),
                id="https"),
            pytest.param("HTTPS://H.Example/A", Server(Origin(True, "h.example", 443), "/A"),
                id="case"),
            pytest.param("http://h:8080/", Server(Origin(False, "h", 8080), "/"),
                id="port"),
            pytest.param("https://h:/x", Server(HTTPS, "/x"),
                id="colon-without-port"),
            pytest.param("http://h/a/b;c=1?d=e&f", Server(PLAIN, "/a/b;c=1?d=e&f"),
                id="path-and-query"),
            pytest.param("http://h?a", Server(PLAIN, "/?a"),
                id="query-only"),
            pytest.param("http://h/%C3%BC%2F?%26", Server(PLAIN, "/%C3%BC%2F?%26"),
                id="quoted-stays-quoted"),
            pytest.param("http://h/ü\"<>[]{}?ß\x01",
                Server(PLAIN, "/%C3%BC%22%3C%3E%5B%5D%7B%7D?%C3%9F%01"),
                id="quoted-if-need-be"),
            pytest.param("http://127.0.0.1:1/", Server(Origin(False, "127.0.0.1", 1), "/"),
                id="IPv4"),
            pytest.param("https://[::1]:8443/x", Server(Origin(True, "::1", 8443), "/x"),
                id="IPv6"),
            pytest.param("http://Bücher.example/",
                Server(Origin(False, "xn--bcher-kva.example", 80), "/"),
                id="IDN"),
            pytest.param("https://me:geheim@h/", Server(HTTPS, "/", "Basic bWU6Z2VoZWlt"),
                id="user-and-password"),
            pytest.param("https://me@h/", Server(HTTPS, "/", "Basic bWU6"),
                id="user"),
            pytest.param("https://:geheim@h/", Server(HTTPS, "/", "Basic OmdlaGVpbQ=="),
                id="password"),
            pytest.param("https://me%40x:a%3Ab%2F%C3%9F@h/",
                Server(HTTPS, "/", "Basic bWVAeDphOmIvw58="),
                id="quoted-login"),
            pytest.param("https://me:a@b@h/", Server(HTTPS, "/", "Basic bWU6YUBi"),
                id="@-in-the-password"),
            pytest.param("https://m%E4:%FF@h/", Server(HTTPS, "/", "Basic beQ6/w=="),
                id="login-of-bytes"),
        ],
    )  # fmt: skip
    def test_url(self, url: str, expected: Server) -> None:
        """A server is a URL; user and password become Basic credentials (RFC 7617)."""
        assert server(url) == expected

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "h/path",
            "//h/path",
            "ftp://geheim@h/",
            "mailto:geheim@h",
            "http:",
            "http://",
            "http:h",
            "http:///geheim",
            "http://geheim@/",
            "http://:80/geheim",
            "http://me:geheim@h:port/",
            "http://me:geheim@h:65536/",
            "http://me:geheim@h:-1/",
            "http://me:geheim@[::1/",
            "http://me:geheim@[h]/",
            "http://me:ge/heim@h/",
            "http://me:geheim@h..example/",
            f"http://me:geheim@{'h' * 64}.example/",
            "http://h/#geheim",
            "http://h/geh eim",
            "http://h/geheim\n",
            "http://h/geheim\r\nHost: x",
            "http://h\0/geheim",
            " http://h/geheim",
            "http://ho\x01st/geheim",
            "http://ho\x7fst/geheim",
            "http://ho\\st/geheim",
            "http://h%20/geheim",
            "http://h:0/geheim",
            "http://h:00/geheim",
            "http://[fe80::1%25lo]/geheim",
            "http://[fe80::1%lo]/geheim",
            "http://h\ud800/geheim",
            "http://h/geheim\udcff",
            "http://h/?geheim\udcff",
            "http://me:geheim\udcff@h/",
            "http://me%3Ayou:geheim@h/",
        ],
    )
    def test_wrong_url(self, url: str) -> None:
        """What is no URL of a server is refused, and nothing of it is repeated."""
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            server(url)
        assert str(caught.value) == "not a URL like https://host/path"
        assert caught.value.__suppress_context__

    def test_text(self) -> None:
        """Nothing that may be a secret is in a text that a server gives of itself."""
        found = server("https://me:geheim@h.example/hook/s3cret?token=s3cret")
        assert str(found) == "h.example"
        assert repr(found) == f"Server(origin={found.origin!r})"
        assert str(server("https://me:geheim@[::1]/")) == "[::1]"


class TestPost:
    """What a server that is well gets."""

    @pytest.mark.parametrize(
        ("login", "expected"),
        [("", []), ("me:geheim@", [("Authorization", "Basic bWU6Z2VoZWlt")])],
        ids=["no-login", "login"],
    )
    def test_head(self, login: str, expected: list[tuple[str, str]]) -> None:
        """The head has one length, a type with a boundary, and the id of the delivery."""
        body = encoded()
        with WebServer() as running:
            to = at(running, login=login, path="/a?b=c")
            assert send(body, ID, to, NOON) == "200"
        assert running.post.line == "POST /a?b=c HTTP/1.1"
        assert sorted(running.post.headers) == sorted(
            [
                ("Accept-Encoding", "identity"),
                ("Connection", "close"),
                ("Content-Length", str(body.size)),
                ("Content-Type", body.content_type),
                ("Host", f"127.0.0.1:{running.port}"),
                ("Idempotency-Key", f'"{ID}"'),
                ("User-Agent", "nx_addon"),
                *expected,
            ]
        )

    @pytest.mark.parametrize("ending", bodies.ENDINGS)
    def test_repaired(self, ending: str) -> None:
        """However the camera ends its body, the server gets what `repair` makes of it."""
        body = bodies.body(list(PHOTOS.items()), ending=bodies.ENDINGS[ending])
        with WebServer() as running:
            send(encoded(body), ID, at(running), NOON)
        found = running.post
        boundary = found.header("Content-Type").rpartition("=")[2]
        expected = bodies.repaired(body, bodies.CONTENT_TYPE, boundary)
        assert (found.header("Content-Type"), found.body) == expected
        assert found.header("Content-Length") == str(len(found.body))

    @pytest.mark.parametrize("part", [0, 1, 2])
    def test_read_by_others(self, part: int) -> None:
        """A stranger's parser finds the message and the photos, or the one of a part."""
        with WebServer() as running:
            send(encoded(part=part), ID, at(running), NOON)
        photos = list(PHOTOS.items())
        assert fields(running) == [
            ("message", "sample.txt", "text/xml", bodies.message_xml()),
            *(
                ("binary", name, "image/jpeg", data)
                for name, data in (photos[part - 1 : part] if part else photos)
            ),
        ]

    def test_posted(self) -> None:
        """What came to a social site has a message like an e-mail's in front of its photos."""
        files = [
            upload.whole(name, "", len(data), partial(piece, data)) for name, data in PHOTOS.items()
        ]
        found = upload.posted("anna", "facebook", "NX300", "At the <sea>", files)
        with WebServer() as running:
            send(upload.encoded(found, found.files, ID), ID, at(running), NOON)
        (name, _, kind, text), *photos = fields(running)
        assert (name, kind) == ("message", "text/xml")
        assert b"<sender>anna</sender>" in text
        assert b"<receiver>facebook</receiver>" in text
        assert b"<title>facebook: NX300</title><body>At the &lt;sea&gt;</body>" in text
        assert photos == [("binary", name, "image/jpeg", data) for name, data in PHOTOS.items()]

    @pytest.mark.parametrize(
        ("url", "host"),
        [
            ("http://h.example/", "h.example"),
            ("http://h.example:80/", "h.example"),
            ("http://h.example:8080/", "h.example:8080"),
            ("http://h.example:443/", "h.example:443"),
            ("https://h.example/", "h.example"),
            ("https://h.example:80/", "h.example:80"),
            ("http://192.0.2.1/", "192.0.2.1"),
            ("http://[2001:db8::1]/", "[2001:db8::1]"),
            ("http://[2001:db8::1]:8080/", "[2001:db8::1]:8080"),
            ("http://[2001:DB8::192.0.2.1]/", "[2001:db8::192.0.2.1]"),
        ],
    )
    def test_host(
        self, monkeypatch: pytest.MonkeyPatch, trusted: Authority, url: str, host: str
    ) -> None:
        """Host has brackets around a literal address, and the port unless that is the usual one."""
        to = server(url)
        connected: list[tuple[str, int]] = []
        real = socket.create_connection

        def connect(address: tuple[str, int], *arguments: Any) -> socket.socket:
            connected.append(address)
            return real((HOST, running.port), *arguments)

        with WebServer(tls=trusted.context("h.example") if to.origin.secure else None) as running:
            monkeypatch.setattr(socket, "create_connection", connect)
            assert send(encoded(), ID, to, NOON) == "200"
        assert connected == [(to.origin.host, to.origin.port)]
        assert running.post.header("Host") == host

    def test_ipv6(self) -> None:
        """A literal address of IPv6 is connected to."""
        try:
            running = WebServer(host="::1")
        except OSError:
            pytest.skip("needs IPv6")
        with running:
            assert send(encoded(), ID, at(running), NOON) == "200"
        assert running.post.header("Host") == f"[::1]:{running.port}"

    def test_idn(self, monkeypatch: pytest.MonkeyPatch, trusted: Authority) -> None:
        """An international name is asked for, verified and told as ASCII."""
        asked: list[str] = []
        real = socket.getaddrinfo

        def resolve(host: str, *arguments: Any, **named: Any) -> Any:
            asked.append(host)
            return real(HOST, *arguments, **named)

        name = "xn--bcher-kva.example"
        with WebServer(tls=trusted.context(name)) as running:
            monkeypatch.setattr(socket, "getaddrinfo", resolve)
            assert send(encoded(), ID, at(running, host="bücher.example"), NOON) == "200"
            monkeypatch.undo()
        assert asked == [name]
        assert running.post.header("Host") == f"{name}:{running.port}"

    def test_memory(self) -> None:
        """Memory does not grow with the photos."""
        size = 100 << 20
        photo = upload.File("a.jpg", "image/jpeg", size, 0, lambda start, end: bytes(end - start))
        found = upload.posted("anna", "facebook", "", "", [photo])
        with WebServer(keep=False) as running:
            tracemalloc.start()
            try:
                body = upload.encoded(found, found.files, ID)
                send(body, ID, at(running), NOON)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert running.post.size == body.size > size
        assert peak < 4 << 20

    @pytest.mark.parametrize(
        ("script", "told"),
        [
            ([Act.CLOSE], "SERVER: Broken pipe"),
            ([b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n"], "SERVER says 503 no"),
        ],
        ids=["silent", "with an answer"],
    )
    def test_closed_before_the_head(
        self, monkeypatch: pytest.MonkeyPatch, script: Script, told: str
    ) -> None:
        """A connection that nothing can be sent over is told, or what the server says before."""
        connect = http.client.HTTPConnection.connect

        def half_closed(connection: http.client.HTTPConnection) -> None:
            connect(connection)
            connection.sock.shutdown(socket.SHUT_WR)

        monkeypatch.setattr(http.client.HTTPConnection, "connect", half_closed)
        with WebServer(script) as running, pytest.raises(TemporaryError) as caught:
            send(encoded(), ID, at(running), NOON)
        assert str(caught.value).replace(f"{HOST}:{running.port}", "SERVER") == told
        assert running.posts == []

    @pytest.mark.parametrize("code", [errno.EIO, errno.EPIPE, errno.ECONNRESET, errno.ETIMEDOUT])
    def test_photo_that_cannot_be_read(self, code: int) -> None:
        """What fails on the disk is no fault of the server, which hears no whole body."""
        fault = OSError(code, "the file ends here")

        def fetch(start: int, end: int) -> bytes:
            raise fault

        body = Encoded("x/y; boundary=b", 110, [b"0123456789", (0, 100)], fetch)
        with WebServer() as running, pytest.raises(OSError, match="the file ends here") as caught:
            send(body, ID, at(running), NOON)
        assert caught.value is fault
        assert running.post.size == 10


def piece(data: bytes, start: int, end: int) -> bytes:
    return data[start:end]


def fields(running: WebServer) -> list[tuple[object, str | None, str, bytes]]:
    """Name, file name, type and content of each part, as the standard library reads them."""
    post = running.post
    head = f"MIME-Version: 1.0\r\nContent-Type: {post.header('Content-Type')}\r\n\r\n".encode()
    message = BytesParser(EmailMessage, policy=HTTP).parsebytes(head + post.body)
    found: list[tuple[object, str | None, str, bytes]] = []
    for part in (message, *message.iter_parts()):
        assert part.defects == []
    for part in message.iter_parts():
        assert part.keys() == ["Content-Disposition", "Content-Type"]
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        name = part.get_param("name", header="content-disposition")
        found.append((name, part.get_filename(), part.get_content_type(), content))
    return found


class TestStatus:
    @pytest.mark.parametrize(
        ("statuses", "expected"),
        [
            pytest.param([*range(200, 300)], None, id="2xx"),
            pytest.param([*range(101, 200)], TemporaryError, id="1xx"),
            pytest.param([*range(300, 400)], PermanentError, id="3xx"),
            pytest.param(
                [one for one in range(400, 500) if one not in (408, 413, 425, 429)],
                PermanentError,
                id="4xx",
            ),
            pytest.param([408, 425, 429], TemporaryError, id="408-425-429"),
            pytest.param([413], TooLargeError, id="413"),
            pytest.param([*range(500, 600)], TemporaryError, id="5xx"),
            pytest.param([*range(600, 1000)], TemporaryError, id="6xx-9xx"),
        ],
    )
    def test_every(self, statuses: list[int], expected: type[DeliveryError] | None) -> None:
        """A status decides whether an upload is done, is tried again, or is given up."""
        body = encoded(bodies.body([("a.jpg", bodies.jpeg(50))]))
        with WebServer(*(reply(f"{one} Why") for one in statuses)) as running:
            found = [outcome(body, at(running)) for _ in statuses]
        assert found == [
            (expected, f"SERVER says {one} Why", None) if expected else str(one) for one in statuses
        ]

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            pytest.param([], None, id="none"),
            pytest.param(["0"], 0.0, id="now"),
            pytest.param(["120"], 120.0, id="seconds"),
            pytest.param([" 120 "], 120.0, id="blanks"),
            pytest.param(["999999999"], 999999999.0, id="years"),
            pytest.param([formatdate(NOON + 90, usegmt=True)], 90.0, id="date"),
            pytest.param(["Thursday, 01-Jan-26 12:01:30 GMT"], 90.0, id="date-of-RFC-850"),
            pytest.param(["Thu, 01 Jan 2026 21:01:30 +0900"], 90.0, id="date-elsewhere"),
            pytest.param(["Thu Jan  1 12:01:30 2026"], 90.0, id="date-of-C"),
            pytest.param([formatdate(NOON - 90, usegmt=True)], 0.0, id="past"),
            pytest.param(["Thu, 01 Jan 1970 00:00:00 GMT"], 0.0, id="long-past"),
            *(
                pytest.param([value], None, id=value or "empty")
                for value in (
                    "",
                    "-5",
                    "1.5",
                    "1e3",
                    "soon",
                    "9999999999",
                    "\xb2",
                    "120 s",
                    ";",
                    "Thu, 32 Jan 2026 12:00:00 GMT",
                    "Thu, 01 Jan 99999999999999999999 12:00:00 GMT",
                )
            ),
            pytest.param(["60", "120"], 60.0, id="two"),
        ],
    )
    @pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
    def test_retry_after(self, status: int, values: list[str], expected: float | None) -> None:
        """Retry-After is obeyed if it can be understood, in seconds or as a date.

        429 and 503 mean all uploads then, not only this one.
        """
        headers = [f"Retry-After: {value}" for value in values]
        with WebServer(reply(f"{status} Wait", *headers)) as running:
            found = outcome(encoded(), at(running))
        failure = unreachable if status in (429, 503) and expected else temporary
        assert found == failure(f"SERVER says {status} Wait", expected)

    def test_retry_after_elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A date without a zone is in UTC, wherever this machine is."""
        monkeypatch.setenv("TZ", "Asia/Seoul")
        time.tzset()
        try:
            with WebServer(reply("503 Wait", "Retry-After: Thu Jan  1 12:01:30 2026")) as running:
                found = outcome(encoded(), at(running))
        finally:
            monkeypatch.undo()
            time.tzset()
        assert found == unreachable("SERVER says 503 Wait", 90.0)

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_redirect(self, status: int) -> None:
        """Nobody gets a photo because somebody else says so."""
        with WebServer() as other:
            url = f"http://me:geheim@{HOST}:{other.port}/s3cret"
            answer = reply(
                f"{status} Over there",
                f"Location: {url}",
                "Content-Type: text/plain",
                body=f"Redirecting to {url}".encode(),
            )
            with WebServer(answer) as running:
                found = outcome(encoded(), at(running))
        assert found == permanent(
            f"SERVER says {status} Over there; "
            f"redirects are not followed, so the rule needs the final URL"
        )
        assert (other.connections, running.connections) == (0, 1)

    def test_password_in_clear(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server on another machine gets the password over TLS or not at all."""
        appear_far(monkeypatch)
        with WebServer() as running, pytest.raises(UnreachableError) as caught:
            send(encoded(), ID, at(running, login="me:geheim@"), NOON)
        assert str(caught.value).replace(str(at(running)), "SERVER") == (
            "SERVER: http:// does not encrypt passwords, so none was sent: use https://"
        )
        assert running.posts == []

    def test_no_password_in_clear(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a password, http:// is enough."""
        appear_far(monkeypatch)
        with WebServer() as running:
            assert send(encoded(), ID, at(running), NOON) == "200"

    def test_password_over_tls(self, trusted: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
        """Over TLS a server on another machine gets the password."""
        appear_far(monkeypatch)
        with WebServer(tls=trusted.context()) as running:
            assert send(encoded(), ID, at(running, login="me:geheim@"), NOON) == "200"
        assert ("Authorization", "Basic bWU6Z2VoZWlt") in running.post.headers

    @pytest.mark.parametrize("status", [401, 407])
    def test_login_is_tried_once(self, status: int) -> None:
        """A wrong password is not sent again."""
        answer = reply(f"{status} Who?", 'WWW-Authenticate: Basic realm="x"')
        with WebServer(answer) as running:
            found = outcome(encoded(), at(running, login="me:geheim@"))
        assert found == permanent(f"SERVER says {status} Who?")
        assert running.connections == 1

    @pytest.mark.parametrize(
        ("status", "kind", "body", "told"),
        [
            pytest.param("400 Bad Request", "", b"why", "400 Bad Request", id="no-type"),
            pytest.param("400 Bad Request", "text/html", b"<p>", "400 Bad Request", id="html"),
            pytest.param("400", "", b"", "400", id="no-reason"),
            pytest.param("400 No", "text/plain", b"", "400 No", id="nothing-said"),
            pytest.param("400 No", "text/plain", b" \r\n", "400 No", id="blanks-said"),
            pytest.param("400 No", "text/plain", b"too old\r\nreally", "400 No: too old",
                id="first-line"),
            pytest.param("400 No", "text/plain; charset=utf-8", "für dich".encode(),
                "400 No: für dich", id="parameters"),
            pytest.param("400 No", "application/json", b'\n{"error":\t"x"}\n',
                '400 No: {"error": "x"}', id="json"),
            pytest.param("400 No", "text/plain", b"\xff\x1b[31m\0 \xc2\x9b\xe2\x80\xae x",
                "400 No: \ufffd [31m x", id="X13-controls"),
            pytest.param("400 \x1b]0;x\x07\xa0y", "", b"", "400 ]0;x \ufffdy", id="X13-reason"),
            pytest.param("400 f\xc3\xbcr dich", "", b"", "400 für dich", id="reason-in-UTF-8"),
            pytest.param("400 No", "text/plain", b"a" * 5000, f"400 No: {'a' * 192}", id="long"),
            pytest.param("400 " + "b" * 5000, "", b"", f"400 {'b' * 196}", id="long-reason"),
        ],
    )  # fmt: skip
    def test_words(self, status: str, kind: str, body: bytes, told: str) -> None:
        """What a server says is told in one line, if it is a text, and cut."""
        headers = [f"Content-Type: {kind}"] if kind else []
        with WebServer(reply(status, *headers, body=body)) as running:
            assert outcome(encoded(), at(running)) == permanent(f"SERVER says {told}")

    def test_no_more_is_read_than_is_told(self) -> None:
        """Of a reply without end a few words are enough."""
        endless = itertools.repeat(b"a" * 1000)
        head = b"HTTP/1.1 400 No\r\nContent-Type: text/plain\r\n\r\n"
        with WebServer((Act.POST, head, endless)) as running:
            found = outcome(encoded(), at(running))
        assert found == permanent(f"SERVER says 400 No: {'a' * 192}")


class TestSecrets:
    """A server that repeats what it has heard."""

    LOGIN = "wal%40ter:k%20y@"
    PATH = "/v1/api/0123%2Babcdef?tag=s3cr%2Bet&v=1&opensesame"
    CREDENTIALS = base64.b64encode(b"wal@ter:k y").decode()

    @pytest.mark.parametrize(
        ("said", "told"),
        [
            pytest.param(f"no {PATH}", "no ***?***", id="path-and-query"),
            pytest.param("no /v1/api/0123+abcdef.", "no ***.", id="path-decoded"),
            pytest.param(r"no \/v1\/api\/0123+abcdef.", "no ***.", id="path-in-JSON"),
            pytest.param("no 0123%2Babcdef", "no ***", id="segment"),
            pytest.param("no 0123+abcdef", "no ***", id="segment-decoded"),
            pytest.param("tag s3cr%2Bet", "tag ***", id="value"),
            pytest.param("tag s3cr+et, opensesame", "tag ***, ***", id="values-decoded"),
            pytest.param("no wal@ter, no 'k y'", "no ***, no '***'", id="user-and-password"),
            pytest.param(f"Basic {CREDENTIALS}", "Basic ***", id="credentials"),
            pytest.param("v1: the api takes 1 tag", "v1: the api takes 1 tag", id="words"),
        ],
    )
    @pytest.mark.parametrize("where", ["text", "reason", "line"])
    def test_repeated(self, said: str, told: str, where: str) -> None:
        """What may be secret in a URL is not told, in any form, but its short words are."""
        answer, expected = {
            "text": (
                reply("400 No", "Content-Type: text/plain", body=said.encode()),
                permanent(f"SERVER says 400 No: {told}"),
            ),
            "reason": (reply(f"400 {said}"), permanent(f"SERVER says 400 {told}")),
            "line": (f"{said}\r\n".encode(), temporary(f"SERVER: {told}")),
        }[where]
        with WebServer(answer) as running:
            assert outcome(encoded(), at(running, login=self.LOGIN, path=self.PATH)) == expected

    @pytest.mark.parametrize(
        ("login", "path", "said", "told"),
        [
            pytest.param("", "", "a / b", "a / b", id="root"),
            pytest.param("", "/?", "a / b ?", "a / b ?", id="empty-query"),
            pytest.param("", "/api?v=1&x=", "/ap 1", "/ap 1", id="short"),
            pytest.param("me:@", "", "some", "some", id="short-user"),
            pytest.param("me:x@", "", "nix", "ni***", id="short-password"),
            pytest.param("geheim@", "", "geheim: who?", "***: who?", id="token-as-user"),
            pytest.param("m:p%C3%A4%C3%9F@", "", "no päß", "no ***", id="beyond-ASCII"),
            pytest.param("m:p%FF@", "", "no p\xff", "no ***", id="beyond-UTF-8"),
            pytest.param("", "/hook/secret", "hook /hook/secret", "hook ***", id="whole-path"),
            pytest.param("", "/" + "x" * 300, "x" * 300 + "y", "***y", id="longer-than-told"),
        ],
    )
    @pytest.mark.parametrize("where", ["text", "reason"])
    def test_what_is_a_secret(
        self, login: str, path: str, said: str, told: str, where: str
    ) -> None:
        """Passwords are, whatever they look like; words are only if they are long enough."""
        raw = said.encode("latin-1" if "\xff" in said else "utf-8")
        answer, expected = {
            "text": (reply("400", "Content-Type: text/plain", body=raw), f"400: {told}"),
            "reason": (reply(f"400 {raw.decode('latin-1')}"), f"400 {told}"),
        }[where]
        with WebServer(answer) as running:
            found = outcome(encoded(), at(running, login=login, path=path))
        assert found == permanent(f"SERVER says {expected}")


LOST = temporary(
    Like(
        r"SERVER: (Remote end closed connection without response|Connection reset by peer"
        r"|Broken pipe|EOF occurred in violation of protocol.*)"
    )
)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNFINISHED = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ndone"
REFUSING = b"HTTP/1.1 400 No\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = itertools.repeat(b"X: y\r\n" * 1000)
TIMED_OUT = temporary(Like("SERVER: .*timed out"))
REFUSED = reply("413 Too Large")
EARLY = too_large("SERVER says 413 Too Large")
TOO_EARLY = temporary(Like("SERVER says 200 OK, without the whole upload: .+"))


class TestScripted:
    """A server that is not well."""

    @pytest.mark.parametrize(
        ("script", "expected"),
        [
            pytest.param(b"HTTP/1.0 200 OK\r\n\r\n", "200", id="HTTP/1.0"),
            pytest.param(b"HTTP/1.1 204\r\n\r\n", "204", id="no-reason"),
            pytest.param(b"HTTP/1.1 201 Made\nContent-Length: 0\n\n", "201", id="bare-lf"),
            pytest.param(b"HTTP/1.1 200 OK\r\n\r\ndone", "200", id="up-to-the-end"),
            pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ndone", "200", id="cut-body"),
            pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\ndone", "200",
                id="length-no-number"),
            pytest.param(b"HTTP/1.1 200 OK\r\nwhat?\r\n\r\n", "200", id="no-header"),
            pytest.param(b"HTTP/1.1 200 OK\r\nX: y", "200", id="cut-head"),
            pytest.param(CHUNKED + b"2\r\nOK\r\n3;x=y\r\n...\r\n0\r\nX: y\r\n\r\n", "200",
                id="chunked"),
            pytest.param(CHUNKED + b"FFFFFFFF\r\n" + b"a" * 5000, "200", id="huge-chunk"),
            # What is behind a head cannot make it unsaid
            *(
                pytest.param((Act.POST, CHUNKED + size + b"\r\n", ENDLESS), "200", id=name)
                for name, size in {
                    "chunk-of-letters": b"what?",
                    "chunk-of-nothing": b"",
                    "chunk-without-end": b"1" * 100_000,
                }.items()
            ),
            pytest.param(CHUNKED + b"4\r\ndo", "200", id="cut-chunk"),
            pytest.param(CHUNKED + b"4\r\ndone", "200", id="cut-behind-a-chunk"),
            pytest.param((Act.POST, UNFINISHED, Act.RESET), "200", id="reset-in-the-text"),
            pytest.param(REFUSING + b"3\r\nold\r\n0\r\n\r\n", permanent("SERVER says 400 No: old"),
                id="400-and-chunks"),
            # Interim replies
            pytest.param((Act.POST, b"HTTP/1.1 100 X\r\nLink: y\r\n\r\n", OK), "200",
                id="100-with-a-header"),
            pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + OK, "200", id="100-behind-the-body"),
            pytest.param((Act.HEAD, b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n", Act.POST, OK), "200",
                id="100-before-the-body"),
            pytest.param((Act.HEAD, OK, Act.POST), "200", id="early-200-and-the-body-is-read"),
            pytest.param((Act.POST, b"HTTP", b"/1.1 2", b"00 OK\r\n", b"\r", b"\n"), "200",
                id="in-pieces"),
            pytest.param((Act.POST, b"HTTP/1.1 200 OK\r\n\r\n", itertools.repeat(b"a" * 1000)),
                "200", id="endless-body"),
            # Not whole
            pytest.param((), LOST, id="close-at-once"),
            pytest.param((Act.HEAD, Act.RESET), LOST, id="reset-before-the-body"),
            pytest.param((Act.HEAD,), LOST, id="close-before-the-body"),
            pytest.param((Act.SOME,), LOST, id="close-in-the-body"),
            pytest.param((Act.SOME, Act.RESET), LOST, id="reset-in-the-body"),
            pytest.param((Act.POST,), LOST, id="close-behind-the-body"),
            pytest.param((Act.POST, Act.RESET), LOST, id="reset-behind-the-body"),
            pytest.param((Act.POST, b"HTTP/1.1 100 Continue\r\n\r\n"), LOST, id="only-100"),
            # No HTTP
            *(
                pytest.param(said, temporary(Like("(?s)SERVER: .+")), id=name)
                for name, said in {
                    "garbage": b"garbage\r\n\r\n",
                    "empty-line": b"\r\n\r\n",
                    "nothing-but-nul": bytes(100),
                    "mail-server": b"220 mail.example ESMTP\r\n",
                    "html": b"<html>",
                    "half-a-status": b"HTTP/1.1 20",
                    "status-of-letters": b"HTTP/1.1 abc OK\r\n\r\n",
                    "status-of-four-digits": b"HTTP/1.1 1000 OK\r\n\r\n",
                    "status-of-two-digits": b"HTTP/1.1 99 OK\r\n\r\n",
                    "HTTP/2": b"HTTP/2 200 OK\r\n\r\n",
                }.items()
            ),
            pytest.param(b"\x1b[2J" + b"a" * 5000 + b"\r\n", temporary("SERVER: BadStatusLine"),
                id="X13-garbage"),
            pytest.param((Act.POST, itertools.repeat(b"HTTP/1.1 " * 1000)),
                temporary(Like("SERVER: got more than 65536 bytes when reading status line")),
                id="endless-status-line"),
            pytest.param((Act.POST, b"HTTP/1.1 200 OK\r\nX: ", itertools.repeat(b"y" * 10_000)),
                temporary(Like("SERVER: got more than 65536 bytes when reading header line")),
                id="endless-header-line"),
            pytest.param((Act.POST, b"HTTP/1.1 200 OK\r\n", itertools.repeat(b"X: y\r\n" * 1000)),
                temporary("SERVER: got more than 100 headers"), id="endless-headers"),
        ],
    )  # fmt: skip
    def test_reply(self, script: Script, expected: str | Failure) -> None:
        """What is no reply may be one next time; what is one counts, however it looks."""
        with WebServer(script) as running:
            assert outcome(encoded(), at(running)) == expected
        assert running.connections == 1

    @pytest.mark.parametrize(
        "script",
        [
            pytest.param((Act.SILENCE,), id="reads"),
            pytest.param((Act.STALL,), id="does-not-read"),
            pytest.param((Act.SOME, Act.STALL), id="reads-some"),
            pytest.param((Act.POST, Act.STALL), id="has-read"),
            pytest.param((Act.POST, b"HTTP/1.1 200", Act.STALL), id="half-a-status"),
            pytest.param((Act.POST, b"HTTP/1.1 200 OK\r\nX: y\r\n", Act.STALL), id="half-a-head"),
            pytest.param((Act.POST, b"HTTP/1.1 100 Continue\r\n\r\n", Act.STALL), id="only-100"),
        ],
    )
    def test_silence(self, script: Script, impatient: None) -> None:
        """Who does not answer, or does not listen, is not waited for without end."""
        with WebServer(script, keep=False) as running:
            assert outcome(large(16 << 20), at(running)) == TIMED_OUT

    @pytest.mark.parametrize(
        "answer",
        [UNFINISHED, CHUNKED, CHUNKED + b"0\r\nX: y\r\n"],
        ids=["body", "chunk", "trailer"],
    )
    def test_silence_behind_a_head(self, answer: bytes, hurried: None) -> None:
        """What is missing behind a status is not waited for without end, and changes nothing."""
        with WebServer((Act.POST, answer, Act.STALL)) as running:
            assert outcome(encoded(), at(running)) == "200"

    @pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
    @pytest.mark.parametrize("then", [(), (Act.RESET,)], ids=["close", "reset"])
    @pytest.mark.parametrize("read", [Act.HEAD, Act.SOME], ids=["nothing", "some"])
    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            pytest.param(REFUSED, EARLY, id="413"),
            pytest.param(
                reply("503 Busy", "Retry-After: 60"),
                unreachable("SERVER says 503 Busy", 60.0),
                id="503",
            ),
            pytest.param(
                reply("403 No", "Content-Type: text/plain", body=b"not you"),
                permanent("SERVER says 403 No: not you"),
                id="403",
            ),
            pytest.param(OK, TOO_EARLY, id="200"),
        ],
    )
    def test_early(
        self,
        read: Act,
        answer: bytes,
        then: tuple[Act, ...],
        expected: Failure,
        tls: bool,
        trusted: Authority,
    ) -> None:
        """A server that hangs up while photos are still coming has said why; it has not all."""
        context = trusted.context() if tls else None
        with WebServer((read, answer, *then), tls=context, keep=False) as running:
            assert outcome(large(), at(running)) == expected
        assert running.post.size < 64 << 20

    @pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
    @pytest.mark.parametrize(
        ("answer", "expected"), [(REFUSED, EARLY), (OK, TOO_EARLY)], ids=["413", "200"]
    )
    def test_early_and_no_more(
        self, answer: bytes, expected: Failure, tls: bool, trusted: Authority, hurried: None
    ) -> None:
        """So has one that does not hang up, but reads no more."""
        context = trusted.context() if tls else None
        script = (Act.SOME, answer, Act.STALL)
        with WebServer(script, tls=context, keep=False) as running:
            assert outcome(large(), at(running)) == expected

    @pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
    def test_early_and_polite(self, tls: bool, trusted: Authority) -> None:
        """A server that refuses and reads on all the same is understood."""
        context = trusted.context() if tls else None
        with WebServer((Act.HEAD, REFUSED, Act.SILENCE), tls=context, keep=False) as running:
            assert outcome(large(4 << 20), at(running)) == EARLY

    @pytest.mark.parametrize("script", [(), (Act.SOME,), (Act.SOME, Act.RESET), (Act.POST,)])
    def test_lost_over_tls(self, script: Script, trusted: Authority) -> None:
        """Over TLS a connection that breaks is one that may hold the next time."""
        with WebServer(script, tls=trusted.context(), keep=False) as running:
            assert outcome(large(4 << 20), at(running)) == LOST

    @pytest.mark.parametrize(
        "script",
        [
            pytest.param(OK, id="done"),
            pytest.param(reply("404 Gone"), id="refused"),
            pytest.param((Act.SOME,), id="lost"),
            pytest.param(b"garbage\r\n", id="garbage"),
            pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 10_000, id="long"),
        ],
    )
    def test_nothing_is_left_open(self, script: Script) -> None:
        """However it ends, the connection is closed."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with WebServer(script) as running:
                outcome(encoded(), at(running))
            gc.collect()
        told = [str(one.message) for one in caught]
        assert [one for one in told if str(running.port) in one] == []

    def test_reset_at_once(self) -> None:
        """A connection that is broken off at once may be noticed at any time after that."""
        with WebServer((Act.RESET,)) as running, pytest.raises(TemporaryError):
            send(encoded(), ID, at(running), NOON)

    def test_nobody_listens(self) -> None:
        """Where nobody listens nothing else can be forwarded either."""
        with WebServer() as running:
            pass
        assert outcome(encoded(), at(running)) == unreachable("SERVER: Connection refused")

    def test_no_such_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """So it is with a host that is not found."""

        def resolve(*_: object, **__: object) -> object:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        found = outcome(encoded(), server("http://nobody.example/"))
        assert found == unreachable("SERVER: Name or service not known")

    def test_no_tls(self) -> None:
        """So it is with a server that does not know TLS, and gets nothing in clear."""
        with WebServer((b"HTTP/1.1 400 Bad Request\r\n\r\n", Act.SILENCE)) as running:
            found = outcome(encoded(), server(f"https://me:geheim@{HOST}:{running.port}/"))
        assert found[0] is UnreachableError
        assert running.posts == []

    def test_no_handshake(self, impatient: None) -> None:
        """So it is with one that never begins with TLS."""
        with socket.create_server((HOST, 0)) as silent:
            found = outcome(encoded(), server(f"https://{HOST}:{silent.getsockname()[1]}/"))
        assert found == unreachable(Like("SERVER: .*timed out"))

    REPLIES = st.lists(
        st.sampled_from(
            [
                b"HTTP/1.1 ", b"HTTP/1.0 200 OK", b"200", b"413", b"503", b"404", b" ", b"\r\n",
                b"\n", b"\r", b":", b"Content-Length: ", b"-1", b"99", b"Retry-After: ",
                b"Content-Type: text/plain", b"Thu, 01 Jan 2026 12:00:00", b"GMT", b"Connection: ",
                b"keep-alive", b"HTTP/1.1 100 Continue\r\n\r\n", b"\0", b"=?utf-8?q?x?=", b"\t",
                b"HTTP/1.1 103 Hints\r\n\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n-5\r\n",
            ]
        )
        | st.binary(max_size=6),
        max_size=16,
    ).map(b"".join)  # fmt: skip

    @PROPERTY
    @given(REPLIES)
    @example(b"HTTP/1.1 200 OK\r\n\r\n")
    @example(b"HTTP/1.1 503 X\r\nRetry-After: Thu, 01 Jan 0001 00:00:00\r\n\r\n")
    def test_any_reply(self, said: bytes) -> None:
        """Whatever comes back, the upload is done or there is a reason why not."""
        with WebServer(said) as running:
            found = outcome(encoded(), at(running))
        if isinstance(found, str):
            assert 200 <= int(found) <= 299
        else:
            assert found[2] is None or found[2] >= 0


class TestCertificates:
    @pytest.mark.parametrize("host", [HOST, "localhost"])
    def test_trusted(self, host: str, trusted: Authority) -> None:
        """A certificate may be for a name or for an address."""
        with WebServer(tls=trusted.context(host)) as running:
            to = at(running, login="me:geheim@", host=host)
            assert send(encoded(), ID, to, NOON) == "200"
        assert running.post.secure
        assert running.post.body == b"".join(encoded().chunks())

    @pytest.mark.parametrize(
        ("certificate", "reason"),
        [
            ("self-signed", "self-signed certificate"),
            ("unknown", "unable to get local issuer certificate"),
            ("expired", "certificate has expired"),
            ("another", r"IP address mismatch, certificate is not valid for '127\.0\.0\.1'\.?"),
        ],
        ids=["self-signed", "unknown", "expired", "another"],
    )
    def test_refused(
        self, certificate: str, reason: str, trusted: Authority, tmp_path: Path
    ) -> None:
        """A server that cannot prove who it is gets neither photos nor password."""
        context = {
            "self-signed": lambda: trusted.self_signed(),
            "unknown": lambda: Authority(tmp_path).context(),
            "expired": lambda: trusted.context(expired=True),
            "another": lambda: trusted.context("mail.example"),
        }[certificate]()
        with WebServer(tls=context) as running:
            found = outcome(encoded(), at(running, login="me:geheim@", path="/s3cret"))
        assert found == unreachable(
            Like(
                r"SERVER: \[SSL: CERTIFICATE_VERIFY_FAILED\] certificate verify failed: "
                rf"{reason} \(_ssl\.c:\d+\)"
            )
        )
        assert running.posts == []


@pytest.fixture
def boxed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Box]]:
    make_lazy(monkeypatch)
    made: list[Box] = []

    def make(target: str, environ: Mapping[str, str] | None = None) -> Box:
        made.append(Box(tmp_path, target, environ or {}, BODY, retry_for=2 * HOUR))
        return made[-1]

    yield make
    for one in made:
        one.spool.close()


def undelivered(directory: Path) -> dict[str, bytes]:
    return contents(folder_for(directory / "undelivered", NOON))


class TestOutbox:
    """From the spool to the server."""

    def test_done(self, boxed: Callable[..., Box], tmp_path: Path) -> None:
        """An upload is posted once, out of the spool, as `repair` would write it."""
        with WebServer() as running:
            box = boxed(f"forward:http://{HOST}:{running.port}/")
            box.deliver()
            box.deliver()
        post = running.post
        boundary = post.header("Content-Type").rpartition("=")[2]
        expected = bodies.repaired(BODY, bodies.CONTENT_TYPE, boundary)
        assert (post.header("Content-Type"), post.body) == expected
        assert post.header("Idempotency-Key") == f'"{box.id}"'
        assert (box.waits, undelivered(tmp_path)) == ([], {})

    def test_one_at_a_time(self, boxed: Callable[..., Box], tmp_path: Path) -> None:
        """What is too much for a server goes photo by photo; what is still is kept."""
        with WebServer(REFUSED, OK, REFUSED) as running:
            box = boxed(f"forward:http://{HOST}:{running.port}/")
            box.deliver()
        keys = [post.header("Idempotency-Key") for post in running.posts]
        assert keys == [f'"{box.id}"', f'"{box.id}.1"', f'"{box.id}.2"']
        sent = [post.body for post in running.posts]
        assert sent == [
            b"".join(encoded(part=part, id=f"{box.id}.{part}" if part else box.id).chunks())
            for part in (0, 1, 2)
        ]
        assert (box.waits, undelivered(tmp_path)) == ([], {"SAM_2.JPG": PHOTOS["SAM_2.JPG"]})

    @pytest.mark.parametrize(
        ("retry_after", "wait"),
        [("1200", 1200.0), ("1", MIN_WAIT), ("999999", HOUR)],
        ids=["longer", "shorter", "days"],
    )
    def test_later(
        self, boxed: Callable[..., Box], tmp_path: Path, retry_after: str, wait: float
    ) -> None:
        """A server is not asked again before it wants to be, nor forgotten; the id stays."""
        with WebServer(reply("503 Busy", f"Retry-After: {retry_after}"), OK) as running:
            box = boxed(f"forward:http://{HOST}:{running.port}/")
            box.deliver()
            assert box.waits == [(box.id, wait)]
            box.clock.now += wait - 1
            box.deliver()
            assert running.connections == 1
            box.clock.now += 1
            box.deliver()
        first, second = running.posts
        assert first == second
        assert (box.waits, undelivered(tmp_path)) == ([], {})

    @pytest.mark.parametrize("status", ["429 Slow down", "503 Busy"])
    def test_rest(self, boxed: Callable[..., Box], status: str) -> None:
        """A server that wants a rest gets nothing in it, neither what waits nor what comes."""
        with WebServer(reply(status, "Retry-After: 1200"), OK) as running:
            box = boxed(f"forward:http://{HOST}:{running.port}/")
            second = box.add(OTHER)
            box.deliver()
            third = box.add(OTHERS)
            box.deliver()
            assert running.connections == 1
            assert dict(box.waits) == dict.fromkeys((box.id, second, third), 1200.0)
            box.clock.now += 1200
            box.deliver()
        assert (running.connections, box.waits) == (4, [])

    @pytest.mark.parametrize("headers", [[], ["Retry-After: 0"]], ids=["no-time", "now"])
    def test_no_rest(self, boxed: Callable[..., Box], headers: list[str]) -> None:
        """A server that names no time may be busy with one upload only."""
        with WebServer(reply("503 Busy", *headers), OK) as running:
            box = boxed(f"forward:http://{HOST}:{running.port}/")
            box.add(OTHER)
            box.deliver()
        assert running.connections == 2
        assert [wait for _, wait in box.waits] == [MIN_WAIT]

    @pytest.mark.parametrize("status", ["400 No", "404 Gone", "302 Over there"])
    def test_never(self, boxed: Callable[..., Box], tmp_path: Path, status: str) -> None:
        """What a server will never take is kept for a person, at once."""
        with WebServer(reply(status)) as running:
            box = boxed(f"forward:http://{HOST}:{running.port}/")
            box.deliver()
        assert (running.connections, box.waits, undelivered(tmp_path)) == (1, [], PHOTOS)

    @pytest.mark.parametrize(
        "scripts",
        [
            pytest.param([OK], id="done"),
            pytest.param([reply("401 Who?")], id="401"),
            pytest.param([reply("503 Busy")], id="503"),
            pytest.param([REFUSED], id="413"),
            pytest.param([b"garbage\r\n"], id="garbage"),
            pytest.param([(Act.SOME,)], id="lost"),
            pytest.param([], id="nobody-listens"),
        ],
    )
    def test_secrets(
        self,
        boxed: Callable[..., Box],
        caplog: pytest.LogCaptureFixture,
        tmp_path: Path,
        scripts: Sequence[Script],
    ) -> None:
        """The server hears user, password and path; no log and no file does."""
        caplog.set_level(logging.DEBUG)
        environ = {"PASSWORD": "geheim", "HOOK": "s3cret"}
        with WebServer(*scripts) as running:
            box = boxed(f"forward:http://me:${{PASSWORD}}@{HOST}:{running.port}/${{HOOK}}", environ)
            if scripts:
                box.deliver()
        if not scripts:
            box.deliver()
        assert {post.line for post in running.posts} <= {"POST /s3cret HTTP/1.1"}
        assert bool(running.posts) is bool(scripts)
        box.spool.close()
        kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        everything = b"".join([caplog.text.encode(), *kept])
        assert str(running.port).encode() in everything
        assert [secret for secret in SECRETS if secret.encode() in everything] == []
