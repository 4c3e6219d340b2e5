"""Samplers and pruners, named on the real command line; tests/config builds every one of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from tests.integration.commands import listing, sweep
from tests.integration.records import load_study

NAME = "choices"
INTERVALS = ("train.learning_rate=tag(log, interval(1e-5, 1e-2))", "model.update_rate=interval(0.5, 1.0)")
CHOICES = ("model.channels=4,6", "model.filters=3,4")
# What the study's own space would search too, fixed: the rest of the command line is the whole space.
FIXED = {
    "model.channels": "4",
    "model.hidden_channels": "8",
    "model.filters": "4",
    "model.update_rate": "0.6",
    "train.batch_size": "2",
    "train.learning_rate": "1e-3",
    "train.max_ca_steps": "6",
}


def run_study(runs: Path, folder: Path, *overrides: str, steps: int = 2) -> list[FrozenTrial]:
    asked = {override.partition("=")[0] for override in overrides}
    fixed = [f"{key}={value}" for key, value in FIXED.items() if key not in asked]
    common = [f"train.steps={steps}", f"sweep.study={NAME}", "tracking=none", "outputs.robustness=false"]
    done = sweep(runs, *common, *fixed, *overrides, folder=folder)
    assert done.stderr == ""
    assert listing(folder) == []
    return load_study(runs, NAME).get_trials()


def values_of(trials: list[FrozenTrial], key: str) -> list[Any]:
    return [trial.params[key] for trial in trials]


@pytest.mark.parametrize(
    ("sampler", "space"),
    [
        (("gp", "sampler.n_startup_trials=1"), (*CHOICES[:1], *INTERVALS[:1])),
        (("cmaes", "sampler.n_startup_trials=1"), INTERVALS),
    ],
    ids=lambda overrides: overrides[0] if len(overrides) < 3 and "=" not in overrides[0] else "",
)
def test_sampler_draws_within_the_space(
    sampler: tuple[str, ...], space: tuple[str, ...], tmp_path: Path, folder: Path
) -> None:
    name, *options = sampler
    # One at a time, so that all but the first are drawn with finished trials to learn from.
    overrides = [f"sampler={name}", *options, *space, "sweep.n_trials=3", "executor.workers=1"]
    trials = run_study(tmp_path / "runs", folder, *overrides)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    keys = {override.partition("=")[0] for override in space}
    assert {frozenset(trial.params) for trial in trials} == {frozenset(keys)}
    rates = values_of(trials, "train.learning_rate")
    assert len(set(rates)) == 3
    assert all(1e-5 <= rate <= 1e-2 for rate in rates)
    if "model.channels" in keys:
        assert set(values_of(trials, "model.channels")) <= {4, 6}
    if "model.update_rate" in keys:
        assert all(0.5 <= rate <= 1.0 for rate in values_of(trials, "model.update_rate"))


def test_grid_tries_every_combination_once_and_ends(tmp_path: Path, folder: Path) -> None:
    trials = run_study(tmp_path / "runs", folder, "sampler=grid", *CHOICES, "sweep.n_trials=9")
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    configurations = {(trial.params["model.channels"], trial.params["model.filters"]) for trial in trials}
    assert configurations == {(4, 3), (4, 4), (6, 3), (6, 4)}
    for trial in trials:
        assignment = json.loads(
            (tmp_path / "runs" / "trials" / NAME / str(trial.number) / "assignment.json").read_text()
        )
        assert assignment["config"]["model"]["channels"] == trial.params["model.channels"]


def test_asha_prunes_at_its_rungs_and_the_rest_goes_on(tmp_path: Path, folder: Path) -> None:
    runs = tmp_path / "runs"
    # Good and hopeless rates: an automaton that hardly learns is worse at every rung.
    overrides = ["sampler=grid", "train.learning_rate=1e-3,1e-9,2e-9,3e-9", "sweep.n_trials=4"]
    asha = ["pruner=asha", "pruner.min_resource=2", "pruner.reduction_factor=2", "executor.workers=1"]
    trials = run_study(runs, folder, *overrides, *asha, steps=8)
    states = [trial.state for trial in trials]
    assert len(states) == 4
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        reported = sorted(trial.intermediate_values)
        if trial.state == TrialState.PRUNED:
            assert trial.user_attrs["reason"] == "pruned"
            assert trial.user_attrs["n_steps"] == reported[-1] in {2, 4}
            assert not trial.user_attrs.keys() & {"final_loss"}
            assert (runs / "trials" / NAME / str(trial.number) / "output.png").exists()
        else:
            assert reported == list(range(1, 8))
            assert trial.user_attrs["n_steps"] == 8


@pytest.mark.parametrize(
    "pruner",
    [
        ("pruner=median", "pruner.n_startup_trials=1", "pruner.n_warmup_steps=2"),
        ("pruner=hyperband", "pruner.min_resource=1", "pruner.reduction_factor=2"),
    ],
    ids=["median", "hyperband"],
)
def test_pruner_ends_trials_early_or_lets_them_finish(
    pruner: tuple[str, ...], tmp_path: Path, folder: Path
) -> None:
    overrides = ["sampler=grid", "train.learning_rate=1e-3,1e-9,2e-9,3e-9", "sweep.n_trials=4"]
    trials = run_study(tmp_path / "runs", folder, *overrides, *pruner, "executor.workers=1", steps=8)
    states = [trial.state for trial in trials]
    assert len(states) == 4
    assert set(states) <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert TrialState.COMPLETE in states
    for trial in trials:
        early = trial.state == TrialState.PRUNED
        assert (trial.user_attrs["n_steps"] < 8) == early
