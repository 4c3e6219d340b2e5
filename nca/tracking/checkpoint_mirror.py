"""Copies of a run's checkpoints among its artifacts, where the machines that train share no disk."""

from __future__ import annotations

import time
from pathlib import Path

from nca.tracking.tracker import MlflowTracker, is_away

__all__ = ["RunCheckpoints"]

FOLDER = "checkpoints"
PATIENCE_S = 60.0  # for a server that is away as a run is taken up: what it holds may be hours of work
RETRY_EVERY_S = 2.0


class RunCheckpoints:
    """The copies; see `nca.training.checkpoint.Mirror`.

    Args:
        tracker: Of the run.
    """

    def __init__(self, tracker: MlflowTracker) -> None:
        self._tracker = tracker

    def names(self) -> list[str]:
        """Return the names of those that are there; none where the server stays away."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._list()
            except Exception as error:
                if not is_away(error):
                    raise
                if time.monotonic() > until:
                    print("the MLflow server is away, and with it any earlier checkpoint", flush=True)
                    return []
                time.sleep(RETRY_EVERY_S)

    def put(self, file: Path, n_kept: int) -> None:
        """Keep a file, and the newest ones before it up to a number; none while the server is away."""
        run_id = self._tracker.run_id
        if run_id is None:
            return
        try:
            self._tracker.client.log_artifact(run_id, str(file), FOLDER)
            self._delete(sorted(self._list())[:-n_kept])
        except Exception as error:
            if not is_away(error):
                raise
            print(f"{file.name} was not copied: the MLflow server is away", flush=True)

    def fetch(self, name: str, folder: Path) -> None:
        """Put a copy of one into a folder.

        Raises:
            OSError: If it cannot be had.
        """
        try:
            fetched = self._tracker.client.download_artifacts(
                str(self._tracker.run_id), f"{FOLDER}/{name}", str(folder.parent)
            )
        except Exception as error:
            raise OSError(f"{FOLDER}/{name}: cannot be had: {error}") from error
        Path(fetched).replace(folder / name)

    def clear(self) -> None:
        """Delete all; those that a server which is away holds stay."""
        try:
            self._delete(self._list())
        except Exception as error:
            if not is_away(error):
                raise

    def _list(self) -> list[str]:
        run_id = self._tracker.run_id
        found = [] if run_id is None else self._tracker.client.list_artifacts(run_id, FOLDER)
        return [Path(file.path).name for file in found]

    def _delete(self, names: list[str]) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        if names:
            client = self._tracker.client
            uri = client.get_run(str(self._tracker.run_id)).info.artifact_uri
            artifacts = get_artifact_repository(uri, tracking_uri=client.tracking_uri)
            for name in names:
                artifacts.delete_artifacts(f"{FOLDER}/{name}")  # type: ignore[no-untyped-call]
