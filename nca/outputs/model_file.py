"""Model files: a trained automaton as safetensors, with its run's config in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nca.automaton.model import Automaton
from nca.automaton.rules import RULES, make_automaton
from nca.automaton.seeding import Streams
from nca.cli.errors import ConfigError
from nca.config.custom_class import CustomClassError, check_named
from nca.config.recorded import build_recorded
from nca.config.schema import TrialConfig
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
        """Return the texture that grows from a seed state; stderr shows how far it is, if it takes long.

        Args:
            size: Side in pixels, a multiple of 16; the trained one if not given.
            ca_steps: CA steps; 1.5 per pixel of the side if not given.
            seed: Seed of the seed state and the update masks.
        """
        side = size or self.config.train.size
        return Image.fromarray(render_texture(self.automaton, side, seed, ca_steps, watched=True))


def save_model(
    model: Automaton, config: Mapping[str, Any], path: Path, metrics: Mapping[str, float] | None = None
) -> None:
    """Write kernels and weights as safetensors, with the run's config and metrics as JSON in the header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = {"config": json.dumps(config), "metrics": json.dumps(dict(metrics or {}))}
    path.write_bytes(save(tensors, header))  # `save_file` creates files that only their owner may read


def load_model(path: Path, model: str | None = None) -> TrainedAutomaton:
    """Read a model file that `save_model` has written.

    Args:
        path: Of the file.
        model: Dotted path of its rule's class, if that is a user's own: its code is run. The file alone makes
            nothing import it.

    Raises:
        ConfigError: If the file is missing, damaged, or not a model file.
        CustomClassError: If it is of a class that is not given, or that cannot be used.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            config = build_recorded(_read_object(header, "config"))
            metrics = _read_object(header, "metrics")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        check_named(path, "model", config.model.name, model)
        automaton = make_automaton(config.model, Streams(0, torch.device("cpu")))
        _check_tensors(tensors, automaton)
        if config.model.name in RULES:
            automaton = RULES[config.model.name](config.model, **tensors)  # checks its kernels
        else:
            automaton.load_state_dict(tensors)
        final = {key: float(value) for key, value in metrics.items()}
    except CustomClassError:
        raise
    except (OSError, SafetensorError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{path}: not a model file ({error})") from error
    return TrainedAutomaton(automaton, config, final)


def _read_object(header: Mapping[str, str], key: str) -> dict[str, Any]:
    """Return the JSON object under a key of a file's header; an empty one if it has no such key.

    Raises:
        ValueError: If it is not JSON.
        TypeError: If it is not an object.
    """
    value = json.loads(header.get(key, "{}"))
    if not isinstance(value, dict):
        raise TypeError(f"its {key} is not a JSON object")
    return value


def _check_tensors(tensors: Mapping[str, Tensor], like: Automaton) -> None:
    """Check that tensors have the names, shapes and type of an automaton's, and are finite.

    Raises:
        ValueError: If they do not.
    """
    expected = like.state_dict()
    if tensors.keys() != expected.keys():
        raise ValueError(f"it holds the tensors {sorted(tensors)} instead of {sorted(expected)}")
    for name, tensor in tensors.items():
        found, wanted = (f"{t.dtype} {tuple(t.shape)}" for t in (tensor, expected[name]))
        if found != wanted:
            raise ValueError(f"{name} is {found}, where its config has {wanted}")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")
