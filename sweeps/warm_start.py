"""A warm start: the best configurations of another study, tried first."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import Study

from sweeps import SweepError
from sweeps.space import Space, to_distributions
from sweeps.storage.optuna_storage import NoStudiesError, open_storage
from sweeps.study import find_study
from sweeps.trials import WARM_START, first_attempt, ranked

MAX_CONFIGURATIONS = 5  # and at most half of the trials

Configurations = dict[str, dict[str, Any]]  # params by the study and number of their trial


def read_configurations(url: str, name: str, space: Space, n_trials: int) -> Configurations:
    """Return the best configurations of a study for another one with a search space and a total of trials.

    Creates nothing.

    Raises:
        SweepError: If there is no such study, or the space contains none of its configurations.
    """
    source, names = None, "none"
    with contextlib.suppress(NoStudiesError):
        storage = open_storage(url, create=False)
        source = find_study(storage, name)
        names = ", ".join(sorted(optuna.get_all_study_names(storage))) or names
    if source is None:
        raise SweepError(f"sweep.warm_start={name}: no such study; there are: {names}")
    found = best_configurations(source, space)
    if not found:
        raise SweepError(f"sweep.warm_start={name}: no complete trial lies in the search space of this study")
    n_configurations = min(MAX_CONFIGURATIONS, max(1, n_trials // 2))
    return {f"{name} {number}": params for number, params in list(found.items())[:n_configurations]}


def best_configurations(study: Study, space: Space) -> dict[int, dict[str, Any]]:
    """Return the different configurations in a space by trial number, the best first."""
    distributions = to_distributions(space)
    found: dict[str, tuple[int, dict[str, Any]]] = {}
    for trial in ranked(study.get_trials(deepcopy=False)):
        params = {key: trial.params[key] for key in distributions.keys() & trial.params.keys()}
        if params and all(_contains(distributions[key], value) for key, value in params.items()):
            found.setdefault(json.dumps(params, sort_keys=True), (first_attempt(trial), params))
    return dict(found.values())


def queue_configurations(study: Study, configurations: Configurations) -> None:
    """Queue configurations in a study without trials."""
    if not study.get_trials(deepcopy=False):
        for source, params in configurations.items():
            study.enqueue_trial(params, user_attrs={WARM_START: source})


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except ValueError:
        return False
