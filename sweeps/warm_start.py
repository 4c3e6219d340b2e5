"""A warm start: another study's best sets, tried first."""

from __future__ import annotations

import json
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import TrialState

from sweeps import SweepError
from sweeps.space import Space, to_distributions
from sweeps.study import find_study
from sweeps.trials import WARM_START

__all__ = ["best_configurations", "queue_configurations", "read_configurations"]

AT_MOST = 5  # sets, and no more than half of the trials


def read_configurations(
    storage: RDBStorage, name: str, space: Space, n_trials: int
) -> dict[str, dict[str, Any]]:
    """Return the best sets of a study, by study and trial that they come from.

    Args:
        storage: Of that study.
        name: Its name.
        space: In which the sets must lie.
        n_trials: Of the study that starts from them.

    Raises:
        SweepError: If there is no such study, or none of its sets lies in the space.
    """
    source = find_study(storage, name)
    if source is None:
        names = ", ".join(sorted(optuna.get_all_study_names(storage))) or "none"
        raise SweepError(f"sweep.warm_start={name}: no such study; there are: {names}")
    sets = best_configurations(source, space, min(AT_MOST, max(1, n_trials // 2)))
    if not sets:
        raise SweepError(f"sweep.warm_start={name}: no complete trial has a set that lies in this space")
    return {f"{name} {number}": params for number, params in sets.items()}


def best_configurations(study: Study, space: Space, n_configurations: int) -> dict[int, dict[str, Any]]:
    """Return the best different sets that lie in a space, by their trials' numbers, the best first."""
    distributions = to_distributions(space)
    complete = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE and t.values]
    found: dict[str, tuple[int, dict[str, Any]]] = {}
    for trial in sorted(complete, key=lambda t: t.values[0]):
        params = {key: trial.params[key] for key in distributions.keys() & trial.params.keys()}
        if params and all(_contains(distributions[key], value) for key, value in params.items()):
            found.setdefault(json.dumps(params, sort_keys=True), (trial.number, params))
    return dict(list(found.values())[:n_configurations])


def queue_configurations(study: Study, sets: dict[str, dict[str, Any]]) -> None:
    """Queue sets in a study that has no trial yet."""
    if not study.get_trials(deepcopy=False):
        for source, params in sets.items():
            study.enqueue_trial(params, user_attrs={WARM_START: source})


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except ValueError:
        return False
