"""Tiny configs and models that tests build on: 16 px, few channels, few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nca.automaton.model import Automaton
from nca.automaton.rules import Munca, make_automaton
from nca.automaton.seeding import Streams
from nca.config.schema import (
    FeaturesConfig,
    LossConfig,
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
RULES: dict[str, dict[str, Any]] = {  # the choices of conf/model/, with few weights
    "srnca": {"mask": "channel", "clamp": True, "seed_state": "square", "hidden_channels": 8, "filters": 6},
    "distill": {"mask": "cell", "clamp": False, "seed_state": "noise", "hidden_channels": 8, "filters": 4},
    "munca": {"mask": "cell", "clamp": False, "seed_state": "noise"},
}
PATCHES = FeaturesConfig("patches", side=5, levels=2, unsharp=2.0)
GRAM = LossConfig(name="gram")
SLICED = LossConfig(name="sliced", directions=8, norm="l1")
ROUNDLEAF = PlantTexture(name="roundleaf", source="drawn", url="")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model_config(name: Any = "srnca", **changes: Any) -> ModelConfig:
    values = {"channels": 4, "update_rate": 0.6, "seed_noise": 0.2}
    return ModelConfig(name=name, **{**values, **RULES[name], **changes})


def train_config(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "steps": 12,
        "batch_size": 2,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "warmup_steps": 0,
        "drop_steps": None,
        "min_ca_steps": None,
        "max_ca_steps": 6,
        "size": SIZE,
        "pool_size": 8,
        "reseed_every": 8,
        "damage_every": None,
        "precision": "fp32",
        "rollout": "fast",
        "recompute": False,
        "cuda_graph": False,
        "overflow_weight": 0.0,
        "gradient_per_ca_step": False,
        "keep": "last",
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
        loss=changes.pop("loss", GRAM),
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
    """Return an automaton whose last convolution is neither zero nor small, so that its states change."""
    model = make_automaton(model_config(name, **changes), Streams(seed, CPU))
    last = last_weight(model)
    with torch.no_grad():
        last.copy_(0.1 * torch.randn(last.shape, generator=generator(seed)))
    return model


def last_weight(model: Automaton) -> Tensor:
    """Return the weight of an automaton's last convolution."""
    weights = dict(model.named_parameters())
    return weights["weight"] if isinstance(model, Munca) else weights["w1"]


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
