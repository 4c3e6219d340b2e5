"""What a sweep is asked to do, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from sweeps.samplers import SamplerSpec
from sweeps.study import PrunerSpec, StudySpec
from sweeps.trials import first_attempt

__all__ = ["Summary", "SweepSpec"]


@dataclass(frozen=True)
class SweepSpec:
    """What a sweep is asked to do.

    Args:
        study: The study.
        sampler: How sets are drawn.
        pruner: Which trials end early.
        n_trials: Trials ended for good, in all.
        retries: Times a killed trial is tried again.
        application: Dotted path, `package.module:Class`.
        compose: Turns drawn values and a trial's ordinal, which seeds it, into the trial's whole config.
        trials: Folder of the trials' folders.
        artifacts: Folder of Optuna's artifact store.
        timeout_s: Seconds after which the sweep ends; None for never.
        max_steps: Training steps of the whole study after which it ends; None for no limit.
        warm_start: A study of the same storage whose best sets are tried first.
        storage_timeout_s: How long to wait for the storage's server where it is away.
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
        """Return a trial's folder, which all attempts at it share."""
        return self.trials / str(first_attempt(trial))


@dataclass(frozen=True)
class Summary:
    """How a sweep ended.

    Args:
        counts: Trials of the study ended for good, by reason.
        ranking: Complete trials by the first objective, the best first.
        front: The trials that no other beats in every objective.
        interrupted: Whether it was stopped before its total.
        at_limit: Whether its time or its steps were over.
        pruned_after: Training steps after which trials were pruned.
        links: Of the study.
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
        """The best trial; None where none is complete."""
        return next(iter(self.ranking), None)
