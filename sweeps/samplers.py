"""Samplers by name, which continue their sequence when a study is continued."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from sweeps import SweepError
from sweeps.space import Space, check_sampler, grid_values, to_distributions
from sweeps.trials import first_attempt, trial_index

SEQUENCES = ("grid", "qmc")  # samplers that walk through a sequence: one seed for the whole study


@dataclass(frozen=True)
class SamplerSpec:
    """A sampler by name, its seed, and its options."""

    name: str
    seed: int
    options: Mapping[str, int] = field(default_factory=dict)


def ask(study: Study, spec: SamplerSpec, space: Space) -> Trial:
    """Ask a study for its next trial.

    A sampler that draws anew for every trial is built anew for every trial, seeded from the trial's index. So
    a continued study does not draw the same values again, and failures do not change what is drawn: a retry
    has the index of its first attempt. The samplers of a sequence are those that `make_sampler` has built.
    """
    if spec.name not in SEQUENCES:
        trials = study.get_trials(deepcopy=False)
        queued = next((trial for trial in trials if trial.state == TrialState.WAITING), None)
        first = len(trials) if queued is None else first_attempt(queued)
        study.sampler = make_sampler(spec, space, trial_index(first, trials))
    return study.ask(to_distributions(space))


def make_sampler(spec: SamplerSpec, space: Space, index: int = 0) -> BaseSampler:
    """Build a sampler for the trial with an index; those in `SEQUENCES` are for all trials.

    Raises:
        SweepError: If the name is unknown, or the sampler cannot draw from the space.
    """
    import numpy as np

    check_sampler(spec.name, space)
    # Neighboring indices give unrelated seeds.
    seed = int(np.random.SeedSequence([spec.seed, index]).generate_state(1)[0])
    options: dict[str, Any] = dict(spec.options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match spec.name:
            case "tpe":
                return _ParetoTPESampler(seed=seed, **options)
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed, **options)
            case "cmaes":
                return optuna.samplers.CmaEsSampler(seed=seed, **options)
            case "qmc":
                return optuna.samplers.QMCSampler(qmc_type="sobol", scramble=True, seed=spec.seed)
            case "grid":
                return optuna.samplers.GridSampler(grid_values(space), seed=spec.seed)
    raise SweepError(f"sampler={spec.name}: must be tpe, random, gp, cmaes, qmc or grid")


class _ParetoTPESampler(TPESampler):
    """TPE to which a pruned trial of several objectives is worse than every complete one.

    Optuna's TPE ranks pruned trials by their intermediate values, and raises an error if there are several
    objectives. Built anew for every trial, as it reads the study once.
    """

    _pareto_view: Study | None = None

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if len(study.directions) > 1:
            if self._pareto_view is None:
                view = cast(BaseStorage, _PrunedLast(study._storage))
                self._pareto_view = optuna.load_study(study_name=study.study_name, storage=view)
            study = self._pareto_view
        return super().sample_independent(study, trial, param_name, param_distribution)


class _PrunedLast:
    """A view of a storage in which pruned trials are complete, with infinite values."""

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        worst = [math.inf] * len(self._storage.get_study_directions(study_id))
        trials = self._storage.get_all_trials(study_id, deepcopy=False)
        seen = [_complete(t, worst) if t.state == TrialState.PRUNED else t for t in trials]
        return [trial for trial in seen if states is None or trial.state in states]


def _complete(trial: FrozenTrial, values: list[float]) -> FrozenTrial:
    trial = copy.copy(trial)
    trial.state, trial.values = TrialState.COMPLETE, values
    return trial
