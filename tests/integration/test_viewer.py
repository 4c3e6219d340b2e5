"""viewer.html in a real browser: its states equal those of the Python rollout, its controls work."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from nca.automaton.model import Automaton, plain_rollout
from nca.automaton.rules import Munca
from nca.outputs.viewer import make_viewer
from tests.builders import automaton, generator
from tests.integration.conftest import NO_WEBGL, WEBGL

SIZE, CA_STEPS, TOLERANCE = 32, 32, 1e-3
# Rules at random are chaotic, and free states grow without a limit: after 32 steps float32 and float64 differ
# by up to 8e-3, free states by up to 10. With last convolutions of these scales they differ by up to 1e-4.
CALM_CLAMPED, CALM_FREE = 0.3, 0.03
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


def last_convolution(model: Automaton) -> torch.Tensor:
    weight = model.weight if isinstance(model, Munca) else model.w1
    assert isinstance(weight, torch.Tensor)
    return weight


def load(browser: Chrome, state: torch.Tensor) -> None:
    script = "nca.load(Float32Array.from(arguments[0]), arguments[1])"
    browser.execute_script(script, state.flatten().tolist(), SIZE)


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("srnca", {"channels": 15, "hidden_channels": 16, "filters": 4}),
        ("srnca", {"channels": 32, "filters": 7}),
        ("srnca", {"channels": 5, "filters": 6, "clamp": False, "seed_state": "noise"}),
        ("distill", {"channels": 12, "hidden_channels": 40, "filters": 5}),
        (
            "distill",
            {"channels": 6, "hidden_channels": 10, "filters": 11, "clamp": True, "seed_state": "square"},
        ),
        ("munca", {"channels": 12}),
        ("munca", {"channels": 5, "mask": "channel"}),
    ],
)
def test_states_at_update_rate_1_are_those_of_the_python_rollout(
    browser: Chrome, tmp_path: Path, path: str, rule: str, changes: dict[str, Any]
) -> None:
    model = automaton(rule, update_rate=1.0, **changes)
    with torch.no_grad():
        last_convolution(model).mul_(CALM_CLAMPED if model.config.clamp else CALM_FREE)
        if isinstance(model, Munca):
            model.bias.copy_(torch.linspace(-0.01, 0.02, model.channels))
    open_viewer(browser, tmp_path, model, path)
    seed = model.draw_seed_states(1, SIZE, generator())
    with torch.no_grad():
        expected = plain_rollout(model, seed, CA_STEPS, generator())[0].numpy()
    browser.execute_script("nca.setRate(1)")
    load(browser, seed)
    browser.execute_script("nca.advance(arguments[0])", CA_STEPS)
    found = states(browser, model)
    assert np.abs(found - expected).max() < TOLERANCE
    assert np.abs(found - seed[0].numpy()).max() > 0.1  # it did move
    if not model.config.clamp:
        assert found.min() < -0.1


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("rule", ["srnca", "distill", "munca"])
def test_about_the_update_rate_of_cells_or_channels_take_an_update(
    browser: Chrome, tmp_path: Path, path: str, rule: str
) -> None:
    model = automaton(rule, channels=8, update_rate=0.3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.abs())
    open_viewer(browser, tmp_path, model, path)
    load(browser, torch.full((8, SIZE, SIZE), 0.2))
    browser.execute_script("nca.advance(1)")
    changed = states(browser, model) != states(browser, model)[0, 0, 0]
    updated = np.abs(states(browser, model) - 0.2) > 1e-6
    assert changed.any()
    per_cell = model.config.mask == "cell"
    n_draws = updated[0].size if per_cell else updated.size
    assert abs(updated.mean() - 0.3) < 5 * (0.3 * 0.7 / n_draws) ** 0.5  # five standard deviations
    together = (updated.all(axis=0) | ~updated.any(axis=0)).all()
    assert together == per_cell  # one draw per cell, or per channel


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize(
    ("rule", "side", "low", "high"), [("srnca", 4, 0.99, 1.0), ("distill", SIZE, -0.2, 0.2)]
)
def test_reseeding_draws_the_rule_s_own_seed_state(
    browser: Chrome, tmp_path: Path, path: str, rule: str, side: int, low: float, high: float
) -> None:
    model = automaton(rule, channels=6)
    open_viewer(browser, tmp_path, model, path)
    browser.find_element(By.ID, "reseed").click()
    found = states(browser, model)
    inside = slice(SIZE // 2 - side // 2, SIZE // 2 + side // 2)
    seed = found[:, inside, inside]
    assert np.count_nonzero(found) == np.count_nonzero(seed) == 6 * side**2
    assert low <= seed.min() < seed.max() <= high
    assert seed.max() - seed.min() > 0.8 * (high - low)
    assert abs(seed.mean() - (low + high) / 2) < 0.1 * (high - low)


@pytest.mark.slow
@BOTH
def test_a_seed_state_of_zeros_has_no_brush_of_its_own(browser: Chrome, tmp_path: Path, path: str) -> None:
    model = automaton("munca", channels=6, seed_state="zeros", update_rate=1.0)
    open_viewer(browser, tmp_path, model, path)
    browser.find_element(By.ID, "reseed").click()
    assert (states(browser, model) == 0).all()
    assert not browser.find_element(By.ID, "seed").is_displayed()
    assert "seed" not in browser.find_element(By.CLASS_NAME, "hint").text.replace("reseeds", "")
    browser.find_element(By.TAG_NAME, "body").send_keys("s")
    assert browser.find_element(By.ID, "erase").get_attribute("aria-pressed") == "true"


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("rule", ["srnca", "munca"])
def test_its_colors_are_those_of_the_automaton(browser: Chrome, tmp_path: Path, path: str, rule: str) -> None:
    model = automaton(rule, channels=5)
    open_viewer(browser, tmp_path, model, path)
    state = 1.4 * torch.rand(5, SIZE, SIZE, generator=generator()) - 0.7
    load(browser, state)
    browser.find_element(By.ID, "save").click()
    url = browser.find_element(By.CSS_SELECTOR, "#saved img").get_attribute("src")
    assert url is not None
    with urlopen(url) as file:
        shown = np.asarray(Image.open(BytesIO(file.read())).convert("RGB"), np.float64)
    expected = 255 * model.rgb(state[None])[0].clamp(0, 1).permute(1, 2, 0).numpy()
    assert np.abs(shown - expected).max() < 1.01


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize(("rule", "low", "high"), [("srnca", 0.99, 1.0), ("munca", -0.2, 0.2)])
def test_the_brush_erases_and_paints_seed_around_the_edges(
    browser: Chrome, tmp_path: Path, path: str, rule: str, low: float, high: float
) -> None:
    model = automaton(rule, channels=6)
    open_viewer(browser, tmp_path, model, path)
    load(browser, torch.full((6, SIZE, SIZE), 0.5))
    browser.execute_script("nca.paint(0, 16, false)")
    erased = states(browser, model)
    assert (erased[:, 16, 0] == 0).all()
    assert (erased[:, 16, SIZE - 1] == 0).all()
    assert (erased[:, 16, 16] == 0.5).all()
    browser.execute_script("nca.paint(16, 16, true)")
    painted = states(browser, model)
    assert (painted[:, 16, 16] >= low).all()
    assert (painted[:, 16, 16] <= high).all()
    assert len(np.unique(painted[:, 16, 16])) == 6


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
    for rule, changes in (
        ("srnca", {"hidden_channels": 96, "filters": 6}),
        ("distill", {"hidden_channels": 96, "filters": 6}),
        ("munca", {}),
    ):
        model = automaton(rule, channels=15, **changes)
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
