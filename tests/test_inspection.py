"""What a person sees of a camera's requests: in mitmweb, by a real browser, and in mitmproxy."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import mitmproxy.contentviews
import pytest
from mitmproxy.http import Request
from mitmproxy.test.tflow import tflow
from selenium.webdriver.common.by import By

import nx_addon
from nxparse.proxy.state import State
from nxparse.proxy.transport import Times
from tests import bodies, camera, social
from tests.browser import browser, needs_browser, wait_for_text
from tests.mitmdump import ADDON, PROGRAMS, ROOT, Proxy, eventually

PASSWORD = "correct horse"
UNKNOWN = (
    b"POST /new/thing HTTP/1.1\r\nHost: snsgw.samsungmobile.com\r\nContent-Length: 2\r\n\r\nhi"
)

needs_views = pytest.mark.skipif(
    not hasattr(mitmproxy.contentviews, "Contentview"),
    reason="the content view needs mitmproxy 12",
)


def visit(port: int) -> bytes:
    """What a camera does on its way: an upload, a login, a photo, something unknown."""
    photo = bodies.jpeg(20_000)
    assert camera.send(port, bodies.request(bodies.body([("SAM_1.JPG", photo)]))).status == 200
    client = social.SocialCamera(port)
    client.login("facebook", "me", PASSWORD)
    client.photo("facebook", "SAM_2.JPG", "by the sea", "NX300", photo)
    assert camera.send(port, UNKNOWN).status == 404
    return photo


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@needs_browser
@needs_views
def test_mitmweb(folder: Path) -> None:
    """The list has marks and comments, and a click on a flow shows what is in it."""
    port = free_port()
    web = ("--no-web-open-browser", "--web-port", str(port), "--set", "web_password=look")
    with Proxy(folder, *web, program="mitmweb") as proxy:
        visit(proxy.port)
        with browser(folder / "profile") as driver:
            driver.get(f"http://127.0.0.1:{port}/?token=look")
            said = wait_for_text(
                driver,
                "received: from Camera@samsungcamera.com to photos@example.org: SAM_1.JPG, 20.0 kB",
                "received: from me to facebook: SAM_2.JPG, 20.0 kB",
                "answered: login to facebook",
                "unknown: unknown, answered 404",
            )
            assert said.count("📷") == 2
            assert "❓" in said

            click(driver, "/social/columbus/email")
            shown = wait_for_text(driver, "recipients", "tolerated", "Samsung camera")
            assert "photos@example.org" in shown
            assert "close-delimiter-unmarked" in shown

            click(driver, "/facebook/auth")
            assert PASSWORD not in wait_for_text(driver, "password  (hidden)")

            click(driver, "/upload/")
            wait_for_text(driver, "image/jpeg, 20.0 kB")
            if path := os.environ.get("SCREENSHOTS"):
                click(driver, "/social/columbus/email")
                wait_for_text(driver, "tolerated")
                driver.save_screenshot(str(Path(path) / "mitmweb.png"))


def click(driver: object, path: str) -> None:
    """Click on the line of the flow whose URL has this path."""
    row = driver.find_element(By.XPATH, f"//td[contains(., '{path}')]")  # type: ignore[attr-defined]
    row.click()


@needs_views
@pytest.mark.parametrize(
    "body",
    [
        *(
            path.read_bytes().partition(b"\r\n\r\n")[2]
            for path in (ROOT / "tests/wire").glob("*.http")
        ),
        *(Random(seed).randbytes(2000) for seed in range(20)),
        b"",
    ],
    ids=lambda body: f"{len(body)}-{body[:4].hex()}",
)
@pytest.mark.parametrize(
    "path", [bodies.PATH, "/facebook/auth", "/facebook/photo", "/upload/x", "/unknown"]
)
def test_the_view_of_anything(path: str, body: bytes) -> None:
    """Before there is any configuration, too: a view has a text, or it is not for this body."""
    method = "PUT" if path == "/upload/x" else "POST"
    flow = tflow(req=Request.make(method, f"http://www.ospserver.net{path}", body), resp=True)
    view = nx_addon.CameraView(State(Times()))
    for message in (flow.request, flow.response):
        metadata = mitmproxy.contentviews.Metadata(flow=flow, http_message=message)
        if view.render_priority(message.raw_content, metadata) > 0:
            text = view.prettify(message.raw_content, metadata)
            assert all(char.isprintable() or char in "\n\xa0" for char in text)
        else:
            assert path == "/unknown" or not body or message is flow.response


@contextmanager
def terminal(folder: Path, *command: str) -> Iterator[list[str]]:
    """A program in tmux, a terminal of 140 columns; gives what is put before a tmux command."""
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
    """In a terminal, too; and the command nx.save saves what has been uploaded."""
    port = free_port()
    command = [str(PROGRAMS / "mitmproxy"), "-s", str(ADDON), "--mode", f"regular@127.0.0.1:{port}"]
    confdir = ["--set", f"confdir={folder / 'mitmproxy'}"]
    with terminal(folder, *command, *confdir) as tmux:
        eventually(lambda: answers(port), "mitmproxy listens")
        photo = visit(port)
        eventually(lambda: "/new/thing" in screen(tmux), "the flows are listed")
        assert "received" in screen(tmux) or "📷" in screen(tmux)

        if hasattr(mitmproxy.contentviews, "Contentview"):
            press(tmux, "g", "Enter")
            eventually(lambda: "close-delimiter-unmarked" in screen(tmux), "the view is shown")
            assert "photos@example.org" in screen(tmux)
            press(tmux, "q")

        saved = folder / "saved"
        press(tmux, ":", f"nx.save @all {saved}", "Enter")
        eventually(lambda: len(list(saved.glob("*.jpg"))) == 1, "a file is saved")
        eventually(lambda: len(list(saved.glob("*.JPG"))) == 1, "the other one is saved")
        assert {path.read_bytes() for path in saved.iterdir()} == {photo}

        told = folder / "report.md"
        press(tmux, ":", f"nx.report @marked {told}", "Enter")
        eventually(lambda: told.exists() and told.stat().st_size > 0, "a report is written")
        assert "POST /new/<letters 5 #" in told.read_text()
        assert "photos@example.org" not in told.read_text()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
