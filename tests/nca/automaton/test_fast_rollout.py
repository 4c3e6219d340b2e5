"""The fast rollout equals the plain one, forward and backward."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nca.automaton import fast_rollout
from nca.automaton.fast_rollout import Rollout
from nca.automaton.fast_rules import AutogradRule, LinearRule, fold_kernel
from nca.automaton.grids import CellGrid, PlanarGrid
from nca.automaton.model import Automaton, plain_rollout
from nca.automaton.rules import Srnca, make_automaton
from nca.automaton.seeding import Streams
from tests.builders import CPU, RULES, automaton, generator, last_weight, model_config

rollout = Rollout()
ROLLOUTS: dict[str, Callable[..., Tensor]] = {
    "plain": plain_rollout,
    "fast": rollout,
    "recompute": Rollout(recompute=True),
}


def states(model: Automaton, size: int = 16) -> Tensor:
    return torch.rand(2, model.channels, size, size, generator=generator(1))


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return float(((ours - reference).norm() / reference.norm()).detach())


PERCEPTIONS = [*((name, n) for name in ("srnca", "distill") for n in range(1, 21)), ("munca", None)]


@pytest.mark.parametrize("mask", ["channel", "cell"])
@pytest.mark.parametrize(("name", "filters"), PERCEPTIONS)
def test_fast_and_plain_rollouts_agree_with_random_masks(name: str, mask: str, filters: int | None) -> None:
    model = automaton(name, filters=filters, mask=mask, seed=filters or 0)
    state = states(model)
    results = {kind: run(model, state, 6, generator(2)) for kind, run in ROLLOUTS.items()}
    assert not torch.equal(results["plain"], state)
    assert relative_error(results["fast"], results["plain"]) < 1e-5
    assert torch.equal(results["recompute"], results["fast"])


def gradients(
    run: Callable[..., Tensor], model: Automaton, ca_steps: int, **options: bool
) -> dict[str, Tensor]:
    model.zero_grad()
    state = states(model).requires_grad_()
    (run(model, state, ca_steps, generator(2), **options) ** 2).sum().backward()
    by_name = {"state": state.grad, **{n: p.grad for n, p in model.named_parameters()}}
    return {name: gradient.clone() for name, gradient in by_name.items() if gradient is not None}


def expect_equal_gradients(model: Automaton, **options: bool) -> None:
    plain, fast = (gradients(ROLLOUTS[kind], model, 5, **options) for kind in ("plain", "fast"))
    assert plain.keys() == fast.keys()
    for key in plain:
        assert relative_error(fast[key], plain[key]) < 1e-5, key


@pytest.mark.parametrize("update_rate", [0.05, 0.6, 1.0])
@pytest.mark.parametrize("channels", [4, 13, 15, 16])
@pytest.mark.parametrize("mask", ["channel", "cell"])
@pytest.mark.parametrize("name", RULES)
def test_gradients_of_fast_and_plain_rollouts_agree(
    name: str, mask: str, channels: int, update_rate: float
) -> None:
    expect_equal_gradients(automaton(name, mask=mask, channels=channels, update_rate=update_rate))


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name", RULES)
def test_gradients_agree_with_every_clamp_and_normalization(name: str, normalize: bool, clamp: bool) -> None:
    expect_equal_gradients(automaton(name, clamp=clamp), normalize=normalize)


@pytest.mark.parametrize("hidden_channels", [1, 7])
@pytest.mark.parametrize("channels", [3, 5])
def test_gradients_agree_where_nothing_divides_by_four(channels: int, hidden_channels: int) -> None:
    expect_equal_gradients(
        automaton("distill", channels=channels, hidden_channels=hidden_channels, filters=3)
    )
    expect_equal_gradients(automaton("munca", channels=channels))


@pytest.mark.parametrize("name", RULES)
def test_gradients_do_not_depend_on_the_number_of_threads(name: str) -> None:
    model, n_threads = automaton(name), torch.get_num_threads()
    found = []
    for n in (1, 2, 3):
        torch.set_num_threads(n)
        run = Rollout()
        model.zero_grad()
        run(model, states(model, 64), 3, generator(2), normalize=True).square().sum().backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.set_num_threads(n_threads)
    for others in found[1:]:
        for first, other in zip(found[0], others, strict=True):
            # PyTorch folds the kernel.
            assert torch.equal(first, other) or (name == "srnca" and relative_error(other, first) < 1e-6)


@pytest.mark.parametrize("clamp", [True, False])
@pytest.mark.parametrize("name", RULES)
def test_gradients_by_the_rules_of_other_devices_agree(
    name: str, clamp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(model: Automaton) -> object:
        if isinstance(model, Srnca):
            return LinearRule, (fold_kernel(model),)
        return functools.partial(AutogradRule, model), tuple(model.parameters())

    monkeypatch.setattr(fast_rollout, "prepare_rule", prepare)
    expect_equal_gradients(automaton(name, clamp=clamp), normalize=True)


@pytest.mark.parametrize("channels", [3, 5, 9, 17, 33])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (2, 3), (5, 16), (17, 7), (48, 48), (33, 20), (3, 544), (2, 70)]
)
@pytest.mark.parametrize("name", RULES)
def test_rollouts_agree_on_grids_of_any_size(name: str, channels: int, height: int, width: int) -> None:
    """Tiles of 2x2 cells, strips of cells or channels and blocks of rows do not divide them."""
    model, found = automaton(name, channels=channels), []
    for run in (plain_rollout, rollout):
        model.zero_grad()
        state = torch.rand(3, channels, height, width, generator=generator(1)).requires_grad_()
        final = run(model, state, 3, generator(2))
        final.square().sum().backward()
        found.append([final, state.grad, *(parameter.grad for parameter in model.parameters())])
    for plain, fast in zip(*found, strict=True):
        assert relative_error(fast, plain) < 1e-5


def test_a_normalized_gradient_has_norm_one_per_sample() -> None:
    model = automaton("munca")
    state = states(model).requires_grad_()
    (100 * rollout(model, state, 1, generator(), normalize=True).sum()).backward()
    assert state.grad is not None
    with torch.no_grad():
        last_weight(model).zero_()
    state = states(model).requires_grad_()
    (100 * rollout(model, state, 3, generator(), normalize=True).sum()).backward()
    assert state.grad is not None
    assert state.grad.flatten(1).norm(dim=1).tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("ca_steps", [0, 1, 2, 4, 7, 12])
@pytest.mark.parametrize("name", RULES)
def test_a_recomputed_rollout_has_the_same_gradients(name: str, ca_steps: int) -> None:
    model = automaton(name)
    fast, recomputed = (gradients(ROLLOUTS[kind], model, ca_steps) for kind in ("fast", "recompute"))
    assert fast.keys() == recomputed.keys()
    assert all(torch.equal(recomputed[key], fast[key]) for key in fast)


def test_a_recomputed_rollout_keeps_few_states() -> None:
    model = automaton("srnca")
    kept = {kind: Rollout(recompute=kind) for kind in (False, True)}
    for run in kept.values():
        run(model, states(model).requires_grad_(), 64, generator())
    n_states = {
        kind: len(run.acquire_tape(states(model), 1, model.channels, CellGrid).states)
        for kind, run in kept.items()
    }
    assert n_states == {False: 65, True: 9}


def test_a_recomputed_rollout_takes_several_backward_passes() -> None:
    model = automaton("srnca")
    loss = ROLLOUTS["recompute"](model, states(model), 9, generator()).sum()
    first, second = (
        torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)[0] for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("mask", ["channel", "cell"])
@pytest.mark.parametrize("name", RULES)
def test_a_rollout_without_gradients_keeps_two_states(name: str, mask: str) -> None:
    model, run = automaton(name, mask=mask), Rollout()
    with torch.no_grad():
        run(model, states(model), 64, generator())
    grid = CellGrid if name == "srnca" else PlanarGrid
    assert len(run.acquire_tape(states(model), 1, model.mask_channels, grid).states) == 2


@pytest.mark.parametrize("name", RULES)
def test_all_rollouts_take_the_same_numbers_from_the_stream(name: str) -> None:
    model = automaton(name)
    streams = [generator(4) for _ in ROLLOUTS]
    for run, stream in zip(ROLLOUTS.values(), streams, strict=True):
        gradients(lambda *arguments, run=run, stream=stream: run(*arguments[:3], stream), model, 5)
    assert all(torch.equal(stream.get_state(), streams[0].get_state()) for stream in streams)


@pytest.mark.parametrize("name", ["srnca", "distill"])
def test_a_fresh_rule_changes_nothing(name: str) -> None:
    model = make_automaton(model_config(name), Streams(0, CPU))
    assert torch.equal(rollout(model, states(model), 5, generator()), states(model))


@pytest.mark.parametrize("name", RULES)
def test_no_steps_change_nothing(name: str) -> None:
    model = automaton(name)
    stream = generator()
    assert torch.equal(rollout(model, states(model), 0, stream), states(model))
    assert torch.equal(stream.get_state(), generator().get_state())


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("first", "second"), [(1, 3), (3, 2)])
def test_rollouts_add_up(name: str, first: int, second: int) -> None:
    model, stream = automaton(name), generator()
    halfway = rollout(model, states(model), first, stream)
    whole = rollout(model, states(model), first + second, generator())
    assert torch.equal(whole, rollout(model, halfway, second, stream))


@pytest.mark.parametrize("name", RULES)
def test_clamped_states_stay_in_unit_range_and_the_input_as_it_was(name: str) -> None:
    model = automaton(name, clamp=True)
    state = states(model)
    before = state.clone()
    after = rollout(model, state, 8, generator()).detach()
    assert 0.0 <= float(after.min()) < float(after.max()) <= 1.0
    assert torch.equal(state, before)


def test_the_linear_rule_folds_to_one_convolution() -> None:
    model = automaton("srnca")
    assert isinstance(model, Srnca)
    padded = F.pad(states(model), (1, 1, 1, 1), mode="circular")
    folded = F.conv2d(padded, fold_kernel(model))
    assert relative_error(folded, model.delta(states(model))) < 1e-5


@pytest.mark.parametrize("name", RULES)
def test_gradients_agree_on_seeds_of_a_fresh_rule(name: str) -> None:
    """Most values of a seed state lie on the clamp's corners, where its derivative is 0."""
    found = []
    for run in (plain_rollout, rollout):
        model = make_automaton(model_config(name), Streams(0, CPU))
        state = model.draw_seed_states(2, 16, generator(1)).requires_grad_()
        (run(model, state, 5, generator(2)) ** 2).sum().backward()
        found.append([state.grad, *(parameter.grad for parameter in model.parameters())])
    for plain, fast in zip(*found, strict=True):
        assert torch.allclose(fast, plain, rtol=1e-4, atol=1e-6)


def test_buffers_are_reused_once_the_graph_is_freed() -> None:
    model, rollout = automaton("srnca"), Rollout()
    first = rollout(model, states(model), 4, generator(2))
    second = rollout(model, states(model), 4, generator(3))
    for output, seed in ((first, 2), (second, 3)):
        model.zero_grad()
        output.sum().backward()
        (fast, *_) = [p.grad for p in model.parameters()]
        model.zero_grad()
        plain_rollout(model, states(model), 4, generator(seed)).sum().backward()
        (plain, *_) = [p.grad for p in model.parameters()]
        assert fast is not None
        assert plain is not None
        assert relative_error(fast, plain) < 1e-5
    del first, second, output
    spare = rollout.acquire_tape(states(model), 4, model.channels, CellGrid)
    rollout.release_tape(spare)
    assert rollout.acquire_tape(states(model), 3, model.channels, CellGrid) is spare


@pytest.mark.parametrize("kind", ROLLOUTS)
@pytest.mark.parametrize("mask", ["channel", "cell"])
@pytest.mark.parametrize("name", RULES)
def test_gradients_are_those_of_finite_differences(name: str, mask: str, kind: str) -> None:
    sizes = {} if name == "munca" else {"hidden_channels": 2, "filters": 6}
    model = automaton(name, channels=3, mask=mask, **sizes).double()
    # Away from 0 and 1: the clamp has no derivative at its corners.
    state = 0.3 + 0.4 * torch.rand(1, 3, 3, 4, generator=generator(1), dtype=torch.float64)
    with torch.no_grad():
        last_weight(model).mul_(0.05)
    parameters = dict(model.named_parameters())

    def run(state: Tensor, *weights: Tensor) -> Tensor:
        arguments = (state, 3, generator(2))
        values = dict(zip(parameters, weights, strict=True))
        final: Tensor = torch.func.functional_call(
            _Rollout(model, ROLLOUTS[kind]), {f"model.{k}": v for k, v in values.items()}, arguments
        )
        return final

    inputs = [state, *(parameter.detach() for parameter in parameters.values())]
    assert torch.autograd.gradcheck(run, [tensor.requires_grad_() for tensor in inputs])


class _Rollout(torch.nn.Module):
    """A rollout as a module, so that its weights can be given from outside."""

    def __init__(self, model: Automaton, kind: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model = model
        self._kind = kind

    def forward(self, state: Tensor, ca_steps: int, stream: torch.Generator) -> Tensor:
        return self._kind(self.model, state, ca_steps, stream)
