"""Uploads by Apprise: to a web server of the tests' own, in the form that Apprise calls JSON."""

from __future__ import annotations

import base64
import builtins
import json
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from nxparse import upload
from nxparse.deliver import notify
from nxparse.deliver.errors import TemporaryError
from tests import bodies

pytest.importorskip("apprise")

PHOTOS = {"A.JPG": bodies.jpeg(500, 1), "B.JPG": bodies.jpeg(600, 2)}
SECRET = "s3cr3t"


class Service:
    """A web server that keeps what is posted to it, and answers with `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.posted: list[dict[str, Any]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                service.posted.append(json.loads(body))
                self.send_response(service.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://me:{SECRET}@127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def service() -> Iterator[Service]:
    found = Service()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


def uploaded(text: str = "by the sea") -> upload.Upload:
    message = bodies.message_xml(text=text, title="Photos")
    return upload.read(bodies.body(list(PHOTOS.items()), message=message), bodies.CONTENT_TYPE)


def test_sent(service: Service, tmp_path: Path) -> None:
    """Title, text and photos arrive, the photos byte for byte, and no copy is left."""
    found = uploaded()
    notify.send(found, found.files, notify.service(service.url), tmp_path)
    (posted,) = service.posted
    assert (posted["title"], posted["message"]) == ("Photos", "by the sea")
    attached = {one["filename"]: base64.b64decode(one["base64"]) for one in posted["attachments"]}
    assert attached == PHOTOS
    assert list(tmp_path.iterdir()) == []


def test_without_text(service: Service, tmp_path: Path) -> None:
    """Without a text the subject is the text, since most services want one."""
    found = uploaded("")
    notify.send(found, found.files[:1], notify.service(service.url), tmp_path)
    assert service.posted[0]["message"] == "Photos"
    assert len(service.posted[0]["attachments"]) == 1


def test_refused(
    service: Service,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is not taken is told without the secrets of the URL, and tried again later."""
    service.status = 500
    found = uploaded()
    with caplog.at_level(logging.DEBUG), pytest.raises(TemporaryError) as caught:
        notify.send(found, found.files, notify.service(service.url), tmp_path)
    assert str(caught.value).startswith("Apprise could not send it: Failed to send JSON")
    everything = "".join([str(caught.value), caplog.text, *capsys.readouterr()])
    assert SECRET not in everything
    assert list(tmp_path.iterdir()) == []


def test_two_at_once(tmp_path: Path) -> None:
    """Two targets that fail at the same moment have each their own reason."""
    found = uploaded()
    both = threading.Barrier(2)

    class Failing:
        """Logs like Apprise: first both write their warnings, then both return."""

        def __init__(self, reason: str) -> None:
            self.reason = reason

        def notify(self, **_: object) -> bool:
            both.wait(10)
            logging.getLogger("apprise").warning(self.reason)
            both.wait(10)
            return False

    def told(reason: str) -> str:
        with pytest.raises(TemporaryError) as caught:
            notify.send(found, found.files, Failing(reason), tmp_path)
        return str(caught.value)

    with ThreadPoolExecutor(2) as pool:
        reasons = list(pool.map(told, ["no such room", "quota exceeded"]))
    assert reasons == [
        "Apprise could not send it: no such room",
        "Apprise could not send it: quota exceeded",
    ]


def test_several_services(service: Service, tmp_path: Path) -> None:
    """A URL may name several services; the reason of one that fails is still known."""
    service.status = 500
    found = uploaded()
    to = notify.service(f"{service.url},{service.url}")
    with pytest.raises(TemporaryError, match="Failed to send JSON"):
        notify.send(found, found.files, to, tmp_path)


def test_nobody_there(service: Service, tmp_path: Path) -> None:
    """Where nobody answers it is tried again later."""
    url = service.url.replace(str(service.server.server_port), "9")
    found = uploaded()
    with pytest.raises(TemporaryError):
        notify.send(found, found.files, notify.service(url), tmp_path)


@pytest.mark.parametrize("url", ["nonsense", "", f"nothing://{SECRET}", "https://"])
def test_no_service(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A URL that Apprise does not know is refused, and not repeated."""
    with pytest.raises(ValueError, match="not a URL that Apprise knows") as caught:
        notify.service(url)
    assert SECRET not in "".join([str(caught.value), *capsys.readouterr()])


@pytest.mark.parametrize(
    ("url", "scheme", "secure"),
    [
        pytest.param(f"json://me:{SECRET}@h.example/x", "json", "jsons", id="password"),
        pytest.param(f"json://me:{SECRET}@192.168.1.5", "json", "jsons", id="in-the-house"),
        pytest.param(f"json://me:{SECRET}@localhost.example", "json", "jsons", id="label"),
        pytest.param(f"gotify://h.example/{SECRET}", "gotify", "gotifys", id="token-in-the-path"),
        pytest.param(f"ntfy://me:{SECRET}@h.example/topic", "ntfy", "ntfys", id="ntfy"),
        pytest.param(f"mailto://me:{SECRET}@h.example", "mailto", "mailtos", id="mail"),
        pytest.param(f"json://h.example,xml://me:{SECRET}@h.example", "xml", "xmls", id="second"),
    ],
)
def test_secret_in_clear(url: str, scheme: str, secure: str) -> None:
    """A URL that would send its password or token unencrypted is refused."""
    with pytest.raises(ValueError, match="unencrypted") as caught:
        notify.service(url)
    assert str(caught.value) == (
        f"{scheme}:// would send its password or token unencrypted: use {secure}://"
    )


@pytest.mark.parametrize(
    "url",
    [
        pytest.param(f"jsons://me:{SECRET}@h.example", id="tls"),
        pytest.param(f"json://me:{SECRET}@127.0.0.1", id="loopback"),
        pytest.param(f"json://me:{SECRET}@localhost", id="localhost"),
        pytest.param("json://h.example/x", id="no-secret"),
        pytest.param("ntfy://192.168.1.5/topic", id="no-secret-in-the-house"),
        pytest.param(f"ntfy://{SECRET}", id="cloud"),
        pytest.param(f"mailto://me:{SECRET}@gmail.com", id="provider-with-starttls"),
        pytest.param("discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", id="always-tls"),
        pytest.param("syslog://", id="no-host"),
    ],
)
def test_no_secret_in_clear(url: str) -> None:
    """Other URLs are taken."""
    notify.service(url)


def test_without_apprise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Apprise is missing, the rule says what to install."""
    real = builtins.__import__

    def missing(name: str, *rest: Any, **named: Any) -> Any:
        if name == "apprise":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ValueError, match="notify needs Apprise: pip install apprise"):
        notify.service("json://127.0.0.1")
