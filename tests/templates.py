"""What tests make once in a run and copy from then on: databases with empty tables, studies, builds."""

from __future__ import annotations

import fcntl
import importlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.storage.sqlite import SQLITE, create_database

__all__ = ["DATABASES", "build_once", "copy_databases", "make_mlflow_database"]

# Whose `_create_tables` fills a new database: half a second for Optuna's tables, several for MLflow's.
CREATORS = {"optuna.db": "sweeps.storage.optuna_storage", "mlflow.db": "nca.tracking.client"}
DATABASES = "NCA_TESTS_DATABASES"  # the environment variable that holds the folder of what is copied


def build_once(made: Path, build: Callable[[Path], object]) -> Path:
    """Return a path that `build` makes, once for all processes that share its folder."""
    with (made.parent / f"{made.name}.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        if not lock.read():
            build(made)
            lock.write("made")
    return made


def copy_databases(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let every SQLite database that this process creates begin as a copy of one made before.

    Args:
        patch: Undoes it.
        folder: Where the databases to copy are made when the first of them is needed.
    """
    patch.setenv(DATABASES, str(folder))
    for name, module in CREATORS.items():
        _copy_database(patch, folder / name, module)


def _copy_database(patch: pytest.MonkeyPatch, template: Path, module: str) -> None:
    create: Callable[[str], None] = importlib.import_module(module)._create_tables

    def copy(url: str) -> None:
        file = url.removeprefix(SQLITE)
        if file == url:  # in memory
            create(url)
        else:
            shutil.copyfile(build_once(template, lambda made: create_database(made, create)), file)

    patch.setattr(f"{module}._create_tables", copy)


def make_mlflow_database(folder: Path) -> Path:
    """Return a folder, created where missing, with an MLflow database for programs that are started there."""
    create_database(folder / "mlflow.db", importlib.import_module(CREATORS["mlflow.db"])._create_tables)
    return folder
