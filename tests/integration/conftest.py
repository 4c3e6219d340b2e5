"""One finished study, really run, that the tests of a worker share and none of them changes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.commands import sweep

STUDY = "roundleaf-srnca-random_filters"
COMMAND = ("train.steps=12", "sweep.n_trials=3")


@dataclass(frozen=True)
class Finished:
    """A finished study.

    Args:
        runs: Its `runs_dir`.
        folder: Where the command was given.
        output: What the command printed.
    """

    runs: Path
    folder: Path
    output: str
    name: str = STUDY
    command: tuple[str, ...] = COMMAND


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, mlflow_store_template: Path) -> Finished:
    base = tmp_path_factory.mktemp("finished")
    runs, folder = base / "runs", base / "folder"
    runs.mkdir()
    folder.mkdir()
    shutil.copy(mlflow_store_template, runs / "mlflow.db")
    done = sweep(runs, *COMMAND, folder=folder)
    return Finished(runs, folder, done.stdout)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working directory, which this process is in too."""
    empty = tmp_path / "folder"
    empty.mkdir()
    monkeypatch.chdir(empty)
    return empty
