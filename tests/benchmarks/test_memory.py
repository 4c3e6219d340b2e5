"""The estimate of a trial's memory against the measured peak of a process of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.cases import SET_5
from benchmarks.memory import measure
from nca.config.schema import FeaturesConfig
from nca.training.memory_estimate import estimate_memory
from tests.builders import trial_config


def estimate(**options: Any) -> dict[str, float]:
    """Estimate what `benchmarks.memory` measures with the same options."""
    fields = {key: options.pop(key) for key in ("channels", "batch_size") if key in options}
    case = replace(SET_5, **fields)
    return estimate_memory(
        trial_config(
            rule="relu" if options.pop("relu", False) else "srnca",
            model={
                "channels": case.channels,
                "hidden_channels": case.hidden_channels,
                "filters": case.filters,
            },
            train={
                "batch_size": case.batch_size,
                "max_ca_steps": options.pop("ca_steps") + 1,
                "pool_size": None,
                **options,
            },
            features=FeaturesConfig("vgg16", "PATH"),
        )
    )


@pytest.mark.parametrize(
    "options",
    [
        {"size": 64, "ca_steps": 30},
        {"size": 96, "ca_steps": 90, "batch_size": 4},
        {"size": 96, "ca_steps": 90, "batch_size": 4, "recompute": True},
        {"size": 96, "ca_steps": 30, "relu": True},
    ],
    ids=str,
)
def test_the_estimate_lies_near_the_peak(options: dict[str, Any]) -> None:
    estimated = estimate(**options)
    measured = measure("ours", **options, rounds=2)
    assert estimated["pool"] == pytest.approx(measured["pool_mb"])
    assert 0.85 < (sum(estimated.values()) - estimated["pool"]) / measured["peak_mb"] < 1.5


def test_recomputation_and_smaller_features_need_less() -> None:
    options = {"size": 128, "ca_steps": 90}
    whole = estimate(**options)
    assert estimate(**options, recompute=True)["rollout"] < whole["rollout"] / 3
    assert estimate(**options, precision="bf16")["features"] < whole["features"]
