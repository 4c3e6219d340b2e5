"""Configs of recorded runs, those of older versions too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nca.cli.errors import ConfigError
from nca.config.schema import TrialConfig
from nca.config.validation import build

# Values of runs that were recorded before their keys existed.
OLDER_MODEL = {"clamp": True, "seed_state": "square", "seed_noise": 0.0}
OLDER_TRAIN = {"min_ca_steps": None, "overflow_weight": 0.0, "gradient_per_ca_step": False, "keep": "last"}
OLDER_TRAIN |= {"drop_steps": None, "keep_checkpoint": False, "optimizer": "adam", "warmup_steps": 0}
OLDER_TRAIN |= {"reseed_every": 8, "damage_every": None}


def build_recorded(values: Mapping[str, Any]) -> TrialConfig:
    """Build the config of a recorded run; what a run of an older version lacks gets the value that it had.

    Raises:
        ConfigError: If it is not a config, or its rule is no longer there.
    """
    tracking, model, train = ({**values.get(part, {})} for part in ("tracking", "model", "train"))
    outputs = {"outputs": {"robustness": tracking.pop("endurance")}} if "endurance" in tracking else {}
    if model.pop("activation", "linear") == "relu":
        raise ConfigError(
            f"model={model.get('name')}: the ReLU rule with a clamp is gone; train again with model=distill"
        )
    if "drop_step" in train:
        drop_step = train.pop("drop_step")
        train["drop_steps"] = None if drop_step is None else [drop_step]
    parts = {"tracking": tracking, "model": OLDER_MODEL | model, "train": OLDER_TRAIN | train}
    return build(TrialConfig, {"loss": {"name": "gram"}, **values, **outputs, **parts})
