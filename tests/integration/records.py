"""What a sweep has left behind, read with the clients of Optuna and MLflow."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import optuna
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nca.tracking.relocation import relocate
from sweeps.storage.optuna_storage import open_storage


def copy_records(runs: Path, copy: Path) -> Path:
    """Copy a `runs_dir` and return the copy, whose artifacts are its own: MLflow keeps whole addresses."""
    copy_folder(runs, copy)
    relocate(copy / "mlflow.db")
    return copy


def copy_folder(runs: Path, copy: Path) -> None:
    """Copy a `runs_dir` as it is, whose databases another process may be closing."""
    shutil.copytree(runs, copy, ignore=shutil.ignore_patterns("*.db", "*.db-wal", "*.db-shm"))
    for database in runs.glob("*.db"):
        with (
            contextlib.closing(sqlite3.connect(database)) as source,
            contextlib.closing(sqlite3.connect(copy / database.name)) as target,
        ):
            source.backup(target)


def load_study(runs: Path, name: str) -> Study:
    storage = open_storage(f"sqlite:///{runs / 'optuna.db'}", create=False)
    return optuna.load_study(study_name=name, storage=storage)


def study_names(runs: Path) -> list[str]:
    return sorted(optuna.get_all_study_names(open_storage(f"sqlite:///{runs / 'optuna.db'}", create=False)))


def complete_trials(study: Study) -> list[FrozenTrial]:
    return study.get_trials(states=(TrialState.COMPLETE,))


class Records:
    """Optuna's and MLflow's view of one study."""

    def __init__(self, runs: Path, name: str) -> None:
        self.study = load_study(runs, name)
        self.client = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
        self.experiment = self.client.get_experiment_by_name(name)
        assert self.experiment is not None
        found = list(self.client.search_runs([self.experiment.experiment_id]))
        self.parents: list[Run] = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
        children = [run for run in found if "mlflow.parentRunId" in run.data.tags]
        self.children: dict[int, Run] = {int(run.data.tags["optuna_trial"]): run for run in children}
        assert len(self.children) == len(children), "two runs of one trial"

    def files(self, run: Run) -> Path:
        return Path(self.client.download_artifacts(run.info.run_id, ""))
