"""Shapes are checked in tests, and only there; databases are made once per test run and copied."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401 - the hook looks it up as an attribute of `tests`
from tests.templates import copy_databases, make_mlflow_database

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background, and programs inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Before the hook: Numba compiles no wrappers.
from nca.automaton import cpu_distill, cpu_linear, cpu_munca, cpu_winograd  # noqa: F401
from nca.loss import cpu_gram, cpu_sliced  # noqa: F401

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


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """Return a folder on a disk of 12 MB, as large as two empty databases and not much more.

    It lies outside pytest's own folders: a killed run leaves it mounted, and pytest could not delete them.
    """
    folder = Path(tempfile.mkdtemp(prefix="nca-small-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode and os.environ.get("NCA_TESTS_MAY_SKIP") != "0":
        pytest.skip("mounting a small disk is not allowed")
    assert not mounted.returncode, mounted.stderr
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()
