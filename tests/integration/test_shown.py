"""What a person sees, in pictures: viewer, gallery, rating page and both web interfaces, of a real study.

Pictures go to $NCA_SCREENSHOTS. $NCA_SHOWN=FOLDER:STUDY shows a study of yours in place of the small one of
the tests: so the documents' pictures were taken.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from analysis.gallery import make_gallery
from analysis.runs import read_study
from nca.automaton.model import Automaton
from nca.outputs.model_file import load_model
from nca.outputs.viewer import describe_facts, make_viewer
from nca.records.paths import MLFLOW_UI, RecordPaths
from nca.textures.load import load_pixels
from tests.integration.browsing import (
    TIMEOUT_S,
    close_assistant,
    save_screenshot,
    wait_for_image,
    wait_for_text,
)
from tests.integration.conftest import WEBGL, Finished, Serve

pytestmark = pytest.mark.slow

MODEL = Path(__file__).parents[1] / "data" / "orchid_petal.safetensors"
GROWN_AT, HEALED_AFTER = 200, 200  # CA steps


@pytest.fixture
def shown(finished: Finished) -> Finished:
    """Return the study that is shown."""
    folder, _, name = os.environ.get("NCA_SHOWN", "").rpartition(":")
    return Finished(Path(folder), finished.folder, "", name) if folder else finished


def colors(browser: Chrome, model: Automaton, size: int) -> NDArray[np.float64]:
    states = torch.tensor(browser.execute_script("return nca.states()"), dtype=torch.float64)
    return model.rgb(states.view(1, -1, size, size))[0].numpy()


@pytest.mark.parametrize("browser", [WEBGL], indirect=True)
def test_a_trained_texture_grows_and_a_hole_in_it_heals(browser: Chrome, tmp_path: Path) -> None:
    trained = load_model(MODEL)
    model, size = trained.automaton, trained.config.train.size
    nothing = float(model.rgb(torch.zeros(1, model.channels, 1, 1)).max())
    pictures = {
        "target": load_pixels(trained.config.texture, size),
        "output": np.asarray(trained.grow()),
    }
    page = tmp_path / "viewer.html"
    facts = describe_facts(trained.config, trained.metrics)
    page.write_text(make_viewer(model, size, pictures, facts, "orchid petal"))
    browser.get(page.as_uri())
    browser.execute_script("nca.pause(); nca.advance(arguments[0]); nca.show()", GROWN_AT)
    grown = colors(browser, model, size)
    target = pictures["target"].transpose(2, 0, 1) / 255
    assert np.abs(grown.mean((1, 2)) - target.mean((1, 2))).max() < 0.1
    save_screenshot(browser, "viewer", tmp_path)

    canvas = browser.find_element(By.ID, "grid")
    ActionChains(browser).move_to_element(canvas).click_and_hold().move_by_offset(30, 20).release().perform()
    half, reach = size // 2, size // 16
    hole = (slice(None), slice(half - reach, half + reach), slice(half - reach, half + reach))
    assert (colors(browser, model, size)[hole] == nothing).all()
    save_screenshot(browser, "viewer_erased", tmp_path)

    browser.execute_script("nca.advance(arguments[0]); nca.show()", HEALED_AFTER)
    healed = colors(browser, model, size)
    assert np.abs(healed.mean((1, 2)) - grown.mean((1, 2))).max() < 0.1
    assert np.abs(healed[hole].mean((1, 2)) - grown.mean((1, 2))).max() < 0.2
    assert healed[hole].std() > grown.std() / 2
    save_screenshot(browser, "viewer_healed", tmp_path)


def test_the_gallery(browser: Chrome, shown: Finished, tmp_path: Path) -> None:
    paths = RecordPaths.in_folder(shown.runs)
    table = read_study(paths, shown.name)
    page = tmp_path / "gallery.html"
    page.write_text(make_gallery(table, paths, tmp_path))
    browser.get(page.as_uri())
    save_screenshot(browser, "gallery", tmp_path)
    browser.find_element(By.CSS_SELECTOR, ".card").click()
    wait_for_text(browser, "MLflow run", "viewer", "update rate")
    save_screenshot(browser, "gallery_large", tmp_path)


def test_the_rating_page(serve: Serve, browser: Chrome, shown: Finished, tmp_path: Path) -> None:
    browser.get(serve("analysis.rate", f"study={shown.name}", shown=shown.runs))
    browser.find_element(By.ID, "rater").send_keys("Ada", Keys.ENTER)
    wait_for_image(browser, width=16)
    for n_done in (1, 2):
        browser.find_element(By.TAG_NAME, "body").send_keys("3")
        wait_for_text(browser, f"{n_done} done")
    save_screenshot(browser, "rating_page", tmp_path)


def test_the_dashboard(serve: Serve, browser: Chrome, shown: Finished, tmp_path: Path) -> None:
    address = serve("nca.serve", "dashboard", shown=shown.runs)
    number = study_number(browser, address, shown.name)
    browser.get(f"{address}/studies/{number}")
    wait_for_text(browser, "Hyperparameter Importance", "model.update_rate")
    save_screenshot(browser, "dashboard_study", tmp_path)
    browser.get(f"{address}/studies/{number}/trials?numbers=0")
    wait_for_text(browser, "Trial 0", "MLflow run")
    wait_for_image(browser, width=34)
    save_screenshot(browser, "dashboard_trial", tmp_path)


def study_number(browser: Chrome, address: str, name: str) -> str:
    """Return the number under which the dashboard lists a study."""
    browser.get(address)
    wait_for_text(browser, name)
    links = browser.find_elements(By.XPATH, f"//a[contains(., '. {name}')]")
    (link,) = (each for each in links if any(line.endswith(f". {name}") for line in each.text.splitlines()))
    return str(link.get_attribute("href")).rpartition("/")[2]


@pytest.mark.parametrize("browser", [WEBGL], indirect=True)
def test_mlflow(serve: Serve, browser: Chrome, shown: Finished, tmp_path: Path) -> None:
    paths = RecordPaths.in_folder(shown.runs)
    table = read_study(paths, shown.name)
    at = serve("nca.serve", "ui", shown=shown.runs).partition("/#")[0]
    experiment = table.links["mlflow_experiment_id"]
    browser.get(paths.study_url(experiment).replace(MLFLOW_UI, at))
    close_assistant(browser)
    wait_for_text(browser, shown.name, "matching runs", "trial 0", "trial 1", "final_distance")
    save_screenshot(browser, "mlflow_runs", tmp_path)
    browser.set_window_size(1400, 1500)
    browser.get(paths.study_url(experiment, charts=True).replace(MLFLOW_UI, at))
    wait_for_text(browser, "Outputs", "Parallel Coordinates")
    wait_for_image(browser, width=34)
    save_screenshot(browser, "mlflow_charts", tmp_path)
    best = table.trials.sort_values("final_loss").iloc[0]["mlflow_run_id"]
    browser.get(paths.mlflow_url(experiment, best, "viewer.html").replace(MLFLOW_UI, at))
    frame = WebDriverWait(browser, TIMEOUT_S).until(
        lambda b: b.find_elements(By.CSS_SELECTOR, "iframe[sandbox]")
    )[0]
    browser.switch_to.frame(frame)
    WebDriverWait(browser, TIMEOUT_S).until(lambda b: b.execute_script("return nca.steps") > 100)
    browser.switch_to.default_content()
    save_screenshot(browser, "mlflow_viewer", tmp_path)
