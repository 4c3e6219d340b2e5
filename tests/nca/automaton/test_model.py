"""What all automata share: update, update mask, seed states and the plain rollout."""

from __future__ import annotations

import math

import pytest
import torch

from nca.automaton.model import MASK_BITS, draw_squares, draw_update_mask, erase_disc, plain_rollout
from tests.builders import CPU, RULES, automaton, generator


def states(n_states: int = 2, channels: int = 4, size: int = 16, seed: int = 1) -> torch.Tensor:
    return torch.rand(n_states, channels, size, size, generator=generator(seed))


def test_update_takes_the_change_where_the_mask_is_true_and_clamps() -> None:
    model, state = automaton(), states()
    mask = torch.rand(state.shape, generator=generator(5)) < 0.5
    after = model.update(state, mask.to(torch.int8))
    assert torch.equal(after[~mask], state[~mask])
    assert torch.equal(after[mask], (state + model.delta(state)).clamp(0, 1)[mask])
    assert after.min() == 0
    assert after.max() == 1


@pytest.mark.parametrize("name", RULES)
def test_a_free_state_takes_the_change_as_it_is(name: str) -> None:
    model, state = automaton(name, clamp=False), 4 * states() - 2
    ones = torch.ones_like(state, dtype=torch.int8)
    assert torch.equal(model.update(state, ones), state + model.delta(state))
    assert model.update(state, ones).min() < 0


@pytest.mark.parametrize("name", RULES)
def test_rgb_is_the_first_three_channels_gray_where_a_free_state_is_0(name: str) -> None:
    state = states()
    assert torch.equal(automaton(name, clamp=True).rgb(state), state[:, :3])
    assert torch.equal(automaton(name, clamp=False).rgb(state), state[:, :3] + 0.5)


def test_a_cell_mask_moves_all_channels_of_a_cell_together() -> None:
    model, state = automaton("distill", update_rate=0.5), 0.5 + 0.0 * states()
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


def test_update_rate_1_updates_every_cell_and_draws_nothing() -> None:
    stream = generator()
    mask = draw_update_mask((2, 3, 4, 5), 1.0, stream, CPU)
    assert mask.shape == (2, 3, 4, 5)
    assert mask.is_contiguous(memory_format=torch.channels_last)
    assert bool((mask == 1).all())
    assert torch.equal(stream.get_state(), generator().get_state())


@pytest.mark.parametrize("n_values", [1, 3, 4, 5, 4096])
def test_a_rate_next_to_1_updates_nearly_every_cell(n_values: int) -> None:
    assert bool(draw_update_mask((1, 1, 1, n_values), 1.0 - 1e-6, generator(), CPU).all())


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
def test_a_square_is_a_bright_square_in_the_middle_of_nothing(size: int) -> None:
    state = draw_squares((3, 5, size, size), generator(), CPU)
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


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed_noise", [0.0, 0.2, 1.0])
def test_noise_is_uniform_over_the_whole_grid(name: str, seed_noise: float) -> None:
    state = automaton(name, seed_state="noise", seed_noise=seed_noise).draw_seed_states(3, 64, generator())
    assert state.shape == (3, 4, 64, 64)
    assert float(state.abs().max()) == pytest.approx(seed_noise, rel=1e-3)
    assert float(state.abs().max()) <= seed_noise
    # Uniform in [-n, n]: deviation n / sqrt(3), and of the mean of 49,152 values, n / 384.
    assert float(state.mean().abs()) <= 4 * seed_noise / 384
    assert float(state.std()) == pytest.approx(seed_noise / math.sqrt(3), rel=0.02)


def test_zeros_are_zeros_and_draw_nothing() -> None:
    stream = generator()
    assert not automaton("distill", seed_state="zeros").draw_seed_states(2, 16, stream).any()
    assert torch.equal(stream.get_state(), generator().get_state())


@pytest.mark.parametrize("seed_state", ["square", "noise"])
def test_seed_states_differ_and_come_from_their_stream(seed_state: str) -> None:
    model = automaton("distill", seed_state=seed_state)
    one, two = (model.draw_seed_states(2, 16, generator(seed)) for seed in (0, 1))
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one, two)
    assert torch.equal(one, model.draw_seed_states(2, 16, generator(0)))
    # The same numbers in two draws, so that a pool's first rows are those of a smaller pool.
    stream = generator()
    both = torch.cat([model.draw_seed_states(1, 16, stream) for _ in range(2)])
    assert torch.equal(both, one)


@pytest.mark.parametrize("name", RULES)
def test_a_normalized_gradient_has_norm_1_before_each_step_back(name: str) -> None:
    model, ca_steps = automaton(name, clamp=False, channels=3), 3
    start, stream = states(channels=3), generator(2)
    trajectory = [start.requires_grad_()]
    masks = [model.draw_mask(start, stream) for _ in range(ca_steps)]
    for mask in masks:
        trajectory.append(model.update(trajectory[-1].detach(), mask).detach())
    grad = 2 * trajectory[-1]
    for before, mask in zip(reversed(trajectory[:-1]), reversed(masks), strict=True):
        grad = grad / (grad.flatten(1).norm(dim=1)[:, None, None, None] + 1e-8)
        state = before.detach().requires_grad_()
        (grad,) = torch.autograd.grad(model.update(state, mask), state, grad)
    final = plain_rollout(model, start, ca_steps, generator(2), normalize=True)
    assert torch.equal(final.detach(), trajectory[-1])
    (found,) = torch.autograd.grad((final**2).sum(), start)
    assert torch.allclose(found, grad, rtol=1e-4, atol=1e-7)


def test_an_erased_disc_is_round_and_lies_where_it_should_on_the_torus() -> None:
    state = torch.ones(1, 4, 16, 16)
    erased = erase_disc(state, 0.25, (7.5, 7.5))
    assert (state == 1).all()
    assert (erased[..., 7:9, 7:9] == 0).all()
    assert (erased[..., 0, :] == 1).all()
    assert float((erased[0, 0] == 0).float().mean()) == pytest.approx(torch.pi / 16, rel=0.1)
    assert torch.equal(erased, erased.flip(2))
    assert torch.equal(erased, erased.mT)
    assert torch.equal(erase_disc(state, 0.25, (1.5, 13.5)), erased.roll((-6, 6), (2, 3)))
