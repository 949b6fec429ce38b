"""The page in headless Chromium with the network off."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from .conftest import Reported

CHROMIUM, DRIVER = (next(filter(None, map(shutil.which, names)), None)
                    for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)))  # fmt: skip
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium and its chromedriver on PATH")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
         "--proxy-server=127.0.0.1:9")  # fmt: skip
OPEN_ALL = "document.querySelectorAll('details').forEach(found => { found.open = true; })"
SEE_BRAINS = "document.querySelectorAll('figure.brain').forEach(found => found.scrollIntoView())"
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def open_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """Start a browser of a width, with dark colours or without scripts if asked."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    started = []

    def start(page: Path, width: int = 1280, dark: bool = False, scripts: bool = True) -> Any:
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        started.append(driver)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        if dark:
            features = [{"name": "prefers-color-scheme", "value": "dark"}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        if not scripts:
            driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        driver.get(page.as_uri())
        return driver

    yield start
    for driver in started:
        driver.quit()


@pytest.fixture(scope="module")
def page(open_page: Open, reported: Reported) -> Any:
    driver = open_page(reported.page)
    driver.execute_script(SEE_BRAINS)
    waited(driver, "return [...document.querySelectorAll('figure.brain')].every(found => found.viewer?.grey)")
    return driver


def waited(driver: Any, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 20).until(lambda found: found.execute_script(script))


def requests(driver: Any) -> list[str]:
    """What the page asked for, itself included; the browser's own first tab is not it."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [found["params"] for found in messages if found["method"] == "Network.requestWillBeSent"]
    urls = [found["request"]["url"] for found in sent if found["documentURL"].startswith("file:")]
    return [url for url in urls if not url.startswith("data:")]


def test_loads_alone_and_without_errors(open_page: Open, reported: Reported, tmp_path: Path) -> None:
    alone = tmp_path / "mailed.html"
    alone.write_bytes(reported.page.read_bytes())
    driver = open_page(alone)
    driver.execute_script(OPEN_ALL)
    driver.execute_script(SEE_BRAINS)
    waited(driver, "return [...document.querySelectorAll('figure.brain')].every(found => found.viewer?.grey)")
    assert requests(driver) == [alone.as_uri()]
    assert driver.get_log("browser") == []
    shown = driver.execute_script(
        "return [...document.images].map(found => [found.complete && found.naturalWidth > 0, found.alt])"
    )
    assert len(shown) > 12
    assert all(whole and alt for whole, alt in shown)


def test_the_cursor_reads_the_value(page: Any, reported: Reported) -> None:
    figure = page.find_element("id", "brain-subj01")
    image = nibabel.load(next(reported.cache.glob("models/subj01/*/percent-10*/correlation.nii.gz")))
    canonical = nibabel.as_closest_canonical(image)
    values, raw = canonical.get_fdata(), image.get_fdata()
    known = np.argwhere(np.isfinite(values))
    for place in known[np.random.default_rng(0).choice(len(known), 12, replace=False)].tolist():
        said = at(page, figure, place)
        assert float(said["value"]) == pytest.approx(values[tuple(place)], abs=0.51e-4)
        file = tuple(int(part) for part in said["voxel"].split(","))
        assert raw[file] == values[tuple(place)], "the voxel named is that of the file"
        mm = nibabel.affines.apply_affine(image.affine, file)
        assert ", ".join(f"{part:.1f}" for part in mm).replace("-", "−") in said["text"]
    outside = np.argwhere(np.isnan(values))[0].tolist()
    assert at(page, figure, outside)["value"] == ""


def at(page: Any, figure: Any, place: list[int]) -> dict[str, str]:
    """Move the sliders, as a user would; what is said then."""
    script = """
        const [figure, place] = arguments;
        place.forEach((value, axis) => {
          const slider = figure.querySelector(`.axis${axis}`);
          slider.value = value;
          slider.dispatchEvent(new Event('input'));
        });
        const said = figure.querySelector('.value');
        return {...said.dataset, text: said.textContent};
    """
    return page.execute_script(script, figure, place)


def test_areas_are_named(page: Any, reported: Reported, experiment: Path) -> None:
    figure = page.find_element("id", "brain-subj01")
    labels = nibabel.as_closest_canonical(
        nibabel.load(experiment / "nsddata/ppdata/subj01/func1pt8mm/roi/prf-visualrois.nii.gz")
    ).get_fdata()
    for place in np.argwhere(labels == 1)[:3].tolist():  # V1v
        assert "V1" in at(page, figure, place)["areas"].split(",")
    for place in np.argwhere(labels == 7)[:3].tolist():
        assert "hV4" in at(page, figure, place)["areas"].split(",")


def test_keys_clicks_and_choices(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    figure = page.find_element("id", "brain-subj01")
    cursor = "return arguments[0].viewer.cursor"
    figure.find_element("css selector", ".peak").click()
    x, y, z = page.execute_script(cursor, figure)
    axial = figure.find_element("css selector", "canvas.axial")
    axial.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_UP, Keys.PAGE_UP)
    assert page.execute_script(cursor, figure) == [x + 1, y + 1, z + 1]
    figure.find_element("css selector", "canvas.sagittal").send_keys(Keys.ARROW_LEFT, Keys.ARROW_DOWN)
    assert page.execute_script(cursor, figure) == [x + 1, y, z]
    before = figure.find_element("css selector", ".value").text
    axial.click()
    width, height, _ = page.execute_script("return arguments[0].viewer.shape", figure)
    x, y, _ = page.execute_script(cursor, figure)
    assert abs(x - width / 2) <= 1
    assert abs(y - height / 2) <= 1
    figure.find_element("css selector", ".peak").click()
    assert figure.find_element("css selector", ".value").text != before
    choice = Select(figure.find_element("css selector", ".map"))
    choice.select_by_index(1)
    assert "r / ceiling" in figure.find_element("css selector", ".unit").text
    pixels = "return arguments[0].querySelector('canvas.axial').toDataURL()"
    drawn = page.execute_script(pixels, figure)
    Select(figure.find_element("css selector", ".outline")).select_by_visible_text("none")
    assert page.execute_script(pixels, figure) != drawn
    choice.select_by_index(0)


def test_usable_without_a_mouse_or_sight(page: Any) -> None:
    script = """
        const name = (found) => found.getAttribute('aria-label') || found.labels?.[0]?.textContent || found.textContent;
        const named = [...document.querySelectorAll('input, select, button, canvas, [role=region]')].every(name);
        const levels = [...document.querySelectorAll('h1, h2, h3')].map(found => Number(found.tagName[1]));
        return {
          named, lang: document.documentElement.lang,
          landmarks: ['header', 'nav', 'main', 'footer'].every(found => document.querySelectorAll(found).length === 1),
          skips: levels.some((level, place) => place && level > levels[place - 1] + 1),
          headers: [...document.querySelectorAll('table')].every(
            found => found.querySelector('th[scope]') && found.caption),
        };
    """
    found = page.execute_script(script)
    expected = {"named": True, "lang": "en", "landmarks": True, "skips": False, "headers": True}
    assert found == expected


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, True)])
def test_fits_any_screen_and_light(open_page: Open, reported: Reported, width: int, dark: bool) -> None:
    from selenium.webdriver.common.keys import Keys

    driver = open_page(reported.page, width, dark)
    driver.switch_to.active_element.send_keys(Keys.TAB)
    assert driver.switch_to.active_element.text == "Skip to the report"
    outline = driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "focus is seen"
    driver.execute_script(OPEN_ALL)
    assert driver.execute_script("return document.documentElement.scrollWidth") == width
    paper = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") != dark
    contrast = driver.execute_script("return getComputedStyle(document.body).color")
    assert contrast == ("rgb(223, 229, 234)" if dark else "rgb(29, 35, 41)")
    waited(driver, "return document.querySelector('figure picture img').currentSrc !== ''")
    source = driver.execute_script(
        "const shown = document.querySelector('#figure-percent picture'); "
        "return shown.querySelector('img').currentSrc === shown.querySelector('source').srcset"
    )
    assert source == dark, "figures have the page's colours"


def test_nothing_is_cut_off_on_paper(open_page: Open, reported: Reported) -> None:
    driver = open_page(reported.page, 720)  # an A4 page within its margins
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    driver.execute_script("dispatchEvent(new Event('beforeprint'))")
    wide = driver.execute_script(
        "return [...document.querySelectorAll('table, img, pre')].filter("
        "  found => found.getBoundingClientRect().right > 721).map(found => found.textContent.slice(0, 80))"
    )
    assert wide == []
    broken = driver.execute_script(
        "return [...document.querySelectorAll('td.number data')].filter("
        "  found => found.getClientRects().length > 1).length"
    )
    assert broken == 0, "numbers are whole"
    assert driver.execute_script("return document.querySelectorAll('details:not([open])').length") == 0


def test_works_without_scripts(open_page: Open, reported: Reported) -> None:
    driver = open_page(reported.page, scripts=False)
    assert driver.find_element("css selector", "#brain-subj01 .montage img").is_displayed()
    assert not driver.find_element("css selector", "#brain-subj01 .viewer").is_displayed()
    assert driver.find_element("css selector", "#figure-percent img").is_displayed()
    assert driver.find_element("css selector", "#category-subj01 img").is_displayed()
    assert driver.get_log("browser") == []


def test_prints_whole(page: Any) -> None:
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert page.find_element("css selector", "#brain-subj01 .montage img").is_displayed()
        assert not page.find_element("css selector", "#brain-subj01 .viewer").is_displayed()
        page.execute_script("dispatchEvent(new Event('beforeprint'))")
        assert page.execute_script("return [...document.querySelectorAll('details')].every(found => found.open)")
        page.execute_script("dispatchEvent(new Event('afterprint'))")
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
