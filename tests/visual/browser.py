"""Debian's Chromium for tests: headless, with a profile of its own, and nothing left over when it ends."""

import contextlib
import json
import shutil

import pytest

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


@contextlib.contextmanager
def chromium(folder, width=1280, height=900):
    """A browser whose profile is in `folder`; skips where there is none."""
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if not all(programs):
        pytest.skip("needs Debian's chromium and chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (the test extra)")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in (*FLAGS, f"--user-data-dir={folder}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    try:
        yield driver
    finally:
        driver.quit()


def opened(driver, page, link="", width=1280, height=900, dark=False):
    """Opens a page and checks that it fits, fetches nothing and reports no error; below 500 pixels as a phone."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    driver.get("about:blank")
    for log in ("performance", "browser"):
        driver.get_log(log)
    driver.get(f"{page.as_uri()}{link}")
    wait_until_ready(driver)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    brightness = driver.execute_script(
        "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    if not link:
        assert (sum(brightness) < 384) == dark
    refuse_traffic(driver)


def wait_until_ready(driver):
    """Waits for a page's scripts, if it has any."""
    driver.set_script_timeout(20)
    driver.execute_async_script(
        "const done = arguments[0]; const root = document.documentElement;"
        "const wait = () => root.dataset.ready || !document.scripts[1]?.text ? done() : setTimeout(wait, 20); wait()"
    )


def refuse_traffic(driver):
    """Checks that pages asked for nothing and that the console is empty, since the logs were last read."""
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            assert message["params"]["request"]["url"].startswith(("file:", "data:", "about:"))
    assert driver.get_log("browser") == []


def visible_boxes(driver, selector):
    """Returns the boxes of visible elements: left, top, right and bottom in the window."""
    return driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.getBoundingClientRect())"
        ".filter((b) => b.width).map((b) => [b.left, b.top, b.right, b.bottom])",
        selector,
    )


SIZES = [(width, height, dark) for width, height in ((1400, 900), (420, 860)) for dark in (False, True)]
