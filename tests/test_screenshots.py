"""The picture of the page in README. `SCREENSHOTS=tests/screenshots` writes it there."""

from __future__ import annotations

import base64
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tests import bodies, camera, pictures
from tests.browser import browser, needs_browser, wait, wait_for_text
from tests.mitmdump import Proxy

if TYPE_CHECKING:
    from selenium import webdriver

WIDTH, HEIGHT = 390, 640  # of a phone, in pixels
# A sky, the sun and two hills: the hour determines the colours.
DRAW = """
const [hour] = arguments, canvas = document.createElement('canvas');
[canvas.width, canvas.height] = [160, 120];
const draw = canvas.getContext('2d'), sky = draw.createLinearGradient(0, 0, 0, 120);
sky.addColorStop(0, `hsl(${210 + hour * 8} 70% ${62 - hour * 9}%)`);
sky.addColorStop(1, `hsl(${200 - hour * 45} 80% 80%)`);
draw.fillStyle = sky; draw.fillRect(0, 0, 160, 120);
const disc = (x, y, radius, colour) => {
    draw.fillStyle = colour; draw.beginPath(); draw.arc(x, y, radius, 0, 7); draw.fill();
};
disc(40 + hour * 35, 30 + hour * 12, 11, '#fff4c2');
disc(40, 210, 130, `hsl(130 35% ${38 - hour * 7}%)`);
disc(140, 200, 115, `hsl(120 40% ${30 - hour * 6}%)`);
return canvas.toDataURL('image/jpeg', 0.85);
"""


def drawing(driver: webdriver.Chrome, hour: int) -> bytes:
    """A JPEG of 160 x 120 pixels."""
    url: str = driver.execute_script(DRAW, hour)
    return base64.b64decode(url.partition(",")[2])


@needs_browser
def test_page(folder: Path) -> None:
    """The page on a phone, with some photos and a video."""
    clip = (Path(__file__).parent / "wire" / "clip.mp4").read_bytes()
    with (
        Proxy(folder, "--set", "nx_gallery=true") as proxy,
        browser(folder / "profile", WIDTH, HEIGHT) as driver,
    ):
        driver.get("about:blank")
        photos = [pictures.photo(drawing(driver, hour)) for hour in range(3)]
        uploads = (
            [("SAM_4368.MP4", clip)],
            [(f"SAM_{4369 + number}.JPG", photo) for number, photo in enumerate(photos)],
        )
        for number, files in enumerate(uploads, 1):
            request = bodies.request(bodies.body(files))
            assert camera.send(proxy.port, request).status == 200
            proxy.wait_for("saved as ", number)
        driver.get(f"http://127.0.0.1:{proxy.port}/")
        wait_for_text(driver, "SAM_4368.MP4", "SAM_4371.JPG", "Saved")
        widths = "return [...document.images].map(one => one.complete && one.naturalWidth)"
        shown = [160] * 3
        wait(driver, lambda driver: driver.execute_script(widths)[:3] == shown)
        path = folder / "page.png"
        assert driver.save_screenshot(str(path))
    if target := os.environ.get("SCREENSHOTS"):
        shutil.copy(path, target)
