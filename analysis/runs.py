"""Studies as tables, read from Optuna and MLflow."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.distributions import BaseDistribution

from analysis.ratings.ratings import Rating, Ratings, mean_ratings
from analysis.trial_pictures import Pictures, read_output, read_target
from nca.records.paths import RecordPaths, read_record_paths
from sweeps.admin import StudyStatus
from sweeps.assignment import ASSIGNMENT_FILE
from sweeps.trials import TrialSummary

# Attributes of a trial that are columns of their own, or not results.
NOT_RESULTS = ("error", "first_attempt", "low_memory", "owner", "reason", "retry_of", "stop", "warm_start")
HASH, IMAGE_PATH = "texture.hash", "texture.path"
MARK_LENGTH = 6  # hex digits of it
# Values of a study that `join_with_provenance` repeats in each row.
FIXED = ("texture.name", "texture.source", "texture.preset", HASH, "features.name", "features.hash")
FIXED_PREFIXES = ("model.", "train.")
TAGS = ("git_commit", "device", "device_name", "threads", "host", "python")  # and version.PACKAGE
TERMS = ("model.", "train.", "features.")  # losses are comparable only if all values under these are equal


@dataclass(frozen=True)
class StudyTable:
    """A study and its trials.

    Args:
        name: Name of the study.
        objectives: Names of what it minimizes.
        links: Ids of its other records, by name.
        fixed: Values that are not searched, by dotted key.
        trials: One row per finished trial: `trial` (number of its first attempt), `reason`, `began`,
            `seconds`, `folder`, `warm_start`, `rating` (the mean over raters), each parameter, each result
            under its metric's name, `mlflow_run_id`.
        distributions: Distribution of each searched parameter, by dotted key.
        curves: Smoothed losses: `trial`, `step` (training step), `loss`.
        ratings: All ratings.
        pictures: Target and outputs.
        texture_mark: Begin of the texture's hash, if another texture has the same name.
    """

    name: str
    objectives: Sequence[str]
    links: Mapping[str, str]
    fixed: Mapping[str, Any]
    trials: pd.DataFrame
    distributions: Mapping[str, BaseDistribution]
    curves: pd.DataFrame
    ratings: Sequence[Rating]
    pictures: Pictures
    texture_mark: str = ""

    @property
    def params(self) -> list[str]:
        """Dotted keys of the searched parameters."""
        return sorted(self.distributions)

    @property
    def texture(self) -> str:
        """Name of the texture: a plant, `PLANT photo`, `gray_scott PRESET`, or the stem of an image file."""
        name = str(self.fixed.get("texture.name", self.name))
        match self.fixed.get("texture.source"):
            case "photo":
                name = f"{name} photo"
            case "file":
                name = Path(self.fixed.get(IMAGE_PATH, name)).stem
        return " ".join(filter(None, (name, self.fixed.get("texture.preset"), self.texture_mark)))


def load(study: str, *, runs_dir: str | Path = "mlruns", storage: str | None = None) -> pd.DataFrame:
    """Return the finished trials of a study, one row each.

    The columns are those of `StudyTable.trials`, and every value of `model` and `train` that is not searched.

    Args:
        study: Name of the study.
        runs_dir: Folder of all records.
        storage: Address of the Optuna storage; default: the one in `runs_dir`.

    Raises:
        SweepError: If there is no such study.
    """
    options = {"runs_dir": str(runs_dir)} | ({} if storage is None else {"sweep.storage": storage})
    return _add_fixed(read_study(read_record_paths(options), study))


def read_study(paths: RecordPaths, name: str) -> StudyTable:
    """Read a study.

    Raises:
        SweepError: If there is no such study.
    """
    studies = paths.open_studies()
    state, notes = studies.status(name), studies.trials(name)
    distributions = studies.distributions(name)
    rows = [_make_row(state, note, paths.study_folders(name)[0]) for note in notes]
    columns = ["trial", "reason", "began", "seconds", "folder", "warm_start", *sorted(distributions)]
    trials = pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)
    ratings = Ratings(paths, name).all()
    rating = trials["trial"].map(mean_ratings(ratings)).astype(float)
    trials.insert(trials.columns.get_loc("warm_start") + 1, "rating", rating)
    folders = dict(zip(trials["trial"], trials["folder"], strict=True))
    curves = [(note.first_attempt, step, loss) for note in notes for step, loss in note.reports.items()]
    return StudyTable(
        name,
        state.objectives,
        dict(state.links),
        studies.fixed(name) | _read_image_path(paths.study_folders(name)[0]),
        trials,
        distributions,
        pd.DataFrame(curves, columns=["trial", "step", "loss"]),
        ratings,
        Pictures(lambda: read_target(paths, name), lambda trial: read_output(folders[trial])),
    )


def _read_image_path(folder: Path) -> dict[str, str]:
    """Return `texture.path` as a trial of the study was given it, because the study itself holds its hash.

    Empty if the texture is no image file, or no trial's folder is there.
    """
    for file in folder.glob(f"*/{ASSIGNMENT_FILE}"):
        path = json.loads(file.read_text(encoding="utf-8"))["config"]["texture"].get("path")
        return {} if path is None else {IMAGE_PATH: path}
    return {}


def _make_row(state: StudyStatus, note: TrialSummary, folder: Path) -> dict[str, Any]:
    results = {key: value for key, value in note.attributes.items() if key not in NOT_RESULTS}
    return {
        "trial": note.first_attempt,
        "reason": note.reason,
        "began": note.started_at,
        "seconds": note.seconds,
        "folder": str(folder / str(note.first_attempt)),
        "warm_start": note.attributes.get("warm_start"),
        **note.params,
        **(dict(zip(state.objectives, note.values, strict=True)) if note.reason == "complete" else {}),
        **{key: value for key, value in results.items() if isinstance(value, int | float | str)},
        **{key: json.dumps(value) for key, value in results.items() if isinstance(value, list)},
    }


def join_with_provenance(tables: Sequence[StudyTable], paths: RecordPaths) -> pd.DataFrame:
    """Return the trials of studies with the studies' fixed values and the MLflow tags of each training."""
    parts = [_add_provenance(table, paths) for table in tables]
    return pd.concat([part for part in parts if not part.empty] or parts)


def _add_fixed(table: StudyTable) -> pd.DataFrame:
    trials = table.trials.copy()
    for key in sorted(table.fixed.keys() - set(trials.columns)):
        if key in FIXED or key.startswith(FIXED_PREFIXES):
            trials[key] = [table.fixed[key]] * len(trials)
    return trials


def _add_provenance(table: StudyTable, paths: RecordPaths) -> pd.DataFrame:
    trials = _add_fixed(table)
    trials.insert(0, "study", table.name)
    store, experiment = paths.open_tracking(), table.links.get("mlflow_experiment_id")
    if store is None or experiment is None or "mlflow_run_id" not in trials:
        return trials
    tags = store.experiments.run_tags(experiment)
    by_trial = [tags.get(str(run), {}) for run in trials["mlflow_run_id"]]
    versions = {key for each in by_trial for key in each if key.startswith("version.")}
    for key in (*TAGS, *sorted(versions)):
        trials[key] = [each.get(key) for each in by_trial]
    return trials


def mark_textures(tables: Sequence[StudyTable]) -> list[StudyTable]:
    """Return the studies with a mark on textures that have the same name and size, and different pixels."""
    hashes: dict[tuple[str, Any], set[str]] = defaultdict(set)
    for table in tables:
        if HASH in table.fixed:
            hashes[table.texture, table.fixed.get("train.size")].add(table.fixed[HASH])
    several = {texture for (texture, _), found in hashes.items() if len(found) > 1}
    return [
        replace(table, texture_mark=table.fixed.get(HASH, "")[:MARK_LENGTH])
        if table.texture in several
        else table
        for table in tables
    ]


def join_studies(tables: Sequence[StudyTable]) -> pd.DataFrame:
    """Return all trials of several studies.

    A parameter that a study does not search has the study's fixed value. Further columns: `study`; `texture`;
    `configuration`, equal for equal values of all parameters that any of the studies searches, and unique
    in a study that searches nothing; `terms`, equal if losses can be compared.
    """
    params = sorted({name for table in tables for name in table.params})
    parts = []
    for table in tables:
        part = table.trials.copy()
        part.insert(0, "study", table.name)
        part["texture"] = table.texture
        for name in set(params) - set(table.params):
            part[name] = table.fixed.get(name)
        own = part[params] if table.params else part[["study", "trial"]]
        part["configuration"] = [_name_values(values) for values in own.astype(object).to_numpy().tolist()]
        terms = {key: str(table.fixed[key]) for key in sorted(table.fixed) if key.startswith(TERMS)}
        part["terms"] = json.dumps({key: value for key, value in terms.items() if key not in params})
        parts.append(part)
    joined = pd.concat([part for part in parts if not part.empty], ignore_index=True)
    joined[params] = joined[params].infer_objects()  # a rule without a parameter has None
    for name, missing in {"final_loss": float("nan"), "suggested_by": None}.items():
        if name not in joined:
            joined[name] = missing
    return joined


def _name_values(values: Sequence[object]) -> str:
    """Return the same text for equal values, such as 9 and 9.0."""
    return json.dumps([float(v) if isinstance(v, int | float) else str(v) for v in values])
