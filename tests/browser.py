"""A real browser without a window, for the tests: Debian's Chromium, driven by selenium."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:  # selenium is imported by the tests that start a browser, because it takes long
    from selenium import webdriver

Result = TypeVar("Result")
TIMEOUT = 30.0  # seconds; only a test that fails waits that long
# Without these, it contacts hosts of its vendor.
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

needs_browser = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="needs chromium and chromium-driver",
)


@contextmanager
def browser(
    profile: Path, width: int = 1280, height: int = 800, *arguments: str
) -> Iterator[webdriver.Chrome]:
    """A browser with an empty profile and a viewport of this size."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    size = f"--window-size={width},{height}"
    for argument in (*QUIET, size, f"--user-data-dir={profile}", *arguments):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        resize(driver, width, height)
        yield driver
    finally:
        driver.quit()


def resize(driver: webdriver.Chrome, width: int, height: int) -> None:
    """Change the size of the viewport. A real window is at least 500 pixels wide."""
    view = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", view)


def wait(
    driver: webdriver.Chrome, condition: Callable[[webdriver.Chrome], Result], message: str = ""
) -> Result:
    """Wait until the condition is true of the page. Returns its value."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(driver, TIMEOUT, poll_frequency=0.05).until(condition, message)


def wait_for_text(driver: webdriver.Chrome, *texts: str) -> str:
    """Wait until the page contains all these texts. Returns its text."""

    def complete(driver: webdriver.Chrome) -> str:
        text = str(driver.execute_script("return document.body.innerText"))
        return text if all(one in text for one in texts) else ""

    return wait(driver, complete, f"no {texts}")
