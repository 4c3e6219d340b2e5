"""Outputs are rated by keyboard in a real browser; every rating is kept where it belongs, whatever ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from analysis.runs import load
from tests.integration.browsing import TIMEOUT_S, save_screenshot, wait_for_image
from tests.integration.commands import run_module
from tests.integration.conftest import Finished, Serve
from tests.integration.records import Records


def press(browser: Chrome, key: str, then: str) -> None:
    """Press a key and wait for the progress that the page shows then."""
    browser.find_element(By.TAG_NAME, "body").send_keys(key)
    wait_for_progress(browser, then)


def wait_for_progress(browser: Chrome, text: str) -> None:
    WebDriverWait(browser, TIMEOUT_S).until(
        lambda b: text in b.find_element(By.ID, "progress").text, f"the page never showed {text}"
    )


def check_zoom(browser: Chrome) -> None:
    """Check that a click enlarges the pictures and Z makes them small again."""
    output = browser.find_element(By.ID, "output")
    small = output.size["width"]
    output.click()
    assert output.size["width"] > 1.5 * small
    browser.find_element(By.TAG_NAME, "body").send_keys("z")
    assert output.size["width"] == small


@pytest.mark.slow
def test_outputs_are_rated_by_keyboard_and_a_restart_goes_on(
    serve: Serve, browser: Chrome, finished: Finished, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    address = serve("analysis.rate", f"study={finished.name}")
    browser.get(address)
    browser.find_element(By.ID, "rater").send_keys("Ada", Keys.ENTER)
    wait_for_progress(browser, "Ada: 0 done, 3 left")
    wait_for_image(browser, width=16)
    assert all(trial not in browser.page_source for trial in ("update_rate", "final_loss", finished.name))
    first = browser.find_element(By.ID, "output").get_attribute("src")
    check_zoom(browser)
    press(browser, "4", "Ada: 1 done, 2 left")
    assert browser.find_element(By.ID, "output").get_attribute("src") != first
    press(browser, "u", "Ada: 0 done, 3 left")
    assert browser.find_element(By.ID, "output").get_attribute("src") == first
    press(browser, "5", "Ada: 1 done, 2 left")
    save_screenshot(browser, "rating_page", tmp_path)

    restarted = serve("analysis.rate", f"study={finished.name}", "rater=Ada")
    browser.get(restarted)  # begins at once
    wait_for_progress(browser, "Ada: 1 done, 2 left")
    press(browser, "0", "Ada: 2 done, 1 left")
    browser.find_elements(By.CSS_SELECTOR, "#scale button")[2].click()
    wait_for_progress(browser, "Ada: 3 done, 0 left")
    assert browser.find_element(By.ID, "finished").is_displayed()
    command = browser.find_element(By.ID, "command").text
    assert command.startswith(f"python -m analysis.report study={finished.name}")

    browser.get(address)  # another rater, beside the first
    browser.find_element(By.ID, "rater").send_keys("bob", Keys.ENTER)
    wait_for_progress(browser, "bob: 0 done, 3 left")
    press(browser, "3", "bob: 1 done, 2 left")

    table = load(finished.name, runs_dir=runs).set_index("trial")
    assert table["rating"].notna().all()
    records = Records(runs, finished.name)
    tags = {number: run.data.tags for number, run in records.children.items()}
    assert sorted(float(tags[number]["rating.Ada"]) for number in tags) == [0, 2, 5]
    for number, rating in table["rating"].items():
        assert float(tags[int(str(number))]["rating"]) == rating
    assert sum("rating.bob" in each for each in tags.values()) == 1
    done = run_module("analysis.ratings", f"study={finished.name}", f"runs_dir={runs}", folder=tmp_path)
    assert "Ada: 3 rated" in done.stdout
    assert "bob: 1 rated" in done.stdout


def test_mistakes_are_one_line(finished: Finished, tmp_path: Path) -> None:
    for argv, message in (
        ((), "'study' is missing: give study=VALUE; see python -m analysis.rate --help"),
        (("study=nothing",), "study 'nothing': no such study"),
        ((f"study={finished.name}", "rater=<b>"), "rater=<b>: must be 1 to 40 letters"),
        ((f"study={finished.name}", "port=x"), "port=x: must be a whole number from 1 to 65535"),
    ):
        done = run_module("analysis.rate", *argv, f"runs_dir={finished.runs}", folder=tmp_path)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
