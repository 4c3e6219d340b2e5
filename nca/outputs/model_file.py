"""Trained automata on disk, and back: safetensors with the run's config in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nca.automaton.model import Automaton
from nca.automaton.seeding import Streams
from nca.cli.errors import ConfigError
from nca.config.schema import TrialConfig
from nca.config.validation import build
from nca.outputs.pictures import grow, to_pixels

__all__ = ["TrainedAutomaton", "load_model", "save_model"]

CA_STEPS_PER_PX = 1.5  # of a picture's side; a pattern spreads by less than a cell a step


@dataclass(frozen=True)
class TrainedAutomaton:
    """An automaton and the config that it was trained with.

    Args:
        automaton: On the CPU.
        config: Of its run.
        metrics: What its run came to, by name.
    """

    automaton: Automaton
    config: TrialConfig
    metrics: Mapping[str, float]

    def grow(self, size: int | None = None, ca_steps: int | None = None, seed: int = 0) -> Image.Image:
        """Return the texture that grows from a seed.

        Args:
            size: Side in pixels, a multiple of 16; the trained one if not given.
            ca_steps: CA steps; 1.5 per pixel of the side if not given.
            seed: Of the seed state and the update masks.
        """
        side = size or self.config.train.size
        n_steps = round(CA_STEPS_PER_PX * side) if ca_steps is None else ca_steps
        states = grow(self.automaton, side, n_steps, Streams(seed, torch.device("cpu")))
        next(states)
        return Image.fromarray(to_pixels(next(states)[:, :3]))


def save_model(
    model: Automaton, config: Mapping[str, Any], path: Path, metrics: Mapping[str, float] | None = None
) -> None:
    """Write kernels and weights as safetensors, with the run's config and metrics as JSON in the header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, {"config": json.dumps(config), "metrics": json.dumps(dict(metrics or {}))})


def load_model(path: Path) -> TrainedAutomaton:
    """Read what `save_model` has written.

    Args:
        path: A model.safetensors.

    Raises:
        ConfigError: If the file is missing, damaged, or no automaton's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            config = build(TrialConfig, json.loads(header.get("config", "{}")))
            metrics = json.loads(header.get("metrics", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        automaton = Automaton(
            tensors["kernels"],
            tensors["w0"],
            tensors["w1"],
            tensors.get("bias"),
            update_rate=config.model.update_rate,
            mask=config.model.mask,
        )
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ConfigError(f"{path}: no saved automaton ({error})") from error
    return TrainedAutomaton(automaton, config, metrics)
