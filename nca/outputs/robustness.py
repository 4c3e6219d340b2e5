"""Robustness of a trained texture: its distance from the target long after it has grown and after damage."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from nca.automaton.model import Automaton, erase_disc
from nca.automaton.seeding import Streams
from nca.outputs.grown import OLD_CA_STEPS, Distance
from nca.outputs.pictures import GIF_AGES, grow, save_animation, shown_colors, to_pixels

DAMAGE_RADIUS = 1 / 4  # of the grid's side
VERY_OLD_CA_STEPS = 3000
N_CA_STEPS = VERY_OLD_CA_STEPS + GIF_AGES[-1]  # of a measurement


def measure_robustness(
    model: Automaton, size: int, seed: int, distance: Distance, folder: Path
) -> dict[str, float]:
    """Grow a texture far beyond the age of a training rollout, damage it at 1,000 CA steps and let it heal.

    Writes `stages.png` (the texture at 1,000 and 3,000 CA steps, damaged, and healed, side by side) and
    `healing.gif` (188 CA steps from the damage on).

    Args:
        model: The automaton.
        size: Side of the grid in pixels, a multiple of 16.
        seed: Seed of the streams `seed_states` and `masks`.
        distance: The distance of each image from the target.
        folder: Where the pictures are written.

    Returns:
        Distances of single images: `distance_at_3000`, and `distance_after_damage`, once healed.
    """
    streams = Streams(seed, model.kernels.device)
    old, very_old = grow(model, size, (OLD_CA_STEPS, VERY_OLD_CA_STEPS), streams)
    middle = (size - 1) / 2
    damaged = erase_disc(old, DAMAGE_RADIUS, (middle, middle))
    healing = [model.rgb(state).clone() for state in grow(model, size, GIF_AGES, streams, damaged)]
    stages = torch.cat([model.rgb(old), model.rgb(very_old), healing[0], healing[-1]])
    Image.fromarray(to_pixels(stages)).save(folder / "stages.png")
    save_animation(healing, folder / "healing.gif")
    _, at_3000, _, healed = distance(shown_colors(stages)).tolist()  # device-to-host sync
    return {"distance_at_3000": at_3000, "distance_after_damage": healed}
