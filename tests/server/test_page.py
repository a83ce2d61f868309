"""The page for people, on a camera or elsewhere."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from nxparse.server import page
from nxparse.server.page import render, sentence, thumbnail
from nxparse.store.records import DeliveryStatus, FileRecord, StoredUpload, UploadRecord
from tests import bodies, camera, pictures
from tests.browser import browser, needs_browser, wait_for_text
from tests.clock import NEW_YEAR
from tests.mitmdump import Proxy

SEGMENT = 1460
"""What fits into one TCP segment on Ethernet."""

EMPTY = render([], 0.0, gallery=False)
ID = "20260101T000000Z-4b1f0c9a"
HOSTILE = (
    "<script>document.title='owned'</script>\"><img src=x onerror=document.title='owned'>&amp;"
)


class Outline(HTMLParser):
    """Which elements are open, which there are, and the text."""

    def __init__(self, html: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, Mapping[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html.decode("utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self.open[-1] != "style":
            self.text.append(data)


def fate(
    state: str, target: str = "save", reason: str = "", part: int = 0, *recipients: str
) -> DeliveryStatus:
    """What has become of an upload that came 100 seconds ago."""
    return DeliveryStatus(
        target, part, recipients or ("a@example.org",), state, NEW_YEAR + 60, reason
    )


def past(
    *fates: DeliveryStatus, files: int = 1, name: str = "SAM_{}.JPG", sender: str = "me"
) -> UploadRecord:
    listed = tuple(
        FileRecord(one, name.format(one), 1000, one != 2, 90) for one in range(1, files + 1)
    )
    arrival = StoredUpload(ID, NEW_YEAR - 100, "192.0.2.7", sender)
    return UploadRecord(arrival, listed, fates)


def test_empty_page() -> None:
    """Each element is closed in its place, and what is to be read is in there."""
    assert Outline(EMPTY.body).text == [
        "nx_addon",
        "It works",
        "This network answers for Samsung's camera services.",
        "On the camera: choose photos, Share, E-mail, Send.",
    ]


def test_empty_page_fits_into_one_segment() -> None:
    """A camera's TCP stack gets the page, with its head, in one piece."""
    head = "".join(f"{name}: {value}\r\n" for name, value in EMPTY.fields(0))
    assert EMPTY.status == 200
    assert len(f"HTTP/1.0 200 OK\r\n{head}\r\n") + len(EMPTY.body) <= SEGMENT


def test_uploads() -> None:
    """Each upload has its files, when it came, and what has become of it."""
    uploads = [
        past(fate("done"), fate("waiting", "mail", "no answer"), files=3),
        past(fate("failed", "run:cp {file} /srv", "cp ended with status 1")),
    ]
    outline = Outline(render(uploads, NEW_YEAR, gallery=False).body)
    assert outline.text[2:] == [
        "SAM_1.JPG, SAM_2.JPG, SAM_3.JPG, 3.0 kB, 100 seconds ago",
        "Saved",
        "Waits to be mailed to a@example.org: no answer. Next try in 60 seconds.",
        "SAM_1.JPG, 1.0 kB, 100 seconds ago",
        "Could not be given to cp: cp ended with status 1. The files are kept.",
        "Look again",
    ]
    states = [attributes.get("class") for tag, attributes in outline.found if tag == "p"]
    assert states == ["done", "waiting", "failed", None]
    assert "img" not in dict(outline.found)


def test_gallery() -> None:
    """There, one also sees whose uploads they are, and the thumbnails that there are."""
    outline = Outline(render([past(fate("done"), files=3)], NEW_YEAR, gallery=True).body)
    assert outline.text[3] == "from me at 192.0.2.7"
    images = [attributes for tag, attributes in outline.found if tag == "img"]
    assert images == [
        {
            "class": "t90",
            "src": f"/thumbnail/{ID}.{part}",
            "alt": f"SAM_{part}.JPG",
            "loading": "lazy",
        }
        for part in (1, 3)
    ]


def test_upload_without_sender_and_files() -> None:
    """What is not there is not told."""
    found = past(fate("done", "drop"), files=0, sender="")
    outline = Outline(render([found], NEW_YEAR, gallery=True).body)
    assert outline.text[2:5] == [
        "An upload, 100 seconds ago",
        "from (nobody) at 192.0.2.7",
        "Dropped",
    ]


def test_post() -> None:
    """Of what came to a site it tells which one."""
    arrival = StoredUpload(ID, NEW_YEAR, "192.0.2.7", "anna", "facebook")
    outline = Outline(render([UploadRecord(arrival, (), ())], NEW_YEAR, gallery=True).body)
    assert outline.text[3] == "from anna at 192.0.2.7, for facebook"


def test_files_that_went_different_ways() -> None:
    """One line for what is the same for all; else the files are named."""
    found = past(
        fate("done", "save", "", 1),
        fate("done", "save", "", 2),
        fate("done", "mail", "", 1),
        fate("done", "mail", "", 3),
        fate("failed", "mail", "too large", 2),
        files=2,
    )
    outline = Outline(render([found], NEW_YEAR, gallery=False).body)
    assert outline.text[3:6] == [
        "Saved",
        "SAM_1.JPG, file 3: Mailed to a@example.org",
        "SAM_2.JPG: Could not be mailed to a@example.org: too large. The files are kept.",
    ]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        pytest.param(fate("waiting"), "Is about to be saved.", id="new"),
        pytest.param(fate("done", "save:/srv/photos"), "Saved", id="folder"),
        pytest.param(
            fate("done", "mail", "", 0, "a@example.org", "b@example.org"),
            "Mailed to a@example.org, b@example.org",
            id="mail-to-two",
        ),
        pytest.param(
            fate("done", "mail", "not delivered to b@example.org (550 no such user)"),
            "Mailed to a@example.org; not delivered to b@example.org (550 no such user)",
            id="mail-to-some",
        ),
        pytest.param(
            fate("done", "mail:me@example.org", "", 0, "facebook"),
            "Mailed to me@example.org",
            id="mail-to-another",
        ),
        pytest.param(
            fate("done", "forward:https://me:secret@example.org/token"),
            "Forwarded to example.org",
            id="forward",
        ),
        pytest.param(fate("done", "forward:${HOOK}"), "Forwarded to ${HOOK}", id="variable"),
        pytest.param(fate("done", "notify:tgram://token/chat"), "Sent by tgram://...", id="notify"),
        pytest.param(
            fate("waiting", "mastodon:https://${TOKEN}@example.social", "429 Too many requests"),
            "Waits to be posted to example.social: 429 Too many requests. Next try in 60 seconds.",
            id="mastodon",
        ),
        pytest.param(fate("done", "drop"), "Dropped", id="drop"),
        pytest.param(
            fate("waiting", "save", f"a\nb\x1b{'c' * 300}"),
            f"Waits to be saved: a?b?{'c' * 195}…. Next try in 60 seconds.",
            id="long-reason-with-control-characters",
        ),
    ],
)
def test_sentence(found: DeliveryStatus, told: str) -> None:
    assert sentence(found, NEW_YEAR) == told


@pytest.mark.parametrize(
    ("next_try", "told"),
    [
        pytest.param(NEW_YEAR + 3719, "Next try in 62 minutes.", id="later"),
        pytest.param(NEW_YEAR + 1, "Next try in 1 second.", id="soon"),
        pytest.param(NEW_YEAR, "Due now.", id="now"),
        pytest.param(0.0, "Due now.", id="retried-by-hand"),
        pytest.param(NEW_YEAR + 10**9, "Due now.", id="clock-set-back"),
    ],
)
def test_next_try(next_try: float, told: str) -> None:
    """A delivery that has failed says when it is tried again."""
    found = replace(fate("waiting", "save", "No space left on device"), next_try=next_try)
    assert sentence(found, NEW_YEAR) == f"Waits to be saved: No space left on device. {told}"


def test_being_tried() -> None:
    """A delivery that is being tried is shown as that, the first time and later."""
    found = [
        past(fate("waiting"), fate("waiting", "mail")),
        past(fate("waiting", "run:cp x", "cp ended with status 1"), fate("done")),
    ]
    attempted = {(ID, "mail", 0), (ID, "run:cp x", 0)}
    page = render(found, NEW_YEAR, gallery=False, attempted=attempted)
    outline = Outline(page.body)
    lines = [line for line in outline.text if line.startswith(("Is ", "Saved"))]
    assert lines == [
        "Is about to be saved.",
        "Is being mailed to a@example.org now.",
        "Is being given to cp now. Last attempt: cp ended with status 1.",
        "Saved",
    ]


@pytest.mark.parametrize("gallery", [False, True])
def test_hostile_names(gallery: bool) -> None:
    """Whatever somebody calls himself or his files is text."""
    found = past(
        fate("waiting", "mail", HOSTILE, 0, HOSTILE), name=f"{HOSTILE}\x00\ud800", sender=HOSTILE
    )
    elements = {tag for tag, _ in Outline(render([found], NEW_YEAR, gallery=gallery).body).found}
    harmless = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "a"}
    assert elements - harmless == ({"img"} if gallery else set())


def test_policy() -> None:
    """Only the style sheet as it is, and pictures from here."""
    reply = render([], NEW_YEAR, gallery=True)
    style = re.search(rb"<style>(.*?)</style>", reply.body)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1]).digest()).decode()
    assert dict(reply.headers)["Content-Security-Policy"] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert not re.search(rb"https?:|url\(|@import", reply.body)


def test_thumbnail() -> None:
    """Nobody can make it anything but a picture."""
    reply = thumbnail(b"<script>")
    assert (reply.body, reply.content_type) == (b"<script>", "image/jpeg")
    assert dict(reply.headers)["X-Content-Type-Options"] == "nosniff"


# In a browser


def page_for(port: int, address: str, path: str = "/") -> tuple[int, str]:
    """What a client with this address gets, and with which status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, 30, (address, 0))
    connection.request("GET", path)
    reply = connection.getresponse()
    return reply.status, reply.read().decode("latin-1")


def upload(port: int, address: str, *names: str, orientation: int = 1) -> None:
    photo = pictures.photo(pictures.picture(), orientation=orientation)
    request = bodies.request(bodies.body([(name, photo) for name in names]))
    connection = camera.connect(port, source=address)
    connection.sendall(request)
    assert camera.hear(connection).status == 200


@needs_browser
@pytest.mark.parametrize(("width", "height"), [(480, 320), (390, 844)], ids=["camera", "phone"])
def test_in_a_browser(folder: Path, width: int, height: int) -> None:
    """A camera and a phone each see their own; in the gallery both, with pictures."""
    with Proxy(folder) as proxy:
        upload(proxy.port, "127.0.0.1", "SAM_1.JPG")
        upload(proxy.port, "127.0.0.2", "SAM_2.JPG")
        proxy.wait_for("saved as .*SAM_2.JPG")
        proxy.wait_for("saved as .*SAM_1.JPG")
        with browser(folder / "profile", width, height) as driver:
            driver.get(f"http://127.0.0.1:{proxy.port}/")
            said = wait_for_text(driver, "It works", "SAM_1.JPG", "Saved", "Look again")
            assert "SAM_2.JPG" not in said
            assert driver.find_elements(By.TAG_NAME, "img") == []
            screenshot(driver, f"page-{width}")
        status, html = page_for(proxy.port, "127.0.0.2")
        assert (status, "SAM_2.JPG" in html, "SAM_1.JPG" in html) == (200, True, False)
        status, html = page_for(proxy.port, "127.0.0.3")
        assert (status, "SAM_" in html) == (200, False)
        assert page_for(proxy.port, "127.0.0.1", "/thumbnail/x.1")[0] == 404


@needs_browser
@pytest.mark.parametrize(("width", "height"), [(480, 320), (390, 844)], ids=["camera", "phone"])
def test_gallery_in_a_browser(folder: Path, width: int, height: int) -> None:
    """Thumbnails are shown, upright; hostile names do nothing; nothing is wider than the window."""
    with Proxy(folder, "--set", "nx_gallery=true") as proxy:
        upload(proxy.port, "127.0.0.2", "SAM_1.JPG", "SAM_2.JPG", "SAM_3.JPG")
        upload(proxy.port, "127.0.0.3", "SAM_4.JPG", orientation=6)
        upload(proxy.port, "127.0.0.4", HOSTILE.replace('"', "'") + "W" * 100)
        for name in ("SAM_3", "SAM_4", "WWW"):
            proxy.wait_for(f"saved as .*{name}")
        with browser(folder / "profile", width, height) as driver:
            driver.get(f"http://127.0.0.1:{proxy.port}/")
            said = wait_for_text(driver, "SAM_1.JPG, SAM_2.JPG, SAM_3.JPG", "SAM_4.JPG", "script")
            assert "from Camera@samsungcamera.com at 127.0.0.2" in said
            images = driver.find_elements(By.TAG_NAME, "img")
            for image in images:
                driver.execute_script("arguments[0].scrollIntoView()", image)
                seen = "return arguments[0].decode().then(() => arguments[0].naturalWidth)"
                assert driver.execute_script(seen, image) == 160
            assert len(images) == 5
            assert driver.title == "nx_addon"
            wide = "return [document.documentElement.scrollWidth, innerWidth]"
            content, window = driver.execute_script(wide)
            assert (window, content <= window) == (width, True)
            assert [entry for entry in driver.get_log("browser") if "favicon" not in entry] == []
            driver.execute_script("scrollTo(0, 0)")
            screenshot(driver, f"gallery-{width}")


def screenshot(driver: object, name: str) -> None:
    """For a person to look at, where one wants to."""
    if path := os.environ.get("SCREENSHOTS"):
        driver.save_screenshot(str(Path(path) / f"{name}.png"))  # type: ignore[attr-defined]


def test_template_is_made_once() -> None:
    assert page._template() is page._template()
