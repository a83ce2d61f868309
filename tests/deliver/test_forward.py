"""The target `forward`: the requests, and the meaning of the replies.

Connections, TLS and malformed replies are tested in test_http_client.
"""

from __future__ import annotations

import base64
import traceback
import tracemalloc
from http.client import responses

import pytest

from nxparse import upload
from nxparse.deliver.errors import (
    DeliveryError,
    Outcome,
    PermanentError,
    TemporaryError,
    TooLargeError,
)
from nxparse.deliver.forward import Server, deliver, parse_server
from nxparse.deliver.http_client import Origin
from tests import bodies
from tests.box import ID, delivery
from tests.deliver.failures import Failure, failure_of
from tests.web_servers import HOST, WebServer, reply

PHOTOS = {"SAM_1.JPG": bodies.jpeg(5000, 1), "SAM_2.JPG": bodies.jpeg(700, 2)}
BODY = bodies.body(list(PHOTOS.items()))
LOGIN, PATH = "me:geheim@", "/s3cret"
SECRETS = ("geheim", "s3cret", base64.b64encode(b"me:geheim").decode())


def send(running: WebServer, body: bytes = BODY, *, login: str = "", path: str = "") -> Outcome:
    """Forward an upload by e-mail."""
    found = upload.read(body, bodies.CONTENT_TYPE)
    to = parse_server(f"http://{login}{HOST}:{running.port}{path}")
    return deliver(to, found, found.files, delivery())


def failure(running: WebServer) -> Failure:
    """Forward an upload, which must fail without a secret in any text."""
    with pytest.raises(DeliveryError) as caught:
        send(running, login=LOGIN, path=PATH)
    return failure_of(caught.value, f"{HOST}:{running.port}", SECRETS)


HTTPS, PLAIN = Origin(True, "h", 443), Origin(False, "h", 80)


class TestServer:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("https://h:/x", Server(HTTPS, "/x")),
            ("http://h/a/b;c=1?d=e&f", Server(PLAIN, "/a/b;c=1?d=e&f")),
            ("http://h/%C3%BC%2F?%26", Server(PLAIN, "/%C3%BC%2F?%26")),
            ('http://h/ü"<>[]{}?ß\x01', Server(PLAIN, "/%C3%BC%22%3C%3E%5B%5D%7B%7D?%C3%9F%01")),
            ("https://me:geheim@h/", Server(HTTPS, "/", "Basic bWU6Z2VoZWlt")),
            ("https://:geheim@h/", Server(HTTPS, "/", "Basic OmdlaGVpbQ==")),
            ("https://m%E4:%FF@h/", Server(HTTPS, "/", "Basic beQ6/w==")),
        ],
    )
    def test_url(self, url: str, expected: Server) -> None:
        """Paths are quoted where necessary; user and password become credentials (RFC 7617)."""
        assert parse_server(url) == expected

    @pytest.mark.parametrize(
        "url",
        [
            "ftp://geheim@h/",
            "http://me:ge/heim@h/",
            "http://h/#geheim",
            "http://h/geh eim",
            "http://h/geheim\n",
            "http://h\0/geheim",
            "http://h/geheim\udcff",
            "http://me:geheim\udcff@h/",
        ],
    )
    def test_wrong_url(self, url: str) -> None:
        """URLs that cannot be used are refused, and not repeated."""
        with pytest.raises(ValueError, match=r"^not a URL like https://host/path$") as caught:
            parse_server(url)
        assert "geheim" not in "".join(traceback.format_exception(caught.value)).replace(url, "")

    def test_unencrypted_password(self) -> None:
        """A password is sent only over TLS, or to this machine."""
        with pytest.raises(ValueError, match=r"http:// would send the password unencrypted"):
            parse_server("http://me:geheim@192.0.2.1/")
        assert parse_server("http://me:geheim@localhost/").authorization

    def test_repr(self) -> None:
        """A repr contains no part of the URL that may be secret."""
        found = parse_server("https://me:geheim@h.example/hook/s3cret?token=s3cret")
        assert str(found) == "h.example"
        assert repr(found) == f"Server(origin={found.origin!r})"


class TestRequest:
    @pytest.mark.parametrize("login", ["", "me:geheim@"], ids=["no-login", "login"])
    @pytest.mark.parametrize("ending", bodies.ENDINGS)
    def test_post(self, ending: str, login: str) -> None:
        """The body of the camera is sent repaired, for each of its possible endings."""
        body = bodies.body(list(PHOTOS.items()), ending=bodies.ENDINGS[ending])
        with WebServer() as running:
            outcome = send(running, body, login=login, path="/a?b=c")
        found, headers = running.post, dict(running.post.headers)
        boundary = headers["Content-Type"].rpartition("=")[2]
        assert found.line == "POST /a?b=c HTTP/1.1"
        assert (headers["Content-Type"], found.body) == bodies.repaired(
            body, bodies.CONTENT_TYPE, boundary
        )
        assert headers["Content-Length"] == str(len(found.body))
        assert headers["Idempotency-Key"] == f'"{ID}"'
        assert headers.get("Authorization") == ("Basic bWU6Z2VoZWlt" if login else None)
        assert outcome == Outcome(f"forwarded to {HOST}:{running.port}, status 200")

    def test_memory(self) -> None:
        """Memory use does not depend on the size of the photos."""
        size = 8 << 20
        photo = upload.File("a.jpg", "image/jpeg", size, 0, lambda start, end: bytes(end - start))
        found = upload.posted("anna", "facebook", "", "", [photo])
        with WebServer(store_bodies=False) as running:
            tracemalloc.start()
            try:
                to = parse_server(f"http://{HOST}:{running.port}")
                deliver(to, found, found.files, delivery())
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert running.post.size > size
        assert peak < 2 << 20


class TestStatus:
    @pytest.mark.parametrize(
        ("statuses", "expected"),
        [
            ([200, 201, 299], None),
            ([400, 401, 404, 499], PermanentError),
            ([199, 408, 425, 429, 500, 599, 999], TemporaryError),
            ([413], TooLargeError),
        ],
        ids=["done", "permanent", "temporary", "too-large"],
    )
    def test_kind(self, statuses: list[int], expected: type[DeliveryError] | None) -> None:
        """The status decides whether a delivery is done, retried or abandoned."""
        secret = "me:geheim@s3cret"
        for status in statuses:
            answer = reply(f"{status} {secret}", "Content-Type: text/plain", body=secret.encode())
            with WebServer(answer) as running:
                if expected:
                    text = f"SERVER replied {status} {responses.get(status, '')}".strip()
                    assert failure(running) == Failure(expected, text)
                else:
                    send(running)

    def test_redirect(self) -> None:
        """Redirects are reported, without the URL, which may contain a secret."""
        answer = reply("301 There", "Location: http://me:geheim@h.example/s3cret")
        with WebServer(answer) as running:
            found = failure(running)
        advice = "redirects are not followed, so the rule needs the final URL"
        assert found == Failure(PermanentError, f"SERVER replied 301 Moved Permanently; {advice}")
