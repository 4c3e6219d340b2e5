"""Every sampler draws values that the space holds, and the same ones for the same seed."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
import pytest

from sweeps.samplers import SamplerSpec, ask, make_sampler
from sweeps.space import Choice, Domain, Interval, Space, n_configurations

WHOLE: Space = {
    "a": Interval(6, 15, step=3, integer=True),
    "b": Interval(1, 64, log=True, integer=True),
    "c": Interval(0.1, 0.9, step=0.4),
}
NUMBERS: Space = {**WHOLE, "d": Interval(0.5, 1.0), "e": Interval(1e-5, 1e-3, log=True)}
ALL: Space = {**NUMBERS, "f": Choice(("linear", True, None, 2.5))}
FINITE: Space = {"a": WHOLE["a"], "c": WHOLE["c"], "f": ALL["f"]}
SPACES: dict[str, Space] = {
    "tpe": ALL,
    "random": ALL,
    "gp": ALL,
    "cmaes": NUMBERS,
    "qmc": NUMBERS,
    "grid": FINITE,
}
# So that model-based samplers get past their random beginning.
OPTIONS = {"tpe": {"n_startup_trials": 3}, "gp": {"n_startup_trials": 3}, "cmaes": {"n_startup_trials": 1}}
N_DRAWN = 9


def contains(domain: Domain, value: Any) -> bool:
    if isinstance(domain, Choice):
        return any(value is option or (value == option and value == 2.5) for option in domain.options)
    whole = isinstance(value, int) if domain.integer else isinstance(value, float)
    steps = 0.0 if domain.step is None else (value - domain.low) / domain.step
    return whole and domain.low <= value <= domain.high and abs(steps - round(steps)) < 1e-9


def draw(sampler: str, seed: int, n: int = N_DRAWN) -> list[dict[str, Any]]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = SPACES[sampler]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        spec = SamplerSpec(sampler, seed, OPTIONS.get(sampler, {}))
        study = optuna.create_study(sampler=make_sampler(spec, space))
    storage, drawn = study._storage, []
    for number in range(n):
        trial = ask(study, spec, space)
        drawn.append(trial.params)
        # As a worker tells it: by the storage, past the sampler that asked.
        storage.set_trial_state_values(
            trial._trial_id, optuna.trial.TrialState.COMPLETE, [(number - 4.0) ** 2]
        )
    return drawn


@pytest.mark.parametrize("sampler", SPACES)
def test_values_lie_in_the_space(sampler: str) -> None:
    for params in draw(sampler, seed=1):
        assert params.keys() == SPACES[sampler].keys()
        for key, domain in SPACES[sampler].items():
            assert contains(domain, params[key]), (key, params[key])


@pytest.mark.parametrize("sampler", SPACES)
def test_the_same_seed_draws_the_same_configurations(sampler: str) -> None:
    assert draw(sampler, seed=2) == draw(sampler, seed=2)


@pytest.mark.parametrize("sampler", SPACES)
def test_another_seed_draws_others(sampler: str) -> None:
    # A grid's first configurations stand in its own order; the seed shuffles what is left over.
    if sampler == "grid":
        n = int(n_configurations(FINITE))
        assert sorted(map(str, draw("grid", 2, n))) == sorted(map(str, draw("grid", 3, n)))
    else:
        assert draw(sampler, seed=2) != draw(sampler, seed=3)


@pytest.mark.parametrize("sampler", SPACES)
def test_configurations_differ_from_one_another(sampler: str) -> None:
    drawn = [str(params) for params in draw(sampler, seed=1)]
    assert len(set(drawn)) >= N_DRAWN - 1
