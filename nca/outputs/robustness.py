"""Robustness of a trained texture: its style loss long after it has grown and after damage, with pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from nca.automaton.model import Automaton, State
from nca.automaton.seeding import Streams
from nca.outputs.pictures import GIF_AGES, grow, save_animation, to_pixels

DAMAGE_RADIUS = 1 / 4  # of the grid's side
N_CA_STEPS = 3000 + GIF_AGES[-1]  # of a measurement


def measure_robustness(
    model: Automaton,
    size: int,
    seed: int,
    style_loss: Callable[[Float[Tensor, "batch 3 height width"]], Float[Tensor, ""]],
    folder: Path,
) -> dict[str, float]:
    """Grow a texture far beyond the age of a training rollout, damage it at 1,000 CA steps and let it heal.

    Writes `stages.png` (the texture at 1,000 and 3,000 CA steps, damaged, and healed, side by side) and
    `healing.gif` (188 CA steps from the damage on).

    Args:
        model: The automaton.
        size: Side of the grid in pixels, a multiple of 16.
        seed: Seed of the streams `seed_states` and `masks`.
        style_loss: The loss that it was trained with.
        folder: Where the pictures are written.

    Returns:
        Style losses of single images: `loss_at_1000`, `loss_at_3000`, and `loss_after_damage`, once healed.
    """
    streams = Streams(seed, model.w0.device)
    young, old = grow(model, size, (1000, 3000), streams)
    healing = [state[:, :3].clone() for state in grow(model, size, GIF_AGES, streams, damage(young))]
    stages = torch.cat([young[:, :3], old[:, :3], healing[0], healing[-1]])
    Image.fromarray(to_pixels(stages)).save(folder / "stages.png")
    save_animation(healing, folder / "healing.gif")
    measured = {"at_1000": stages[:1], "at_3000": stages[1:2], "after_damage": stages[3:]}
    with torch.no_grad():  # device-to-host syncs
        return {f"loss_{name}": float(style_loss(image)) for name, image in measured.items()}


def damage(state: State) -> State:
    """Return a copy of a state in which a disc in the middle is 0."""
    size = state.shape[-1]
    offset = torch.arange(size, device=state.device) - (size - 1) / 2
    inside = offset[:, None] ** 2 + offset**2 < (DAMAGE_RADIUS * size) ** 2
    return torch.where(inside, torch.zeros_like(state), state)
