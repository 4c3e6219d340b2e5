"""Samplers by name, which continue their sequence when a study is continued."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import Trial, TrialState

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
                return optuna.samplers.TPESampler(seed=seed, **options)
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
