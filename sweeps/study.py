"""Studies: their specification, and opening them if their fingerprint is unchanged."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.study import Study

from sweeps import SweepError
from sweeps.space import Space, describe

SHOWN_DIFFERENCES = 5

# Keys of the engine's records of studies.
FINGERPRINT = "fingerprint"
LINKS = "links"  # what the application returned when the study was opened
UID = "uid"  # unique id among the studies of all storages


@dataclass(frozen=True)
class PrunerSpec:
    """A pruner by name, the training steps of a trial, and its options."""

    name: str
    max_resource: int
    options: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StudySpec:
    """The specification of a study.

    Args:
        name: Name in the storage.
        storage: SQLAlchemy address.
        space: Search space.
        fixed: All other values that results depend on, by dotted key; JSON scalars.
        objectives: Names of the minimized objectives.
    """

    name: str
    storage: str
    space: Space
    fixed: Mapping[str, Any]
    objectives: Sequence[str] = ("value",)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The values that must be equal in all commands that share the study."""
        fixed = {**self.fixed, "sweep.objectives": ",".join(self.objectives)}
        return {"fixed": fixed, "space": describe(self.space)}


def find_study(storage: RDBStorage, name: str) -> Study | None:
    """Return a study; None if it does not exist."""
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None


def read_records(study: Study) -> dict[str, Any]:
    """Return what the engine keeps with a study.

    It lies in system attributes, which the dashboard does not show; in studies of an earlier version, in user
    attributes.
    """
    return {**study.user_attrs, **study._storage.get_study_system_attrs(study._study_id)}


def write_record(study: Study, key: str, value: Any) -> None:
    """Write or replace one of the records that `read_records` returns; JSON."""
    study._storage.set_study_system_attr(study._study_id, key, value)


def open_study(spec: StudySpec, storage: RDBStorage) -> Study:
    """Open a study, and create it if it does not exist.

    Raises:
        SweepError: If a study of that name has another space or fixed value.
    """
    study = optuna.create_study(
        study_name=spec.name,
        storage=storage,
        directions=["minimize"] * len(spec.objectives),
        load_if_exists=True,
    )
    recorded = read_records(study).get(FINGERPRINT)
    if recorded is None:
        write_record(study, FINGERPRINT, spec.fingerprint)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(spec.objectives))
        return study
    check_fingerprint(spec, recorded)
    return study


def check_fingerprint(spec: StudySpec, recorded: Mapping[str, Any]) -> None:
    """Check that a study has the space and the fixed values of a specification.

    Raises:
        SweepError: If a value differs; the message has both.
    """
    ours = json.loads(json.dumps(spec.fingerprint))
    differences = []
    for part in ("space", "fixed"):
        for key in sorted(ours[part].keys() | recorded[part].keys()):
            before, now = (side[part].get(key, "(none)") for side in (recorded, ours))
            newer = before == "(none)" and now is None  # a key added since the study began
            moved = part == "fixed" and key in ours["space"].keys() ^ recorded["space"].keys()
            if before != now and not newer and not moved:
                differences.append(f"{key} {before} -> {now}")
    if differences:
        more = len(differences) - SHOWN_DIFFERENCES
        shown = "; ".join(differences[:SHOWN_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
        raise SweepError(
            f"study '{spec.name}' was begun with another config: {shown}. "
            "Go back to it, or begin another study with sweep.study=NAME"
        )


def check_folders(spec: StudySpec, storage: RDBStorage, trials: Path) -> None:
    """Check that the folders of trials do not belong to a study of that name in another storage.

    Raises:
        SweepError: If there is a folder of a trial that the study does not have.
    """
    folders = {int(folder.name) for folder in trials.glob("*") if folder.name.isdecimal()}
    study = find_study(storage, spec.name)  # after the folders: another sweep may be creating both
    unknown = folders - {trial.number for trial in study.get_trials(deepcopy=False)} if study else folders
    if unknown:
        raise SweepError(
            f"{trials}: holds trial {min(unknown)} of a study that sweep.storage={spec.storage} does not "
            "know; give the storage that does, or another name with sweep.study=NAME, or delete that folder"
        )


def trial_id(storage: RDBStorage, study: str, number: int) -> int:
    """Return the storage's id of a trial."""
    return storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(study), number)
