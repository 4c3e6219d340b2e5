"""Studies as tables: the only reader of both stores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.distributions import BaseDistribution

from analysis.ratings.ratings import Rating, Ratings, mean_ratings
from analysis.trial_pictures import Pictures, open_folders
from nca.records.paths import RecordPaths, read_record_paths
from sweeps.admin import StudyStatus, TrialSummary

__all__ = ["StudyTable", "add_provenance", "load", "read_study"]

# Attributes of a trial that are columns of their own, or no result.
NOT_RESULTS = ("error", "first_attempt", "low_memory", "owner", "reason", "retry_of", "stop", "warm_start")
# What a study has once, and a table of one row a trial has in every row.
FIXED = ("texture.name", "texture.source", "texture.hash", "features.name", "features.hash", "model.name")
FIXED_PARAMS = ("model.", "train.")
TAGS = ("git_commit", "device", "device_name", "threads", "host", "python")  # and version.PACKAGE


@dataclass(frozen=True)
class StudyTable:
    """A study and its trials.

    Args:
        name: Its name.
        objectives: Names of what it minimizes.
        params: Names of what it searches, dotted.
        links: Of its other records.
        fixed: Every other value that its results depend on, by dotted key.
        trials: One row a trial ended for good, by number: `trial`, `reason`, `began`, `seconds`, `folder`,
            `warm_start`, `rating` (the mean of its raters), every param, every result under its metric's
            name, `mlflow_run_id`.
        distributions: What params were drawn from.
        curves: Smoothed losses by training step, by trial.
        ratings: All of them.
        pictures: Its target and outputs.
    """

    name: str
    objectives: Sequence[str]
    params: Sequence[str]
    links: Mapping[str, str]
    fixed: Mapping[str, Any]
    trials: pd.DataFrame
    distributions: Mapping[str, BaseDistribution]
    curves: Mapping[int, Mapping[int, float]]
    ratings: Sequence[Rating]
    pictures: Pictures

    @property
    def texture(self) -> str:
        """The texture's name, with its preset where it has one."""
        name, preset = self.fixed.get("texture.name", self.name), self.fixed.get("texture.preset")
        return f"{name} {preset}" if preset else str(name)


def load(study: str, *, runs_dir: str | Path = "mlruns", storage: str | None = None) -> pd.DataFrame:
    """Return a study's trials that have ended for good, one row each; see `StudyTable`.

    Args:
        study: Its name.
        runs_dir: Folder of all records.
        storage: Address of the Optuna storage; the one in `runs_dir` if not given.

    Raises:
        SweepError: If there is no such study.
    """
    options = {"runs_dir": str(runs_dir)} | ({} if storage is None else {"sweep.storage": storage})
    return read_study(read_record_paths(options), study).trials


def read_study(paths: RecordPaths, name: str) -> StudyTable:
    """Read a study.

    Args:
        paths: Where records are.
        name: The study's.

    Raises:
        SweepError: If there is no such study.
    """
    studies = paths.open_studies()
    state, notes = studies.status(name), studies.trials(name)
    distributions = studies.distributions(name)
    params = sorted(distributions)
    rows = [_row(state, note, paths.study_folders(name)[0]) for note in notes]
    columns = ["trial", "reason", "began", "seconds", "folder", "warm_start", "rating", *params]
    trials = pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)
    ratings = Ratings(paths, name).all()
    trials["rating"] = trials["trial"].map(mean_ratings(ratings)).astype(float)
    return StudyTable(
        name,
        state.objectives,
        params,
        dict(state.links),
        studies.fixed(name),
        trials,
        distributions,
        {note.number: note.reports for note in notes},
        ratings,
        open_folders(paths, name, dict(zip(trials["trial"], trials["folder"], strict=True))),
    )


def add_provenance(table: StudyTable, paths: RecordPaths) -> pd.DataFrame:
    """Return a study's trials with what is the same for all, and where each was trained, as MLflow knows it.

    Args:
        table: The study.
        paths: Where records are.
    """
    trials = table.trials.copy()
    trials.insert(0, "study", table.name)
    same = {key: value for key, value in table.fixed.items() if key in FIXED or key.startswith(FIXED_PARAMS)}
    for key in sorted(same.keys() - set(trials.columns)):
        trials[key] = [same[key]] * len(trials)
    store, experiment = paths.open_tracking(), table.links.get("mlflow_experiment_id")
    if store is None or experiment is None or "mlflow_run_id" not in trials:
        return trials
    tags = store.experiments.run_tags(experiment)
    of_trials = [tags.get(str(run), {}) for run in trials["mlflow_run_id"]]
    versions = {key for each in of_trials for key in each if key.startswith("version.")}
    for key in (*TAGS, *sorted(versions)):
        trials[key] = [each.get(key) for each in of_trials]
    return trials


def _row(state: StudyStatus, note: TrialSummary, folder: Path) -> dict[str, Any]:
    results = {key: value for key, value in note.attributes.items() if key not in NOT_RESULTS}
    values = dict(zip(state.objectives, note.values, strict=False))
    return {
        "trial": note.number,
        "reason": note.reason,
        "began": note.since,
        "seconds": note.seconds,
        "folder": str(folder / str(note.first_attempt)),
        "warm_start": note.attributes.get("warm_start"),
        "rating": None,
        **note.params,
        **values,
        **{key: value for key, value in results.items() if isinstance(value, int | float | str)},
        **{key: json.dumps(value) for key, value in results.items() if isinstance(value, list)},
    }
