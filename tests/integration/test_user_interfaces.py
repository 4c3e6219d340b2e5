"""Both web pages open at the study's runs in a real browser and show its pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import WebDriverWait

from nca.records.paths import MLFLOW_UI, RecordPaths
from tests.integration.browsing import (
    TIMEOUT_S,
    close_assistant,
    save_screenshot,
    wait_for_image,
    wait_for_text,
)
from tests.integration.conftest import WEBGL, Finished, Serve
from tests.integration.records import Records

pytestmark = pytest.mark.slow


def test_mlflow_opens_at_the_studys_runs(
    serve: Serve, browser: Chrome, finished: Finished, tmp_path: Path
) -> None:
    browser.set_window_size(2400, 1000)  # columns out of sight are not drawn
    browser.get(serve("nca.serve", "ui"))
    close_assistant(browser)
    wait_for_text(browser, finished.name, "3 matching runs", "trial 0", "trial 1", "trial 2")
    wait_for_text(browser, "distance_at_1000", "final_loss", "model.update_rate", "complete")
    cells = browser.find_elements(By.CSS_SELECTOR, "[role=gridcell][col-id*='distance_at_1000']")
    distances = [float(cell.text) for cell in cells]
    assert len(distances) == 3
    assert distances == sorted(distances)
    save_screenshot(browser, "mlflow_runs", tmp_path)


def test_mlflow_shows_outputs_losses_and_parameters(serve: Serve, browser: Chrome, tmp_path: Path) -> None:
    browser.set_window_size(1400, 2000)  # charts out of sight are not drawn
    table = serve("nca.serve", "ui")
    browser.get(table.replace("Key=trials", "Key=charts&compareRunsMode=CHART"))
    close_assistant(browser)
    wait_for_text(browser, "3 matching runs", "Outputs", "trial 0")
    wait_for_image(browser, width=34)
    save_screenshot(browser, "mlflow_charts", tmp_path)
    charts = "return [...document.querySelectorAll('.js-plotly-plot')].map(p => p.layout.yaxis?.type ?? "
    charts += "p.data[0].type)"
    WebDriverWait(browser, TIMEOUT_S).until(
        lambda b: "log" in b.execute_script(charts), "no loss on a logarithmic axis"
    )
    wait_for_text(browser, "loss", "Parallel Coordinates")


def test_the_dashboard_shows_a_trials_output(
    serve: Serve, browser: Chrome, finished: Finished, tmp_path: Path
) -> None:
    address = serve("nca.serve", "dashboard")
    browser.get(address)
    wait_for_text(browser, finished.name)
    save_screenshot(browser, "dashboard_studies", tmp_path)
    browser.get(f"{address}/studies/1/trials?numbers=1")
    wait_for_text(browser, "Trial 1", "final_loss", "mlflow_run_id")
    # Two 16 px rows of the batch and the gap between them, as they were uploaded.
    wait_for_image(browser, width=34)
    browser.execute_script(
        "[...document.images].find(i => i.naturalWidth >= 34).scrollIntoView({block: 'center'})"
    )
    save_screenshot(browser, "dashboard_trial", tmp_path)


def test_the_dashboard_shows_notes_and_importances(
    serve: Serve, browser: Chrome, finished: Finished, records: Records, tmp_path: Path
) -> None:
    address = serve("nca.serve", "dashboard")
    browser.get(f"{address}/studies/1/trials?numbers=1")
    wait_for_text(browser, "MLflow run", "update rate", "final loss median")
    link = browser.find_element(By.LINK_TEXT, "viewer").get_attribute("href")
    run = records.children[1].info
    assert link is not None
    assert link.startswith(f"http://127.0.0.1:5000/#/experiments/{run.experiment_id}/runs/{run.run_id}/")
    save_screenshot(browser, "dashboard_note", tmp_path)
    browser.get(f"{address}/studies/1")
    wait_for_text(browser, "Hyperparameter Importance", "model.update_rate")
    save_screenshot(browser, "dashboard_study", tmp_path)


@pytest.mark.parametrize("browser", [WEBGL], indirect=True)
def test_the_viewer_lives_in_mlflows_artifact_tab(
    serve: Serve, browser: Chrome, records: Records, tmp_path: Path
) -> None:
    serve_at = serve("nca.serve", "ui").partition("#")[0]
    run = records.children[1].info
    paths = RecordPaths.in_folder(tmp_path)
    browser.get(
        paths.mlflow_url(run.experiment_id, run.run_id, "viewer.html").replace(MLFLOW_UI + "/", serve_at)
    )
    frame = WebDriverWait(browser, TIMEOUT_S).until(
        expected_conditions.presence_of_element_located((By.CSS_SELECTOR, "iframe[sandbox]"))
    )
    assert "allow-scripts" in str(frame.get_attribute("sandbox"))
    browser.switch_to.frame(frame)
    WebDriverWait(browser, TIMEOUT_S).until(
        lambda b: "frames/s" in b.find_element(By.ID, "status").text, "the viewer never ran"
    )
    assert "WebGL2" in browser.find_element(By.ID, "status").text
    before = browser.execute_script("return nca.steps")
    WebDriverWait(browser, TIMEOUT_S).until(lambda b: b.execute_script("return nca.steps") > before)
    browser.switch_to.default_content()
    save_screenshot(browser, "mlflow_viewer", tmp_path)
