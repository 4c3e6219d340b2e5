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
from nca.automaton.model import FREE_RGB_OFFSET, SEED_LOW, SEED_SIDE, SEED_SPAN, Automaton
from nca.automaton.rules import RULES, Distill, Munca, Srnca
from nca.config.schema import ModelConfig, TrialConfig
from nca.outputs.html_page import data_url, fill_template
from nca.outputs.verdict import DISTANCES

TEMPLATE = Path(__file__).with_name("assets") / "viewer.html"
GRID_SIDE = 128  # cells at least; fewer look like noise, enlarged to the page's picture
PICTURE_SIDE_PX = 128  # larger pictures are reduced to it
LABELS = {  # of other facts: their keys with spaces
    "name": "model",
    "max_ca_steps": "max CA steps",
    "size": "size (px)",
    "steps": "training steps",
    "peak_memory_mb": "peak memory (MB)",
    "n_parameters": "parameters",
    **DISTANCES,
    "distance_at_3000": "distance at 3,000 CA steps",
}


def make_viewer(
    model: Automaton,
    size: int,
    pictures: Mapping[str, NDArray[np.uint8]],
    facts: Mapping[str, str],
    title: str,
) -> str:
    """Return a self-contained page that runs the automaton in WebGL2, or in plain JavaScript without it.

    The states on the page are those of `plain_rollout`, apart from rounding and the random update masks.

    Args:
        model: The automaton, of a rule that `has_viewer` knows.
        size: Initial side of the grid in pixels, a multiple of 16.
        pictures: `target` and `output`, (height, width, 3).
        facts: Texts by label, shown as a table in this order.
        title: Title of the page.
    """
    config = model.config
    data: dict[str, Any] = {
        "channels": model.channels,
        "mask": config.mask,
        "update_rate": config.update_rate,
        "clamp": config.clamp,
        "rgb_offset": 0.0 if config.clamp else FREE_RGB_OFFSET,
        "size": size,
        **_describe_seed(config),
        "target": _reduced_url(pictures["target"]),
        "output": _reduced_url(pictures["output"]),
        "facts": dict(facts),
    }
    with torch.no_grad():
        data |= {name: _base64(tensor) for name, tensor in _fold(model).items()}
    return fill_template(TEMPLATE, title, data)


def has_viewer(model: Automaton) -> bool:
    """Return whether the page can run an automaton: a class of a user's own has no form there."""
    return type(model) in RULES.values()


def _describe_seed(config: ModelConfig) -> dict[str, float]:
    """Return the side of the seed as a part of the grid's, and the uniform distribution of its values."""
    if config.seed_state == "square":
        return {"seed_side": SEED_SIDE, "seed_low": SEED_LOW, "seed_span": SEED_SPAN}
    noise = config.seed_noise if config.seed_state == "noise" else 0.0
    return {"seed_side": 1.0, "seed_low": -noise, "seed_span": 2 * noise}


def _fold(model: Automaton) -> dict[str, Tensor]:
    """Return the weights of the page's one form of an update.

    It is `delta = w1 @ [y, abs(y)] + w1_bias`, `y = kernel * state + kernel_bias`; without `w1`, `delta = y`.
    Perception and the first 1x1 convolution are folded to one 3x3 convolution.
    """
    if isinstance(model, Srnca):
        return {"kernel": fold_kernel(model)}
    if isinstance(model, Distill):
        w0 = model.w0.view(-1, model.channels, len(model.kernels))
        kernel = torch.einsum("hcf,fyx->hcyx", w0, model.kernels)
        return {
            "kernel": kernel,
            "kernel_bias": model.bias,
            "w1": torch.cat([model.w1, model.w1], dim=1) / 2,  # relu(y) = (y + abs(y)) / 2
            "w1_bias": torch.zeros(model.channels),
        }
    assert isinstance(model, Munca)
    identity = torch.zeros_like(model.kernels)
    identity[:, 1, 1] = 1.0
    own = torch.eye(model.channels, device=model.kernels.device)[:, :, None, None]
    kernel = torch.cat([own * identity, own * model.kernels])  # y = [state, filtered state]
    kernel_bias = torch.zeros(len(kernel))
    return {"kernel": kernel, "kernel_bias": kernel_bias, "w1": model.weight, "w1_bias": model.bias}


def describe_facts(config: TrialConfig, metrics: Mapping[str, float]) -> dict[str, str]:
    """Return the hyperparameters and the metrics of a run as texts, by label."""
    model, train = asdict(config.model), asdict(config.train)
    keys = ("name", "channels", "hidden_channels", "filters", "update_rate", "mask")
    facts = {key: model[key] for key in keys if model[key] is not None}
    facts |= {key: train[key] for key in ("batch_size", "learning_rate", "max_ca_steps", "size", "steps")}
    facts |= {"loss": config.loss.name, "features": config.features.name, "seed": config.seed, **metrics}
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
