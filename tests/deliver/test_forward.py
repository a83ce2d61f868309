"""The target `forward`: what a server receives, and what its replies mean.

Connections, TLS and malformed replies are tested in test_http_client.
"""

from __future__ import annotations

import base64
import logging
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from email.utils import formatdate
from pathlib import Path

import pytest

from nxparse import upload
from nxparse.deliver.errors import (
    DeliveryError,
    PermanentError,
    TemporaryError,
    TooLargeError,
    UnreachableError,
)
from nxparse.deliver.forward import Server, parse_server, send
from nxparse.deliver.http_client import Origin
from nxparse.deliver.outbox import MIN_WAIT
from nxparse.deliver.save import folder_for
from nxparse.multipart import Encoded
from tests import bodies
from tests.box import NOON, Box
from tests.faults import contents, make_lazy
from tests.web_servers import HOST, OK, Act, Script, WebServer, reply

ID = "20260101T120000Z-0123abcd"
HOUR = 3600.0
PHOTOS = {"SAM_1.JPG": bodies.jpeg(5000, 1), "SAM_2.JPG": bodies.jpeg(700, 2)}
BODY = bodies.body(list(PHOTOS.items()))
OTHER = bodies.body([("SAM_3.JPG", b"3")])
SECRETS = ("geheim", "s3cret", base64.b64encode(b"me:geheim").decode())


def encoded(body: bytes = BODY, *, number: int = 0, id: str = ID) -> Encoded:
    """The body that is forwarded for an upload by e-mail, or for one of its files."""
    found = upload.read(body, bodies.CONTENT_TYPE)
    files = found.files[number - 1 : number] if number else found.files
    return upload.encoded(found, files, id)


def at(running: WebServer, *, login: str = "", path: str = "") -> Server:
    return parse_server(f"http://{login}{HOST}:{running.port}{path}")


Failure = tuple[type[DeliveryError], str, float | None]


def outcome(body: Encoded, to: Server) -> str | Failure:
    """Send a body. Returns the status, or the error with SERVER for the server."""
    try:
        return send(body, ID, to, NOON)
    except DeliveryError as error:
        caught = error
    everything = "".join(traceback.format_exception(caught)) + repr(caught)
    assert not [secret for secret in SECRETS if secret in everything]
    text = str(caught).replace(str(to), "SERVER")
    return type(caught), text, getattr(caught, "retry_after", None)


def permanent(text: str) -> Failure:
    return PermanentError, f"SERVER replied {text}", None


HTTPS, PLAIN = Origin(True, "h", 443), Origin(False, "h", 80)


class TestServer:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("https://h:/x", Server(HTTPS, "/x")),
            ("http://h/a/b;c=1?d=e&f", Server(PLAIN, "/a/b;c=1?d=e&f")),
            ("http://h?a", Server(PLAIN, "/?a")),
            ("http://h/%C3%BC%2F?%26", Server(PLAIN, "/%C3%BC%2F?%26")),
            ('http://h/ü"<>[]{}?ß\x01', Server(PLAIN, "/%C3%BC%22%3C%3E%5B%5D%7B%7D?%C3%9F%01")),
            ("https://me:geheim@h/", Server(HTTPS, "/", "Basic bWU6Z2VoZWlt")),
            ("https://:geheim@h/", Server(HTTPS, "/", "Basic OmdlaGVpbQ==")),
            ("https://me%40x:a%3Ab%2F%C3%9F@h/", Server(HTTPS, "/", "Basic bWVAeDphOmIvw58=")),
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
            "http://h/geheim\r\nHost: x",
            "http://h\0/geheim",
            " http://h/geheim",
            "http://h/geheim\udcff",
            "http://h/?geheim\udcff",
            "http://me:geheim\udcff@h/",
            "http://me%3Ayou:geheim@h/",
        ],
    )
    def test_wrong_url(self, url: str) -> None:
        """URLs that cannot be used are refused, and not repeated."""
        with pytest.raises(ValueError, match=r"^not a URL like https://host/path$") as caught:
            parse_server(url)
        assert "geheim" not in "".join(traceback.format_exception(caught.value)).replace(url, "")

    def test_repr(self) -> None:
        """Nothing that may be secret is in a repr."""
        found = parse_server("https://me:geheim@h.example/hook/s3cret?token=s3cret")
        assert str(found) == "h.example"
        assert repr(found) == f"Server(origin={found.origin!r})"


class TestRequest:
    @pytest.mark.parametrize(
        ("login", "expected"),
        [("", {}), ("me:geheim@", {"Authorization": "Basic bWU6Z2VoZWlt"})],
        ids=["no-login", "login"],
    )
    def test_head(self, login: str, expected: Mapping[str, str]) -> None:
        """The head has a length, a boundary, the id of the delivery, and the credentials."""
        body = encoded()
        with WebServer() as running:
            assert send(body, ID, at(running, login=login, path="/a?b=c"), NOON) == "200"
        assert running.post.line == "POST /a?b=c HTTP/1.1"
        headers = dict(running.post.headers)
        assert (
            headers.items()
            >= {
                "Content-Length": str(body.size),
                "Content-Type": body.content_type,
                "Idempotency-Key": f'"{ID}"',
                "User-Agent": "nx_addon",
                **expected,
            }.items()
        )
        assert ("Authorization" in headers) is bool(login)

    @pytest.mark.parametrize("ending", bodies.ENDINGS)
    def test_repaired(self, ending: str) -> None:
        """The body is what `repair` makes of that of the camera, however that ends."""
        body = bodies.body(list(PHOTOS.items()), ending=bodies.ENDINGS[ending])
        with WebServer() as running:
            send(encoded(body), ID, at(running), NOON)
        found = running.post
        boundary = found.header("Content-Type").rpartition("=")[2]
        expected = bodies.repaired(body, bodies.CONTENT_TYPE, boundary)
        assert (found.header("Content-Type"), found.body) == expected
        assert found.header("Content-Length") == str(len(found.body))

    def test_memory(self) -> None:
        """Memory use does not depend on the size of the photos."""
        size = 50 << 20
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


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another time zone, which must not apply to dates without one."""
    monkeypatch.setenv("TZ", "Asia/Seoul")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="needs tzset")
class TestStatus:
    @pytest.mark.parametrize(
        ("statuses", "expected"),
        [
            ([200, 201, 299], None),
            ([101, 199], TemporaryError),
            ([300, 302, 399, 400, 401, 404, 407, 412, 414, 424, 426, 428, 499], PermanentError),
            ([408, 425, 429, 500, 503, 599, 600, 999], TemporaryError),
            ([413], TooLargeError),
        ],
        ids=["done", "interim", "permanent", "temporary", "too-large"],
    )
    def test_kind(self, statuses: list[int], expected: type[DeliveryError] | None) -> None:
        """The status decides whether a delivery is done, retried or abandoned."""
        with WebServer(*(reply(f"{status} Why") for status in statuses)) as running:
            found = [outcome(encoded(OTHER), at(running)) for _ in statuses]
        assert found == [
            (expected, f"SERVER replied {status} Why", None) if expected else str(status)
            for status in statuses
        ]

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([], None),
            (["0"], 0.0),
            ([" 120 "], 120.0),
            (["999999999"], 999999999.0),
            (["60", "120"], 60.0),
            ([formatdate(NOON + 90, usegmt=True)], 90.0),
            (["Thursday, 01-Jan-26 12:01:30 GMT"], 90.0),
            (["Thu, 01 Jan 2026 21:01:30 +0900"], 90.0),
            (["Thu Jan  1 12:01:30 2026"], 90.0),
            ([formatdate(NOON - 90, usegmt=True)], 0.0),
            (["Thu, 01 Jan 0001 00:00:00"], 0.0),
            *(
                ([value], None)
                for value in (
                    "", "-5", "1.5", "soon", "9999999999", "\xb2", "120 s", ";",
                    "Thu, 32 Jan 2026 12:00:00 GMT",
                    "Thu, 01 Jan 99999999999999999999 12:00:00 GMT",
                )
            ),
        ],
        ids=str,
    )  # fmt: skip
    @pytest.mark.parametrize("status", [429, 500, 503])
    @pytest.mark.usefixtures("elsewhere")
    def test_retry_after(self, status: int, values: list[str], expected: float | None) -> None:
        """Retry-After is obeyed, in seconds or as a date; with 429 and 503 by all uploads."""
        headers = [f"Retry-After: {value}" for value in values]
        with WebServer(reply(f"{status} Wait", *headers)) as running:
            found = outcome(encoded(OTHER), at(running))
        kind = UnreachableError if status in (429, 503) and expected else TemporaryError
        assert found == (kind, f"SERVER replied {status} Wait", expected)

    @pytest.mark.parametrize("status", [301, 307])
    def test_redirect(self, status: int) -> None:
        """Redirects are reported, without the URL, which may contain a secret."""
        url = "http://me:geheim@h.example/s3cret"
        location, text = f"Location: {url}", f"Redirecting to {url}".encode()
        answer = reply(f"{status} There", location, "Content-Type: text/plain", body=text)
        with WebServer(answer) as running:
            assert outcome(encoded(), at(running)) == permanent(
                f"{status} There; redirects are not followed, so the rule needs the final URL"
            )

    @pytest.mark.parametrize(
        ("status", "kind", "body", "expected"),
        [
            ("400 Bad", "", b"why", "400 Bad"),
            ("400 Bad", "text/html", b"<p>", "400 Bad"),
            ("400", "", b"", "400"),
            ("400 No", "text/plain", b" \r\n", "400 No"),
            ("400 No", "text/plain", b"too old\r\nreally", "400 No: too old"),
            ("400 No", "text/plain; charset=utf-8", "für dich".encode(), "400 No: für dich"),
            ("400 No", "application/json", b'\n{"error":\t"x"}\n', '400 No: {"error": "x"}'),
            ("400 No", "text/plain", b"\xff\x1b[31m\0 \xc2\x9b\xe2\x80\xae x",
                "400 No: \ufffd [31m x"),
            ("400 \x1b]0;x\x07\xa0y", "", b"", "400 ]0;x \ufffdy"),
            ("400 No", "text/plain", b"a" * 5000, f"400 No: {'a' * 192}"),
        ],
    )  # fmt: skip
    def test_text(self, status: str, kind: str, body: bytes, expected: str) -> None:
        """The first line of a text is reported, printable and truncated."""
        headers = [f"Content-Type: {kind}"] if kind else []
        with WebServer(reply(status, *headers, body=body)) as running:
            assert outcome(encoded(OTHER), at(running)) == permanent(expected)


class TestSecrets:
    """Servers that repeat what they received."""

    LOGIN = "wal%40ter:k%20y@"
    PATH = "/v1/api/0123%2Babcdef?tag=s3cr%2Bet&v=1&opensesame"
    CREDENTIALS = base64.b64encode(b"wal@ter:k y").decode()

    @pytest.mark.parametrize("where", ["text", "reason"])
    @pytest.mark.parametrize(
        ("login", "path", "text", "expected"),
        [
            (LOGIN, PATH, f"no {PATH}", "no ***?***"),
            (LOGIN, PATH, "no /v1/api/0123+abcdef.", "no ***."),
            (LOGIN, PATH, r"no \/v1\/api\/0123+abcdef.", "no ***."),
            (LOGIN, PATH, "no 0123%2Babcdef", "no ***"),
            (LOGIN, PATH, "tag s3cr+et, opensesame", "tag ***, ***"),
            (LOGIN, PATH, "no wal@ter, no 'k y'", "no ***, no '***'"),
            (LOGIN, PATH, f"Basic {CREDENTIALS}", "Basic ***"),
            (LOGIN, PATH, "v1: the api takes 1 tag", "v1: the api takes 1 tag"),
            ("", "", "a / b", "a / b"),
            ("", "/api?v=1&x=", "/ap 1", "/ap 1"),
            ("me:x@", "", "nix", "ni***"),
            ("m:p%C3%A4%C3%9F@", "", "no päß", "no ***"),
            ("m:p%FF@", "", "no p\xff", "no ***"),
            ("", "/hook/12345678", "no 12345678", "no ***"),
            ("", "/hook/1234567", "no 1234567", "no 1234567"),
            ("", "/" + "x" * 300, "x" * 300 + "y", "***y"),
        ],
    )
    def test_repeated(self, login: str, path: str, text: str, expected: str, where: str) -> None:
        """Passwords, and words of the URL that are long enough for a token, are not logged."""
        raw = text.encode("latin-1" if "\xff" in text else "utf-8")
        answer = reply(f"400 {raw.decode('latin-1')}")
        if where == "text":
            answer = reply("400 X", "Content-Type: text/plain", body=raw)
            expected = f"X: {expected}"
        with WebServer(answer) as running:
            found = outcome(encoded(OTHER), at(running, login=login, path=path))
        assert found == permanent(f"400 {expected}")


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

    def test_one_at_a_time(self, boxed: Callable[..., Box], tmp_path: Path) -> None:
        """After 413 the photos are sent one by one; those that are refused again are saved."""
        refused = reply("413 Too Large")
        with WebServer(refused, OK, refused) as running:
            box = boxed(f"forward:http://{HOST}:{running.port}/")
            box.deliver()
        ids = [box.id, f"{box.id}.1", f"{box.id}.2"]
        keys = [post.header("Idempotency-Key") for post in running.posts]
        assert keys == [f'"{id}"' for id in ids]
        assert [post.body for post in running.posts] == [
            b"".join(encoded(number=number, id=id).chunks()) for number, id in enumerate(ids)
        ]
        assert (box.waits, undelivered(tmp_path)) == ([], {"SAM_2.JPG": PHOTOS["SAM_2.JPG"]})

    @pytest.mark.parametrize(
        ("retry_after", "wait"), [("1200", 1200.0), ("1", MIN_WAIT), ("999999", HOUR)]
    )
    def test_retry(self, boxed: Callable[..., Box], retry_after: str, wait: float) -> None:
        """The same request is repeated when Retry-After has passed, within limits."""
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
        assert box.waits == []

    @pytest.mark.parametrize(
        "scripts",
        [[OK], [reply("401 Who?")], [reply("503 Busy")], [b"garbage\r\n"], [(Act.READ_SOME,)], []],
        ids=["done", "401", "503", "garbage", "lost", "not-listening"],
    )
    def test_secrets(
        self,
        boxed: Callable[..., Box],
        caplog: pytest.LogCaptureFixture,
        tmp_path: Path,
        scripts: Sequence[Script],
    ) -> None:
        """User, password and path are sent to the server, but not logged or stored."""
        caplog.set_level(logging.DEBUG)
        environ = {"PASSWORD": "geheim", "HOOK": "s3cret"}
        with WebServer(*scripts) as running:
            box = boxed(f"forward:http://me:${{PASSWORD}}@{HOST}:{running.port}/${{HOOK}}", environ)
            if scripts:
                box.deliver()
        if not scripts:
            box.deliver()
        assert {post.line for post in running.posts} == (
            {"POST /s3cret HTTP/1.1"} if scripts else set()
        )
        box.spool.close()
        stored = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        everything = b"".join([caplog.text.encode(), *stored])
        assert str(running.port).encode() in everything
        assert [secret for secret in SECRETS if secret.encode() in everything] == []
