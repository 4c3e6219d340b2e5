"""The last lines of a sweep name the best trials and commands that do what they say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from optuna.trial import TrialState, create_trial

from nca.study.plan import make_plans
from nca.study.summary import describe_end
from sweeps.spec import Summary
from sweeps.trials import FIRST_ATTEMPT

ATTRIBUTES = {"mlflow_run_id": "RUN", "final_distance": 0.9, FIRST_ATTEMPT: 1}


def end(tmp_path: Path, *overrides: str, **metrics: float) -> list[str]:
    """Return the last lines of a sweep with one trial, which was retried, and an MLflow server."""
    where = [f"runs_dir={tmp_path}", "tracking.uri=http://127.0.0.1:9"]
    (plan,) = make_plans(["texture=roundleaf", *where, *overrides])
    trial = create_trial(state=TrialState.COMPLETE, value=0.5, user_attrs=ATTRIBUTES | metrics)
    trial.number = 4
    links = {"mlflow_experiment_id": "7"}
    return list(describe_end(plan, Summary({"complete": 1}, [trial], [trial], False, False, [], links)))


def test_the_best_trial_has_the_number_of_its_first_attempt(tmp_path: Path) -> None:
    lines = end(tmp_path)
    assert any(line.startswith("best: trial 1, ") for line in lines)
    assert any(line.endswith("/1/output.png") for line in lines)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["train.steps=100"], "train again from step 0, twice as long: .* run=RUN train.steps=200"),
        (
            ["model=distill", "train.steps=100", "train.drop_steps=[50,80]"],
            "train again from step 0, twice as long: .* run=RUN train.steps=200 'train.drop_steps=[100,160]'",
        ),
        (["train.steps=100", "train.keep_checkpoint=true"], "continue: .* run=RUN train.steps=200"),
    ],
)
def test_only_a_run_with_a_checkpoint_is_continued(tmp_path: Path, overrides: list[str], line: str) -> None:
    before, _, after = line.partition(".*")
    (found,) = [each for each in end(tmp_path, *overrides) if "nca.train" in each]
    assert found.startswith(f"{before}python -m nca.train")
    assert after in found
    assert ("drop_steps" in found) == ("drop_steps" in line)


@pytest.mark.parametrize(
    ("metrics", "verdict"),
    [
        ({"distance_at_1000": 0.14}, "good, like the target in colors and structure (texture distance 0.14)"),
        (
            {"distance_at_1000": 0.15},
            "fair, some of the target's structure (texture distance 0.15); for a better one, "
            "train more trials, or longer ones: train.steps=200",
        ),
        (
            {"distance_at_1000": math.nan},
            "poor, little but the target's colors (texture distance 0.9); for a better one, "
            "train more trials, or longer ones: train.steps=200",
        ),
    ],
)
def test_a_result_is_judged_by_its_distance_after_1000_ca_steps_if_it_has_one(
    tmp_path: Path, metrics: dict[str, float], verdict: str
) -> None:
    assert f"result: {verdict}" in end(
        tmp_path, "model=distill", "train.steps=100", "train.drop_steps=null", **metrics
    )
