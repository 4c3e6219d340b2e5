"""Runs of an MLflow store."""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nca.cli.errors import ConfigError
from nca.tracking.client import is_unavailable, open_client
from nca.tracking.experiments import ACTIVE, Experiments
from nca.tracking.outbox import Outbox, find_outboxes
from nca.tracking.run_lock import hold
from nca.tracking.tracker import MlflowTracker
from sweeps.storage.sqlite import SQLITE

LOCK_TIMEOUT_S = 60.0  # for a delivery: a server that hangs is waited for so long
NO_RUN = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}  # the second of what cannot be an id
RUN_ID = "run_id"  # file of a run's folder, deleted when the run is complete


class MlflowStore:
    """One MLflow store: its experiments, and its runs.

    A server may be unavailable for a while; records of runs that have a folder wait there.

    Args:
        uri: SQLAlchemy address or that of a server, see `open_client`.

    Attributes:
        experiments: Of the store.

    Raises:
        ConfigError: If it cannot be opened, or was moved or copied.
    """

    def __init__(self, uri: str) -> None:
        self._client = open_client(uri)
        self._uri = uri
        self.experiments = Experiments(self._client, uri)

    def tracker(self, run_id: str | None, folder: Path | None = None) -> MlflowTracker:
        """Return a tracker for a run.

        Args:
            run_id: The run; None for one that is still to be created.
            folder: Where records wait while the server is unavailable; None to raise its error.
        """
        return MlflowTracker(self._client, run_id, self._outbox(folder))

    def create_run(self, experiment_id: str, name: str, **options: Any) -> str:
        """Create a run and return its id; see `MlflowTracker.create` for the options."""
        tracker = self.tracker(None)
        tracker.create(experiment_id, name, **options)
        assert tracker.run_id is not None
        return tracker.run_id

    def open_run(self, folder: Path, experiment_id: str, name: str, **options: Any) -> MlflowTracker:
        """Resume the run that was started in a folder, or start a new one; return its tracker.

        Args:
            folder: Created where missing; holds the file RUN_ID, and records while the server is unavailable,
                the creation of the run among them.
            experiment_id: Of a new run.
            name: Of a new run.
            options: Of a new run, see `MlflowTracker.create`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tracker = self._find_tracker(folder)
        if tracker.deliver() and not self.has_run(tracker.run_id):
            tracker.run_id = None
            tracker.create(experiment_id, name, folder=folder, **options)
        tracker.resume()
        return tracker

    def end_runs_in(self, folder: Path, reason: str) -> None:
        """End the runs of a folder and its subfolders, whose processes died, as KILLED; only this store's."""
        begun = {file.parent for file in folder.glob(f"**/{RUN_ID}")}
        pending = set(find_outboxes(folder, self._uri))
        for each in sorted(begun | pending):
            with contextlib.suppress(ConfigError), hold(each, LOCK_TIMEOUT_S):  # `deliver` may use the outbox
                tracker = self._find_tracker(each)
                if each in pending or self.has_run(tracker.run_id):
                    tracker.set_tags({"reason": reason})
                    tracker.finish("KILLED")

    def deliver(self, folder: Path) -> int:
        """Send the pending records of a folder and its subfolders; return how many are still pending.

        Those of a run that is being trained are left to its own process.
        """
        n_left = 0
        for each in find_outboxes(folder, self._uri):
            outbox = Outbox(each, self._uri)
            with contextlib.suppress(ConfigError), hold(each, timeout_s=0.0):
                self.tracker(outbox.run_id, each).deliver()
                n_left += len(outbox)
        return n_left

    def has_run(self, run_id: str | None) -> bool:
        """Return whether this store has a run that is not deleted; True while its server is unavailable.

        Raises:
            MlflowException: If the store refuses to answer.
        """
        from mlflow.exceptions import MlflowException

        try:
            return run_id is not None and self._client.get_run(run_id).info.lifecycle_stage == ACTIVE
        except Exception as error:
            if isinstance(error, MlflowException) and error.error_code in NO_RUN:
                return False
            if self._uri.startswith(SQLITE) or not is_unavailable(error):
                raise
            return True

    def tags(self, run_id: str) -> dict[str, str]:
        """Return the tags of a run."""
        return dict(self._client.get_run(run_id).data.tags)

    def replace_tags(self, run_id: str, prefix: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run; delete those named PREFIX or PREFIX.ANYTHING that are not among them."""
        from mlflow.entities import RunTag

        stored = self.tags(run_id)
        for key in stored:
            if key.partition(".")[0] == prefix and key not in tags:
                self._client.delete_tag(run_id, key)
        changed = [RunTag(key, value) for key, value in tags.items() if stored.get(key) != value]
        self._client.log_batch(run_id, tags=changed)

    def fetch(self, run_id: str, name: str) -> Path:
        """Return the path of a copy of a run's artifact, which is deleted when the process ends.

        Raises:
            ConfigError: If the run has none of that name.
        """
        from mlflow.exceptions import MlflowException

        try:
            folder = _download_folder() / run_id
            folder.mkdir(exist_ok=True)
            return Path(self._client.download_artifacts(run_id, name, str(folder)))
        except (MlflowException, OSError) as error:
            raise ConfigError(f"run={run_id}: has no {name}") from error

    def log_file(self, run_id: str, file: Path, folder: str | None = None) -> None:
        """Add a file to a run's artifacts, in a folder among them, or replace the one of its name."""
        self._client.log_artifact(run_id, str(file), folder)

    def _find_tracker(self, folder: Path) -> MlflowTracker:
        """Return a tracker for the run whose id is in a folder."""
        file = folder / RUN_ID
        run_id = file.read_text(encoding="utf-8") if file.exists() else Outbox(folder, self._uri).run_id
        return MlflowTracker(self._client, run_id, self._outbox(folder), file)

    def _outbox(self, folder: Path | None) -> Outbox | None:
        return None if folder is None or self._uri.startswith(SQLITE) else Outbox(folder, self._uri)


@functools.cache
def _download_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="nca-downloads-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
