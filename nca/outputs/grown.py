"""The outputs by which trained automata are compared: textures that have grown from seed states."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from nca.automaton.model import Automaton
from nca.automaton.seeding import Streams
from nca.outputs.pictures import Images, grow, shown_colors

N_SEEDS = 3  # seed states, the same for every automaton
OLD_CA_STEPS = 1000

Distance = Callable[[Images], Float[Tensor, " batch"]]


def measure_outputs(
    model: Automaton, size: int, max_ca_steps: int, distance: Distance
) -> tuple[float, Images]:
    """Measure textures that have grown from three seed states, after two numbers of CA steps.

    These are the longest rollout of the training, and 1,000.

    Args:
        model: The automaton.
        size: Side of the grid in pixels, a multiple of 16.
        max_ca_steps: Of the training; its rollouts are shorter.
        distance: The distance of each image from the target.

    Returns:
        The mean distance at the age at which it is larger, and the images of the greater age, at which slow
        textures are whole too; syncs with the device.
    """
    streams = Streams(0, model.kernels.device)
    seeds = model.draw_seed_states(N_SEEDS, size, streams["seed_states"])
    ages = sorted({max_ca_steps - 1, OLD_CA_STEPS})
    outputs = [shown_colors(model.rgb(state)) for state in grow(model, size, ages, streams, seeds)]
    distances: list[float] = torch.stack([distance(images).mean() for images in outputs]).tolist()
    return max(distances), outputs[-1]
