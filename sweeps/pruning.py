"""Pruners by name."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.pruners import BasePruner

from sweeps import SweepError
from sweeps.study import PrunerSpec

__all__ = ["make_pruner"]


def make_pruner(spec: PrunerSpec) -> BasePruner:
    """Build a pruner.

    Raises:
        SweepError: If the name is unknown.
    """
    options: dict[str, Any] = dict(spec.options)
    match spec.name:
        case "none":
            return optuna.pruners.NopPruner()
        case "median":
            return optuna.pruners.MedianPruner(**options)
        case "asha":
            return optuna.pruners.SuccessiveHalvingPruner(**options)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(max_resource=spec.max_resource, **options)
    raise SweepError(f"pruner={spec.name}: must be none, median, asha or hyperband")
