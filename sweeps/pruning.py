"""Pruners by name, applied to all attempts at a trial as one merged trial."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, cast

import optuna
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweeps import SweepError
from sweeps.study import PrunerSpec
from sweeps.trials import group_attempts, merge_attempts


class _MergedStorage:
    """A view of a storage with the attempts at each trial merged, and with the first objective only."""

    def __init__(self, storage: BaseStorage, study_id: int) -> None:
        self._storage = storage
        self._study_id = study_id
        self.trials: list[FrozenTrial] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def refresh(self) -> None:
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        self.trials = [merge_attempts(attempts) for attempts in group_attempts(trials).values()]

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._storage.get_study_directions(study_id)[:1]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [trial for trial in self.trials if states is None or trial.state in states]


class Pruning:
    """The pruner of a study, which decides as if no trial had ever been interrupted.

    Of several objectives it knows the first, which the intermediate values stand for.

    Optuna's pruners take each attempt for a trial: a retry has lost the rungs that it had passed, a failed
    attempt stays in the competition, and hyperband moves a retry to another bracket.
    """

    def __init__(self, spec: PrunerSpec, study: Study) -> None:
        self._never_prunes = spec.name == "none"
        self._pruner = make_pruner(spec)
        self._merged = _MergedStorage(study._storage, study._study_id)
        self._study = optuna.load_study(
            study_name=study.study_name, storage=cast(BaseStorage, self._merged), pruner=self._pruner
        )

    def should_prune(self, number: int) -> bool:
        """Return whether to prune a running trial, by the number of its first attempt."""
        if self._never_prunes:
            return False
        self._merged.refresh()
        return self._pruner.prune(self._study, next(t for t in self._merged.trials if t.number == number))


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
