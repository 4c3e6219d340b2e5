"""The update rules srnca, distill and munca."""

from __future__ import annotations

import math

import pytest
import torch

from nca.automaton.model import plain_rollout
from nca.automaton.perception import make_kernels, perceive
from nca.automaton.rules import MUNCA_STD, Distill, Munca, Srnca, make_automaton
from nca.automaton.seeding import Streams
from tests.builders import CPU, RULES, automaton, generator, model_config


def states(n_states: int = 2, channels: int = 4, size: int = 16, seed: int = 1) -> torch.Tensor:
    return torch.rand(n_states, channels, size, size, generator=generator(seed))


@pytest.mark.parametrize("name", ["srnca", "distill"])
def test_a_fresh_rule_of_two_convolutions_changes_nothing(name: str) -> None:
    model = make_automaton(model_config(name), Streams(0, CPU))
    state = states()
    assert not dict(model.named_parameters())["w1"].any()
    assert torch.equal(plain_rollout(model, state, 5, generator()), state)


def test_a_fresh_munca_rule_changes_little() -> None:
    model = make_automaton(model_config("munca", channels=64), Streams(0, CPU))
    assert isinstance(model, Munca)
    assert model.weight.shape == (64, 256)
    assert float(model.weight.detach().std()) == pytest.approx(MUNCA_STD, rel=0.05)
    assert float(model.weight.detach().mean().abs()) < MUNCA_STD / 20
    assert not model.bias.any()
    change = model.delta(states(channels=64))
    assert 0 < float(change.detach().abs().max()) < 0.5


def test_a_fresh_rule_has_torchs_default_first_convolution() -> None:
    config = model_config("distill", channels=16, hidden_channels=256, filters=4)
    model = make_automaton(config, Streams(0, CPU))
    assert isinstance(model, Distill)
    bound = 1 / math.sqrt(16 * 4)
    for weight, shape in ((model.w0, (256, 64)), (model.bias, (256,))):
        size = weight.detach().abs() / bound
        assert weight.shape == shape
        assert 0.97 < float(size.max()) <= 1
        # Uniform in [-1, 1]: the mean of |w| is 1 / 2.
        assert abs(float(size.mean()) - 0.5) < 0.1
    assert model.w1.shape == (16, 256)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("srnca", {"w0", "w1"}), ("distill", {"w0", "w1", "bias"}), ("munca", {"weight", "bias"})],
)
def test_only_the_rule_of_the_study_has_no_bias(name: str, parameters: set[str]) -> None:
    model = make_automaton(model_config(name), Streams(0, CPU))
    assert dict(model.named_parameters()).keys() == parameters
    assert model.state_dict().keys() == parameters | {"kernels"}


@pytest.mark.parametrize(
    ("name", "channels", "n_parameters"), [("distill", 12, 12 * 4 * 48 + 48 + 48 * 12), ("munca", 12, 588)]
)
def test_rules_have_as_many_weights_as_published(name: str, channels: int, n_parameters: int) -> None:
    sizes = {} if name == "munca" else {"hidden_channels": 48, "filters": 4}
    model = make_automaton(model_config(name, channels=channels, **sizes), Streams(0, CPU))
    assert sum(parameter.numel() for parameter in model.parameters()) == n_parameters


@pytest.mark.parametrize("name", RULES)
def test_the_same_seed_makes_the_same_automaton(name: str) -> None:
    sizes = {} if name == "munca" else {"filters": 9}
    first, second, other = (make_automaton(model_config(name, **sizes), Streams(s, CPU)) for s in (0, 0, 1))
    for key, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[key])
    weight = "weight" if name == "munca" else "w0"
    assert not torch.equal(first.state_dict()[weight], other.state_dict()[weight])
    assert torch.equal(first.kernels[5:], other.kernels[5:]) == (name == "munca")


def test_random_kernels_are_saved_with_the_model() -> None:
    config = model_config("srnca", filters=20)
    one, other = (make_automaton(config, Streams(seed, CPU)) for seed in (0, 1))
    assert one.state_dict()["kernels"].shape == (20, 3, 3)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.kernels, one.kernels)
    assert "kernels" not in dict(one.named_parameters())


@pytest.mark.parametrize("name", RULES)
def test_only_the_rule_of_the_study_is_linear(name: str) -> None:
    state, model = states(), automaton(name)
    # Nonnegative multiples of a state scale all of munca but its bias, which is 0: |y| is not additive.
    other = states(seed=2) - 1
    sums = model.delta(state + other), model.delta(state) + model.delta(other)
    assert torch.allclose(*sums, atol=1e-4) == (name == "srnca")


@pytest.mark.parametrize("name", ["srnca", "distill"])
def test_delta_is_two_dense_layers_on_the_perception_of_every_cell(name: str) -> None:
    model, state = automaton(name), states(1)
    assert isinstance(model, Srnca | Distill)
    perception = perceive(state, model.kernels)[0, :, 3, 5]
    hidden = model.w0 @ perception
    if isinstance(model, Distill):
        hidden = (hidden + model.bias).clamp(min=0)
    assert torch.allclose(model.delta(state)[0, :, 3, 5], model.w1 @ hidden, atol=1e-5)


def test_delta_of_munca_is_one_dense_layer_on_a_cell_what_it_sees_and_their_sizes() -> None:
    model, state = automaton("munca", channels=6), states(1, channels=6) - 0.5
    assert isinstance(model, Munca)
    with torch.no_grad():
        model.bias.copy_(torch.randn(6, generator=generator(3)))
    seen = torch.stack([(state[0, channel, 2:5, 4:7] * model.kernels[channel]).sum() for channel in range(6)])
    y = torch.cat([state[0, :, 3, 5], seen])
    expected = model.weight @ torch.cat([y, y.abs()]) + model.bias
    assert torch.allclose(model.delta(state)[0, :, 3, 5], expected, atol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_delta_commutes_with_circular_shifts(name: str) -> None:
    model, state = automaton(name), states()
    shifted = model.delta(state.roll((2, -3), (2, 3)))
    assert torch.allclose(shifted, model.delta(state).roll((2, -3), (2, 3)), atol=1e-5)


def test_the_first_kernel_is_the_identity() -> None:
    kernels, w0, w1 = make_kernels(4, None).flip(0), torch.zeros(2, 16), torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"kernels\[0\]=.*must be the identity"):
        Srnca(model_config("srnca"), kernels, w0, w1)
    with pytest.raises(ValueError, match=r"kernels\[0\]=.*must be the identity"):
        Distill(model_config("distill"), kernels, w0, torch.zeros(2), w1)
