"""A real browser without a window: Debian's chromium with its driver."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


class NoBrowser(Exception):
    """There is none here; says what is missing."""


@contextmanager
def chromium(width: int = 1440, height: int = 900) -> Iterator[Chrome]:
    """
    Start a browser that keeps a log of its console and of every request.

    Raises:
        NoBrowser: it, its driver or selenium is not installed.
    """
    try:
        from selenium import webdriver
    except ImportError as error:
        raise NoBrowser("selenium is not installed") from error
    paths = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if missing := [name for name, path in paths.items() if path is None]:
        raise NoBrowser(f"no {' and no '.join(missing)} here (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = paths["chromium"] or ""
    for switch in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{switch}")
    options.add_argument(f"--window-size={width},{height}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(paths["chromedriver"]))
    try:
        yield driver
    finally:
        driver.quit()


def requests(driver: Chrome) -> list[str]:
    """Return the URLs that were asked for since the last time; those of data that a page holds itself are none."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith("data:")]


def console(driver: Chrome) -> list[str]:
    """Return what the console said since the last time; what the page's policy refused is in there, too."""
    return [entry["message"] for entry in driver.get_log("browser")]
