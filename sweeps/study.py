"""A study: what it is, and opening it; the fingerprint of what must not change."""

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

__all__ = ["PrunerSpec", "StudySpec", "find_study", "open_study", "trial_id"]

SHOWN_DIFFERENCES = 5

# Keys of the attributes that the engine writes to studies.
FINGERPRINT = "fingerprint"
LINKS = "links"  # what its application returned
UID = "uid"  # no other study has it, of whatever name in whatever storage


@dataclass(frozen=True)
class PrunerSpec:
    """A pruner by name and its options; `max_resource` is a trial's number of steps."""

    name: str
    max_resource: int
    options: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StudySpec:
    """What a study is.

    Args:
        name: Its name in the storage.
        storage: SQLAlchemy address.
        space: What the sampler varies.
        fixed: Every other value that a result depends on, by dotted key; JSON scalars.
        objectives: Names of what is minimized.
    """

    name: str
    storage: str
    space: Space
    fixed: Mapping[str, Any]
    objectives: Sequence[str] = ("value",)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What two commands must agree on to share the study."""
        fixed = {**self.fixed, "sweep.objectives": ",".join(self.objectives)}
        return {"fixed": fixed, "space": describe(self.space)}


def find_study(storage: RDBStorage, name: str) -> Study | None:
    """Return a study without changing anything, None where there is none."""
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None


def open_study(spec: StudySpec, storage: RDBStorage) -> Study:
    """Create a study, or go on with it if it is the same.

    Raises:
        SweepError: If a study of that name differs in its space or in a fixed value.
    """
    known = find_study(storage, spec.name)
    if known is not None and FINGERPRINT in known.user_attrs:
        check_fingerprint(spec, known.user_attrs[FINGERPRINT])
    study = optuna.create_study(
        study_name=spec.name,
        storage=storage,
        directions=["minimize"] * len(spec.objectives),
        load_if_exists=True,
    )
    recorded = study.user_attrs.get(FINGERPRINT)
    if recorded is None:
        study.set_user_attr(FINGERPRINT, spec.fingerprint)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(spec.objectives))
        return study
    check_fingerprint(spec, recorded)
    return study


def check_fingerprint(spec: StudySpec, recorded: Mapping[str, Any]) -> None:
    """Refuse to go on with a study under another config or space.

    Raises:
        SweepError: If a key differs; named with both values.
    """
    ours = json.loads(json.dumps(spec.fingerprint))
    differences = []
    for part in ("space", "fixed"):
        for key in sorted(ours[part].keys() | recorded[part].keys()):
            before, now = (side[part].get(key, "(none)") for side in (recorded, ours))
            newer = before == "(none)" and now is None  # a key that there was not when the study began
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
    """Refuse to begin among the folders of another study of that name, which the storage does not know.

    Args:
        spec: The study.
        storage: Where it is, or will be.
        trials: Folder of its trials' folders.

    Raises:
        SweepError: If there are folders of trials that it does not have.
    """
    folders = {int(folder.name) for folder in trials.glob("*") if folder.name.isdecimal()}
    study = find_study(storage, spec.name)  # after the folders: another sweep may be making both
    unknown = folders - {trial.number for trial in study.get_trials(deepcopy=False)} if study else folders
    if unknown:
        raise SweepError(
            f"{trials}: holds trial {min(unknown)} of a study that sweep.storage={spec.storage} does not "
            "know; give the storage that does, or another name with sweep.study=NAME, or delete that folder"
        )


def trial_id(storage: RDBStorage, study: str, number: int) -> int:
    """Return the storage's id of a study's trial."""
    return storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(study), number)
