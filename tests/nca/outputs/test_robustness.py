"""The distance of a texture long after it has grown, and after damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.GifImagePlugin import GifImageFile
from torch import Tensor

from nca.automaton.model import Automaton
from nca.automaton.rules import make_automaton
from nca.automaton.seeding import Streams
from nca.config.schema import ModelConfig
from nca.outputs.pictures import GAP_PX, GIF_AGES
from nca.outputs.robustness import measure_robustness
from tests.builders import CPU, RULES, SIZE, automaton, model_config


def settled(rule: str) -> Automaton:
    """Return an automaton whose free states stay finite however old they become."""
    return automaton(rule, clamp=True)


class Fragile(Automaton):
    """Keeps its state, but turns white once more than 0.4 of its values have been erased."""

    @classmethod
    def make(cls, config: ModelConfig, streams: Streams) -> Fragile:
        return cls(config, torch.zeros(1, 3, 3))

    def delta(self, state: Tensor) -> Tensor:
        share_erased = (state == 0).float().mean(dim=(1, 2, 3), keepdim=True)
        return (share_erased > 0.4).float().expand_as(state)


def brightness(images: Tensor) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def test_a_rule_that_changes_nothing_keeps_its_seed_and_its_damage(tmp_path: Path) -> None:
    model = make_automaton(model_config(), Streams(0, CPU))  # a fresh one
    distances = measure_robustness(model, SIZE, 3, brightness, tmp_path)
    assert set(distances) == {"distance_at_3000", "distance_after_damage"}
    # Small discs leave the seed square in the middle as it is.
    assert distances["distance_after_damage"] == distances["distance_at_3000"] > 0


def test_the_hole_that_heals_worst_is_measured_and_shown(tmp_path: Path) -> None:
    model = Fragile.make(model_config("distill", update_rate=1.0), Streams(0, CPU))
    distances = measure_robustness(model, SIZE, 3, brightness, tmp_path)
    assert distances["distance_at_3000"] == pytest.approx(0.5, abs=0.05)
    assert distances["distance_after_damage"] > 0.99
    with Image.open(tmp_path / "stages.png") as stages:
        pixels = np.asarray(stages)
    erased, healed = (pixels[:, left : left + SIZE] for left in (2 * (SIZE + GAP_PX), 3 * (SIZE + GAP_PX)))
    assert (erased == erased[SIZE // 2, SIZE // 2]).all(axis=2).mean() > 0.4
    assert (healed > 240).all()


@pytest.mark.parametrize("rule", RULES)
def test_a_trained_rule_is_measured_in_its_states_and_the_same_again(tmp_path: Path, rule: str) -> None:
    model = settled(rule)
    distances = measure_robustness(model, SIZE, 3, brightness, tmp_path)
    assert distances["distance_after_damage"] != distances["distance_at_3000"] > 0
    with Image.open(tmp_path / "stages.png") as stages:
        assert stages.size == (4 * SIZE + 3 * GAP_PX, SIZE)
    with Image.open(tmp_path / "healing.gif") as healing:
        assert isinstance(healing, GifImageFile)
        # equal frames are merged
        assert len(GIF_AGES) // 2 < healing.n_frames <= len(GIF_AGES)
    assert measure_robustness(model, SIZE, 3, brightness, tmp_path) == distances
    assert measure_robustness(model, SIZE, 4, brightness, tmp_path) != distances
