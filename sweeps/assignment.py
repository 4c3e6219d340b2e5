"""The files of a trial's folder through which the coordinator and the worker communicate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweeps.files import write_atomically

ASSIGNMENT_FILE = "assignment.json"
PROGRESS_FILE = "progress.json"
LOG_FILE = "log.txt"  # output of the trial's processes
PICTURE_FILE = "latest.png"  # what the trial has made so far, while it runs
TARGET_FILE = "target.png"  # what it should become


@dataclass(frozen=True)
class Assignment:
    """The input of a worker, as JSON. Most fields are those of `SweepSpec`.

    Args:
        number: Trial number.
        first_attempt: Number of the first attempt at the trial.
        config: Config of the trial, plain nested values.
        links: Result of `Application.open_study`.
        pruner: Fields of a `PrunerSpec`.
        low_memory: Whether an earlier attempt ran out of memory.
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
    """Write an assignment to its trial's folder."""
    write_atomically(folder / ASSIGNMENT_FILE, json.dumps(asdict(assignment)))


def read_assignment(folder: Path) -> Assignment:
    """Return the last assignment in a trial's folder."""
    return Assignment(**json.loads((folder / ASSIGNMENT_FILE).read_text(encoding="utf-8")))


def read_progress(folder: Path) -> dict[str, float]:
    """Return the last progress that `RunningTrial.progress` wrote; empty before the first."""
    try:
        return dict(json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
