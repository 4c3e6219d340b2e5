"""What records a training run: in MLflow, or nowhere."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["MlflowTracker", "NullTracker", "Status", "Tracker"]

Status = Literal["FINISHED", "FAILED", "KILLED"]

MAX_BATCH = 1000  # metrics in one MLflow request
FLUSH_EVERY_S = 10.0  # so that a curve in the UI is never older
IMAGE_KEY = "output"


@runtime_checkable  # tests check annotations
class Tracker(Protocol):
    """Records one training run. Called from one thread of the process that trains."""

    def log_losses(self, losses: Sequence[float], *, now: bool = False) -> None:
        """Record those of all losses so far that are not stored yet; in batches unless `now`."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record single values at a training step."""

    def log_image(self, pixels: NDArray[np.uint8], step: int) -> None:
        """Record the output at a training step, (height, width, 3); a step already stored is skipped."""

    def log_files(self, folder: Path) -> bool:
        """Record every file of a folder as an artifact; return whether it is kept elsewhere now."""

    def log_text(self, text: str, name: str) -> None:
        """Record a text as an artifact."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags of the run."""

    def finish(self, status: Status) -> None:
        """End the run; nothing is recorded after it."""


class NullTracker:
    """Records nothing; files stay in the trial's folder."""

    def log_losses(self, losses: Sequence[float], *, now: bool = False) -> None:
        """Do nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def log_image(self, pixels: NDArray[np.uint8], step: int) -> None:
        """Do nothing."""

    def log_files(self, folder: Path) -> bool:
        """Return False: the files are the caller's to keep."""
        return False

    def log_text(self, text: str, name: str) -> None:
        """Do nothing."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Do nothing."""

    def finish(self, status: Status) -> None:
        """Do nothing."""


class MlflowTracker:
    """Records one MLflow run, new or taken up again.

    Args:
        client: Of the store that holds the run.
        run_id: The run, in state RUNNING.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.run_id = run_id
        self._client = client
        self._flushed_at = time.monotonic()
        history = client.get_metric_history(run_id, "loss")
        self._n_stored = max((metric.step + 1 for metric in history), default=0)
        images = client.list_artifacts(run_id, "images")
        names = [re.match(rf"images/{IMAGE_KEY}\D+step\D+(\d+)", image.path) for image in images]
        self._image_steps = {int(name[1]) for name in names if name}

    def log_losses(self, losses: Sequence[float], *, now: bool = False) -> None:
        """Append losses beyond the last stored step, so that a curve has neither gap nor overlap."""
        from mlflow.entities import Metric

        age_s = time.monotonic() - self._flushed_at
        if not (now or age_s >= FLUSH_EVERY_S or len(losses) - self._n_stored >= MAX_BATCH):
            return
        stamp = int(time.time() * 1000)
        while self._n_stored < len(losses):
            stop = min(self._n_stored + MAX_BATCH, len(losses))
            points = [Metric("loss", losses[i], stamp, i) for i in range(self._n_stored, stop)]
            self._client.log_batch(self.run_id, metrics=points)
            self._n_stored = stop
        self._flushed_at = time.monotonic()

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record single values in one request."""
        from mlflow.entities import Metric

        stamp = int(time.time() * 1000)
        self._client.log_batch(self.run_id, metrics=[Metric(k, v, stamp, step) for k, v in metrics.items()])

    def log_image(self, pixels: NDArray[np.uint8], step: int) -> None:
        """Record the output under the key that the UI's step slider shows."""
        if step not in self._image_steps:
            self._client.log_image(self.run_id, pixels, key=IMAGE_KEY, step=step)
            self._image_steps.add(step)

    def log_files(self, folder: Path) -> bool:
        """Copy the folder's files to the run's artifacts and return True."""
        self._client.log_artifacts(self.run_id, str(folder))
        return True

    def log_text(self, text: str, name: str) -> None:
        """Put a text among the run's artifacts."""
        self._client.log_text(self.run_id, text, name)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags in one request."""
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def finish(self, status: Status) -> None:
        """End the run with a status."""
        self._client.set_terminated(self.run_id, status)
