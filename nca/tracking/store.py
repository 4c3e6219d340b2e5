"""Experiments and runs of an MLflow store."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nca.cli.errors import ConfigError
from nca.tracking.client import open_client
from nca.tracking.experiments import ACTIVE, Experiments
from nca.tracking.outbox import Outbox, Record, find_outboxes
from nca.tracking.run_lock import hold, is_held
from nca.tracking.tracker import MlflowTracker, Status, is_away
from sweeps.files import write_atomically
from sweeps.storage.sqlite import SQLITE

__all__ = ["MlflowStore", "describe_folder"]

RUN_ID = "run_id"  # file of a run's folder, until the run has ended for good


class MlflowStore:
    """Experiments and runs of one MLflow store.

    Args:
        uri: SQLAlchemy address or that of a server, see `open_client`.

    Raises:
        ConfigError: If it cannot be opened; if it was moved or copied.
    """

    def __init__(self, uri: str) -> None:
        self._client = open_client(uri)
        self._uri = uri
        self.experiments = Experiments(self._client, uri)

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
        return MlflowTracker(self._client, known, self._outbox(folder), note)

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
