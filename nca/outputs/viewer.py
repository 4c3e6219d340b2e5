"""viewer.html: one file in which a trained automaton lives, beside its target and its numbers."""

from __future__ import annotations

import base64
import html
import io
import json
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

__all__ = ["describe_facts", "make_viewer"]

TEMPLATE = Path(__file__).with_name("assets") / "viewer.html"
PICTURE_SIDE_PX = 128  # larger pictures are reduced to it


def make_viewer(
    model: Automaton,
    size: int,
    pictures: Mapping[str, NDArray[np.uint8]],
    facts: Mapping[str, str],
    title: str,
) -> str:
    """Return a self-contained page: the automaton alive in WebGL2, in plain JavaScript where that is missing.

    Perception and convolutions are folded to one 3x3 convolution; a ReLU rule keeps its second one.

    Args:
        model: The automaton.
        size: Side of the grid that it begins with, in pixels, a multiple of 16.
        pictures: `target` and `output`, (height, width, 3).
        facts: Shown as a table, in this order.
        title: Of the page.
    """
    data: dict[str, Any] = {
        "channels": model.channels,
        "hidden": 0,
        "mask": model.mask,
        "update_rate": model.update_rate,
        "size": size,
        "seed_side": SEED_SIDE,
        "target": _data_url(pictures["target"]),
        "output": _data_url(pictures["output"]),
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
    page = TEMPLATE.read_text(encoding="utf-8").replace("__TITLE__", html.escape(title))
    return page.replace("__DATA__", json.dumps(data).replace("</", "<\\/"))


def describe_facts(config: TrialConfig, metrics: Mapping[str, float]) -> dict[str, str]:
    """Return what the page says of a run: its set, then its metrics."""
    model, train = asdict(config.model), asdict(config.train)
    shown = {key: model[key] for key in ("channels", "hidden_channels", "filters", "update_rate", "mask")}
    shown |= {key: train[key] for key in ("batch_size", "learning_rate", "max_ca_steps", "size", "steps")}
    texts = {"features": config.features.name, "seed": str(config.seed)}
    numbers = {
        key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in shown.items()
    }
    found = {key: f"{value:.4g}" for key, value in metrics.items()}
    return {key.replace("_", " "): text for key, text in (numbers | texts | found).items()}


def _base64(tensor: Tensor) -> str:
    values = tensor.detach().float().cpu().numpy().astype("<f4")
    return base64.b64encode(values.tobytes()).decode()


def _data_url(pixels: NDArray[np.uint8]) -> str:
    """Return a picture as PNG in a URL, reduced to what a page shows."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((PICTURE_SIDE_PX, PICTURE_SIDE_PX), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
