"""Synthetic studies for tables and pages: trials with parameters, losses and pictures, without training."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from PIL import Image

from nca.records.paths import RecordPaths, read_record_paths
from sweeps.storage.optuna_storage import open_storage
from sweeps.study import FINGERPRINT, LINKS, write_record

STUDY = "leaf"
DISTRIBUTIONS = {
    "model.channels": CategoricalDistribution((6, 9, 12, 15)),
    "model.update_rate": FloatDistribution(0.5, 1.0),
    "train.learning_rate": FloatDistribution(1e-5, 1e-3, log=True),
}
REPORTS = (8, 16, 24, 32)  # training steps


def make_study(
    runs: Path, n_trials: int, n_failed: int = 1, name: str = STUDY, texture: str = "roundleaf"
) -> RecordPaths:
    """Make a study of complete trials and some failed ones; every complete one has a picture.

    The configurations are the same for every name, losses fall with the learning rate, and those of different
    textures correlate.
    """
    draw, noise = np.random.default_rng(0), np.random.default_rng(sum(map(ord, texture)))
    storage = open_storage(f"sqlite:///{runs / 'optuna.db'}")
    study = optuna.create_study(study_name=name, storage=storage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(["final_loss"])
    write_record(study, LINKS, {"mlflow_experiment_id": "1", "mlflow_run_id": "parent"})
    fixed = {"texture.name": texture, "texture.source": "drawn", "train.steps": 32, "train.size": 128}
    write_record(study, FINGERPRINT, {"space": {}, "fixed": {**fixed, "model.name": "srnca"}})
    target = runs / "trials" / name / "0" / "artifacts"
    target.mkdir(parents=True)
    Image.fromarray(draw.integers(0, 256, (128, 128, 3), np.uint8)).save(target / "target.png")
    trials = []
    for number in range(n_trials):
        failed = number >= n_trials - n_failed
        params = {
            "model.channels": int(draw.choice([6, 9, 12, 15])),
            "model.update_rate": float(draw.uniform(0.5, 1.0)),
            "train.learning_rate": float(10 ** draw.uniform(-5, -3)),
        }
        loss = float(10 ** (-6 - np.log10(params["train.learning_rate"]) + 0.3 * noise.normal()))
        folder = runs / "trials" / name / str(number)
        folder.mkdir(exist_ok=True)
        results = {
            "final_loss": loss,
            "final_loss_median": loss * 1.1,
            "final_distance": loss * 1e5,
            "seconds_per_step": 0.3,
            "n_steps": 32,
        }
        if not failed:
            smooth = draw.integers(0, 256, (8, 17, 3), np.uint8)
            Image.fromarray(smooth).resize((258, 128), Image.Resampling.BICUBIC).save(folder / "output.png")
        trials.append(
            create_trial(
                state=TrialState.FAIL if failed else TrialState.COMPLETE,
                value=None if failed else loss,
                params=params,
                distributions=DISTRIBUTIONS,
                intermediate_values={step: loss * 32 / step for step in REPORTS},
                user_attrs={"reason": "diverged"}
                if failed
                else {"reason": "complete", "mlflow_run_id": f"run{number}", **results},
            )
        )
    study.add_trials(trials)
    return read_record_paths({"runs_dir": str(runs)})
