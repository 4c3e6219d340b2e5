"""The trial of a user's own classes: each fault is one line, before anything is created."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nca.automaton.fast_rollout import Rollout
from nca.automaton.model import plain_rollout
from nca.automaton.rules import make_automaton
from nca.automaton.seeding import Streams
from nca.cli.errors import ConfigError
from nca.config.schema import LossConfig, ModelConfig, TrialConfig
from nca.outputs.viewer import has_viewer
from nca.training.custom_parts import check_custom_parts
from nca.training.inputs import hash_inputs
from nca.training.preflight import check_inputs
from tests.builders import CPU, PATCHES, automaton, generator, trial_config
from tests.custom_parts import LOSS, MEANS, RULE, SMOOTH, custom_folder, write_custom_parts

__all__ = ["custom_folder"]

CUSTOM_MODEL = ModelConfig(
    name=SMOOTH,
    channels=4,
    update_rate=0.6,
    mask="cell",
    clamp=False,
    seed_state="noise",
    seed_noise=0.2,
    options={},
)


def custom_config(**train: Any) -> TrialConfig:
    config = trial_config(features=PATCHES, train={"rollout": "plain", **train})
    return replace(config, model=CUSTOM_MODEL, loss=LossConfig(name=MEANS, options={"weight": 2.0}))


@pytest.mark.usefixtures("custom_folder")
def test_good_classes_pass_and_their_files_are_inputs() -> None:
    config = custom_config()
    assert check_inputs(config).keys() == {"texture.hash", "features.hash", "model.hash", "loss.hash"}
    before = hash_inputs(config)
    write_custom_parts(Path(), rule=RULE.replace("0.1", "0.2"))
    after = hash_inputs(config)
    assert [key for key in after if after[key] != before[key]] == ["model.hash"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("if width > 64", "if True", r": ValueError: too wide \(my_rules.py, line 19\)$"),
        (
            "nn.Parameter(first), nn.Parameter(last)",
            "first, last",
            "it has no weights, that is no nn.Parameter",
        ),
        (
            ', generator=streams["weights"]',
            "",
            "make.. returns other weights for the same seed; draw them with",
        ),
        (
            "return F.conv2d",
            "return F.max_pool2d(state, 2) + F.conv2d",
            r": RuntimeError: The size of tensor a .8.",
        ),
        (
            "return F.conv2d(hidden.tanh(), self.last",
            "return (hidden.tanh(), self.last",
            "and is tuple$",
        ),
        (
            "return F.conv2d(hidden.tanh(), self.last[:, :, None, None])",
            "return hidden",
            r"delta\(\) must be a tensor torch.float32 \(2, 4, 16, 16\), and is .* \(2, 8, 16, 16\)$",
        ),
        (
            "return F.conv2d(hidden.tanh()",
            "return 1 / 0 * F.conv2d(hidden.tanh()",
            "ZeroDivisionError: division",
        ),
        ("hidden.tanh()", "hidden.log()", r"delta\(\) is not finite$"),
        ("hidden.tanh()", "torch.rand(hidden.shape)", r"delta\(\) returns another value for the same state"),
        (
            "return F.conv2d(hidden.tanh()",
            "return state.detach() + 0 * F.conv2d(hidden.tanh().detach()",
            None,
        ),
        ("hidden = F", "self.first = None; hidden = F", "Error: "),
        (
            "    def delta",
            "    def update(self, state, mask):\n        return state\n\n    def delta",
            "update.. must stay",
        ),
        (
            "return F.conv2d(hidden.tanh(), self.last[:, :, None, None])",
            "return state",
            "does not depend on the weights$",
        ),
        (
            "return cls(config, kernels, 0.1 * first",
            "x = cls(config, kernels, first); x.more = x.first; return x; (first",
            "Error: |own",
        ),
    ],
)
def test_a_faulty_rule_is_one_line(custom_folder: Path, old: str, new: str, message: str | None) -> None:
    assert old in RULE
    write_custom_parts(custom_folder, rule=RULE.replace(old, new))
    if message is None:
        check_custom_parts(custom_config())
        return
    with pytest.raises(ConfigError, match=message) as error:
        check_custom_parts(custom_config())
    assert str(error.value).startswith(f"model={SMOOTH}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("weight=1.0", "wait=1.0", "TypeError: .*unexpected keyword argument 'weight'$"),
        ("self.energy = ", "self.power = ", "AttributeError: 'Means' object has no attribute 'energy'"),
        ("self.energy = ", "self.energy = 0 * ", "its energy is 0, which must be above 0 and finite$"),
        (".sum()\n\n    def", ".sum() / 0\n\n    def", "its energy is inf, which"),
        (
            "torch.stack(terms).sum()\n",
            "torch.stack(terms)\n",
            r"the loss must be a tensor torch.float32 \(\), and",
        ),
        ("return self.weight * torch", "return float('nan') * torch", "the loss is not finite$"),
        (
            "return self.weight * torch",
            "return -torch",
            "the loss of the target is not less than that of noise",
        ),
        (
            "self.extractor(images)]",
            "self.extractor(images.detach())]",
            "the loss does not depend on the images",
        ),
    ],
)
def test_a_faulty_loss_is_one_line(custom_folder: Path, old: str, new: str, message: str) -> None:
    assert old in LOSS
    write_custom_parts(custom_folder, loss=LOSS.replace(old, new))
    with pytest.raises(ConfigError, match=message) as error:
        check_custom_parts(custom_config())
    assert str(error.value).startswith(f"loss={MEANS}: ")
    assert "\n" not in str(error.value)


def test_a_weight_without_gradient_needs_plain_rollouts(custom_folder: Path) -> None:
    write_custom_parts(
        custom_folder,
        rule=RULE.replace(
            "nn.Parameter(last)\n", "nn.Parameter(last)\n        self.unused = nn.Parameter(last.clone())\n"
        ),
    )
    check_custom_parts(custom_config())
    with pytest.raises(ConfigError, match=r"depend on unused; give train.rollout=plain$"):
        check_custom_parts(custom_config(rollout="fast"))


@pytest.mark.usefixtures("custom_folder")
@pytest.mark.parametrize("base", ["Automaton", "Distill"])
def test_pictures_show_an_own_rule_by_its_own_delta(base: str) -> None:
    """Also one that is derived from a rule of ours, which has loops of its own."""
    text = RULE
    if base == "Distill":
        text = """
from nca.automaton.rules import Distill
import torch


class Smooth(Distill):
    @classmethod
    def make(cls, config, streams):
        kernels = torch.zeros(1, 3, 3)
        kernels[0, 1, 1] = 1
        return cls(config, kernels, torch.ones(2, 4), torch.zeros(2), torch.ones(4, 2))

    def delta(self, state):
        return -0.5 * state + 0 * self.w0.sum()
"""
    write_custom_parts(Path(), rule=text)
    model = make_automaton(CUSTOM_MODEL, Streams(0, CPU))
    with torch.no_grad():
        list(model.parameters())[-1].add_(0.1)
        state = model.draw_seed_states(2, 16, generator())
        fast = Rollout()(model, state, 5, generator(1))
        torch.testing.assert_close(fast, plain_rollout(model, state, 5, generator(1)))
    assert not torch.equal(fast, state)
    assert not has_viewer(model)
    assert has_viewer(automaton("distill"))
