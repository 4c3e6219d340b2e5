"""Experiments and runs of an MLflow store."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nca.schema import ConfigError
from nca.tracking.address import refuse_password
from nca.tracking.tracker import MlflowTracker, Status
from sweeps.server import creating_tables
from sweeps.sqlite import SQLITE, create_database

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["MlflowStore", "load_mlflow", "one_line"]

PARENT = "mlflow.parentRunId"  # tag
PATIENCE_S = 60.0  # as long as Optuna's storage has
RETRY_EVERY_S = 0.1
LOCKED = "database is locked"  # in SQLite's words


def load_mlflow() -> None:
    """Import MLflow; its telemetry and progress bars are off unless the environment says otherwise."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow  # noqa: F401

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # what it logs it also raises


@contextlib.contextmanager
def one_line(uri: str) -> Iterator[None]:
    """Turn what an MLflow store refuses into one line.

    Args:
        uri: Of the store, for the message.

    Raises:
        ConfigError: In its place.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"tracking.uri={uri}: cannot be written ({reason}); "
            "what it holds is kept, and the same command goes on"
        ) from error


class _Patient:
    """An MLflow client that waits longer than MLflow's 20 s while another program holds its SQLite file."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            until = time.monotonic() + PATIENCE_S
            while True:
                try:
                    return method(*args, **kwargs)
                except (MlflowException, SQLAlchemyError) as error:  # what was begun is undone
                    if LOCKED not in str(error) or time.monotonic() > until:
                        raise
                    time.sleep(RETRY_EVERY_S)

        return call


class MlflowStore:
    """Experiments and runs of one MLflow store.

    Args:
        uri: SQLAlchemy address or that of a server. An SQLite file is created where missing, in WAL
            mode, which takes some seconds.

    Raises:
        ConfigError: If it cannot be opened, in one line.
    """

    def __init__(self, uri: str) -> None:
        refuse_password(uri)
        load_mlflow()
        from alembic.util import CommandError
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            if uri.startswith(SQLITE):
                create_database(Path(uri.removeprefix(SQLITE)), _create_tables)
            self._uri = uri
            with creating_tables(uri):
                self._client = cast("MlflowClient", _Patient(MlflowClient(uri)))
        except (
            OSError,
            sqlite3.Error,
            SQLAlchemyError,
            ImportError,
            MlflowException,
            CommandError,
        ) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(f"tracking.uri={uri}: cannot be opened ({reason})") from error

    def open_experiment(self, name: str, artifacts: Path) -> str:
        """Return the id of an experiment, created with its artifacts in the given folder if missing.

        Raises:
            MlflowException: If it can be neither found nor created.
        """
        from mlflow.exceptions import MlflowException

        if self._client.get_experiment_by_name(name) is None:
            try:
                self._client.create_experiment(name, artifact_location=artifacts.absolute().as_uri())
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was first
                    raise
        experiment = self._client.get_experiment_by_name(name)
        assert experiment is not None
        return str(experiment.experiment_id)

    def create_run(
        self,
        experiment_id: str,
        name: str,
        *,
        parent_run_id: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> str:
        """Create a run in state RUNNING with its params and return its id.

        One of that name and parent that is RUNNING already was lost by a process that died before it could
        note its id, or belongs to another coordinator of the study: that one is taken.
        """
        from mlflow.entities import Param

        running = self._client.search_runs([experiment_id], "attributes.status = 'RUNNING'")
        ids = [
            str(run.info.run_id)
            for run in running
            if run.info.run_name == name and run.data.tags.get(PARENT) == parent_run_id
        ]
        if not ids:
            parent = {PARENT: parent_run_id} if parent_run_id else {}
            ids = [str(self._client.create_run(experiment_id, run_name=name, tags=parent).info.run_id)]
        run_id = ids[0]
        self._client.log_batch(run_id, params=[Param(k, str(v)) for k, v in (params or {}).items()])
        return run_id

    def has_run(self, run_id: str) -> bool:
        """Say whether a run is in this store, and not in another that was used before.

        Raises:
            MlflowException: If the store cannot be asked.
        """
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def tags(self, run_id: str) -> dict[str, str]:
        """Return the tags of a run."""
        return dict(self._client.get_run(run_id).data.tags)

    def fetch(self, run_id: str, name: str) -> Path:
        """Return a local copy of a run's artifact, the artifact itself where it lies on this machine.

        Raises:
            ConfigError: If the run has none of that name.
        """
        from mlflow.exceptions import MlflowException

        try:
            return Path(self._client.download_artifacts(run_id, name))
        except (MlflowException, OSError) as error:
            raise ConfigError(f"run={run_id}: has no {name}") from error

    def log_file(self, run_id: str, file: Path) -> None:
        """Put a file among a run's artifacts, in place of one of that name."""
        self._client.log_artifact(run_id, str(file))

    def log_folder(self, run_id: str, folder: Path, below: str) -> None:
        """Put a folder's files among a run's artifacts, below a name, in place of those of the same names."""
        self._client.log_artifacts(run_id, str(folder), below)

    def replace_tags(self, run_id: str, prefix: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run; of those named PREFIX or PREFIX.ANYTHING delete what is not among them."""
        from mlflow.entities import RunTag

        there = self._client.get_run(run_id).data.tags
        for key in there:
            if key.partition(".")[0] == prefix and key not in tags:
                self._client.delete_tag(run_id, key)
        self._client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items() if there.get(k) != v])

    def all_tags(self, experiment_id: str) -> dict[str, dict[str, str]]:
        """Return the tags of an experiment's runs, by run id; empty where it is not in this store.

        Raises:
            MlflowException: If the store cannot be asked.
        """
        from mlflow.exceptions import MlflowException

        found: dict[str, dict[str, str]] = {}
        token = None
        try:
            while token is None or token:
                page = self._client.search_runs([experiment_id], max_results=5000, page_token=token)
                found |= {str(run.info.run_id): dict(run.data.tags) for run in page}
                token = page.token or ""
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        return found

    def running_runs(self, experiment: str) -> dict[str, dict[str, str]]:
        """Return the tags of an experiment's runs that are RUNNING, by run id."""
        known = self._client.get_experiment_by_name(experiment)
        if known is None:
            return {}
        found = self._client.search_runs(
            [known.experiment_id], "attributes.status = 'RUNNING'", max_results=5000
        )
        return {str(run.info.run_id): dict(run.data.tags) for run in found}

    def delete_experiment(self, name: str) -> bool:
        """Delete an experiment with its runs and artifacts, and free its name; say whether it was there.

        On a server it is only marked as deleted, under another name: `mlflow gc` there deletes it.
        """
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            return False
        id_ = str(experiment.experiment_id)
        self._client.rename_experiment(id_, f"{name} (deleted, {id_})")
        self._client.delete_experiment(id_)
        if not self._uri.startswith("http"):
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "mlflow",
                    "gc",
                    "--backend-store-uri",
                    self._uri,
                    "--experiment-ids",
                    id_,
                ],
                env={**os.environ, "MLFLOW_TRACKING_URI": self._uri},
                capture_output=True,
                check=True,
            )
        return True

    def take_up_run(self, run_id: str) -> MlflowTracker:
        """Return a tracker for a run, set back to RUNNING if it had ended."""
        self._client.update_run(run_id, status="RUNNING")
        return MlflowTracker(self._client, run_id)

    def end_run(self, run_id: str, status: Status, tags: Mapping[str, str] | None = None) -> None:
        """End a run from outside, for a process that could not do so itself."""
        MlflowTracker(self._client, run_id).set_tags(tags or {})
        self._client.set_terminated(run_id, status)


def _create_tables(uri: str) -> None:
    from mlflow import MlflowClient

    store = MlflowClient(uri)._tracking_client.store  # MLflow has no public way to let go of a file
    store.engine.dispose()
