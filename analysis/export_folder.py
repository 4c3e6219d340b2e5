"""Studies as a folder of tables and pictures, which a report can be made of without their records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.distributions import IntDistribution, distribution_to_json, json_to_distribution

from analysis.ratings.ratings import Rating
from analysis.runs import StudyTable, add_provenance
from analysis.trial_pictures import make_sheet, open_sheet
from nca.cli.errors import ConfigError
from nca.records.paths import RecordPaths

__all__ = ["read_exported", "write_exported"]

TRIALS = "trials.csv"  # a row a trial of all studies, the column `study` first
CURVES = "curves.csv"
RATINGS = "ratings.csv"
STUDIES = "studies.json"  # what is no table, by study
PRIVATE = ("folder", "host", "mlflow_run_id")  # columns that say nothing elsewhere


def write_exported(tables: Sequence[StudyTable], paths: RecordPaths, folder: Path) -> int:
    """Write studies into a new folder and return how many trials they have.

    Args:
        tables: The studies.
        paths: Where records are.
        folder: Created.
    """
    folder.mkdir()
    told = [add_provenance(table, paths).drop(columns=[*PRIVATE], errors="ignore") for table in tables]
    trials = pd.concat([each for each in told if not each.empty] or told)
    trials.to_csv(folder / TRIALS, index=False)
    curves = [
        (table.name, trial, step, loss)
        for table in tables
        for trial, curve in table.curves.items()
        for step, loss in curve.items()
    ]
    columns = ["study", "trial", "step", "loss"]
    pd.DataFrame(curves, columns=columns).to_csv(folder / CURVES, index=False)
    ratings = [{"study": table.name} | asdict(rating) for table in tables for rating in table.ratings]
    columns = ["study", *(each.name for each in fields(Rating))]
    pd.DataFrame(ratings, columns=columns).to_csv(folder / RATINGS, index=False)
    studies = {table.name: _describe(table) for table in tables}
    (folder / STUDIES).write_text(json.dumps(studies, indent=1) + "\n", encoding="utf-8")
    for table in tables:
        sheet = make_sheet(table.pictures, table.trials["trial"].tolist())
        if sheet is not None:
            sheet.save(folder / f"{table.name}.png", optimize=True)
    return len(trials)


def _describe(table: StudyTable) -> dict[str, Any]:
    return {
        "objectives": list(table.objectives),
        "columns": [name for name in table.trials.columns if name not in PRIVATE],
        "distributions": {name: distribution_to_json(each) for name, each in table.distributions.items()},
        "fixed": dict(table.fixed),
    }


def read_exported(folder: Path) -> list[StudyTable]:
    """Return the studies of a folder that `write_exported` wrote; they have no links and no folders.

    Args:
        folder: With its tables and pictures.

    Raises:
        ConfigError: If it holds something else.
    """
    try:
        studies: dict[str, dict[str, Any]] = json.loads((folder / STUDIES).read_text(encoding="utf-8"))
        trials, curves, ratings = (pd.read_csv(folder / name) for name in (TRIALS, CURVES, RATINGS))
        return [_read(folder, name, each, trials, curves, ratings) for name, each in studies.items()]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"exported={folder}: is not what `analysis.export out=FOLDER` writes: {error}"
        ) from error


def _read(
    folder: Path,
    name: str,
    described: Mapping[str, Any],
    trials: pd.DataFrame,
    curves: pd.DataFrame,
    ratings: pd.DataFrame,
) -> StudyTable:
    own = trials[trials["study"] == name][described["columns"]].reset_index(drop=True)
    own["began"] = pd.to_datetime(own["began"])
    distributions = {key: json_to_distribution(text) for key, text in described["distributions"].items()}
    for key, each in distributions.items():
        if isinstance(each, IntDistribution):
            own[key] = own[key].astype(int)
    of_trials = curves[curves["study"] == name].groupby("trial")
    given = ratings[ratings["study"] == name].drop(columns="study").to_dict("records")
    numbers = own["trial"].tolist()
    return StudyTable(
        name=name,
        objectives=described["objectives"],
        params=sorted(distributions),
        links={},
        fixed=described["fixed"],
        trials=own,
        distributions=distributions,
        curves={int(trial): dict(zip(each["step"], each["loss"], strict=True)) for trial, each in of_trials},
        ratings=[Rating(**{str(key): value for key, value in each.items()}) for each in given],
        pictures=open_sheet(folder / f"{name}.png", numbers),
    )
