"""The grown textures by which automata are compared."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nca.automaton.model import Automaton
from nca.automaton.rules import make_automaton
from nca.automaton.seeding import Streams
from nca.loss.distance import TextureDistance
from nca.outputs.grown import N_SEEDS, OLD_CA_STEPS, measure_outputs
from nca.outputs.pictures import grow
from nca.textures.load import load_texture
from tests.builders import CPU, ROUNDLEAF, RULES, SIZE, automaton, last_weight, model_config


def brightness(images: Tensor) -> Tensor:
    return images.mean(dim=(1, 2, 3))


def grown(model: Automaton, ca_steps: int) -> Tensor:
    streams = Streams(0, CPU)
    seeds = model.draw_seed_states(N_SEEDS, SIZE, streams["seed_states"])
    (state,) = grow(model, SIZE, (ca_steps,), streams, seeds)
    return model.rgb(state).clamp(0, 1)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_larger_distance_of_two_ages_counts_and_those_of_the_greater_age_are_shown(
    rule: str, sign: int
) -> None:
    model = automaton(rule, clamp=True)
    by_age = [grown(model, 7), grown(model, OLD_CA_STEPS)]
    distances = [float((sign * brightness(images)).mean()) for images in by_age]
    assert distances[0] != distances[1]
    found = measure_outputs(model, SIZE, 8, lambda images: sign * brightness(images))
    assert found.final_distance == pytest.approx(max(distances))
    assert found.distance_at_1000 == pytest.approx(distances[1])
    assert torch.equal(found.images, by_age[1])


def test_there_are_three_outputs_which_are_the_same_every_time() -> None:
    model = automaton("distill", clamp=True)
    first, second = (measure_outputs(model, SIZE, 8, brightness) for _ in range(2))
    assert first[:2] == second[:2]
    assert torch.equal(first.images, second.images)
    assert first.images.shape == (3, 3, SIZE, SIZE)
    assert len(first.images.unique(dim=0)) == 3


def test_outputs_are_colors() -> None:
    seen = []

    def distance(images: Tensor) -> Tensor:
        seen.append(images)
        return brightness(images)

    model = automaton("distill", seed_noise=1.0)
    last_weight(model).data.zero_()  # keeps its seed, whose colors are -0.5 to 1.5
    measure_outputs(model, SIZE, 8, distance)
    assert len(seen) == 2
    assert all(float(images.min()) == 0 and float(images.max()) == 1 for images in seen)


def test_rollouts_of_the_old_age_are_measured_once() -> None:
    ages = []

    def distance(images: Tensor) -> Tensor:
        ages.append(images)
        return brightness(images)

    found = measure_outputs(automaton(clamp=True), SIZE, OLD_CA_STEPS + 1, distance)
    assert len(ages) == 1
    assert found.final_distance == found.distance_at_1000


def test_the_measurement_does_not_depend_on_the_random_state_of_a_run() -> None:
    model = make_automaton(model_config("distill"), Streams(5, CPU))
    before = measure_outputs(model, SIZE, 8, brightness)[:2]
    torch.rand(3)
    model.draw_seed_states(2, SIZE, None)
    assert measure_outputs(model, SIZE, 8, brightness)[:2] == before


def test_states_that_explode_have_a_finite_distance_far_above_1() -> None:
    model = automaton("distill")
    last_weight(model).data.mul_(1e6)
    target = load_texture(ROUNDLEAF, 32)
    found = measure_outputs(model, 32, 8, TextureDistance(target))
    assert 1.0 < found.distance_at_1000 <= found.final_distance < 100.0
    assert found.images.isfinite().all()
