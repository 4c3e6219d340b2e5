"""What a worker is told of its trial, and the other files of a trial's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweeps.files import write_atomically

__all__ = ["Assignment", "read_assignment", "read_progress", "write_assignment"]

ASSIGNMENT_FILE = "assignment.json"
PROGRESS_FILE = "progress.json"
LOG_FILE = "log.txt"  # what a trial's process prints, in its folder


@dataclass(frozen=True)
class Assignment:
    """Everything a worker needs to know of its trial; JSON in the trial's folder.

    Args:
        application: Dotted path of a class, `package.module:Class`.
        storage: SQLAlchemy address of the Optuna storage.
        study: Its name.
        number: The trial's.
        first_attempt: Number of the trial's first attempt.
        config: The trial's own, plain nested values.
        links: What the application returned when the study was opened.
        pruner: Name, max_resource and options, as `PrunerSpec` takes them.
        artifacts: Folder of Optuna's artifact store.
        low_memory: Whether an earlier attempt ran out of memory.
        storage_timeout_s: How long to wait for the storage's server where it is away.
    """

    application: str
    storage: str
    study: str
    number: int
    first_attempt: int
    config: Mapping[str, Any]
    links: Mapping[str, str]
    pruner: Mapping[str, Any]
    artifacts: str
    low_memory: bool = False
    storage_timeout_s: float = 0.0


def write_assignment(folder: Path, assignment: Assignment) -> None:
    """Put an assignment where its worker looks for it."""
    write_atomically(folder / ASSIGNMENT_FILE, json.dumps(asdict(assignment)))


def read_assignment(folder: Path) -> Assignment:
    """Return the last assignment of a trial's folder."""
    return Assignment(**json.loads((folder / ASSIGNMENT_FILE).read_text()))


def read_progress(folder: Path) -> dict[str, float]:
    """Return the last note of `RunningTrial.progress`, empty where there is none."""
    try:
        note: dict[str, float] = json.loads((folder / PROGRESS_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return note
