"""Experiments and runs of an MLflow store."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nca.config.validation import ConfigError
from nca.tracking.outbox import Outbox, Record, find_outboxes
from nca.tracking.relocation import refuse_moved
from nca.tracking.run_lock import hold, is_held
from nca.tracking.tracker import MlflowTracker, Status, is_away
from nca.tracking.uri import refuse_password
from sweeps.storage.postgresql import creating_tables
from sweeps.storage.sqlite import SQLITE, create_database
from sweeps.worker import write_atomically

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

__all__ = ["MlflowStore", "describe_folder", "load_mlflow", "one_line"]

PATIENCE_S = 60.0  # as long as Optuna's storage has
RETRY_EVERY_S = 0.1
RUN_ID = "run_id"  # file of a run's folder, until the run has ended for good
LOCKED = "database is locked"  # in SQLite's words
OWNER = "study_uid"  # tag of an experiment
ACTIVE = "active"  # in MLflow's: not deleted


def load_mlflow(*, sql: bool = False) -> None:
    """Import MLflow; unless the environment says otherwise its telemetry and progress bars are off.

    Nor does a request wait minutes for a server then.

    Args:
        sql: Import what a store in a database needs too, which its first use would.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # what waits for a server is the outbox
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    importlib.import_module("mlflow.store.tracking.sqlalchemy_store" if sql else "mlflow")
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
        if not callable(method):
            return method

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
        ConfigError: If it cannot be opened, in one line; if it was moved or copied, see `refuse_moved`.
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
        if uri.startswith(SQLITE):
            refuse_moved(Path(uri.removeprefix(SQLITE)))

    def open_experiment(self, name: str, artifacts: Path, owner: str | None = None) -> str:
        """Return the id of an experiment, created if missing.

        One that was deleted in the UI, which keeps its name, is restored with its runs.

        Args:
            name: Its name.
            artifacts: Where its artifacts go; a server keeps them where it was told to.
            owner: Whose runs alone it holds; None for everybody's.

        Raises:
            ConfigError: If it is another's.
            MlflowException: If it can be neither found nor created.
        """
        from mlflow.exceptions import MlflowException

        if self._client.get_experiment_by_name(name) is None:
            try:
                own = None if self._uri.startswith("http") else artifacts.absolute().as_uri()
                tags = {OWNER: owner} if owner else {}
                self._client.create_experiment(name, artifact_location=own, tags=tags)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was first
                    raise
        experiment = self._client.get_experiment_by_name(name)
        assert experiment is not None
        if not _may_use(experiment, owner):
            raise ConfigError(
                f"tracking.uri={self._uri}: experiment '{name}' holds the runs of another study of its name; "
                "give this one a name of its own with sweep.study=NAME, or, if that one has gone, "
                "python -m nca.studies delete NAME"
            )
        id_ = str(experiment.experiment_id)
        if experiment.lifecycle_stage != ACTIVE:
            self._client.restore_experiment(id_)
        if owner is not None and OWNER not in experiment.tags:  # begun before there were owners
            self._client.set_experiment_tag(id_, OWNER, owner)
        return id_

    def create_run(
        self,
        experiment_id: str,
        name: str,
        *,
        parent_run_id: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> str:
        """Create a run in state RUNNING with its params and return its id.

        One of that name and parent that is RUNNING already is taken, see `MlflowTracker`.
        """
        tracker = MlflowTracker(self._client, None)
        tracker.record(_creation(experiment_id, name, parent_run_id, params or {}))
        assert tracker.run_id is not None
        return tracker.run_id

    def open_run(
        self,
        folder: Path,
        experiment_id: str,
        name: str,
        *,
        parent_run_id: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> MlflowTracker:
        """Return a tracker for the run of a folder, RUNNING: the one begun there before, else a new one.

        Where the server is away it records in the folder, the creation of the run too.

        Args:
            folder: Created where missing; holds the run's id in the file `run_id` until the run has ended for
                good.
            experiment_id: Where a new run goes.
            name: Of a new run.
            parent_run_id: Of a new run.
            params: Of a new run.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tracker = self._tracker(folder)
        if tracker.deliver() and not (tracker.run_id is not None and self.may_have(tracker.run_id)):
            tracker.run_id = None
            own = None if parent_run_id else describe_folder(folder)
            tracker.record(_creation(experiment_id, name, parent_run_id, params or {}, own))
        tracker.record({"kind": "status", "status": "RUNNING"})
        return tracker

    def leave_runs(self, folder: Path, reason: str) -> None:
        """End the runs whose processes died, of a folder and those in it; those in this store."""
        begun = {note.parent for note in folder.glob(f"**/{RUN_ID}")}
        waiting = set(find_outboxes(folder, self._uri))
        for each in sorted(begun | waiting):
            tracker = self._tracker(each)
            if each in waiting or (tracker.run_id is not None and self.may_have(tracker.run_id)):
                tracker.set_tags({"reason": reason})
                tracker.finish("KILLED")

    def deliver(self, folder: Path) -> int:
        """Send what waits in a folder and those in it; return how many records still wait.

        Those of runs that are being trained wait for their own process.
        """
        n_left = 0
        for each in find_outboxes(folder, self._uri):
            outbox = Outbox(each, self._uri)
            if is_held(each):
                continue
            with hold(each):
                if not MlflowTracker(self._client, outbox.run_id, outbox).deliver():
                    n_left += len(outbox)
        return n_left

    def _tracker(self, folder: Path) -> MlflowTracker:
        """Return a tracker for the run that a folder names."""
        note = folder / RUN_ID
        known = note.read_text() if note.exists() else Outbox(folder, self._uri).run_id
        created = functools.partial(write_atomically, note)
        return MlflowTracker(self._client, known, self._outbox(folder), created)

    def _outbox(self, folder: Path) -> Outbox | None:
        return None if self._uri.startswith(SQLITE) else Outbox(folder, self._uri)

    def may_have(self, run_id: str) -> bool:
        """Say whether a run is in this store as far as can be told: yes, while its server is away."""
        try:
            return self.has_run(run_id)
        except Exception as error:
            if self._uri.startswith(SQLITE) or not is_away(error):
                raise
            return True

    def has_run(self, run_id: str) -> bool:
        """Say whether a run is in this store, neither deleted nor in another that was used before.

        Raises:
            MlflowException: If the store cannot be asked.
        """
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client.get_run(run_id).info.lifecycle_stage) == ACTIVE
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

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

    def log_file(self, run_id: str, file: Path, below: str | None = None) -> None:
        """Put a file among a run's artifacts, or below a name among them, in place of one of that name."""
        self._client.log_artifact(run_id, str(file), below)

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

    def running_runs(self, experiment: str, owner: str | None = None) -> dict[str, dict[str, str]]:
        """Return the tags of an experiment's runs that are RUNNING, by run id; none of another owner's."""
        known = self._client.get_experiment_by_name(experiment)
        if known is None or not _may_use(known, owner):
            return {}
        found = self._client.search_runs(
            [known.experiment_id], "attributes.status = 'RUNNING'", max_results=5000
        )
        return {str(run.info.run_id): dict(run.data.tags) for run in found}

    def delete_experiment(self, name: str, owner: str | None = None) -> bool:
        """Delete an owner's experiment with its runs and artifacts, and free its name; say if it was there.

        None deletes it whosever it is.
        On a server it is only marked as deleted, under another name: `mlflow gc` there deletes it.
        """
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None or (owner is not None and not _may_use(experiment, owner)):
            return False
        id_ = str(experiment.experiment_id)
        if experiment.lifecycle_stage != ACTIVE:
            self._client.restore_experiment(id_)  # what is deleted cannot be renamed
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

    def take_up_run(self, run_id: str, folder: Path | None = None) -> MlflowTracker:
        """Return a tracker for a run, set back to RUNNING if it had ended.

        Args:
            run_id: The run.
            folder: Where records wait while the server is away; None for nowhere.
        """
        tracker = MlflowTracker(self._client, run_id, None if folder is None else self._outbox(folder))
        tracker.record({"kind": "status", "status": "RUNNING"})
        return tracker

    def end_run(
        self, run_id: str, status: Status, tags: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> None:
        """End a run from outside, for a process that could not do so itself.

        Args:
            run_id: The run.
            status: How it ended.
            tags: To be set.
            folder: Where records wait while the server is away; None for nowhere.
        """
        tracker = MlflowTracker(self._client, run_id, None if folder is None else self._outbox(folder))
        tracker.set_tags(tags or {})
        tracker.finish(status)


def describe_folder(folder: Path) -> str:
    """Return a folder with its host, which tells single runs in a store of many machines apart."""
    return f"{socket.gethostname()}:{folder.absolute()}"


def _may_use(experiment: Experiment, owner: str | None) -> bool:
    """Say whether an experiment is an owner's, or nobody's."""
    return experiment.tags.get(OWNER, owner) == owner


def _creation(
    experiment_id: str,
    name: str,
    parent_run_id: str | None,
    params: Mapping[str, Any],
    folder: str | None = None,
) -> Record:
    values = {key: str(value) for key, value in params.items()}
    where = {"experiment_id": experiment_id, "name": name, "parent_run_id": parent_run_id, "folder": folder}
    return {"kind": "run", "params": values, **where}


def _create_tables(uri: str) -> None:
    from mlflow import MlflowClient

    store = MlflowClient(uri)._tracking_client.store  # MLflow has no public way to let go of a file
    store.engine.dispose()
