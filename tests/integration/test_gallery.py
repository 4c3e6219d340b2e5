"""The gallery in a real browser: it loads 500 trials at once, sorts, filters and enlarges."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from analysis.gallery import make_gallery
from analysis.ratings.ratings import Rating, Ratings, now
from analysis.runs import read_study
from tests.analysis.builders import STUDY, make_study

pytestmark = pytest.mark.slow

N_TRIALS, N_RATED = 500, 12


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    paths = make_study(folder, N_TRIALS, n_failed=20)
    for trial in range(N_RATED):
        Ratings(paths, STUDY).add(Rating(trial, "ada", 0, trial % 6, now()))
    file = folder / "gallery.html"
    file.write_text(make_gallery(read_study(paths, STUDY), paths, folder))
    return file


def captions(browser: Chrome) -> list[str]:
    script = "return [...document.querySelectorAll('.card span')].map((each) => each.textContent)"
    return [str(text) for text in browser.execute_script(script)]


def test_500_trials_load_sort_filter_and_enlarge(browser: Chrome, page: Path) -> None:
    browser.get(page.as_uri())
    assert len(captions(browser)) == N_TRIALS
    losses = [float(text.split(": ")[1]) for text in captions(browser) if "diverged" not in text]
    assert len(losses) == N_TRIALS - 20
    assert losses == sorted(losses)

    browser.find_element(By.ID, "order").click()
    first = float(captions(browser)[0].split(": ")[1])
    assert first == losses[-1]
    field = browser.find_element(By.ID, "filter")
    field.send_keys("channels=12 final_loss<0.01")
    assert "of 500 trials" in browser.find_element(By.ID, "count").text
    few = captions(browser)
    assert 0 < len(few) < N_TRIALS / 2
    assert all(float(text.split(": ")[1]) < 0.01 for text in few)
    field.clear()
    field.send_keys("rating>=4")
    assert len(captions(browser)) == N_RATED // 3
    field.clear()
    field.send_keys("reason=diverged")
    assert len(captions(browser)) == 20
    field.clear()
    field.send_keys("nonsense<3")
    assert "a condition is KEY=VALUE" in browser.find_element(By.ID, "count").text
    field.clear()
    field.send_keys("reason=complete")

    browser.find_element(By.CLASS_NAME, "card").click()
    dialog = browser.find_element(By.ID, "large")
    assert dialog.is_displayed()
    name = browser.find_element(By.ID, "name").text
    assert name.endswith(", complete")
    assert "channels" in browser.find_element(By.ID, "facts").text
    assert browser.find_element(By.ID, "output").get_property("naturalWidth") == 128
    assert browser.find_element(By.ID, "beside").get_property("naturalWidth") == 128
    dialog.send_keys(Keys.ARROW_RIGHT)
    assert browser.find_element(By.ID, "name").text != name
    browser.find_element(By.ID, "close").click()
    assert not dialog.is_displayed()
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_few_trials_are_shown_larger_and_those_that_did_not_end_are_marked(
    browser: Chrome, page: Path, tmp_path: Path
) -> None:
    paths = make_study(tmp_path, 4)
    file = tmp_path / "gallery.html"
    file.write_text(make_gallery(read_study(paths, STUDY), paths, tmp_path))
    browser.get(page.as_uri())
    small = browser.find_element(By.CLASS_NAME, "card").size["width"]
    browser.get(file.as_uri())
    cards = browser.find_elements(By.CLASS_NAME, "card")
    assert cards[0].size["width"] > 1.5 * small
    assert ["unfinished" in str(card.get_attribute("class")) for card in cards] == [False] * 3 + [True]
    assert captions(browser)[3] == "3: diverged"
    cards[0].click()
    facts = browser.find_element(By.ID, "facts").text.splitlines()
    assert facts[:2] == ["Parameters", facts[1]]
    assert facts.index("Results") == 4
