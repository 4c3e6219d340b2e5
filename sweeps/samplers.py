"""How sets are drawn: samplers by name, which go on where they were when a study is continued."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweeps import SweepError
from sweeps.space import Space, check_sampler, grid_values
from sweeps.trials import ordinal, origin

__all__ = ["SamplerSpec", "make_sampler"]


@dataclass(frozen=True)
class SamplerSpec:
    """A sampler by name, its seed, and its options."""

    name: str
    seed: int
    options: Mapping[str, int] = field(default_factory=dict)


def make_sampler(spec: SamplerSpec, space: Space) -> BaseSampler:
    """Build a sampler that goes on where it was when a study is continued.

    A sampler that draws anew for every trial gets its seed from the trial's number, so a continued study
    never draws the same sets again. One that walks through a sequence keeps its seed.

    Raises:
        SweepError: If the sampler cannot draw from the space.
    """
    check_sampler(spec.name, space)
    if spec.name == "grid":
        return optuna.samplers.GridSampler(grid_values(space), seed=spec.seed)
    if spec.name == "qmc":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.QMCSampler(qmc_type="sobol", scramble=True, seed=spec.seed)
    return NumberedSampler(spec)


class NumberedSampler(BaseSampler):
    """Builds the named sampler anew for every trial, seeded from the number of sets drawn before it.

    A trial that is tried again draws no set, or that of its first attempt where that had none yet, so what
    befalls trials does not change the sets.

    Args:
        spec: tpe, random, gp or cmaes.
    """

    def __init__(self, spec: SamplerSpec) -> None:
        self._spec = spec
        self._sampler = self._build(0)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Build the sampler for this trial."""
        self._sampler = self._build(ordinal(origin(trial), study.get_trials(deepcopy=False)))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the named sampler's answer."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the named sampler's answer."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the named sampler's answer."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Hand on to the named sampler."""
        self._sampler.after_trial(study, trial, state, values)

    def _build(self, number: int) -> BaseSampler:
        import numpy as np

        # One integer from both, as different as two seeds are.
        seed = int(np.random.SeedSequence([self._spec.seed, number]).generate_state(1)[0])
        options: dict[str, Any] = dict(self._spec.options)
        match self._spec.name:
            case "tpe":
                return optuna.samplers.TPESampler(seed=seed, **options)
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
            case "gp":
                return optuna.samplers.GPSampler(seed=seed, **options)
            case "cmaes":
                return optuna.samplers.CmaEsSampler(seed=seed, **options)
        raise SweepError(f"sampler={self._spec.name}: must be tpe, random, gp, cmaes, qmc or grid")
