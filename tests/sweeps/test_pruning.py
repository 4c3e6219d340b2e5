"""Pruners are built by name, and take a trial and its retries for one trial."""

from __future__ import annotations

import itertools
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.study import Study
from optuna.trial import TrialState

from sweeps import SweepError
from sweeps.pruning import Pruning, make_pruner
from sweeps.storage.optuna_storage import open_storage
from sweeps.study import PrunerSpec
from sweeps.trials import FIRST_ATTEMPT, RETRY_OF, group_attempts, merge_attempts

pytestmark = pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed:UserWarning")
N_TRIALS = 30
N_REPORTS = 32
MEDIAN = PrunerSpec("median", N_REPORTS, {"n_startup_trials": 2, "n_warmup_steps": 4})
ASHA = PrunerSpec("asha", N_REPORTS, {"min_resource": 2, "reduction_factor": 2})
HYPERBAND = PrunerSpec("hyperband", N_REPORTS, {"min_resource": 2, "reduction_factor": 2})


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


@dataclass
class Attempt:
    """What a worker knows of its trial."""

    index: int
    number: int
    n_reported: int = 0


class Sweeping:
    """A sweep without processes: trials that report in turns, fail at random moments and are tried again.

    Args:
        spec: The pruner.
        n_at_once: Trials that run at once.
        fragile: Trials, by their order, whose attempts fail after one report in five.
        lag: Reports at most by which a checkpoint lies behind.
        n_objectives: All but the first are the better the worse the first is.
    """

    def __init__(
        self,
        spec: PrunerSpec,
        n_at_once: int,
        fragile: Container[int] = (),
        lag: int = 0,
        n_objectives: int = 1,
    ) -> None:
        self.study: Study = optuna.create_study(study_name="leaf", directions=["minimize"] * n_objectives)
        self.pruning = Pruning(spec, self.study)
        self.n_at_once, self.fragile, self.lag = n_at_once, fragile, lag
        self.fate = np.random.default_rng(0)
        self.n_failed = 0

    def run(self) -> dict[int, int]:
        """Return after how many reports each trial ended."""
        waiting, running, ends = itertools.count(), list[Attempt](), dict[int, int]()
        while len(ends) < N_TRIALS:
            while len(running) < self.n_at_once and len(ends) + len(running) < N_TRIALS:
                running.append(Attempt(next(waiting), self.study.ask().number))
            for attempt in list(running):
                if self._goes_on(attempt):
                    continue
                running.remove(attempt)
                ends[attempt.index] = attempt.n_reported
        return ends

    def _goes_on(self, attempt: Attempt) -> bool:
        id_ = self.study.trials[attempt.number]._trial_id
        value = losses(attempt.index)[attempt.n_reported]
        attempt.n_reported += 1
        self.study._storage.set_trial_intermediate_value(id_, attempt.n_reported, value)
        if self.pruning.should_prune(origins(self.study)[attempt.index]):
            self.study.tell(attempt.number, state=TrialState.PRUNED)
            return False
        if attempt.n_reported == N_REPORTS:
            others = [-value] * (len(self.study.directions) - 1)
            self.study.tell(attempt.number, [value, *others])
            return False
        if attempt.index in self.fragile and self.fate.random() < 0.2:
            self._try_again(attempt)
        return True

    def _try_again(self, attempt: Attempt) -> None:
        self.n_failed += 1
        self.study.tell(attempt.number, state=TrialState.FAIL)
        first = origins(self.study)[attempt.index]
        self.study.enqueue_trial({}, user_attrs={FIRST_ATTEMPT: first, RETRY_OF: attempt.number})
        attempt.number = self.study.ask().number
        attempt.n_reported -= min(attempt.n_reported, int(self.fate.integers(0, self.lag + 1)))


def losses(index: int) -> list[float]:
    """Return a trial's losses: they fall, and cross each other."""
    draw = np.random.default_rng(index)
    level, fall = draw.random(), draw.random()
    return [level + (1 - level) * 2 ** (-fall * n / 4) + 0.05 * draw.random() for n in range(N_REPORTS)]


def origins(study: Study) -> list[int]:
    """Return the numbers of the trials' first attempts."""
    return list(group_attempts(study.get_trials(deepcopy=False)))


@pytest.mark.parametrize("spec", [MEDIAN, ASHA], ids=lambda spec: spec.name)
@pytest.mark.parametrize(("n_at_once", "lag"), [(1, 0), (1, 5), (3, 0)])
def test_failures_change_no_decision(spec: PrunerSpec, n_at_once: int, lag: int) -> None:
    expected = Sweeping(spec, n_at_once).run()
    assert len(set(expected.values())) > 2
    stormy = Sweeping(spec, n_at_once, range(N_TRIALS), lag)
    assert stormy.run() == expected
    assert stormy.n_failed > N_TRIALS


@pytest.mark.parametrize("spec", [MEDIAN, ASHA, HYPERBAND], ids=lambda spec: spec.name)
def test_other_objectives_change_no_decision(spec: PrunerSpec) -> None:
    assert Sweeping(spec, 1, n_objectives=2).run() == Sweeping(spec, 1).run()


@pytest.mark.parametrize("index", range(3, N_TRIALS, 5))
def test_failures_leave_a_trial_on_its_ladder(index: int) -> None:
    """A trial's ladder follows from its number, and a failure shifts those of all later ones."""
    expected = Sweeping(HYPERBAND, 1).run()
    assert len(set(expected.values())) > 2
    found = Sweeping(HYPERBAND, 1, (index,), lag=5).run()
    assert [found[each] for each in range(index + 1)] == [expected[each] for each in range(index + 1)]


def test_attempts_are_one_trial_with_the_reports_of_all(tmp_path: Path) -> None:
    study = optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path / 'optuna.db'}"))
    pruning = Pruning(ASHA, study)
    reports = [(1, 2, 3, 4), (), (4, 5)]  # the first was killed with a checkpoint at 3
    for steps in reports:
        attempt = study.ask()
        attempt.set_user_attr(FIRST_ATTEMPT, 0)
        for step in steps:
            attempt.report(step / 10, step)
            pruning.should_prune(0)
        study.tell(attempt, state=TrialState.FAIL)
    one = merge_attempts(study.trials)
    assert (one.number, one._trial_id) == (0, study.trials[-1]._trial_id)
    assert one.intermediate_values == {step: step / 10 for step in range(1, 6)}
    assert one.system_attrs == {"completed_rung_0": 0.2, "completed_rung_1": 0.4}
    assert [trial.number for trial in study.trials] == [0, 1, 2]
    assert study.trials[2].intermediate_values == {4: 0.4, 5: 0.5}
