"""Servers that tests share; where a part is missing a user's tests are skipped, never those of CI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.mlflow_server import MlflowServer, run_mlflow_server
from tests.cluster.postgres import PASSWORD, Postgres, find_programs, run_postgres

ROOT = Path(__file__).parents[2]


def skip_or_fail(missing: str) -> None:
    """Skip a test where a part is missing."""
    if os.environ.get("NCA_TESTS_MAY_SKIP", "1") == "0":
        pytest.fail(f"{missing} is missing")
    pytest.skip(f"{missing} is missing")


@pytest.fixture(scope="session", autouse=True)
def _environment() -> Iterator[None]:
    """Workers find the fake application and the password; MLflow and Ray do not call home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("PGPASSWORD", PASSWORD)
        yield


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """Return a running server with an empty database."""
    if find_programs() is None:
        skip_or_fail("PostgreSQL's server (apt-get install postgresql)")
    with run_postgres() as server:
        yield server


@pytest.fixture
def mlflow_server(mlflow_uri: str, tmp_path: Path) -> Iterator[MlflowServer]:
    """Return a running MLflow server that keeps its own in SQLite."""
    folder = tmp_path / "server"
    folder.mkdir()
    with run_mlflow_server(folder, mlflow_uri) as server:
        yield server
