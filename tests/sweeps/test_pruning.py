"""Pruners are built by name."""

from __future__ import annotations

import optuna
import pytest

from sweeps import SweepError
from sweeps.pruning import make_pruner
from sweeps.study import PrunerSpec


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("none", {}, optuna.pruners.NopPruner),
        ("median", {"n_startup_trials": 1, "n_warmup_steps": 2}, optuna.pruners.MedianPruner),
        ("asha", {"min_resource": 1, "reduction_factor": 2}, optuna.pruners.SuccessiveHalvingPruner),
        ("hyperband", {"min_resource": 1, "reduction_factor": 3}, optuna.pruners.HyperbandPruner),
    ],
)
def test_every_pruner_is_built_with_its_options(name: str, options: dict[str, int], kind: type) -> None:
    pruner = make_pruner(PrunerSpec(name, 64, options))
    assert type(pruner) is kind
    assert {key: vars(pruner)[f"_{key}"] for key in options} == options
    if name == "hyperband":
        assert vars(pruner)["_max_resource"] == 64


def test_unknown_pruner_is_refused() -> None:
    with pytest.raises(SweepError, match="pruner=secateurs: must be none, median, asha or hyperband"):
        make_pruner(PrunerSpec("secateurs", 64))
