"""The target `notify`, with the services of Apprise that need no account."""

from __future__ import annotations

import base64
import json
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nxparse import upload
from nxparse.deliver.errors import TemporaryError
from nxparse.deliver.notify import deliver, parse_service
from tests import bodies
from tests.box import delivery
from tests.web_servers import HOST, WebServer, reply

pytest.importorskip("apprise")

PHOTOS = {"A.JPG": bodies.jpeg(500, 1), "B.JPG": bodies.jpeg(600, 2)}
SECRET = "s3cr3t"


def uploaded(text: str = "by the sea") -> upload.Upload:
    message = bodies.message_xml(text=text, title="Photos")
    return upload.read(bodies.body(list(PHOTOS.items()), message=message), bodies.CONTENT_TYPE)


def url_of(server: WebServer) -> str:
    return f"json://me:{SECRET}@{HOST}:{server.port}/hook"


@pytest.mark.parametrize("text", ["by the sea", ""], ids=["text", "subject-only"])
def test_sent(text: str, tmp_path: Path) -> None:
    """Title, text and photos arrive; an empty text is replaced by the subject."""
    found = uploaded(text)
    with WebServer() as server:
        deliver(parse_service(url_of(server)), tmp_path, found, found.files, delivery())
    body = json.loads(server.post.body)
    assert (body["title"], body["message"]) == ("Photos", text or "Photos")
    attached = {one["filename"]: base64.b64decode(one["base64"]) for one in body["attachments"]}
    assert attached == PHOTOS
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("services", [1, 2], ids=["one-service", "two-services"])
def test_refused(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    services: int,
) -> None:
    """The reason is reported without the secrets of the URL, and all copies are deleted."""
    found = uploaded()
    caplog.set_level(logging.DEBUG)
    with WebServer(reply("500 No")) as server:
        service = parse_service(",".join([url_of(server)] * services))
        with pytest.raises(TemporaryError) as caught:
            deliver(service, tmp_path, found, found.files, delivery())
    assert str(caught.value).startswith("Apprise could not send it: Failed to send JSON")
    assert SECRET not in "".join([str(caught.value), caplog.text, *capsys.readouterr()])
    assert list(tmp_path.iterdir()) == []


def test_two_threads(tmp_path: Path) -> None:
    """Two targets that fail at the same moment report their own reasons."""
    found = uploaded()
    both = threading.Barrier(2)

    class Failing:
        """Logs like Apprise: first both log their warnings, then both return."""

        def __init__(self, reason: str) -> None:
            self.reason = reason

        def notify(self, **_: object) -> bool:
            both.wait(10)
            logging.getLogger("apprise").warning(self.reason)
            both.wait(10)
            return False

    def reason_of(reason: str) -> str:
        with pytest.raises(TemporaryError) as caught:
            deliver(Failing(reason), tmp_path, found, found.files, delivery())
        return str(caught.value)

    with ThreadPoolExecutor(2) as pool:
        reasons = list(pool.map(reason_of, ["no such room", "quota exceeded"]))
    assert reasons == [
        "Apprise could not send it: no such room",
        "Apprise could not send it: quota exceeded",
    ]


@pytest.mark.parametrize("url", ["nonsense", "", f"nothing://{SECRET}", "https://"])
def test_unknown_service(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """URLs that Apprise does not know are refused, and not repeated."""
    with pytest.raises(ValueError, match="not a URL that Apprise knows") as caught:
        parse_service(url)
    assert SECRET not in "".join([str(caught.value), *capsys.readouterr()])


@pytest.mark.parametrize(
    ("url", "scheme", "secure"),
    [
        (f"json://me:{SECRET}@h.example/x", "json", "jsons"),
        (f"json://me:{SECRET}@localhost.example", "json", "jsons"),
        (f"gotify://h.example/{SECRET}", "gotify", "gotifys"),
        (f"mailto://me:{SECRET}@h.example", "mailto", "mailtos"),
        (f"json://h.example,xml://me:{SECRET}@h.example", "xml", "xmls"),
    ],
)
def test_unencrypted_secret(url: str, scheme: str, secure: str) -> None:
    """URLs that would send a password or token unencrypted are refused."""
    with pytest.raises(ValueError, match="unencrypted") as caught:
        parse_service(url)
    assert str(caught.value) == (
        f"{scheme}:// would send its password or token unencrypted: use {secure}://"
    )


@pytest.mark.parametrize(
    "url",
    [
        f"jsons://me:{SECRET}@h.example",
        f"json://me:{SECRET}@127.0.0.1",
        f"json://me:{SECRET}@localhost",
        "json://h.example/x",
        f"mailto://me:{SECRET}@gmail.com",
        "discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js",
    ],
)
def test_no_unencrypted_secret(url: str) -> None:
    """URLs without secrets, with TLS, or for this machine are accepted."""
    parse_service(url)


def test_without_apprise(monkeypatch: pytest.MonkeyPatch) -> None:
    """If Apprise is missing, the error says how to install it."""
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ValueError, match=r"notify needs Apprise: \.venv/bin/pip install apprise"):
        parse_service("json://127.0.0.1")
