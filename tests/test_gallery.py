"""The page in a real mitmdump and a real browser."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nxparse.server import page
from nxparse.store.records import identity_of
from tests import bodies, camera, pictures
from tests.bench.process import resident
from tests.browser import TIMEOUT, browser, needs_browser, resize, wait, wait_for_text
from tests.mitmdump import Proxy, eventually
from tests.test_connections import Http2

if TYPE_CHECKING:
    from selenium import webdriver

CLIP = (Path(__file__).parent / "wire" / "clip.mp4").read_bytes()
VIDEO = 300 << 20  # bytes
MEMORY = 16.0  # MiB that a stream may add
HOSTILE = "<script>document.title='owned'</script>'><img src=x onerror=document.title='owned'>&amp;"

needs_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


def get(
    port: int,
    path: str,
    *,
    client: str = "127.0.0.1",
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Mapping[str, str], bytes]:
    """The reply to a client with this address."""
    connection = http.client.HTTPConnection("127.0.0.1", port, TIMEOUT, (client, 0))
    with closing(connection):
        connection.request(method, path, headers=dict(headers or {}))
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read()


def upload(proxy: Proxy, *files: tuple[str, bytes], client: str = "127.0.0.1") -> list[str]:
    """Upload files, wait until they are saved, and return their addresses on the page."""
    connection = camera.connect(proxy.port, source=client)
    connection.sendall(bodies.request(bodies.body(list(files))))
    assert camera.read_reply(connection).status == 200
    proxy.wait_for(f"saved as .*{re.escape(files[-1][0])}")
    found: list[str] = []

    def all_listed() -> bool:  # the line is logged before the row is committed
        html = get(proxy.port, "/", client=client)[2].decode()
        found[:] = re.findall(r'href="/file/([^"]+)"', html.partition("</div>")[0])
        return len(found) == len(files)

    eventually(all_listed, "the page lists the files")
    return found


def enlarge(proxy: Proxy, address: str, size: int) -> Path:
    """Extend a saved file to `size` bytes, mostly a hole, as if it had been uploaded like that."""
    id = address.rpartition(".")[0]
    with closing(sqlite3.connect(proxy.uploads / ".nx" / "state.sqlite3", timeout=30)) as state:
        ((saved,),) = state.execute("SELECT saved FROM delivery WHERE upload = ?", (id,))
        [[path, _]] = json.loads(saved)
        os.truncate(path, size)
        saved = json.dumps([[path, identity_of(os.stat(path))]])
        state.execute("UPDATE delivery SET saved = ? WHERE upload = ?", (saved, id))
        state.commit()
    return Path(path)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy in which all clients see all uploads."""
    with Proxy(tmp_path_factory.mktemp("gallery"), "--set", "nx_gallery=true") as proxy:
        yield proxy


PNG = ("SAM_7.PNG", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(99))


@needs_linux
def test_a_large_video(shared: Proxy) -> None:
    """A large video is streamed in constant memory; its file is closed after a disconnection."""
    [address] = upload(shared, ("LARGE.MP4", CLIP))
    path = enlarge(shared, address, VIDEO)
    get(shared.port, f"/file/{address}", headers={"Range": "bytes=0-999999"})
    process = shared.process.pid
    before = highest = resident(process)
    connection = http.client.HTTPConnection("127.0.0.1", shared.port, TIMEOUT)
    connection.request("GET", f"/file/{address}")
    reply = connection.getresponse()
    received = 0
    while chunk := reply.read(1 << 20):
        received += len(chunk)
        highest = max(highest, resident(process))
    connection.close()
    assert (reply.status, received) == (200, VIDEO)
    assert highest - before <= MEMORY

    # A slow reader, which then disconnects.
    slow = socket.create_connection(("127.0.0.1", shared.port), TIMEOUT)
    slow.sendall(f"GET /file/{address} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    assert slow.recv(1000)
    assert shared.descriptors().count(str(path)) == 1
    status, headers, body = get(
        shared.port, f"/file/{address}", headers={"Range": f"bytes={VIDEO - 10}-"}
    )
    assert (status, body) == (206, bytes(10))
    assert headers["Content-Range"] == f"bytes {VIDEO - 10}-{VIDEO - 1}/{VIDEO}"
    assert resident(process) - before <= MEMORY
    slow.close()
    eventually(lambda: str(path) not in shared.descriptors(), "the file is closed")
    # mitmproxy reports the disconnected client, but no other error.
    assert "Traceback" not in shared.log


@needs_linux
def test_a_browser_that_vanishes(shared: Proxy) -> None:
    """A file that was requested over HTTP/2 is not read after the connection has ended."""
    [address] = upload(shared, ("GONE.MP4", CLIP))
    path = enlarge(shared, address, VIDEO)
    client = Http2(shared.port, "www.samsungimaging.com")
    assert client.request("GET", "/")[0] == 200
    before = resident(shared.process.pid)
    client.open(f"/file/{address}")
    client.close()
    eventually(lambda: str(path) not in shared.descriptors(), "the file is closed")
    assert resident(shared.process.pid) - before < VIDEO >> 22


@needs_linux
def test_a_browser_that_stops_reading(shared: Proxy) -> None:
    """Over HTTP/2, a file is read only as fast as the browser reads, and closed if it cancels."""
    [address] = upload(shared, ("UNREAD.MP4", CLIP))
    path = enlarge(shared, address, VIDEO)
    client = Http2(shared.port, "www.samsungimaging.com")
    assert client.request("HEAD", "/")[0] == 200
    before = resident(shared.process.pid)
    stream = client.open(f"/file/{address}")
    # Meanwhile another browser reads all of it.
    assert len(get(shared.port, f"/file/{address}")[2]) == VIDEO
    assert resident(shared.process.pid) - before <= 3 * MEMORY
    assert shared.descriptors().count(str(path)) == 1
    client.cancel(stream)
    eventually(lambda: str(path) not in shared.descriptors(), "the file is closed")
    assert client.request("HEAD", "/")[0] == 200
    client.close()


def test_requests_for_a_file(shared: Proxy) -> None:
    """Files are sent as uploaded, for HEAD and If-Range too, and to their own client only."""
    photo = pictures.photo(pictures.picture())
    [address] = upload(shared, ("HEAD.JPG", photo))
    path = f"/file/{address}"
    status, headers, body = get(shared.port, path)
    assert (status, headers["Content-Type"], body) == (200, "image/jpeg", photo)
    assert headers["Content-Length"] == str(len(photo))
    status, headers, body = get(shared.port, f"/download/{address}", method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(len(photo)), b"")
    assert headers["Content-Disposition"].startswith('attachment; filename="HEAD.JPG"')
    stale = {"Range": "bytes=2-5", "If-Range": '"x"'}
    assert get(shared.port, path, headers=stale)[::2] == (200, photo)
    assert get(shared.port, path, headers={"Range": "bytes=9999999-"})[0] == 416
    for kind in ("file", "download", "thumbnail"):
        assert get(shared.port, f"/{kind}/{address}", client="127.0.0.2")[0] == 404


def test_a_body_with_a_request_for_a_file(shared: Proxy) -> None:
    """A request for a file with a body is refused with 404."""
    [address] = upload(shared, ("BODY.JPG", pictures.photo(pictures.picture())))
    connection = http.client.HTTPConnection("127.0.0.1", shared.port, TIMEOUT)
    with closing(connection):
        connection.request("GET", f"/file/{address}", b"x" * 100_000)
        assert connection.getresponse().status == 404


def test_failures(gallery: Proxy) -> None:
    """Refused and cut uploads are listed, for their own client or in a gallery."""
    refused = bodies.request(b"no multipart", content_type="multipart/form-data; boundary=x")
    connection = camera.connect(gallery.port, source="127.0.0.8")
    connection.sendall(refused)
    assert camera.read_reply(connection).status == 400
    connection = camera.connect(gallery.port, source="127.0.0.9")
    connection.sendall(bodies.request(bodies.body([("CUT.JPG", bytes(9999))]))[:-5000])
    connection.close()
    gallery.wait_for("nothing is delivered")
    html = get(gallery.port, "/")[2].decode()
    assert re.search(r"from 127.0.0.8</p>\s*<p class=\"failed\">Refused: .*boundary", html)
    assert re.search(r"from 127.0.0.9</p>\s*<p class=\"failed\">Incomplete, \d+ bytes: ", html)
    assert '<meta http-equiv="refresh"' in html


# In a browser


def thumbnails(driver: webdriver.Chrome) -> list[tuple[int, int]]:
    """The width and height of all pictures, in pixels, as they are shown."""
    images = driver.find_elements("tag name", "img")
    for image in images:
        driver.execute_script("arguments[0].scrollIntoView()", image)
    script = "const one = arguments[0]; await one.decode();"
    script += "return [one.naturalWidth, one.naturalHeight]"
    script = f"return (async (...arguments) => {{{script}}})(arguments[0])"
    return [tuple(driver.execute_script(script, image)) for image in images]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One browser for all tests."""
    with browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@needs_browser
def test_in_a_browser(gallery: Proxy, driver: webdriver.Chrome) -> None:
    """Thumbnails are upright, names harmless, targets large; nothing is wider than the window."""
    photo = pictures.photo(pictures.picture())
    turned = pictures.photo(pictures.picture(), orientation=6)
    upload(gallery, ("SAM_1.JPG", photo), ("SAM_2.JPG", turned), ("SAM_3.MP4", CLIP), PNG)
    upload(gallery, ("SAM_4.JPG", pictures.picture()), client="127.0.0.2")
    hostile = HOSTILE + "W" * 100
    upload(gallery, ("SAM_5.JPG", photo), (hostile, photo), ("SAM_6.JPG", photo))
    for width, height in ((480, 320), (390, 844), (1280, 800)):  # a camera, a phone, a PC
        resize(driver, width, height)
        driver.get(f"http://127.0.0.1:{gallery.port}/")
        text = wait_for_text(driver, "SAM_3.MP4", "SAM_4.JPG", "from Camera@samsungcamera.com at")
        assert "Today" in text
        sizes = thumbnails(driver)[:6]
        assert sizes == [(160, 120)] * 3 + [(140, 105)] + [(160, 120), (120, 160)]
        assert text.count(page.NO_PREVIEW) == 1
        assert driver.title == "nx_addon"
        script = "return [document.documentElement.scrollWidth, innerWidth]"
        content, window = driver.execute_script(script)
        assert content <= window == width
        for link in driver.find_elements("css selector", ".get, .go"):
            assert link.size["height"] >= 40
        driver.execute_script("scrollTo(0, 0)")
        assert [entry for entry in driver.get_log("browser") if "favicon" not in entry] == []
        if path := os.environ.get("SCREENSHOTS"):  # for a person to look at
            driver.save_screenshot(str(Path(path) / f"page-{width}.png"))


@needs_browser
def test_open_in_a_browser(gallery: Proxy, driver: webdriver.Chrome) -> None:
    """A photo opens at its full size and a video plays, despite the sandbox."""
    photo, clip = upload(
        gallery, ("BIG.JPG", pictures.photo(b"") + pictures.picture(800, 600)), ("PLAY.MP4", CLIP)
    )
    driver.get(f"http://127.0.0.1:{gallery.port}/file/{clip}")
    ready = "return document.querySelector('video')?.readyState === 4"
    wait(driver, lambda driver: driver.execute_script(ready))
    driver.find_element("tag name", "video").click()
    plays = "return document.querySelector('video').currentTime > 0.2"
    wait(driver, lambda driver: driver.execute_script(plays))
    driver.get(f"http://127.0.0.1:{gallery.port}/file/{photo}")
    script = "return document.querySelector('img')?.naturalWidth > 0"
    wait(driver, lambda driver: driver.execute_script(script))
    assert [entry for entry in driver.get_log("browser") if "favicon" not in str(entry)] == []
