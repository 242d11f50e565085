"""The page in a real, headless Chromium."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By

from photographs import png
from service_here import listening


@pytest.fixture(scope="module")
def address(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with listening(small_bundle, tmp_path_factory.mktemp("page") / "jobs", api_key="geheim") as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium, "there is no Chromium: run 'make serving-tools'"
    assert driver
    options = Options()
    options.binary_location = chromium
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, Driver(driver))
    yield browser
    browser.quit()


def property_of(element: Any, name: str) -> Any:
    return element.get_property(name)


def wait(condition: Callable[[], object]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it does not come")


def test_a_photograph_becomes_a_video(
    address: str, browser: webdriver.Chrome, photo: Image.Image, tmp_path: Path
) -> None:
    def element(name: str):
        return browser.find_element(By.ID, name)

    (tmp_path / "p.png").write_bytes(png(photo))
    browser.get(address)
    wait(lambda: len(element("schedule").find_elements(By.TAG_NAME, "option")) >= 2)
    assert not element("make").is_enabled()
    element("file").send_keys(str(tmp_path / "p.png"))
    wait(lambda: property_of(element("preview"), "naturalWidth") == 64)

    element("make").click()  # without the key
    wait(lambda: element("error").is_displayed())
    assert "the API key is missing or wrong" in element("error").text
    element("key").send_keys("geheim")

    browser.execute_script("document.querySelector('[name=motion_bucket_id]').value = 40")
    element("make").click()
    wait(lambda: element("result").is_displayed())
    wait(lambda: property_of(element("video"), "readyState") >= 2)  # it can be shown
    assert property_of(element("video"), "videoWidth") > 0
    assert "seed " in element("facts").text
    assert property_of(element("download"), "download").startswith("vcut-")
    assert not element("work").is_displayed()
    assert not element("error").is_displayed()

    (tmp_path / "bad.png").write_bytes(b"no photograph")
    element("file").send_keys(str(tmp_path / "bad.png"))
    element("make").click()
    wait(lambda: element("error").is_displayed())
    assert "is not an image that vcut reads" in element("error").text
    complaints = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert all(" 40" in line["message"] or "favicon" in line["message"] for line in complaints), complaints


def test_a_video_can_be_stopped(address: str, browser: webdriver.Chrome, photo: Image.Image, tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(png(photo))
    browser.get(address)
    browser.execute_script(
        """document.getElementById("form").insertAdjacentHTML(
            "beforeend", '<input name="steps" value="1000"><input name="cut_step" value="none">');
        document.getElementById("schedule").disabled = true;
        document.getElementById("key-label").hidden = false;"""
    )
    browser.find_element(By.ID, "key").send_keys("geheim")
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "p.png"))
    browser.find_element(By.ID, "make").click()
    wait(lambda: "%" in browser.find_element(By.ID, "status").text)
    browser.find_element(By.ID, "stop").click()
    wait(lambda: not browser.find_element(By.ID, "work").is_displayed())
    assert not browser.find_element(By.ID, "error").is_displayed()
    assert browser.find_element(By.ID, "make").is_enabled()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_and_text_can_be_read(
    address: str, browser: webdriver.Chrome, width: int, scheme: str
) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for path in ("/", "/docs"):
        browser.get(address + path)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        dark, light = browser.execute_script(
            """const style = getComputedStyle(document.body);
            const brightness = (color) => { const [r, g, b] = color.match(/\\d+/g).map(Number);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
            return [brightness(style.color), brightness(style.backgroundColor)].sort((a, b) => a - b);"""
        )
        assert light - dark > 150
    wait(lambda: "POST /v1/videos" in browser.find_element(By.TAG_NAME, "body").text)
