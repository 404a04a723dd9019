"""A headless Chromium that opens a file: what it shows, what it says, what it asks for. Skips where there is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

T = TypeVar("T")
TIMEOUT_S = 60.0
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-color-profile=srgb")


class Browser:
    """One browser; a page at a time."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, page: Path, *, zone: str = "Etc/UTC", scheme: str = "light") -> None:
        """Open a file as a reader in that zone, with that colour scheme; goes on when its picture is drawn."""
        self.emulate("setTimezoneOverride", timezoneId=zone)
        self.prefer(scheme)
        self.said(), self.asked_for()  # of the page before
        self.driver.get(page.resolve().as_uri())
        self.until(lambda: self.run("return !data.lanes.length || picture.dataset.drawn === 'yes'"))

    def prefer(self, scheme: str) -> None:
        """Have it prefer light or dark."""
        self.emulate("setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def emulate(self, what: str, **options: Any) -> None:
        self.driver.execute_cdp_cmd(f"Emulation.{what}", options)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script in the page returns."""
        return self.driver.execute_script(script, *arguments)

    def until(self, holds: Callable[[], T]) -> T:
        """Wait until it gives something that counts as true, and give that."""
        return WebDriverWait(self.driver, TIMEOUT_S, poll_frequency=0.05).until(lambda _: holds())

    def text(self, selector: str) -> str:
        """What is to be read there."""
        return str(self.driver.find_element(By.CSS_SELECTOR, selector).text)

    def click(self, selector: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def actions(self) -> ActionChains:
        """The mouse."""
        return ActionChains(self.driver, duration=50)

    def said(self) -> list[str]:
        """What the page wrote to the console since it was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def asked_for(self) -> list[str]:
        """The addresses that were asked for since this was last asked."""
        entries = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]


@contextmanager
def browser(*, width: int = 1300, height: int = 1000) -> Iterator[Browser]:
    """A browser of that size."""
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    chromedriver = shutil.which("chromedriver")
    if binary is None or chromedriver is None:
        pytest.skip("there is no Chromium with its driver here; on Debian: apt install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for option in (*OPTIONS, f"--window-size={width},{height}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    try:
        driver.set_window_size(width, height)
        yield Browser(driver)
    finally:
        driver.quit()
