"""A sampler is built by name and continues where it was, whatever interrupted it."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from sweeps import SweepError
from sweeps.samplers import SamplerSpec, make_sampler
from sweeps.samplers import ask as next_trial
from sweeps.space import Choice, Interval, Space, to_distributions
from sweeps.storage.optuna_storage import open_storage
from sweeps.study import StudySpec, open_study

SPACE: Space = {"model.channels": Choice((6, 9)), "train.learning_rate": Interval(1e-5, 1e-3, log=True)}


@pytest.fixture
def spec(tmp_path: Path) -> StudySpec:
    return StudySpec("leaf", f"sqlite:///{tmp_path / 'optuna.db'}", SPACE, {})


def ask(spec: StudySpec, sampler: str, n: int) -> list[dict[str, Any]]:
    """Continue the study in the file by n trials that a coordinator started anew would ask for."""
    storage = open_storage(spec.storage)
    open_study(spec, storage)
    study = optuna.load_study(
        study_name=spec.name, storage=storage, sampler=make_sampler(SamplerSpec(sampler, 5), SPACE)
    )
    drawn = []
    for _ in range(n):
        trial = next_trial(study, SamplerSpec(sampler, 5), SPACE)
        drawn.append(trial.params)
        study.tell(trial, float(trial.number))
    return drawn


@pytest.mark.filterwarnings("ignore:Heartbeat of storage is supposed:UserWarning")
@pytest.mark.parametrize("sampler", ["random", "tpe", "gp"])
def test_a_continued_study_equals_an_uninterrupted_one(spec: StudySpec, sampler: str) -> None:
    whole = ask(replace(spec, name="whole"), sampler, 6)
    parts = ask(spec, sampler, 2) + ask(spec, sampler, 1) + ask(spec, sampler, 3)
    assert parts == whole
    assert len({params["train.learning_rate"] for params in whole}) == 6


def test_another_seed_draws_other_configurations() -> None:
    drawn = []
    for seed in (0, 1):
        study, sampler = optuna.create_study(), SamplerSpec("random", seed)
        drawn.append([next_trial(study, sampler, SPACE).params["train.learning_rate"] for _ in range(4)])
    assert not set(drawn[0]) & set(drawn[1])


def test_unknown_sampler_is_refused() -> None:
    with pytest.raises(SweepError, match="sampler=best: must be tpe, random, gp, cmaes, qmc or grid"):
        make_sampler(SamplerSpec("best", 0), SPACE)


def test_a_sampler_that_cannot_draw_from_the_space_is_refused() -> None:
    with pytest.raises(SweepError, match="sampler=qmc draws from intervals"):
        make_sampler(SamplerSpec("qmc", 0), SPACE)


@pytest.mark.parametrize("name", ["tpe", "random", "gp", "cmaes", "qmc", "grid"])
def test_a_sampler_is_built_and_draws_without_a_warning(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    space: Space = {"a": Interval(1, 3, integer=True), "b": Interval(0.0, 1.0, step=0.5)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=make_sampler(SamplerSpec(name, 0), space))
        assert study.ask(to_distributions(space)).params.keys() == space.keys()
    assert capfd.readouterr().err == ""
