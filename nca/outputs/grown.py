"""The outputs by which trained automata are compared: textures that have grown from seed states."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nca.automaton.model import Automaton
from nca.automaton.seeding import Streams
from nca.outputs.pictures import Images, grow, shown_colors

N_SEEDS = 3  # seed states, the same for every automaton
OLD_CA_STEPS = 1000

Distance = Callable[[Images], Float[Tensor, " batch"]]


class Grown(NamedTuple):
    """Textures that have grown from three seed states, and the means of their distances from the target.

    Args:
        final_distance: At the age at which it is larger, of the longest training rollout's and 1,000.
        distance_at_1000: After 1,000 CA steps, when slow textures are whole too.
        images: After 1,000 CA steps.
    """

    final_distance: float
    distance_at_1000: float
    images: Images


def measure_outputs(model: Automaton, size: int, max_ca_steps: int, distance: Distance) -> Grown:
    """Grow textures from three seed states, the same for every automaton, and measure them at two ages.

    Args:
        model: The automaton.
        size: Side of the grid in pixels, a multiple of 16.
        max_ca_steps: Of the training; its rollouts are shorter.
        distance: The distance of each image from the target.

    Returns:
        What has grown; syncs with the device.
    """
    streams = Streams(0, model.kernels.device)
    seeds = model.draw_seed_states(N_SEEDS, size, streams["seed_states"])
    ages = sorted({max_ca_steps - 1, OLD_CA_STEPS})
    outputs = [shown_colors(model.rgb(state)) for state in grow(model, size, ages, streams, seeds)]
    distances: list[float] = torch.stack([distance(images).mean() for images in outputs]).tolist()
    old = ages.index(OLD_CA_STEPS)
    return Grown(max(distances), distances[old], outputs[old])
