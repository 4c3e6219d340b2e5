"""The report in a real browser: in the dark and on a phone."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from analysis.report import write_report
from analysis.runs import read_study
from tests.analysis.builders import make_study
from tests.integration.browsing import save_screenshot

pytestmark = pytest.mark.slow

NAME = "roundleaf_of_the_window_sill-distill-sliced-patches-second"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    paths = make_study(folder, 8, name=NAME)
    make_study(folder, 8, name="petal", texture="orchid_petal")
    return write_report([read_study(paths, NAME), read_study(paths, "petal")], paths, folder / "out")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_follows_the_color_scheme(
    browser: Chrome, page: Path, scheme: str, tmp_path: Path
) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    wish = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    paper, ink = (
        browser.execute_script(f"return getComputedStyle(document.body).{name}")
        for name in ("backgroundColor", "color")
    )
    assert (brightness(paper) > brightness(ink)) == (scheme == "light")
    widths = browser.execute_script(
        "return [...document.querySelectorAll('.drawn img')].map(each => each.getBoundingClientRect().width)"
    )
    assert widths
    assert min(widths) >= 480, "labels of a figure can be read, by scrolling it"
    save_screenshot(browser, f"report_phone_{scheme}", tmp_path)


def brightness(color: str) -> int:
    return sum(int(part) for part in color.removeprefix("rgb(").removesuffix(")").split(","))
