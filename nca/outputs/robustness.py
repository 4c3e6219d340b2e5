"""Robustness of a trained texture: its distance from the target long after it has grown and after damage."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from PIL import Image

from nca.automaton.model import Automaton, erase_disc
from nca.automaton.seeding import Streams
from nca.outputs.grown import OLD_CA_STEPS, Distance
from nca.outputs.pictures import GIF_AGES, grow, save_animation, shown_colors, to_pixels

# Radius, row and column, in sides of the grid: a texture may heal one hole and explode after another.
HOLES = tuple(itertools.product((0.2, 0.4), (1 / 4, 3 / 4), (1 / 4, 3 / 4)))
VERY_OLD_CA_STEPS = 3000
N_CA_STEPS = VERY_OLD_CA_STEPS + len(HOLES) * GIF_AGES[-1]  # of a measurement


def measure_robustness(
    model: Automaton, size: int, seed: int, distance: Distance, folder: Path
) -> dict[str, float]:
    """Grow a texture far beyond the age of a training rollout, and let it heal holes made at 1,000 CA steps.

    Writes `stages.png` (the texture at 1,000 and 3,000 CA steps, with the hole that heals worst, and healed,
    side by side) and `healing.gif` (188 CA steps from that hole on).

    Args:
        model: The automaton.
        size: Side of the grid in pixels, a multiple of 16.
        seed: Seed of the streams `seed_states` and `masks`.
        distance: The distance of each image from the target.
        folder: Where the pictures are written.

    Returns:
        Distances of single images: `distance_at_3000`, and `distance_after_damage`, the largest once healed.
    """
    streams = Streams(seed, model.kernels.device)
    old, very_old = grow(model, size, (OLD_CA_STEPS, VERY_OLD_CA_STEPS), streams)
    holes = torch.cat([erase_disc(old, radius, (y * size, x * size)) for radius, y, x in HOLES])
    healing = [model.rgb(state).clone() for state in grow(model, size, GIF_AGES, streams, holes)]
    images = torch.cat([model.rgb(very_old), healing[-1]])
    at_3000, *healed = distance(shown_colors(images)).tolist()  # device-to-host sync
    worst = healed.index(max(healed))
    worst_healing = [image[worst : worst + 1] for image in healing]
    stages = torch.cat([model.rgb(old), model.rgb(very_old), worst_healing[0], worst_healing[-1]])
    Image.fromarray(to_pixels(stages)).save(folder / "stages.png")
    save_animation(worst_healing, folder / "healing.gif")
    return {"distance_at_3000": at_3000, "distance_after_damage": healed[worst]}
