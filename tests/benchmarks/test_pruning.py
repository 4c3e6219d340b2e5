"""What is replayed is what the pruner of a sweep would have decided."""

from __future__ import annotations

import itertools

import numpy as np
import optuna
import pytest

from benchmarks.pruning import (
    STUDY,
    Curves,
    Halving,
    Median,
    Mode,
    Pruner,
    extrapolate,
    find_rungs,
    read,
    replay,
    steps_to_goal,
)
from sweeps.pruning import make_pruner
from sweeps.study import PrunerSpec

N_TRIALS, N_REPORTS = 60, 8


def ends_of(pruner: Pruner) -> list[int]:
    return [now for _, _, now in replay(pruner, N_TRIALS, N_REPORTS)]


def ends_in_optuna(spec: PrunerSpec, curves: np.ndarray) -> list[int]:
    study = optuna.create_study(pruner=make_pruner(spec))
    ends = []
    for losses in curves:
        trial = study.ask()
        for step, value in enumerate(losses, 1):
            trial.report(float(value), step)
            if step < N_REPORTS and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, float(losses[-1]))
        ends.append(step)
    return ends


@pytest.mark.parametrize(("factor", "rungs"), [(2, [0, 1, 3]), (4, [0, 3])])
def test_a_replay_of_asha_decides_as_optuna_does(factor: int, rungs: list[int]) -> None:
    curves = np.random.default_rng(0).random((N_TRIALS, N_REPORTS))
    options = {"min_resource": 1, "reduction_factor": factor}
    expected = ends_in_optuna(PrunerSpec("asha", N_REPORTS, options), curves)
    assert ends_of(Halving(curves, rungs, factor)) == expected
    assert set(expected) == {*(rung + 1 for rung in rungs), N_REPORTS}


def test_a_replay_of_median_decides_as_optuna_does() -> None:
    curves = np.random.default_rng(0).random((N_TRIALS, N_REPORTS))
    options = {"n_startup_trials": 5, "n_warmup_steps": 3}
    expected = ends_in_optuna(PrunerSpec("median", N_REPORTS, options), curves)
    assert ends_of(Median(curves, first=2)) == expected
    assert len(set(expected)) > 3


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("stop", [(0, 0, 2), (1, 0, 1), (2, 0, 1), (3, 0, 1)]),
        ("thaw", [(0, 0, 2), (1, 0, 1), (2, 0, 1), (3, 0, 1), (2, 1, 2)]),
        ("promote", [(0, 0, 1), (1, 0, 1), (0, 1, 2), (2, 0, 1), (3, 0, 1), (2, 1, 2)]),
    ],
)
def test_a_trial_is_thawed_once_it_is_in_the_best_half(mode: Mode, expected: list[tuple[int, ...]]) -> None:
    losses = np.array([[3.0, 0.0], [5.0, 0.0], [4.0, 0.0], [9.0, 0.0]])
    assert list(replay(Halving(losses, [0], 2, mode), 4, 2)) == expected


def test_a_power_law_is_extrapolated_exactly() -> None:
    steps = np.arange(25, 801, 25)
    laws = itertools.product((1e-2, 1.0), (0.0, 0.5, 2.0))
    losses = np.array([scale * (steps / 800) ** -slope for scale, slope in laws])
    mean, deviation = extrapolate(Curves(steps, losses, losses[:, -1]))
    np.testing.assert_allclose(mean[:, 2:], np.log(losses[:, -1:]) * np.ones(30), atol=1e-6)
    assert (np.diff(deviation[:, 2:]) < 0).all()  # the longer the curve, the surer


def test_pruning_spares_training_until_a_goal() -> None:
    curves = read(*STUDY)
    goal = float(np.sort(curves.last)[1])
    rungs = find_rungs(curves.steps, 1 / 8, 4)

    def median(is_pruned: bool) -> float:
        draw, needed = np.random.default_rng(0), []
        for _ in range(100):
            ordered = curves.take(np.concatenate([draw.permutation(len(curves.last)) for _ in range(8)]))
            pruner = Halving(ordered.losses, rungs, 4) if is_pruned else None
            needed.append(steps_to_goal(pruner, ordered, goal))
        return float(np.median(needed))

    assert median(is_pruned=True) < 0.6 * median(is_pruned=False)
