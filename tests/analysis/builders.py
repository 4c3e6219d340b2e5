"""Studies made up for tables and pages: trials with sets, losses and pictures, without training."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from PIL import Image

from nca.options import read_places
from nca.places import Places
from sweeps.study import LINKS, open_storage

STUDY = "leaf"
DISTRIBUTIONS = {
    "model.channels": CategoricalDistribution((6, 9, 12, 15)),
    "train.learning_rate": FloatDistribution(1e-5, 1e-3, log=True),
}


def make_study(runs: Path, n_trials: int, n_failed: int = 1) -> Places:
    """Make a study of complete trials and some failed ones; every complete one has a picture."""
    draw = np.random.default_rng(0)
    storage = open_storage(f"sqlite:///{runs / 'optuna.db'}")
    study = optuna.create_study(study_name=STUDY, storage=storage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(["final_loss"])
    study.set_user_attr(LINKS, {"mlflow_experiment_id": "1", "mlflow_run_id": "parent"})
    target = runs / "trials" / STUDY / "0" / "artifacts"
    target.mkdir(parents=True)
    Image.fromarray(draw.integers(0, 256, (128, 128, 3), np.uint8)).save(target / "target.png")
    trials = []
    for number in range(n_trials):
        failed = number >= n_trials - n_failed
        loss = float(10 ** draw.uniform(-5, -2))
        folder = runs / "trials" / STUDY / str(number)
        folder.mkdir(exist_ok=True)
        results = (
            {} if failed else {"final_loss": loss, "seconds_per_step": 0.3, "mlflow_run_id": f"run{number}"}
        )
        if not failed:
            smooth = draw.integers(0, 256, (8, 17, 3), np.uint8)
            Image.fromarray(smooth).resize((258, 128), Image.Resampling.BICUBIC).save(folder / "output.png")
        params = {
            "model.channels": int(draw.choice([6, 9, 12, 15])),
            "train.learning_rate": float(10 ** draw.uniform(-5, -3)),
        }
        trials.append(
            create_trial(
                state=TrialState.FAIL if failed else TrialState.COMPLETE,
                value=None if failed else loss,
                params=params,
                distributions=DISTRIBUTIONS,
                user_attrs={"reason": "diverged" if failed else "complete", **results},
            )
        )
    study.add_trials(trials)
    return read_places({"runs_dir": str(runs)})
