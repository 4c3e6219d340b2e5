"""Model files: a trained automaton as safetensors, with its run's config in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nca.automaton.model import Automaton
from nca.cli.errors import ConfigError
from nca.config.schema import TrialConfig, build_recorded
from nca.outputs.pictures import render_texture


@dataclass(frozen=True)
class TrainedAutomaton:
    """An automaton and the config that it was trained with.

    Args:
        automaton: On the CPU.
        config: Of its run.
        metrics: Final metrics of its run by name.
    """

    automaton: Automaton
    config: TrialConfig
    metrics: Mapping[str, float]

    def grow(self, size: int | None = None, ca_steps: int | None = None, seed: int = 0) -> Image.Image:
        """Return the texture that grows from a seed state.

        Args:
            size: Side in pixels, a multiple of 16; the trained one if not given.
            ca_steps: CA steps; 1.5 per pixel of the side if not given.
            seed: Seed of the seed state and the update masks.
        """
        side = size or self.config.train.size
        return Image.fromarray(render_texture(self.automaton, side, seed, ca_steps))


def save_model(
    model: Automaton, config: Mapping[str, Any], path: Path, metrics: Mapping[str, float] | None = None
) -> None:
    """Write kernels and weights as safetensors, with the run's config and metrics as JSON in the header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, {"config": json.dumps(config), "metrics": json.dumps(dict(metrics or {}))})


def load_model(path: Path) -> TrainedAutomaton:
    """Read a model file that `save_model` has written.

    Raises:
        ConfigError: If the file is missing, damaged, or not a model file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            config = build_recorded(json.loads(header.get("config", "{}")))
            metrics = json.loads(header.get("metrics", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        rate, mask = config.model.update_rate, config.model.mask
        automaton = Automaton(**{"bias": None, **tensors}, update_rate=rate, mask=mask)
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not a model file ({error})") from error
    return TrainedAutomaton(automaton, config, metrics)
