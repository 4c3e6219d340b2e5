"""Studies as tables: the only reader of both stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.ratings import Ratings, mean_ratings
from nca.options import read_places
from nca.places import Places
from sweeps.upkeep import StudyState, TrialNote

__all__ = ["StudyTable", "load", "read_study"]

# Attributes of a trial that are columns of their own, or no result.
NOT_RESULTS = ("owner", "reason", "error", "origin", "retry_of", "lean", "stop", "warm_start")


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
    """

    name: str
    objectives: Sequence[str]
    params: Sequence[str]
    links: dict[str, str]
    fixed: dict[str, Any]
    trials: pd.DataFrame


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
    return read_study(read_places(options), study).trials


def read_study(places: Places, name: str) -> StudyTable:
    """Read a study.

    Args:
        places: Where records are.
        name: The study's.

    Raises:
        SweepError: If there is no such study.
    """
    studies = places.open_studies()
    state, notes = studies.look(name), studies.trials(name)
    params = sorted({key for note in notes for key in note.params})
    rows = [_row(state, note, places.folders(name)[0]) for note in notes]
    columns = ["trial", "reason", "began", "seconds", "folder", "warm_start", "rating", *params]
    trials = pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)
    trials["rating"] = trials["trial"].map(mean_ratings(Ratings(places, name).all())).astype(float)
    return StudyTable(name, state.objectives, params, dict(state.links), studies.fixed(name), trials)


def _row(state: StudyState, note: TrialNote, folder: Path) -> dict[str, Any]:
    results = {key: value for key, value in note.attributes.items() if key not in NOT_RESULTS}
    values = dict(zip(state.objectives, note.values, strict=False))
    return {
        "trial": note.number,
        "reason": note.reason,
        "began": note.since,
        "seconds": note.seconds,
        "folder": str(folder / str(note.origin)),
        "warm_start": note.attributes.get("warm_start"),
        **note.params,
        **values,
        **{key: value for key, value in results.items() if isinstance(value, int | float | str)},
    }
