"""Trained automata on disk: safetensors with the run's config in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from nca.model import Automaton

__all__ = ["save_model"]


def save_model(model: Automaton, config: Mapping[str, Any], path: Path) -> None:
    """Write kernels and weights as safetensors, with the run's config as JSON in the header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, {"config": json.dumps(config)})
