"""Tiny configs and models that tests build on: 16 px, few channels, few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nca.automaton.model import Automaton, make_automaton
from nca.automaton.seeding import Streams
from nca.config.schema import (
    FeaturesConfig,
    ModelConfig,
    OutputsConfig,
    PlantTexture,
    Texture,
    TrackingConfig,
    TrainConfig,
    TrialConfig,
)
from nca.loss.features import CONVOLUTIONS

CPU = torch.device("cpu")
SIZE = 16
RULES = {"srnca": ("linear", "channel"), "relu": ("relu", "cell")}
ROUNDLEAF = PlantTexture(name="roundleaf", source="drawn", url="")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model_config(name: str = "srnca", **changes: Any) -> ModelConfig:
    activation, mask = RULES[name]
    values = {"channels": 4, "hidden_channels": 8, "filters": 6, "update_rate": 0.6}
    return ModelConfig(name=name, **{**values, "activation": activation, "mask": mask, **changes})


def train_config(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "steps": 12,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "drop_step": None,
        "max_ca_steps": 6,
        "size": SIZE,
        "pool_size": 8,
        "precision": "fp32",
        "rollout": "fast",
        "recompute": False,
        "cuda_graph": False,
        "checkpoint_every": 4,
        "checkpoint_every_s": 0.0,
        "keep_checkpoint": False,
    }
    return TrainConfig(**{**values, **changes})


def trial_config(runs_dir: Path | str = "mlruns", **changes: Any) -> TrialConfig:
    """Return a trial's config; `model` and `train` take a dictionary of changes, `rule` a model's name."""
    texture: Texture = changes.pop("texture", ROUNDLEAF)
    return TrialConfig(
        texture=texture,
        model=model_config(changes.pop("rule", "srnca"), **changes.pop("model", {})),
        features=changes.pop("features", FeaturesConfig("random_filters")),
        train=train_config(**changes.pop("train", {})),
        tracking=TrackingConfig("none") if (uri := changes.pop("uri", None)) is None else mlflow(uri),
        outputs=OutputsConfig(robustness=False),
        seed=changes.pop("seed", 3),
        device="cpu",
        runs_dir=str(runs_dir),
    )


def mlflow(uri: str) -> TrackingConfig:
    return TrackingConfig("mlflow", uri)


def automaton(name: str = "srnca", *, seed: int = 0, **changes: Any) -> Automaton:
    """Return an automaton whose second convolution is not zero, so that its states change."""
    model = make_automaton(model_config(name, **changes), Streams(seed, CPU))
    with torch.no_grad():
        model.w1.copy_(0.1 * torch.randn(model.w1.shape, generator=generator(seed)))
    return model


def vgg_weights(width: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Return random weights of a narrow VGG-16 with `width` features in its first layer."""
    counts = dict(zip(CONVOLUTIONS, (1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8), strict=True))
    drawn, n_inputs, source = {}, 3, generator(seed)
    for index, count in counts.items():
        n_outputs = width * count
        scale = (2 / (9 * n_inputs)) ** 0.5
        drawn[f"features.{index}.weight"] = scale * torch.randn(n_outputs, n_inputs, 3, 3, generator=source)
        drawn[f"features.{index}.bias"] = 0.1 * torch.randn(n_outputs, generator=source)
        n_inputs = n_outputs
    return drawn
