"""A texture is measured long after it has grown, and after a wound."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from nca.automaton.model import make_automaton
from nca.automaton.seeding import Streams
from nca.outputs.pictures import FRAMES, GAP_PX
from nca.outputs.robustness import endure, wound
from tests.builders import CPU, SIZE, automaton, model_config


def brightness(images: Tensor) -> Tensor:
    return images.mean()


def test_a_wound_is_a_disc_in_the_middle() -> None:
    state = torch.ones(1, 4, 16, 16)
    wounded = wound(state)
    assert (state == 1).all()
    assert (wounded[..., 7:9, 7:9] == 0).all()
    assert (wounded[..., 0, :] == 1).all()
    lost = float((wounded[0, 0] == 0).float().mean())
    assert lost == pytest.approx(torch.pi / 16, rel=0.1)
    assert torch.equal(wounded, wounded.flip(2))
    assert torch.equal(wounded, wounded.mT)


def test_a_rule_that_changes_nothing_keeps_its_seed_and_its_wound() -> None:
    model = make_automaton(model_config(), Streams(0, CPU))  # a fresh one
    endurance = endure(model, SIZE, 3, brightness)
    losses = endurance.losses
    assert set(losses) == {"loss_at_1000", "loss_at_3000", "loss_after_damage"}
    assert losses["loss_at_1000"] == losses["loss_at_3000"] > 0
    assert losses["loss_after_damage"] == 0  # the seed square lay within the disc
    assert len(endurance.healing) == FRAMES


def test_a_living_rule_is_measured_where_it_is_and_the_same_again(tmp_path: Path) -> None:
    model = automaton()
    endurance = endure(model, SIZE, 3, brightness)
    assert endurance.losses["loss_after_damage"] != endurance.losses["loss_at_1000"] > 0
    assert endure(model, SIZE, 3, brightness).losses == endurance.losses
    assert endure(model, SIZE, 4, brightness).losses != endurance.losses
    endurance.save(tmp_path)
    with Image.open(tmp_path / "stages.png") as stages:
        assert stages.size == (4 * SIZE + 3 * GAP_PX, SIZE)
    with Image.open(tmp_path / "healing.gif") as healing:
        assert FRAMES // 2 < healing.n_frames <= FRAMES  # type: ignore[attr-defined]  # equal ones are merged
