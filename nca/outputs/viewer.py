"""viewer.html: one file that runs a trained automaton, beside its target, hyperparameters and metrics."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nca.automaton.fast_rules import fold_kernel
from nca.automaton.model import SEED_SIDE, Automaton
from nca.config.schema import TrialConfig
from nca.outputs.html_page import data_url, fill_template

TEMPLATE = Path(__file__).with_name("assets") / "viewer.html"
PICTURE_SIDE_PX = 128  # larger pictures are reduced to it
LABELS = {  # of other facts: their keys with spaces
    "max_ca_steps": "max CA steps",
    "size": "size (px)",
    "steps": "training steps",
    "peak_memory_mb": "peak memory (MB)",
    "n_parameters": "parameters",
    "loss_at_1000": "loss at 1,000 CA steps",
    "loss_at_3000": "loss at 3,000 CA steps",
}


def make_viewer(
    model: Automaton,
    size: int,
    pictures: Mapping[str, NDArray[np.uint8]],
    facts: Mapping[str, str],
    title: str,
) -> str:
    """Return a self-contained page that runs the automaton in WebGL2, or in plain JavaScript without it.

    Perception and convolutions are folded to one 3x3 convolution; a ReLU rule keeps its second one.

    Args:
        model: The automaton.
        size: Initial side of the grid in pixels, a multiple of 16.
        pictures: `target` and `output`, (height, width, 3).
        facts: Texts by label, shown as a table in this order.
        title: Title of the page.
    """
    data: dict[str, Any] = {
        "channels": model.channels,
        "hidden": 0,
        "mask": model.mask,
        "update_rate": model.update_rate,
        "size": size,
        "seed_side": SEED_SIDE,
        "target": _reduced_url(pictures["target"]),
        "output": _reduced_url(pictures["output"]),
        "facts": dict(facts),
    }
    with torch.no_grad():
        if model.bias is None:
            data["kernel"] = _base64(fold_kernel(model))
        else:
            w0 = model.w0.view(-1, model.channels, len(model.kernels))
            data |= {
                "hidden": len(w0),
                "kernel": _base64(torch.einsum("hcf,fyx->hcyx", w0, model.kernels)),
                "bias": _base64(model.bias),
                "w1": _base64(model.w1),
            }
    return fill_template(TEMPLATE, title, data)


def describe_facts(config: TrialConfig, metrics: Mapping[str, float]) -> dict[str, str]:
    """Return the hyperparameters and the metrics of a run as texts, by label."""
    model, train = asdict(config.model), asdict(config.train)
    facts = {key: model[key] for key in ("channels", "hidden_channels", "filters", "update_rate", "mask")}
    facts |= {key: train[key] for key in ("batch_size", "learning_rate", "max_ca_steps", "size", "steps")}
    facts |= {"features": config.features.name, "seed": config.seed, **metrics}
    return {
        LABELS.get(key, key.replace("_", " ")): f"{value:.4g}" if isinstance(value, float) else str(value)
        for key, value in facts.items()
    }


def _base64(tensor: Tensor) -> str:
    values = tensor.detach().float().cpu().numpy().astype("<f4")
    return base64.b64encode(values.tobytes()).decode()


def _reduced_url(pixels: NDArray[np.uint8]) -> str:
    """Return a picture as a data URL of a PNG, reduced to the size that the page shows."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((PICTURE_SIDE_PX, PICTURE_SIDE_PX), Image.Resampling.LANCZOS)
    return data_url(picture, optimize=True)
