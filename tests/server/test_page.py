"""The web page."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nxparse.server import page
from nxparse.server.page import PER_PAGE, Failure, render, sentence, thumbnail
from nxparse.store.records import (
    Delivery,
    FileRecord,
    LocalCopy,
    StoredUpload,
    UploadRecord,
    identity_of,
)
from tests.clock import NEW_YEAR

SEGMENT = 1460
"""The size of one TCP segment on Ethernet."""

EMPTY = render([], 0.0, gallery=False)
ID = "20260101T000000Z-4b1f0c9a"
HOSTILE = "<script>document.title='owned'</script>\"><img src=x onerror=alert(1)>&amp;"


class Outline(HTMLParser):
    """The elements of a page and its text. Asserts that the elements are nested correctly."""

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
            self.text.append(data.strip())

    def links(self) -> list[str]:
        return [attributes["href"] or "" for tag, attributes in self.found if tag == "a"]


def status(
    state: str, target: str = "save", reason: str = "", number: int = 0, *recipients: str
) -> Delivery:
    names = recipients or ("a@example.org",)
    arrival = StoredUpload(ID, NEW_YEAR, "192.0.2.7", "me")
    fields = names, 1, 15.0, NEW_YEAR + 60, reason
    return Delivery(arrival, target, number, *fields, state=state)


def record(
    *deliveries: Delivery,
    files: int = 1,
    name: str = "SAM_{}.JPG",
    sender: str = "me",
    site: str = "",
    age: float = 100,
) -> UploadRecord:
    """An upload that was received `age` seconds ago."""
    listed = tuple(FileRecord(number, name.format(number), 1000) for number in range(1, files + 1))
    arrival = StoredUpload(ID, NEW_YEAR - age, "192.0.2.7", sender, site)
    return UploadRecord(arrival, listed, deliveries)


def text_of(*uploads: UploadRecord, gallery: bool = False) -> list[str]:
    """The text after the headline."""
    return Outline(render(uploads, NEW_YEAR, gallery=gallery).body).text[4:]


def test_empty_page() -> None:
    """An empty page is well-formed and fits into one segment with its head."""
    assert Outline(EMPTY.body).text == [
        "nx_addon",
        "nx_addon",
        "Help",
        "It works",
        "This network answers for Samsung's camera services.",
        "On the camera: choose photos, Share, E-mail, Send.",
    ]
    head = "".join(f"{name}: {value}\r\n" for name, value in EMPTY.fields(0))
    assert EMPTY.status == 200
    assert len(f"HTTP/1.0 200 OK\r\n{head}\r\n") + len(EMPTY.body) <= SEGMENT


def test_uploads() -> None:
    """Each upload has its time, files and deliveries; in a gallery also the client."""
    first = record(status("done"), status("waiting", "mail", "no answer"), files=2, site="flickr")
    second = record(status("failed", "run:cp {file} /srv", "cp ended with status 1"), sender="")
    none = record(status("done", "drop"), files=0)
    deliveries = [
        ["Saved", "Waiting to be mailed to a@example.org: no answer. Next try in 60 seconds."],
        ["Could not be handed to cp: cp ended with status 1. The files are stored."],
        ["Dropped"],
    ]
    files = [["SAM_1.JPG", "SAM_2.JPG"], ["SAM_1.JPG"], []]
    files = [[word for name in names for word in (page.NO_PREVIEW, name)] for names in files]
    titles = ["2 files, 2.0 kB", "1 file, 1.0 kB", "no files"]
    senders = ["me at 192.0.2.7, for flickr", "(no sender) at 192.0.2.7", "me at 192.0.2.7"]
    for gallery in (False, True):
        text = text_of(first, second, none, gallery=gallery)
        text = [re.sub(r"^\d\d:\d\d, ", "", line) for line in text if line != "Today"]
        expected = []
        for title, sender, names, lines in zip(titles, senders, files, deliveries, strict=True):
            origin = [f"from {sender}"] if gallery else []
            expected += [f"100 seconds ago: {title}", *origin, *names, *lines]
        assert [line for line in text if line != "Yesterday"] == [*expected, "Look again"]


def test_days(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads are grouped by their local date, the latest first."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    day = 86400
    uploads = [record(age=age) for age in (0, 60, day, 2 * day, 9 * day)]
    html = render(uploads, NEW_YEAR + day / 2, gallery=False).body.decode()
    monkeypatch.undo()
    time.tzset()
    days = ["Today", "Yesterday", "Tuesday, 30 December 2025", "Tuesday, 23 December 2025"]
    assert re.findall("<h2>(.*)</h2>", html) == days
    assert "<h3>23:59, 12 hours ago: 1 file, 1.0 kB</h3>" in html


def test_older() -> None:
    """If there are more uploads than fit on the page, it has a link to the older ones."""
    uploads = [record() for _ in range(PER_PAGE + 1)]
    outline = Outline(render(uploads, NEW_YEAR, gallery=False).body)
    assert outline.links() == ["/readme", "/", f"/older/{ID}"]
    assert [tag for tag, _ in outline.found].count("h3") == PER_PAGE
    outline = Outline(render(uploads[1:], NEW_YEAR, gallery=False, is_first=False).body)
    assert outline.links() == ["/readme", "/"]
    assert outline.text[-1] == "Newest"
    assert Outline(render([], NEW_YEAR, gallery=False, is_first=False).body).text[-1] == "Newest"


@pytest.mark.parametrize(
    ("found", "refreshes"),
    [
        (record(status("done")), False),
        (record(status("done"), age=59), True),
        (record(status("failed"), status("waiting", "mail")), True),
        (record(status("done"), age=-(10**6)), False),
    ],
    ids=["old", "new", "waits", "clock-set-back"],
)
def test_refresh(found: UploadRecord, refreshes: bool) -> None:
    """The first page refreshes itself while a delivery may change."""
    refresh = b'<meta http-equiv="refresh" content="10">'
    assert (refresh in render([found], NEW_YEAR, gallery=False).body) is refreshes
    assert refresh not in render([found], NEW_YEAR, gallery=False, is_first=False).body


def test_failures() -> None:
    """Uploads that were not accepted are listed by their time, with the reason."""
    failures = [Failure(NEW_YEAR - 200, "192.0.2.9", f"Refused: {HOSTILE}")]
    for gallery in (False, True):
        html = render([record()], NEW_YEAR, gallery=gallery, failures=failures).body
        text = Outline(html).text
        at = text.index(f"Refused: {HOSTILE}")
        assert text[at - 1 - gallery].endswith("3 minutes ago: not accepted")
        assert ("from 192.0.2.9" in text) is gallery
        assert text.index("SAM_1.JPG") < at


def test_files(tmp_path: Path) -> None:
    """A saved file can be opened and downloaded; a missing one is reported."""
    path = tmp_path / "SAM_1.JPG"
    path.write_bytes(b"photo")
    saved = (LocalCopy(path, identity_of(path.stat())),)
    gone = (LocalCopy(tmp_path / "gone", "1 2 3 4"),)
    files = (
        FileRecord(1, "A.JPG", 5, (*gone, *saved)),
        FileRecord(2, "B.MP4", 5, saved),
        FileRecord(3, "C.JPG", 5, gone),
        FileRecord(4, "D.JPG", 5),
        FileRecord(5, "E.PNG", 5, saved),
    )
    found = record()._replace(files=files)
    outline = Outline(render([found], NEW_YEAR, gallery=False).body)
    links = [f"/{kind}/{ID}.{number}" for number in (1, 2, 5) for kind in ("file", "download")]
    assert outline.links()[1:-1] == links
    images = [attributes["src"] for tag, attributes in outline.found if tag == "img"]
    assert images == [f"/thumbnail/{ID}.1"]
    text = outline.text
    assert text[text.index("C.JPG") + 1] == "Deleted, moved or changed since it was saved"
    boxes = [(text[text.index(name) - 1], name) for name in ("B.MP4", "C.JPG", "D.JPG", "E.PNG")]
    assert boxes == [("\u25b6", "B.MP4"), *((page.NO_PREVIEW, name) for _, name in boxes[1:])]


def test_files_with_different_states() -> None:
    """A target has one line if all files have the same state; otherwise the files are named."""
    found = record(
        status("done", "save", "", 1),
        status("done", "save", "", 2),
        status("done", "mail", "", 1),
        status("done", "mail", "", 3),
        status("failed", "mail", "too large", 2),
        files=2,
    )
    assert text_of(found)[-4:-1] == [
        "Saved",
        "SAM_1.JPG, file 3: Mailed to a@example.org",
        "SAM_2.JPG: Could not be mailed to a@example.org: too large. The files are stored.",
    ]


TO_TWO = ("", 0, "a@example.org", "b@example.org")


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (status("waiting"), "About to be saved."),
        (status("waiting", "save", "full")._replace(next_try=NEW_YEAR + 3719),
            "Waiting to be saved: full. Next try in 62 minutes."),
        (status("waiting", "save", "full")._replace(next_try=NEW_YEAR),
            "Waiting to be saved: full. Due now."),
        (status("waiting", "save", "clock set back")._replace(next_try=NEW_YEAR + 10**9),
            "Waiting to be saved: clock set back. Due now."),
        (status("done", "save:/srv/photos"), "Saved"),
        (status("done", "mail", *TO_TWO), "Mailed to a@example.org, b@example.org"),
        (status("done", "mail", "not delivered to b@example.org (550 no such user)"),
            "Mailed to a@example.org; not delivered to b@example.org (550 no such user)"),
        (status("done", "mail:me@example.org", "", 0, "facebook"), "Mailed to me@example.org"),
        (status("done", "forward:https://me:secret@example.org/token"), "Forwarded to example.org"),
        (status("done", "forward:${HOOK}"), "Forwarded to ${HOOK}"),
        (status("done", "notify:tgram://token/chat"), "Sent by tgram://..."),
        (status("waiting", "mastodon:https://${TOKEN}@example.social", "429 Too many"),
            "Waiting to be posted to example.social: 429 Too many. Next try in 60 seconds."),
        (status("done", "drop"), "Dropped"),
        (status("done", "gone:x"), "Delivered"),  # an unknown kind
        (status("waiting", "save", f"a\nb\x1b{'c' * 300}"),
            f"Waiting to be saved: a?b?{'c' * 195}…. Next try in 60 seconds."),
    ],
)  # fmt: skip
def test_sentence(found: Delivery, text: str) -> None:
    """The state of a delivery in plain words, printable and without secrets."""
    assert sentence(found, NEW_YEAR) == text


def test_being_tried() -> None:
    """Current deliveries are shown as such, in their first and later attempts."""
    run = status("waiting", "run:cp x", "cp ended with status 1")
    found = record(status("waiting"), status("waiting", "mail"), run)
    in_progress = {(ID, "mail", 0), (ID, "run:cp x", 0)}
    html = render([found], NEW_YEAR, gallery=False, in_progress=in_progress).body
    assert Outline(html).text[-4:-1] == [
        "About to be saved.",
        "Being mailed to a@example.org now.",
        "Being handed to cp now. Last attempt: cp ended with status 1.",
    ]


@pytest.mark.parametrize("gallery", [False, True])
def test_hostile_names(gallery: bool) -> None:
    """Names of files, senders and recipients are escaped."""
    mail = status("waiting", "mail", HOSTILE, 0, HOSTILE)
    found = record(mail, name=f"{HOSTILE}\x00\ud800", sender=HOSTILE, site=HOSTILE)
    tags = {tag for tag, _ in Outline(render([found], NEW_YEAR, gallery=gallery).body).found}
    assert tags <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div"),
        *("ul", "li", "a", "b", "span"),
    }


def test_policy() -> None:
    """The policy allows only our style sheets and pictures."""
    reply = render([record()], NEW_YEAR, gallery=True)
    styles = re.findall(rb"<style>(.*?)</style>", reply.body)
    hashes = [base64.b64encode(hashlib.sha256(style).digest()).decode() for style in styles]
    sources = " ".join(f"'sha256-{one}'" for one in hashes)
    assert len(hashes) == 2
    headers = dict(reply.headers)
    assert headers["Content-Security-Policy"] == (
        f"default-src 'none'; style-src {sources}; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert headers["Cache-Control"] == "private, no-store"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert not re.search(rb"https?:|url\(|@import|<script", reply.body)


def test_thumbnail() -> None:
    """A thumbnail is always sent as a JPEG; without one, the reply is a placeholder."""
    reply = thumbnail(b"<script>")
    assert (reply.body, reply.content_type) == (b"<script>", "image/jpeg")
    assert dict(reply.headers)["X-Content-Type-Options"] == "nosniff"
    reply = thumbnail(b"")
    assert (reply.body[:4], reply.content_type) == (b"<svg", "image/svg+xml")
    assert f">{page.NO_PREVIEW}<".encode() in reply.body


def test_readme(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """README is served as text, if it is installed."""
    reply = page.readme()
    assert reply is not None
    assert (reply.body[:10], reply.content_type) == (b"# nx_addon", "text/plain; charset=utf-8")
    monkeypatch.setattr(page, "README", tmp_path / "README.md")
    assert page.readme() is None
