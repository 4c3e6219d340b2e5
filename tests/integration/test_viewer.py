"""viewer.html in a real browser: its states equal those of the Python rollout, its controls work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from nca.automaton.model import Automaton, make_seed_state, plain_rollout
from nca.outputs.viewer import make_viewer
from tests.builders import automaton, generator
from tests.integration.conftest import NO_WEBGL, WEBGL

SIZE, CA_STEPS, TOLERANCE = 32, 32, 1e-3
# Rules at random are chaotic: after 32 steps float32 and float64 differ by up to 8e-3. These by up to 1e-4.
CALM = 0.3
PATHS = {"webgl2": WEBGL, "cpu": NO_WEBGL}
BOTH = pytest.mark.parametrize(
    ("browser", "path"),
    [(flags, path) for path, flags in PATHS.items()],
    indirect=["browser"],
    ids=list(PATHS),
)
PICTURES = {
    name: np.full((SIZE, SIZE, 3), value, np.uint8) for name, value in (("target", 90), ("output", 200))
}


def open_viewer(browser: Chrome, folder: Path, model: Automaton, path: str) -> None:
    page = folder / "viewer.html"
    page.write_text(make_viewer(model, SIZE, PICTURES, {"channels": str(model.channels)}, "leaf <1>"))
    browser.get(page.as_uri())
    assert browser.execute_script("return nca.backend") == path
    browser.execute_script("nca.pause()")


def states(browser: Chrome, model: Automaton, size: int = SIZE) -> NDArray[np.float64]:
    return np.array(browser.execute_script("return nca.states()")).reshape(model.channels, size, size)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize(
    ("rule", "channels", "hidden", "filters"),
    [("srnca", 15, 16, 4), ("srnca", 32, 8, 7), ("srnca", 5, 8, 6), ("relu", 12, 40, 5), ("relu", 6, 10, 11)],
)
def test_states_at_update_rate_1_are_those_of_the_python_rollout(
    browser: Chrome, tmp_path: Path, path: str, rule: str, channels: int, hidden: int, filters: int
) -> None:
    model = automaton(rule, channels=channels, hidden_channels=hidden, filters=filters, update_rate=1.0)
    with torch.no_grad():
        model.w1.mul_(CALM)
    open_viewer(browser, tmp_path, model, path)
    seed = make_seed_state(1, channels, SIZE, generator(), torch.device("cpu"))
    with torch.no_grad():
        expected = plain_rollout(model, seed, CA_STEPS, generator())[0].numpy()
    browser.execute_script(
        "nca.setRate(1); nca.load(Float32Array.from(arguments[0]), arguments[1]); nca.advance(arguments[2])",
        seed.flatten().tolist(),
        SIZE,
        CA_STEPS,
    )
    found = states(browser, model)
    assert np.abs(found - expected).max() < TOLERANCE
    assert np.abs(found - seed[0].numpy()).max() > 0.1  # it did move


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("rule", ["srnca", "relu"])
def test_about_the_update_rate_of_cells_or_channels_take_an_update(
    browser: Chrome, tmp_path: Path, path: str, rule: str
) -> None:
    model = automaton(rule, channels=8, update_rate=0.3)
    with torch.no_grad():
        model.w1.copy_(model.w1.abs())
        model.w0.copy_(model.w0.abs())
    open_viewer(browser, tmp_path, model, path)
    state = torch.full((8, SIZE, SIZE), 0.2)
    load = "nca.load(Float32Array.from(arguments[0]), arguments[1]); nca.advance(1)"
    browser.execute_script(load, state.flatten().tolist(), SIZE)
    changed = states(browser, model) != states(browser, model)[0, 0, 0]
    updated = np.abs(states(browser, model) - 0.2) > 1e-6
    assert changed.any()
    n_draws = updated[0].size if rule == "relu" else updated.size
    assert abs(updated.mean() - 0.3) < 5 * (0.3 * 0.7 / n_draws) ** 0.5  # five standard deviations
    together = (updated.all(axis=0) | ~updated.any(axis=0)).all()
    assert together == (rule == "relu")  # one draw per cell, or per channel


@pytest.mark.slow
@BOTH
def test_the_brush_erases_and_paints_seed_around_the_edges(
    browser: Chrome, tmp_path: Path, path: str
) -> None:
    model = automaton("srnca", channels=6)
    open_viewer(browser, tmp_path, model, path)
    full = torch.full((6, SIZE, SIZE), 0.5).flatten().tolist()
    browser.execute_script("nca.load(Float32Array.from(arguments[0]), arguments[1])", full, SIZE)
    browser.execute_script("nca.paint(0, 16, false)")
    erased = states(browser, model)
    assert (erased[:, 16, 0] == 0).all()
    assert (erased[:, 16, SIZE - 1] == 0).all()
    assert (erased[:, 16, 16] == 0.5).all()
    browser.execute_script("nca.paint(16, 16, true)")
    painted = states(browser, model)
    assert (painted[:, 16, 16] >= 0.99).all()
    assert (painted[:, 16, 16] <= 1).all()


@pytest.mark.slow
@BOTH
def test_its_controls_work(browser: Chrome, tmp_path: Path, path: str) -> None:
    model = automaton("srnca", channels=6)
    open_viewer(browser, tmp_path, model, path)
    assert browser.title == "leaf <1>"
    browser.find_element(By.ID, "reseed").click()
    browser.find_element(By.ID, "step").click()
    assert browser.execute_script("return nca.steps") == 1
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys(".")
    assert browser.execute_script("return nca.steps") == 2
    body.send_keys("s")
    assert browser.find_element(By.ID, "seed").get_attribute("aria-pressed") == "true"
    body.send_keys(Keys.SPACE)
    WebDriverWait(browser, 20).until(lambda b: b.execute_script("return nca.steps") > 4)
    body.send_keys(Keys.SPACE)
    assert browser.find_element(By.ID, "pause").text == "Play"
    size = browser.find_element(By.ID, "size")
    size.send_keys("64")
    assert states(browser, model, 64).max() >= 0.99
    body.send_keys("p")
    saved = browser.find_element(By.CSS_SELECTOR, "#saved img")
    assert saved.get_property("naturalWidth") == 64
    for name in ("target", "output"):
        assert browser.find_element(By.ID, name).get_property("naturalWidth") == SIZE
    status = "CA steps, 64 x 64 cells"
    WebDriverWait(browser, 20).until(lambda b: status in b.find_element(By.ID, "status").text)
    assert ("WebGL2" if path == "webgl2" else "JavaScript") in browser.find_element(By.ID, "status").text
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.mark.slow
@pytest.mark.parametrize("browser", [NO_WEBGL], indirect=True)
def test_it_fits_a_phone_and_stands_still_where_motion_is_not_wanted(browser: Chrome, tmp_path: Path) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True},
    )
    wish = {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
    page = tmp_path / "viewer.html"
    page.write_text(make_viewer(automaton("srnca"), SIZE, PICTURES, {}, "leaf"))
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert browser.find_element(By.ID, "pause").text == "Play"
    assert browser.execute_script("return nca.steps") == 0
    assert browser.find_element(By.ID, "grid").size["width"] > 300


def test_the_page_is_one_file_of_less_than_300_kb_at_the_study_s_sizes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    pictures = {"target": noise, "output": np.tile(noise, (4, 4, 1))}
    for rule in ("srnca", "relu"):
        model = automaton(rule, channels=15, hidden_channels=96, filters=6)
        page = make_viewer(model, 128, pictures, {}, "x")
        assert len(page.encode()) < 300_000
        assert "http" not in page.replace("http-equiv", "")


def test_nothing_that_it_shows_can_end_its_script() -> None:
    facts = {"texture": "</script><b>", "loss": "1"}
    page = make_viewer(automaton("srnca"), 16, PICTURES, facts, "</title><b>")
    assert "</script><b>" not in page
    assert "</title><b>" not in page
    text = page.partition('id="data">')[2].partition("</script>")[0]
    assert json.loads(text)["facts"] == facts
