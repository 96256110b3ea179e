"""A real Chromium without a window, by its own driver.

It is offline: nothing but files can be loaded.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

PROGRAMS = ("chromium", "chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
DESKTOP, PHONE = (1280, 900), (390, 844)
# Keys by the code points of the WebDriver standard.
TAB, ENTER, SHIFT, ESCAPE, UP, DOWN = "\ue004", "\ue007", "\ue008", "\ue00c", "\ue013", "\ue015"


def lacking() -> str:
    """What is not installed; empty where all is there."""
    names = [name for name in PROGRAMS if shutil.which(name) is None]
    names += [] if importlib.util.find_spec("selenium") else ["selenium (pip install '.[dev]')"]
    return ", ".join(names)


class Browser:
    """One page at a time, with all that it said and asked for since it was opened."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, path: Path, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
        """Load a file afresh, in a window of that size, under a light or dark system."""
        self.driver.get("about:blank")
        self.messages()
        self.requests()
        self.emulate(size, scheme)
        self.driver.get(path.as_uri())

    def emulate(self, size: tuple[int, int], scheme: str, media: str = "screen") -> None:
        """Change the window and the system's wishes under the page."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [
            {"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"},
        ]  # fmt: skip
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"media": media, "features": features}
        )

    def run(self, script: str, *arguments: Any) -> Any:
        """Value of a script in the page."""
        return self.driver.execute_script(script, *arguments)

    def messages(self) -> list[dict[str, Any]]:
        """What the console said, of every level, errors of scripts and of the policy included."""
        return self.driver.get_log("browser")

    def requests(self) -> dict[str, str]:
        """Every address that the page asked for, itself included, and why the browser refused;
        empty where it did not.
        """
        events = [
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        ]
        asked, refused = {}, {}
        for event in events:
            if event["method"] == "Network.requestWillBeSent":
                asked[event["params"]["requestId"]] = event["params"]["request"]["url"]
            if event["method"] == "Network.loadingFailed":
                refused[event["params"]["requestId"]] = event["params"].get("blockedReason", "")
        return {
            address: refused.get(one, "")
            for one, address in asked.items()
            if address != "about:blank"
        }

    def element(self, identity: str) -> WebElement:
        """An element by its id."""
        return self.driver.find_element("id", identity)

    def press(self, *keys: str, shift: bool = False) -> None:
        """Keys, to whatever has the focus."""
        from selenium.webdriver import ActionChains

        chain = ActionChains(self.driver)
        chain = (
            chain.key_down(SHIFT).send_keys(*keys).key_up(SHIFT)
            if shift
            else chain.send_keys(*keys)
        )
        chain.perform()

    def settle(self) -> None:
        """Wait until the page has drawn what it was asked for and has sent its events."""
        self.driver.execute_async_script(
            "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
        )

    def move(self, x: float, y: float) -> None:
        """The pointer to a place in the window."""
        self.driver.execute_cdp_cmd(
            "Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y}
        )

    def picture(self, path: Path, width: int, height: int) -> None:
        """The upper part of the page as PNG."""
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        asked = {"format": "png", "captureBeyondViewport": True, "clip": clip}
        path.write_bytes(
            base64.b64decode(self.driver.execute_cdp_cmd("Page.captureScreenshot", asked)["data"])
        )


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start Chromium with a fresh profile, and stop it."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    try:
        driver.execute_cdp_cmd("Network.enable", {})
        driver.execute_cdp_cmd(
            "Network.emulateNetworkConditions",
            {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1},
        )
        yield Browser(driver)
    finally:
        driver.quit()
