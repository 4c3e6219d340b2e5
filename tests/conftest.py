"""Shapes are checked in tests, and only there; one MLflow database is made per test run and copied."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401 - the hook looks it up as an attribute of `tests`

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background, and programs inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

hook = install_import_hook(["nca"], "tests.typecheck.check")
hook.__enter__()


@pytest.fixture(scope="session")
def mlflow_store_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty MLflow SQLite file to copy: creating one takes several seconds."""
    from nca.tracking import MlflowStore

    folder = tmp_path_factory.mktemp("mlflow_template")
    MlflowStore(f"sqlite:///{folder / 'made.db'}")
    template = folder / "mlflow.db"
    # A plain copy would miss what still lies in the write-ahead log.
    source, copy = sqlite3.connect(folder / "made.db"), sqlite3.connect(template)
    source.backup(copy)
    copy.close()
    source.close()
    return template


@pytest.fixture
def mlflow_uri(mlflow_store_template: Path, tmp_path: Path) -> str:
    """Return the address of a test's own MLflow SQLite database, `tmp_path / "mlflow.db"`."""
    return f"sqlite:///{shutil.copy(mlflow_store_template, tmp_path / 'mlflow.db')}"
