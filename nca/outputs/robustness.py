"""Whether a texture holds: its style loss long after it has grown and after a wound, and pictures of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from nca.automaton.fast_rollout import Rollout
from nca.automaton.model import Automaton, State, make_seed_state
from nca.automaton.seeding import Streams
from nca.outputs.pictures import FRAMES, save_frames, save_pixels, to_pixels

__all__ = ["Endurance", "endure"]

AGES = (1000, 3000)  # CA steps from the seed; a rollout of the study's training takes 20 to 39
WOUND_AT = AGES[0]
WOUND_RADIUS = 1 / 4  # of the grid's side
HEALING_CA_STEPS_PER_FRAME = 4

Loss = Callable[[Float[Tensor, "batch 3 height width"]], Float[Tensor, ""]]


@dataclass(frozen=True)
class Endurance:
    """What became of a texture.

    Args:
        losses: `loss_at_1000`, `loss_at_3000`, `loss_after_damage`: style losses of single images.
        stages: The texture at 1,000 and at 3,000 CA steps, wounded, healed: side by side.
        healing: Frames from the wound on.
    """

    losses: dict[str, float]
    stages: NDArray[np.uint8]
    healing: list[NDArray[np.uint8]]

    def save(self, folder: Path) -> None:
        """Write `stages.png` and `healing.gif`."""
        save_pixels(self.stages, folder / "stages.png")
        save_frames(self.healing, folder / "healing.gif")


def endure(model: Automaton, size: int, seed: int, style_loss: Loss) -> Endurance:
    """Run an automaton from a seed state far beyond the age of a training rollout, and wound it on the way.

    Args:
        model: The automaton.
        size: Side of the grid in pixels, a multiple of 16.
        seed: Of the streams `seed_states` and `masks`.
        style_loss: The loss that it was trained with.
    """
    device = model.w0.device
    streams = Streams(seed, device)
    state = make_seed_state(1, model.channels, size, streams["seed_states"], device)
    losses, stages, age = {}, {}, 0
    wounded = state
    for until in AGES:
        state = _run(model, state, until - age, streams)
        age = until
        losses[f"loss_at_{age}"] = _measure(style_loss, state)
        stages[f"{age}"] = state
        if age == WOUND_AT:
            wounded = wound(state)
    healing, healed = [wounded], wounded
    for _ in range(FRAMES - 1):
        healed = _run(model, healed, HEALING_CA_STEPS_PER_FRAME, streams)
        healing.append(healed)
    losses["loss_after_damage"] = _measure(style_loss, healed)
    return Endurance(
        losses,
        to_pixels(torch.cat([*stages.values(), wounded, healed])[:, :3]),
        [to_pixels(each[:, :3]) for each in healing],
    )


def wound(state: State) -> State:
    """Return a state with a disc in its middle set to 0, a copy."""
    size = state.shape[-1]
    away = torch.arange(size, device=state.device) - (size - 1) / 2
    inside = away[:, None] ** 2 + away**2 < (WOUND_RADIUS * size) ** 2
    return torch.where(inside, torch.zeros_like(state), state)


def _run(model: Automaton, state: State, ca_steps: int, streams: Streams) -> State:
    with torch.no_grad():
        return Rollout()(model, state, ca_steps, streams["masks"])


def _measure(style_loss: Loss, state: State) -> float:
    """Return the style loss of a state's picture; syncs with the device."""
    with torch.no_grad():
        return float(style_loss(state[:, :3]))
