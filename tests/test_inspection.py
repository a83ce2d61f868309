"""The requests of a camera in mitmweb, seen by a real browser, and in mitmproxy."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from mitmproxy import contentviews
from mitmproxy.http import HTTPFlow, Message, Request
from mitmproxy.test import taddons
from mitmproxy.test.tflow import tflow

import nx_addon
from nxparse.proxy.state import State
from nxparse.proxy.transport import Times
from tests import bodies, camera, social
from tests.browser import browser, needs_browser, wait_for_text
from tests.mitmdump import ADDON, PROGRAMS, Proxy, eventually, free_port

PASSWORD = "correct horse"
NEW_UPLOAD = bodies.request(bodies.body([("SAM_1.JPG", b"x")])).replace(b"columbus", b"new")
UNKNOWN = (
    b"POST /new/thing HTTP/1.1\r\nHost: snsgw.samsungmobile.com\r\nContent-Length: 2\r\n\r\nhi"
)


def visit(port: int) -> bytes:
    """Send an upload, a login, a photo and an unknown request, as a camera does."""
    photo = bodies.jpeg(20_000)
    assert camera.send(port, bodies.request(bodies.body([("SAM_1.JPG", photo)]))).status == 200
    client = social.SocialCamera(port)
    client.login("facebook", "me", PASSWORD)
    client.photo("facebook", "SAM_2.JPG", "by the sea", "NX300", photo)
    assert camera.send(port, UNKNOWN).status == 404
    return photo


@needs_browser
def test_mitmweb(folder: Path) -> None:
    """The list has marks and comments, and a click on a flow shows its contents."""
    port = free_port()
    web = ("--no-web-open-browser", "--web-port", str(port), "--set", "web_password=look")
    with Proxy(folder, *web, program="mitmweb") as proxy:
        visit(proxy.port)
        with browser(folder / "profile") as driver:
            driver.get(f"http://127.0.0.1:{port}/?token=look")
            listed = wait_for_text(
                driver,
                "received: from Camera@samsungcamera.com to photos@example.org: SAM_1.JPG, 20.0 kB",
                "received: from me to facebook: SAM_2.JPG, 20.0 kB",
                "answered: login to facebook",
                "unknown: unknown, answered 404",
            )
            assert listed.count("📷") == 2
            assert "❓" in listed

            click(driver, "/social/columbus/email")
            shown = wait_for_text(driver, "recipients", "tolerated", "Samsung camera")
            assert "photos@example.org" in shown
            assert "close-delimiter-unmarked" in shown

            click(driver, "/facebook/auth")
            assert PASSWORD not in wait_for_text(driver, "(hidden)")

            click(driver, "/upload/")
            wait_for_text(driver, "image/jpeg, 20.0 kB")
            if path := os.environ.get("SCREENSHOTS"):
                click(driver, "/social/columbus/email")
                wait_for_text(driver, "tolerated")
                driver.save_screenshot(str(Path(path) / "mitmweb.png"))


def click(driver: object, path: str) -> None:
    """Click on the line of the flow whose URL has this path."""
    row = driver.find_element("xpath", f"//td[contains(., '{path}')]")  # type: ignore[attr-defined]
    row.click()


@pytest.fixture(scope="module")
def _view() -> Iterator[None]:
    """The content view, loaded, reloaded, and not configured."""
    with taddons.context() as context:
        first, second = (nx_addon.Inspection(State(Times())) for _ in range(2))
        context.master.addons.add(first)
        context.master.addons.remove(first)
        context.master.addons.add(second)
        yield
        context.master.addons.remove(second)


def view(message: Message, flow: HTTPFlow, chosen: str = "auto") -> tuple[str, str]:
    """Return the name of the view of a message, chosen or selected by mitmproxy, and its text."""
    if nx_addon.IS_MITMPROXY_11:
        name, lines, error = contentviews.get_message_content_view(chosen, message, flow)
        assert not error
        return name, "\n".join("".join(text for _, text in line) for line in lines)
    result = contentviews.prettify_message(message, flow, chosen)
    return str(result.view_name), result.text


@pytest.mark.usefixtures("_view")
@pytest.mark.parametrize(
    ("data", "name", "text"),
    [
        (bodies.request(bodies.body([("SAM_1.JPG", b"x")])), "Samsung camera", "SAM_1.JPG"),
        (
            social.auth("facebook", social.login("me", PASSWORD)),
            "Samsung camera",
            'Password Value="(hidden)"',
        ),
        (social.put("upload/x", bodies.jpeg(500)), "Samsung camera", "image/jpeg, 500 bytes"),
        (UNKNOWN, "Raw", "hi"),
        (NEW_UPLOAD, "Samsung camera", "SAM_1.JPG"),
    ],
    ids=["upload", "login", "file", "unknown", "unknown-upload"],
)
def test_view(data: bytes, name: str, text: str) -> None:
    """mitmproxy selects the view for requests of cameras, and for no others."""
    head, _, body = data.partition(b"\r\n\r\n")
    method, path, _ = head.decode().split(maxsplit=2)
    host = re.search(r"Host: ([\w.]+)", head.decode())
    assert host
    flow = tflow(req=Request.make(method, f"http://{host[1]}{path}", body))
    if kind := re.search("Content-Type: (.*)\r", head.decode()):
        flow.request.headers["Content-Type"] = kind[1]
    found, shown = view(flow.request, flow)
    assert (found.lower(), text in shown) == (name.lower(), True)


@pytest.mark.usefixtures("_view")
def test_chosen_view() -> None:
    """If a user selects the view for an unknown request, its text is one sentence."""
    flow = tflow(req=Request.make("POST", "http://www.ospserver.net/x", b"hi"))
    shown = "Samsung camera", "nx_addon cannot explain this: choose another view\n"
    name, text = view(flow.request, flow, "Samsung camera")
    assert (name, text.rstrip() + "\n") == shown


@pytest.mark.usefixtures("_view")
def test_view_of_reply() -> None:
    """Keys and tokens in a reply are hidden."""
    flow = tflow(req=Request.make("POST", f"http://{social.HOST}/facebook/auth", b"x"), resp=True)
    flow.response.content = b'<Response SessionKey="s3cret">'
    name, text = view(flow.response, flow)
    assert (name, text.rstrip()) == ("Samsung camera", '<Response SessionKey="(hidden)">')


@pytest.mark.usefixtures("_view")
@pytest.mark.parametrize(
    "body", [*(Random(n).randbytes(2000) for n in range(3)), b"", b"<"], ids=len
)
@pytest.mark.parametrize(
    "path", [bodies.PATH, "/facebook/auth", "/facebook/photo", "/upload/x", "/unknown"]
)
def test_view_of_any_body(path: str, body: bytes) -> None:
    """The view never fails and has only printable text."""
    method = "PUT" if path == "/upload/x" else "POST"
    flow = tflow(req=Request.make(method, f"http://www.ospserver.net{path}", body), resp=True)
    for message in (flow.request, flow.response):
        name, text = view(message, flow)
        assert name != "Samsung camera" or all(one.isprintable() or one == "\n" for one in text)


@contextmanager
def terminal(folder: Path, *command: str) -> Iterator[list[str]]:
    """A program in tmux, with 140 columns. Yields the first words of a tmux command."""
    tmux = ["tmux", "-S", str(folder / "tmux"), "-f", os.devnull]
    subprocess.run(
        [*tmux, "new-session", "-d", "-x", "140", "-y", "45", shlex.join(command)],
        cwd=folder,
        check=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    try:
        yield tmux
    finally:
        subprocess.run([*tmux, "kill-server"], check=False, capture_output=True)


def screen(tmux: list[str]) -> str:
    done = subprocess.run(
        [*tmux, "capture-pane", "-p"], capture_output=True, text=True, check=False
    )
    return done.stdout


def press(tmux: list[str], *keys: str) -> None:
    subprocess.run([*tmux, "send-keys", *keys], check=True)


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_mitmproxy(folder: Path) -> None:
    """The terminal shows the view, too, and the commands nx.save and nx.report work."""
    port = free_port()
    command = [str(PROGRAMS / "mitmproxy"), "-s", str(ADDON), "--mode", f"regular@127.0.0.1:{port}"]
    confdir = ["--set", f"confdir={folder / 'mitmproxy'}"]
    with terminal(folder, *command, *confdir) as tmux:
        eventually(lambda: camera.is_served(port), "nx_addon is ready")
        press(tmux, ":", "view.clear", "Enter")
        eventually(lambda: "samsungosp" not in screen(tmux), "the list is empty")
        photo = visit(port)
        eventually(lambda: "/new/thing" in screen(tmux), "the flows are listed")
        assert "received" in screen(tmux) or "📷" in screen(tmux)

        press(tmux, "g", "Enter")
        eventually(lambda: "close-delimiter-unmarked" in screen(tmux), "the view is shown")
        assert "photos@example.org" in screen(tmux)
        press(tmux, "q")

        saved = folder / "saved"
        press(tmux, ":", f"nx.save @all {saved}", "Enter")
        eventually(lambda: len(list(saved.glob("*.jpg"))) == 1, "a file is saved")
        eventually(lambda: len(list(saved.glob("*.JPG"))) == 1, "the other one is saved")
        assert {path.read_bytes() for path in saved.iterdir()} == {photo}

        report = folder / "report.md"
        press(tmux, ":", f"nx.report @marked {report}", "Enter")
        eventually(lambda: report.exists() and report.stat().st_size > 0, "a report is written")
        assert "POST /<letters 3 #" in report.read_text()
        assert "photos@example.org" not in report.read_text()
