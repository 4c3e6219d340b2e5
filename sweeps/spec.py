"""The specification of a sweep, and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from sweeps.samplers import SamplerSpec
from sweeps.study import PrunerSpec, StudySpec
from sweeps.trials import first_attempt


@dataclass(frozen=True)
class SweepSpec:
    """The specification of a sweep.

    Args:
        n_trials: Total of finished trials.
        retries: Retries of a killed trial.
        application: Dotted path, `package.module:Class`.
        compose: Returns the config of a trial from its params and its index, which seeds it.
        trials: Folder of the trials' folders.
        artifacts: Folder of Optuna's artifact store.
        timeout_s: Time after which the sweep stops.
        max_steps: Training steps of the whole study after which the sweep stops.
        warm_start: Study of the same storage whose best configurations are tried first.
        storage_timeout_s: How long to wait while the storage's server is unavailable.
    """

    study: StudySpec
    sampler: SamplerSpec
    pruner: PrunerSpec
    n_trials: int
    retries: int
    application: str
    compose: Callable[[Mapping[str, Any], int], dict[str, Any]]
    trials: Path
    artifacts: Path
    timeout_s: float | None = None
    max_steps: int | None = None
    warm_start: str | None = None
    storage_timeout_s: float = 0.0

    def folder_of(self, trial: FrozenTrial) -> Path:
        """Return the folder that all attempts at a trial share."""
        return self.trials / str(first_attempt(trial))


@dataclass(frozen=True)
class Summary:
    """The result of a sweep.

    Args:
        counts: Numbers of finished trials of the study by reason.
        ranking: Complete trials by the first objective, the best first.
        front: Complete trials that no other one dominates, by their first objective.
        interrupted: Whether the sweep stopped before its total.
        at_limit: Whether it stopped at `timeout_s` or `max_steps`.
        pruned_after: Training steps of each pruned trial.
        links: What the application returned when the study was opened.
    """

    counts: Mapping[str, int]
    ranking: Sequence[FrozenTrial]
    front: Sequence[FrozenTrial]
    interrupted: bool
    at_limit: bool
    pruned_after: Sequence[int]
    links: Mapping[str, str]

    @property
    def best(self) -> FrozenTrial | None:
        """Best complete trial."""
        return next(iter(self.ranking), None)
