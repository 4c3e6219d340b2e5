"""Studies as a folder of tables and pictures, from which a report can be made without their records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.distributions import IntDistribution, distribution_to_json, json_to_distribution

from analysis.ratings.ratings import Rating
from analysis.runs import IMAGE_PATH, StudyTable, join_with_provenance
from analysis.trial_pictures import make_sheet, open_sheet
from nca.cli.errors import ConfigError
from nca.cli.options import read_text
from nca.records.paths import RecordPaths

TRIALS, CURVES, RATINGS = "trials.csv", "curves.csv", "ratings.csv"  # of all studies; first column: `study`
STUDIES = "studies.json"  # the other facts of each study
TYPES = {"trial": "int64", "step": "int64", "loss": float, "final_loss": float, "rating": float}
PRIVATE = ("folder", "host", "mlflow_run_id")  # columns without a meaning on other machines


def write_exported(tables: Sequence[StudyTable], paths: RecordPaths, folder: Path) -> int:
    """Write studies into a new folder and return the number of their trials."""
    folder.mkdir()
    trials = join_with_provenance(tables, paths).drop(columns=[*PRIVATE], errors="ignore")
    trials.to_csv(folder / TRIALS, index=False)
    curves = {table.name: table.curves for table in tables}
    pd.concat(curves, names=["study"]).reset_index("study").to_csv(folder / CURVES, index=False)
    ratings = [{"study": table.name} | asdict(rating) for table in tables for rating in table.ratings]
    columns = ["study", *(each.name for each in fields(Rating))]
    pd.DataFrame(ratings, columns=columns).to_csv(folder / RATINGS, index=False)
    studies = {
        table.name: {
            "objectives": list(table.objectives),
            "columns": [name for name in table.trials.columns if name not in PRIVATE],
            "distributions": {key: distribution_to_json(each) for key, each in table.distributions.items()},
            "fixed": {
                key: Path(value).name if key == IMAGE_PATH else value  # without its folder
                for key, value in table.fixed.items()
            },
        }
        for table in tables
    }
    (folder / STUDIES).write_text(json.dumps(studies, indent=1) + "\n", encoding="utf-8")
    for table in tables:
        sheet = make_sheet(table.pictures, table.trials["trial"].tolist())
        if sheet is not None:
            sheet.save(folder / f"{table.name}.png", optimize=True)
    return len(trials)


def read_exported(folder: Path) -> list[StudyTable]:
    """Return the studies of a folder that `write_exported` wrote; they have no links and no folders.

    Raises:
        ConfigError: If there is no such folder, or it has other contents.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"exported={folder}: does not exist; python -m analysis.export writes such a folder"
        )
    try:
        studies: dict[str, dict[str, Any]] = json.loads(read_text(folder / STUDIES))
        tables = [pd.read_csv(folder / name, dtype=TYPES) for name in (TRIALS, CURVES, RATINGS)]
        return [_read(folder, name, facts, *tables) for name, facts in studies.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"exported={folder}: was not written by `analysis.export out=FOLDER`: {error}"
        ) from error


def _read(folder: Path, name: str, facts: Mapping[str, Any], *tables: pd.DataFrame) -> StudyTable:
    trials, curves, ratings = (each[each["study"] == name].reset_index(drop=True) for each in tables)
    trials = trials[facts["columns"]].assign(began=pd.to_datetime(trials["began"]))
    distributions = {key: json_to_distribution(text) for key, text in facts["distributions"].items()}
    for key, each in distributions.items():
        if isinstance(each, IntDistribution):
            trials[key] = trials[key].astype(int)
    given = ratings.drop(columns="study").to_dict("records")
    return StudyTable(
        name=name,
        objectives=facts["objectives"],
        links={},
        fixed=facts["fixed"],
        trials=trials,
        distributions=distributions,
        curves=curves.drop(columns="study"),
        ratings=[Rating(**{str(key): value for key, value in each.items()}) for each in given],
        pictures=open_sheet(folder / f"{name}.png", trials["trial"].tolist()),
    )
