"""The training loop: order of events, divergence, no host sync, and the same numbers in another process."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nca.automaton.model import Automaton
from nca.automaton.rules import Srnca, make_automaton
from nca.automaton.seeding import Streams
from nca.loss.features import RandomFilters, Vgg16
from nca.loss.gram import GramLoss
from nca.loss.patches import Patches
from nca.loss.sliced import SlicedLoss, draw_directions
from nca.loss.texture_loss import TextureLoss
from nca.training.pool import Pool
from nca.training.run import build_trainer
from nca.training.trainer import FETCH_EVERY, DivergedError, Trainer, overflow, smoothed_loss
from tests.builders import (
    CPU,
    PATCHES,
    RULES,
    SLICED,
    generator,
    model_config,
    train_config,
    trial_config,
    vgg_weights,
)
from tests.forked import Forked

META = torch.device("meta")


LOSSES: dict[str, Callable[[Tensor], TextureLoss]] = {
    "gram of vgg16": lambda target: GramLoss(Vgg16(vgg_weights(), META), target),
    "gram of random_filters": lambda target: GramLoss(RandomFilters(META), target),
    "sliced, of patches": lambda target: SlicedLoss(Patches(5, 2, 1.0, META), target, 8, "l1"),
}


def make_trainer(**changes: Any) -> Trainer:
    return build_trainer(trial_config(**changes), CPU)


def snapshot(trainer: Trainer) -> dict[str, Tensor]:
    tensors = trainer.state()
    kept = ("model.", "optimizer.", "pool", "output")
    return {name: tensor.detach().clone() for name, tensor in tensors.items() if name.startswith(kept)}


class RecordedPool(Pool):
    """A pool that records its calls."""

    def __init__(self, *arguments: Any) -> None:
        self.events: list[tuple[str, Any]] = []
        super().__init__(*arguments)

    def draw_rows(self, batch_size: int) -> list[int]:
        rows = super().draw_rows(batch_size)
        self.events.append(("rows", rows))
        return rows

    def sample(self, rows: list[int]) -> Tensor:
        self.events.append(("sample", rows))
        return super().sample(rows)

    def damage(self, states: Tensor) -> Tensor:
        damaged = super().damage(states)
        self.events.append(("damage", damaged))
        return damaged

    def draw_seed_state(self) -> Tensor:
        seed = super().draw_seed_state()
        self.events.append(("seed", seed))
        return seed

    def commit(self, rows: list[int], states: Tensor, keep: Tensor) -> None:
        self.events.append(("commit", (rows, states.clone(), bool(keep))))
        super().commit(rows, states, keep)


def events_of(trainer: Trainer) -> list[tuple[str, Any]]:
    """Return the calls of a trainer's recorded pool, with what they got or gave."""
    assert isinstance(trainer._pool, RecordedPool)
    return trainer._pool.events


class RecordedTrainer(Trainer):
    """A trainer that records the lengths of its rollouts."""

    def draw_ca_steps(self) -> int:
        ca_steps = super().draw_ca_steps()
        events_of(self).append(("ca_steps", ca_steps))
        return ca_steps


class PoisonedLoss(GramLoss):
    """A style loss that is not finite, or whose gradient is not, at one of its calls."""

    def __init__(self, *arguments: Any, call: int, kind: str) -> None:
        super().__init__(*arguments)
        self.calls, self._call, self._kind = 0, call, kind

    def __call__(self, images: Tensor) -> Tensor:
        loss = super().__call__(images)
        self.calls += 1
        if self.calls - 1 != self._call:
            return loss
        if self._kind == "gradient":  # sqrt has an infinite slope at 0
            return loss + (images - images.detach()).abs().sqrt().sum()
        return loss * {"nan": math.nan, "inf": math.inf}[self._kind]


class ScaledLoss(TextureLoss):
    """A loss that is larger by a factor."""

    def __init__(self, loss: TextureLoss, factor: float) -> None:
        self._loss, self._factor = loss, factor
        self.energy = factor * loss.energy

    def __call__(self, images: Tensor) -> Tensor:
        return self._factor * self._loss(images)


def assemble(
    trainer_type: type[Trainer] = Trainer,
    pool_type: type[Pool] = Pool,
    device: torch.device = CPU,
    poison: dict[str, Any] | None = None,
    **changes: Any,
) -> Trainer:
    config, streams = train_config(**changes), Streams(0, device)
    target = torch.rand(3, 16, 16, generator=generator(9)).to(device)
    extractor = RandomFilters(device)
    loss = PoisonedLoss(extractor, target, **poison) if poison else GramLoss(extractor, target)
    model = make_automaton(model_config(), streams).to(device)
    return trainer_type(model, pool_type(8, model, 16, streams), loss, config, streams)


def test_every_step_follows_the_order_of_events() -> None:
    trainer = assemble(RecordedTrainer, RecordedPool, steps=18, batch_size=3)
    records = list(trainer.steps())
    assert [record.step for record in records] == list(range(18))
    events = iter(events_of(trainer))
    for step in range(18):
        kind, rows = next(events)
        assert (kind, len(rows)) == ("rows", 3)
        assert next(events) == ("sample", rows)
        if step % 8 == 0:
            assert next(events)[0] == "seed"
        assert next(events)[0] == "ca_steps"
        kind, (committed, states, keep) = next(events)
        assert (kind, committed, keep) == ("commit", rows, True)
        assert states.shape == (3, 4, 16, 16)
    assert next(events, None) is None


def test_a_fresh_seed_takes_the_first_place_of_every_eighth_batch() -> None:
    trainer = assemble(RecordedTrainer, RecordedPool, steps=1, batch_size=2)
    # The fresh rule changes nothing, so the sampled states are committed.
    before = trainer._pool.states.clone()
    list(trainer.steps())
    events = dict(events_of(trainer))
    row, other = events["rows"]
    _, states, _ = events["commit"]
    assert torch.equal(states[:1], events["seed"])
    assert torch.equal(states[1], before[other])
    assert not torch.equal(states[0], before[row])


def test_rollouts_take_half_of_max_ca_steps_to_one_less() -> None:
    trainer = assemble(max_ca_steps=9)
    drawn = [trainer.draw_ca_steps() for _ in range(2000)]
    assert set(drawn) == {4, 5, 6, 7, 8}
    assert all(300 < drawn.count(n) < 500 for n in set(drawn))
    assert {assemble(max_ca_steps=2).draw_ca_steps() for _ in range(20)} == {1}


def test_the_learning_rate_drops_once_after_a_third() -> None:
    trainer = assemble(steps=9, learning_rate=1e-3)
    rates = []
    for step in range(9):
        trainer.train_step(step)
        rates.append(trainer._optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3] * 3 + [3e-4] * 6)


def test_rollouts_take_as_many_ca_steps_as_asked_for() -> None:
    trainer = assemble(min_ca_steps=2, max_ca_steps=6)
    drawn = [trainer.draw_ca_steps() for _ in range(400)]
    assert set(drawn) == {2, 3, 4, 5}
    assert all(60 < drawn.count(n) < 140 for n in set(drawn))
    # Given as half of max_ca_steps, it draws the same numbers as without.
    half, default = (assemble(min_ca_steps=first, max_ca_steps=9) for first in (4, None))
    assert [half.draw_ca_steps() for _ in range(20)] == [default.draw_ca_steps() for _ in range(20)]


@pytest.mark.parametrize(
    ("drop_steps", "rates"),
    [
        ([0], [0.3] * 6),
        ([2, 4], [1, 1, 0.3, 0.3, 0.09, 0.09]),
        ([4, 2], [1, 1, 0.3, 0.3, 0.09, 0.09]),
        ([5, 100], [1] * 5 + [0.3]),
        ([3, 3], [1] * 3 + [0.09] * 3),
    ],
)
def test_the_learning_rate_drops_at_every_given_step(drop_steps: list[int], rates: list[float]) -> None:
    trainer = assemble(steps=6, learning_rate=1e-3, drop_steps=drop_steps)
    found = []
    for step in range(6):
        trainer.train_step(step)
        found.append(trainer._optimizer.param_groups[0]["lr"])
    assert found == pytest.approx([1e-3 * rate for rate in rates])


def test_the_learning_rate_rises_over_the_warm_up() -> None:
    trainer = assemble(steps=6, learning_rate=1e-3, warmup_steps=4, drop_steps=[5])
    found = []
    for step in range(6):
        trainer.train_step(step)
        found.append(trainer._optimizer.param_groups[0]["lr"])
    assert found == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 0.3e-3])


@pytest.mark.parametrize("every", [1, 3, 8])
def test_fresh_seeds_come_as_often_as_asked_for(every: int) -> None:
    trainer = assemble(RecordedTrainer, RecordedPool, steps=7, reseed_every=every)
    list(trainer.steps())
    assert [name for name, _ in events_of(trainer)].count("seed") == -(-7 // every)


@pytest.mark.parametrize(("every", "n"), [(None, 0), (1, 7), (3, 3)])
def test_the_last_state_of_a_batch_is_damaged_as_often_as_asked_for(every: int | None, n: int) -> None:
    trainer = assemble(
        RecordedTrainer, RecordedPool, steps=7, damage_every=every, batch_size=2, reseed_every=1
    )
    list(trainer.steps())
    events = events_of(trainer)
    assert [name for name, _ in events].count("damage") == n
    if every == 1:
        seeds, damaged = ([value for name, value in events if name == of] for of in ("seed", "damage"))
        assert not any(torch.equal(*pair) for pair in zip(seeds, damaged, strict=True))


def test_overflow_is_how_far_states_are_outside_of_minus_one_to_one() -> None:
    states = torch.tensor([-3.0, -1.0, -0.5, 0.0, 1.0, 1.5]).view(1, 1, 1, 6).expand(2, 1, 1, 6)
    assert float(overflow(states)) == 5.0
    assert float(overflow(states.clamp(-1, 1))) == 0.0


def gradients_of(trainer: Trainer) -> tuple[dict[str, Tensor], float]:
    """Return the gradients of the first training step before each is divided by its norm, and the loss."""
    trainer._normalize_gradients = lambda: torch.tensor(True)  # type: ignore[method-assign]
    loss = float(trainer.train_step(0))
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}, loss


@pytest.mark.parametrize("recompute", [False, True])
def test_the_overflow_adds_to_the_gradient_in_proportion_to_its_weight_and_not_to_the_loss(
    recompute: bool,
) -> None:
    found = {}
    for weight in (0.0, 1.0, 2.0):
        train = {"overflow_weight": weight, "recompute": recompute}
        # States of noise between -1 and 1 that a fresh rule changes a little: some leave the interval.
        found[weight] = gradients_of(make_trainer(rule="munca", model={"seed_noise": 1.0}, train=train))
    (none, loss), (once, loss_once), (twice, _) = (found[weight] for weight in (0.0, 1.0, 2.0))
    assert loss == loss_once > 0
    for name, gradient in none.items():
        assert float((once[name] - gradient).norm()) > 0, name
        assert torch.allclose(twice[name] - once[name], once[name] - gradient, rtol=1e-3, atol=1e-4), name


def test_free_states_leave_the_interval_less_with_the_overflow_in_the_loss() -> None:
    found = []
    for weight in (0.0, 100.0):
        train = {"overflow_weight": weight, "steps": 40, "pool_size": 4, "learning_rate": 3e-3}
        trainer = make_trainer(rule="munca", model={"seed_noise": 1.0}, train=train)
        list(trainer.steps())
        found.append(float(overflow(trainer._pool.states)))
    assert found[1] < 0.5 * found[0]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_a_gradient_per_ca_step_does_not_depend_on_the_size_of_the_loss(rule: str, recompute: bool) -> None:
    found = {}
    for normalize in (False, True):
        for scale in (1.0, 1000.0):
            train = {"gradient_per_ca_step": normalize, "recompute": recompute}
            trainer = make_trainer(rule=rule, train=train)
            trainer.texture_loss = ScaledLoss(trainer.texture_loss, scale)
            found[normalize, scale], _ = gradients_of(trainer)
    last = "weight" if rule == "munca" else "w1"
    assert float(found[True, 1.0][last].norm()) > 0
    assert torch.allclose(found[False, 1000.0][last], 1000 * found[False, 1.0][last], rtol=1e-2, atol=1e-5)
    assert torch.allclose(found[True, 1000.0][last], found[True, 1.0][last], rtol=1e-2, atol=1e-5)


def test_the_model_of_least_distance_is_kept_and_used() -> None:
    trainer = make_trainer(rule="distill")
    kept: dict[float, dict[str, Tensor]] = {}
    for distance in (3.0, 1.0, 2.0, 1.0):
        next(trainer.steps())
        kept[distance] = kept.get(distance) or copy_of(trainer.model)
        trainer.keep_best(distance)
    assert not torch.equal(copy_of(trainer.model)["w1"], kept[1.0]["w1"])
    trainer.use_best()
    for name, tensor in copy_of(trainer.model).items():
        assert torch.equal(tensor, kept[1.0][name]), name


def test_a_distance_that_is_not_finite_is_kept_until_there_is_another() -> None:
    trainer = make_trainer(rule="distill")
    next(trainer.steps())
    trainer.keep_best(math.inf)
    next(trainer.steps())
    best = copy_of(trainer.model)
    trainer.keep_best(2.0)
    next(trainer.steps())
    trainer.keep_best(math.inf)
    trainer.use_best()
    assert torch.equal(copy_of(trainer.model)["w1"], best["w1"])


def test_without_a_best_model_the_last_one_stays() -> None:
    trainer = make_trainer()
    next(trainer.steps())
    before = copy_of(trainer.model)
    trainer.use_best()
    assert all(torch.equal(tensor, before[name]) for name, tensor in copy_of(trainer.model).items())
    assert not [name for name in trainer.state() if name.startswith("best.")]


def test_the_best_model_goes_with_the_checkpoint() -> None:
    first, second = (make_trainer(rule="munca") for _ in range(2))
    next(first.steps())
    best = copy_of(first.model)
    first.keep_best(0.1 + 0.2)
    next(first.steps())
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    second.keep_best(0.1 + 0.2)  # no less
    second.use_best()
    for name, tensor in copy_of(second.model).items():
        assert torch.equal(tensor, best[name]), name


def copy_of(model: Automaton) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("norm", ["l1", "squared"])
def test_the_sliced_loss_draws_fresh_directions_at_every_step(norm: Any) -> None:
    trainer = make_trainer(loss=replace(SLICED, norm=norm), features=PATCHES, train={"steps": 3})
    assert isinstance(trainer.texture_loss, SlicedLoss)
    drawn = [trainer.texture_loss._directions[0].clone() for _ in trainer.steps()]
    assert len({tuple(directions.flatten().tolist()) for directions in drawn}) == 3
    expected = draw_directions(8, 75, Streams(3, CPU)["directions"])
    assert torch.equal(drawn[0], expected)


def test_the_gram_loss_draws_nothing() -> None:
    trainer = make_trainer(train={"steps": 2})
    before = Streams(3, CPU).state()["directions"]
    list(trainer.steps())
    assert torch.equal(trainer.state()["streams.directions"], before)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("rollout", ["fast", "plain"])
def test_every_parameters_gradient_has_norm_1(rule: str, rollout: str) -> None:
    trainer = make_trainer(rule=rule, train={"rollout": rollout})
    steps = trainer.steps()
    next(steps)
    norms = {name: float(p.grad.norm()) for name, p in trainer.model.named_parameters() if p.grad is not None}
    if rule != "munca":
        # Behind a second convolution of zeros the first one gets no gradient, and 0 / (0 + epsilon) is 0.
        assert norms["w1"] == pytest.approx(1, rel=1e-2)
        assert norms["w0"] == 0
    next(steps)
    for name, parameter in trainer.model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.norm()) == pytest.approx(1, rel=1e-2), name


def test_the_first_adam_step_has_the_size_of_the_learning_rate() -> None:
    trainer = assemble(learning_rate=1e-3)
    trainer.train_step(0)
    assert isinstance(trainer.model, Srnca)
    size = trainer.model.w1.detach().abs()
    assert float(size.max()) == pytest.approx(1e-3, rel=1e-2)


def test_training_lowers_the_loss() -> None:
    trainer = make_trainer(
        rule="distill",
        model={"clamp": True, "seed_state": "square"},
        train={"steps": 30, "max_ca_steps": 12, "pool_size": 64},
    )
    list(trainer.steps())
    assert len(trainer.losses) == trainer.step == 30
    assert smoothed_loss(trainer.losses[-10:]) < 0.8 * smoothed_loss(trainer.losses[:10])


def test_stopping_is_not_asking_and_going_on_is_asking_again() -> None:
    stopped, straight = make_trainer(), make_trainer()
    list(itertools.islice(stopped.steps(), 5))
    assert stopped.step == 5
    assert [record.step for record in stopped.steps()] == list(range(5, 12))
    list(straight.steps())
    assert stopped.losses == straight.losses


def test_each_record_brings_its_loss_to_the_host() -> None:
    trainer = make_trainer()
    assert [record.fetched for record in trainer.steps()] == [[loss] for loss in trainer.losses]


def test_blocks_bring_several_losses_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = make_trainer(train={"steps": 10})
    list(expected.steps())
    monkeypatch.setitem(FETCH_EVERY, "cpu", 4)
    trainer = make_trainer(train={"steps": 10})
    fetched = [record.fetched for record in trainer.steps()]
    assert [len(losses) for losses in fetched] == [0, 0, 0, 4, 0, 0, 0, 4, 0, 2]
    assert [loss for losses in fetched for loss in losses] == trainer.losses == expected.losses


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("kind", ["nan", "inf", "gradient"])
def test_what_is_not_finite_stops_before_the_optimizer(
    kind: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = assemble()
    list(itertools.islice(clean.steps(), 5))
    monkeypatch.setitem(FETCH_EVERY, "cpu", block)
    trainer = assemble(poison={"call": 5, "kind": kind})
    with pytest.raises(DivergedError, match="not finite at step 5; try a lower learning rate"):
        list(trainer.steps())
    assert isinstance(trainer.texture_loss, PoisonedLoss)
    assert trainer.texture_loss.calls == (6 if block == 1 else 8)
    assert trainer.step == 5
    assert trainer.losses == clean.losses
    ours, expected = snapshot(trainer), snapshot(clean)
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(ours[name], tensor), name


def test_divergence_at_the_first_step_leaves_a_fresh_model() -> None:
    trainer = assemble(poison={"call": 0, "kind": "nan"})
    with pytest.raises(DivergedError, match="loss nan or its gradient is not finite at step 0"):
        next(trainer.steps())
    assert isinstance(trainer.model, Srnca)
    assert not trainer.model.w1.any()
    assert trainer.losses == []


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("way", [{"rollout": "fast"}, {"rollout": "plain"}, {"recompute": True}])
@pytest.mark.parametrize("loss_of", LOSSES)
def test_a_step_runs_without_a_host_sync(loss_of: str, way: dict[str, Any], rule: str) -> None:
    free = {"overflow_weight": 1.0, "gradient_per_ca_step": True, "optimizer": "soap", "damage_every": 1}
    streams, config = Streams(0, META), train_config(**way, **({} if rule == "srnca" else free))
    loss = LOSSES[loss_of](torch.zeros(3, 16, 16, device=META))
    model = make_automaton(model_config(rule), streams).to(META)
    trainer = Trainer(model, Pool(8, model, 16, streams), loss, config, streams)
    for step in range(2):
        result = trainer.train_step(step)
        assert result.device.type == "meta"
        assert result.shape == ()
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        trainer._fetch(1)


def test_fast_and_plain_rollouts_train_alike() -> None:
    losses = []
    for rollout in ("fast", "plain"):
        trainer = make_trainer(train={"rollout": rollout, "steps": 8})
        list(trainer.steps())
        losses.append(trainer.losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_recomputing_trains_alike() -> None:
    losses = []
    for recompute in (False, True):
        trainer = make_trainer(train={"recompute": recompute, "steps": 8})
        list(trainer.steps())
        losses.append(trainer.losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_bfloat16_features_train_almost_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})
    losses = []
    for precision in ("fp32", "bf16"):
        trainer = make_trainer(train={"precision": precision, "steps": 4})
        list(trainer.steps())
        losses.append(trainer.losses)
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def print_losses(rule: str, n_threads: int) -> None:
    torch.set_num_threads(n_threads)  # the order of summation is part of the numbers
    trainer = build_trainer(trial_config(rule=rule, train={"steps": 6}), CPU)
    list(trainer.steps())
    print(trainer.losses)


@pytest.mark.parametrize("rule", RULES)
def test_the_same_seed_gives_the_same_losses_in_another_process(rule: str, tmp_path: Path) -> None:
    trainer = make_trainer(rule=rule, train={"steps": 6})
    list(trainer.steps())
    other = Forked(print_losses, rule, torch.get_num_threads(), folder=tmp_path)
    assert other.communicate(60)[0].strip() == str(trainer.losses)


def test_another_seed_gives_other_losses() -> None:
    one, other = make_trainer(seed=0), make_trainer(seed=1)
    assert next(one.steps()).fetched != next(other.steps()).fetched


def test_output_is_a_seed_and_then_the_last_states() -> None:
    trainer = assemble(RecordedTrainer, RecordedPool)
    assert torch.equal(trainer.output, trainer._pool.states[:2, :3])
    next(trainer.steps())
    _, (_, states, _) = events_of(trainer)[-1]
    assert torch.equal(trainer.output, states[:, :3])


def test_a_pool_smaller_than_the_batch_trains() -> None:
    trainer = make_trainer(train={"pool_size": 1, "batch_size": 3, "steps": 2})
    list(trainer.steps())
    assert len(trainer.losses) == 2


def test_smoothed_loss_is_the_median_of_the_last_256() -> None:
    assert smoothed_loss([3.0, 1.0, 2.0]) == 2.0
    assert smoothed_loss([1.0, 2.0]) == 1.5
    assert smoothed_loss([1e9] * 300 + [1.0] * 200 + [2.0] * 56) == 1.0
    assert smoothed_loss([1e9] * 10 + [5.0] * 256) == 5.0
    assert math.isnan(smoothed_loss([1.0, math.nan, 2.0]))
