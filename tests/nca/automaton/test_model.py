"""The update rule, the update mask and the seed state."""

from __future__ import annotations

import math

import pytest
import torch

from nca.automaton.model import (
    MASK_BITS,
    Automaton,
    draw_update_mask,
    make_automaton,
    make_seed_state,
    plain_rollout,
)
from nca.automaton.perception import make_kernels, perceive
from nca.automaton.seeding import Streams
from tests.builders import CPU, RULES, automaton, generator, model_config


def states(n_states: int = 2, channels: int = 4, size: int = 16, seed: int = 1) -> torch.Tensor:
    return torch.rand(n_states, channels, size, size, generator=generator(seed))


@pytest.mark.parametrize("name", RULES)
def test_a_fresh_rule_changes_nothing(name: str) -> None:
    model = make_automaton(model_config(name), Streams(0, CPU))
    state = states()
    assert not model.w1.any()
    assert torch.equal(plain_rollout(model, state, 5, generator()), state)


def test_a_fresh_rule_has_torchs_default_first_convolution() -> None:
    config = model_config("relu", channels=16, hidden_channels=256, filters=4)
    model = make_automaton(config, Streams(0, CPU))
    bound = 1 / math.sqrt(16 * 4)
    assert model.bias is not None
    for weight, shape in ((model.w0, (256, 64)), (model.bias, (256,))):
        size = weight.detach().abs() / bound
        assert weight.shape == shape
        assert 0.97 < float(size.max()) <= 1
        # Uniform in [-1, 1]: the mean of |w| is 1 / 2.
        assert abs(float(size.mean()) - 0.5) < 0.1
    assert model.w1.shape == (16, 256)


def test_only_the_relu_rule_has_a_bias() -> None:
    assert make_automaton(model_config("srnca"), Streams(0, CPU)).bias is None
    names = dict(make_automaton(model_config("relu"), Streams(0, CPU)).named_parameters())
    assert names.keys() == {"w0", "w1", "bias"}


def test_the_same_seed_makes_the_same_automaton() -> None:
    first, second, other = (
        make_automaton(model_config("relu", filters=9), Streams(s, CPU)) for s in (0, 0, 1)
    )
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    assert not torch.equal(first.w0, other.w0)
    assert not torch.equal(first.kernels[5:], other.kernels[5:])


def test_random_kernels_are_saved_with_the_model() -> None:
    config = model_config("srnca", filters=20)
    one, other = (make_automaton(config, Streams(seed, CPU)) for seed in (0, 1))
    assert one.state_dict()["kernels"].shape == (20, 3, 3)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.kernels, one.kernels)
    assert "kernels" not in dict(one.named_parameters())


def test_the_linear_rule_is_linear_and_the_relu_rule_is_not() -> None:
    state = states()
    linear, relu = automaton("srnca"), automaton("relu")
    assert torch.allclose(linear.delta(2 * state), 2 * linear.delta(state), atol=1e-5)
    assert not torch.allclose(relu.delta(2 * state), 2 * relu.delta(state), atol=1e-2)


@pytest.mark.parametrize("name", RULES)
def test_delta_is_two_dense_layers_on_the_perception_of_every_cell(name: str) -> None:
    model, state = automaton(name), states(1)
    perception = perceive(state, model.kernels)[0, :, 3, 5]
    hidden = model.w0 @ perception
    if model.bias is not None:
        hidden = (hidden + model.bias).clamp(min=0)
    assert torch.allclose(model.delta(state)[0, :, 3, 5], model.w1 @ hidden, atol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_delta_commutes_with_circular_shifts(name: str) -> None:
    model, state = automaton(name), states()
    shifted = model.delta(state.roll((2, -3), (2, 3)))
    assert torch.allclose(shifted, model.delta(state).roll((2, -3), (2, 3)), atol=1e-5)


def test_update_takes_the_change_where_the_mask_is_true_and_clamps() -> None:
    model, state = automaton(), states()
    mask = torch.rand(state.shape, generator=generator(5)) < 0.5
    after = model.update(state, mask.to(torch.int8))
    assert torch.equal(after[~mask], state[~mask])
    assert torch.equal(after[mask], (state + model.delta(state)).clamp(0, 1)[mask])
    assert after.min() == 0
    assert after.max() == 1


def test_a_cell_mask_moves_all_channels_of_a_cell_together() -> None:
    model, state = automaton("relu", update_rate=0.5), 0.5 + 0.0 * states()
    mask = model.draw_mask(state, generator())
    assert mask.shape == (2, 1, 16, 16)
    # A constant state changes by the same nonzero amount wherever the mask is 1.
    changed = model.update(state, mask) != state
    assert torch.equal(changed, mask.expand_as(changed) == 1)
    assert automaton("srnca").draw_mask(state, generator()).shape == state.shape


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("first", "second"), [(0, 4), (1, 3), (3, 2)])
def test_rollouts_add_up(name: str, first: int, second: int) -> None:
    model, state = automaton(name), states()
    whole, stream = generator(), generator()
    halfway = plain_rollout(model, state, first, stream)
    assert torch.equal(
        plain_rollout(model, state, first + second, whole), plain_rollout(model, halfway, second, stream)
    )


@pytest.mark.parametrize("n_values", [1, 3, 4, 5, 4096])
def test_update_rate_1_updates_every_cell(n_values: int) -> None:
    assert bool(draw_update_mask((1, 1, 1, n_values), 1.0, generator(), CPU).all())


@pytest.mark.parametrize("update_rate", [0.01, 0.25, 0.5, 0.559994317, 0.980292, 0.999])
@pytest.mark.parametrize("mask_channels", [1, 15])
def test_the_masks_mean_is_near_the_update_rate(update_rate: float, mask_channels: int) -> None:
    mask = draw_update_mask((2, mask_channels, 128, 128), update_rate, generator(11), CPU)
    deviation = math.sqrt(update_rate * (1 - update_rate) / mask.numel())
    assert mask.dtype == torch.int8
    assert abs(float(mask.double().mean()) - update_rate) < 4 * deviation + 2.0**-17


def test_all_four_values_of_a_draw_are_fair_and_independent() -> None:
    mask = draw_update_mask((1, 1, 400, 400), 0.5, generator(3), CPU)
    quarters = mask.flatten().view(-1, 4).double()
    n = len(quarters)
    assert ((quarters.mean(0) - 0.5).abs() < 4 * 0.5 / math.sqrt(n)).all()
    correlation = torch.corrcoef(quarters.T) - torch.eye(4, dtype=torch.float64)
    assert float(correlation.abs().max()) < 4 / math.sqrt(n)


def test_every_random_bit_counts_and_is_fair() -> None:
    n_draws = 20000
    draws = torch.empty(n_draws, dtype=torch.int64).random_(-(2**63), None, generator=generator(3))
    numbers = draws.view(torch.int16).int() + 2 ** (MASK_BITS - 1)
    for accepted in (1, 100, 32767, 32768, 32769, 65535, 65536):
        rate = accepted / 2**MASK_BITS
        mask = draw_update_mask((1, 1, 1, 4 * n_draws), rate, generator(3), CPU)
        assert torch.equal(mask.flatten(), numbers < accepted)
    bits = (numbers.view(n_draws, 4, 1) >> torch.arange(MASK_BITS)) & 1
    assert float((bits.double().mean(0) - 0.5).abs().max()) < 4.5 * 0.5 / math.sqrt(n_draws)


def test_masks_are_channels_last_and_reproducible() -> None:
    first, second = (draw_update_mask((2, 6, 8, 8), 0.5, generator(), CPU) for _ in range(2))
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(first, second)


@pytest.mark.parametrize("size", [16, 32, 48, 112, 128])
def test_the_seed_is_a_bright_square_in_the_middle_of_nothing(size: int) -> None:
    state = make_seed_state(3, 5, size, generator(), CPU)
    low, high = size // 2 - size // 16, size // 2 + size // 16
    square = state[:, :, low:high, low:high]
    assert state.shape == (3, 5, size, size)
    assert square.shape[-1] == size // 8
    assert float(square.min()) >= 0.99
    assert float(square.max()) < 1.0
    assert len(square.unique()) > square.numel() // 2
    outside = torch.ones(size, size, dtype=torch.bool)
    outside[low:high, low:high] = False
    assert not state[:, :, outside].any()


def test_seed_states_differ_and_come_from_their_stream() -> None:
    one, two = (make_seed_state(2, 3, 16, generator(seed), CPU) for seed in (0, 1))
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one, two)
    assert torch.equal(one, make_seed_state(2, 3, 16, generator(0), CPU))


def test_the_first_kernel_is_the_identity() -> None:
    kernels = make_kernels(4, None).flip(0)
    with pytest.raises(ValueError, match=r"kernels\[0\]=.*must be the identity"):
        Automaton(kernels, torch.zeros(2, 12), torch.zeros(3, 2), None, update_rate=1.0, mask="channel")
