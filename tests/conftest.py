"""Shapes are checked in tests, and only there; databases are made once per test run and copied."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401 - the hook looks it up as an attribute of `tests`
from tests.templates import copy_databases, make_mlflow_database

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background, and programs inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

from nca.automaton import cpu_distill, cpu_munca  # noqa: F401 - before the hook: Numba compiles no wrappers

hook = install_import_hook(["nca"], "tests.typecheck.check")
hook.__enter__()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all processes of a test run share, for what `build_once` makes."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    shared = folder / "shared"
    shared.mkdir(exist_ok=True)
    return shared


@pytest.fixture(scope="session", autouse=True)
def _databases_are_copies(shared: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        copy_databases(patch, shared)
        yield


@pytest.fixture
def mlflow_uri(tmp_path: Path) -> str:
    """Return the address of a test's own MLflow SQLite database, `tmp_path / "mlflow.db"`."""
    return f"sqlite:///{make_mlflow_database(tmp_path) / 'mlflow.db'}"
