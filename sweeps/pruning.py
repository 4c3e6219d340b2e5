"""Pruners by name, to which a trial and its retries are one trial."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, cast

import optuna
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweeps import SweepError
from sweeps.study import PrunerSpec
from sweeps.trials import group_attempts, merge_attempts

__all__ = ["Pruning", "make_pruner"]


class _AsOne:
    """A storage in which every trial has one attempt; all else is the storage's own."""

    def __init__(self, storage: BaseStorage, study_id: int) -> None:
        self._storage = storage
        self._study_id = study_id
        self.trials: list[FrozenTrial] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def refresh(self) -> None:
        attempts = self._storage.get_all_trials(self._study_id, deepcopy=False)
        self.trials = [merge_attempts(each) for each in group_attempts(attempts).values()]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [trial for trial in self.trials if states is None or trial.state in states]


class Pruning:
    """The pruner of a study, which ends a trial as if it, and all others, had never been interrupted.

    Optuna's own look at each attempt alone: one that goes on has lost the rungs it had passed, one that
    failed stays in the competition, and hyperband moves a retry to another ladder.

    Args:
        spec: The pruner.
        study: The study.
    """

    def __init__(self, spec: PrunerSpec, study: Study) -> None:
        self._is_none = spec.name == "none"
        self._pruner = make_pruner(spec)
        self._view = _AsOne(study._storage, study._study_id)
        self._study = optuna.load_study(
            study_name=study.study_name, storage=cast(BaseStorage, self._view), pruner=self._pruner
        )

    def ends(self, number: int) -> bool:
        """Say whether a running trial, by its first attempt's number, is to end after its last report."""
        if self._is_none:
            return False
        self._view.refresh()
        return self._pruner.prune(self._study, next(t for t in self._view.trials if t.number == number))


def make_pruner(spec: PrunerSpec) -> BasePruner:
    """Build a pruner.

    Raises:
        SweepError: If the name is unknown.
    """
    options: dict[str, Any] = dict(spec.options)
    match spec.name:
        case "none":
            return optuna.pruners.NopPruner()
        case "median":
            return optuna.pruners.MedianPruner(**options)
        case "asha":
            return optuna.pruners.SuccessiveHalvingPruner(**options)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(max_resource=spec.max_resource, **options)
    raise SweepError(f"pruner={spec.name}: must be none, median, asha or hyperband")
