"""What is replayed is what the pruner of a sweep would have decided."""

from __future__ import annotations

import numpy as np
import optuna

from benchmarks.pruning import STUDY, read, replay, steps_to_goal
from sweeps.pruning import make_pruner
from sweeps.study import PrunerSpec


def test_a_replay_decides_as_optuna_does() -> None:
    draw = np.random.default_rng(0)
    curves = draw.random((60, 8))
    order = draw.permutation(60)
    for factor, rungs in ((2, [0, 1, 3]), (4, [0, 3])):
        options = {"min_resource": 1, "reduction_factor": factor}
        study = optuna.create_study(pruner=make_pruner(PrunerSpec("asha", 8, options)))
        expected = []
        for number in order:
            trial, end = study.ask(), 0
            for step, value in enumerate(curves[number], 1):
                trial.report(float(value), step)
                if step - 1 in rungs:
                    if trial.should_prune():
                        break
                    end += 1
            expected.append(end)
            if end == len(rungs):
                study.tell(trial, float(value))
            else:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        assert replay(order, curves, rungs, factor) == expected
        assert len(set(expected)) == len(rungs) + 1


def test_pruning_spares_training_until_a_goal() -> None:
    study = read(*STUDY)
    goal = float(np.quantile(study[2], 0.05))

    def median(first: float | None, factor: int) -> float:
        draw = np.random.default_rng(0)
        return float(np.median([steps_to_goal(draw, study, first, factor, goal) for _ in range(100)]))

    assert median(1 / 32, 4) < 0.6 * median(None, 1)
