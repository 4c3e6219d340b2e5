"""Trackers, which record a training run in MLflow or nowhere."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nca.tracking.outbox import Outbox, Record
from sweeps.worker import write_atomically

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["MlflowTracker", "Status", "Tracker", "is_away"]

Status = Literal["FINISHED", "FAILED", "KILLED"]

MAX_BATCH = 1000  # metrics in one MLflow request
FLUSH_EVERY_S = 10.0  # so that a curve in the UI is never older
IMAGE_KEY = "output"
PIXELS = "pixels.png"
PARENT = "mlflow.parentRunId"  # tag
FOLDER = "folder"  # tag of a run without a parent: its host and folder
RETRY_EVERY_S = 5.0  # at least, while a server is away
PAUSE = 20.0  # times as long as the last attempt took, so that a server that hangs costs training 5%
AWAY = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"}


class Tracker:
    """Records one training run; this base class records nothing, and files stay in the trial's folder.

    Called from one thread of the process that trains.
    """

    def log_losses(self, losses: Sequence[float], *, now: bool = False) -> None:
        """Record those of all losses so far that are not stored yet; in batches unless `now`."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record single values at a training step."""

    def log_image(self, pixels: NDArray[np.uint8], step: int) -> None:
        """Record the output at a training step, (height, width, 3); a step already stored is skipped."""

    def log_files(self, folder: Path) -> bool:
        """Record every file of a folder as an artifact; return whether the caller may delete them."""
        return False

    def log_text(self, text: str, name: str) -> None:
        """Record a text as an artifact."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags of the run."""

    def finish(self, status: Status) -> None:
        """End the run; nothing is recorded after it."""


def is_away(error: BaseException) -> bool:
    """Say whether an error means that a server does not answer, or not as it should, and may again."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError, RequestException
    from sqlalchemy.exc import InterfaceError, OperationalError

    if isinstance(error, HTTPError):
        return error.response is None or error.response.status_code >= 500
    if isinstance(error, MlflowException):
        return error.error_code in AWAY
    return isinstance(error, RequestException | OperationalError | InterfaceError)


class MlflowTracker(Tracker):
    """Records one MLflow run, new or taken up again.

    A record may be sent twice: after an answer that was lost, or by a run resumed from an older checkpoint.
    MLflow keeps a metric of the same step, time and value once; losses and images that the store holds are
    skipped as they are sent.

    Args:
        client: Of the store that holds the run.
        run_id: The run; None where the outbox holds its creation.
        outbox: Where records wait while the store is away; None for a store that never is. What waits there
            is delivered before anything else.
        id_file: Gets the id of a run that is created.
    """

    def __init__(
        self,
        client: MlflowClient,
        run_id: str | None,
        outbox: Outbox | None = None,
        id_file: Path | None = None,
    ) -> None:
        self.run_id = run_id
        self._client = client
        self._outbox = outbox
        self._id_file = id_file
        self._flushed_at = time.monotonic()
        self._retry_at = float("-inf")
        self._n_recorded = 0  # losses sent or kept by this tracker
        self._n_stored: int | None = None  # losses in the store; None before it was asked
        self._stored_images: set[int] | None = None  # steps; None before the store was asked

    def log_losses(self, losses: Sequence[float], *, now: bool = False) -> None:
        """Append losses beyond the last recorded step, so that a curve has neither gap nor overlap."""
        first = self._n_recorded
        age_s = time.monotonic() - self._flushed_at
        if not (now or age_s >= FLUSH_EVERY_S or len(losses) - first >= MAX_BATCH):
            return
        if len(losses) > first:
            self.record({"kind": "losses", "first": first, "values": list(losses[first:]), "at": stamp()})
            self._n_recorded = len(losses)
        self._flushed_at = time.monotonic()

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record single values in one request."""
        self.record({"kind": "metrics", "values": dict(metrics), "step": step, "at": stamp()})

    def log_image(self, pixels: NDArray[np.uint8], step: int) -> None:
        """Record the output under the key that the UI's step slider shows."""
        with tempfile.TemporaryDirectory() as folder:
            Image.fromarray(pixels).save(Path(folder) / PIXELS)
            self.record({"kind": "image", "step": step, "at": stamp()}, Path(folder))

    def log_files(self, folder: Path) -> bool:
        """Copy the folder's files to the run's artifacts and return True."""
        self.record({"kind": "files"}, folder)
        return True

    def log_text(self, text: str, name: str) -> None:
        """Put a text among the run's artifacts."""
        self.record({"kind": "text", "text": text, "name": name})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags in one request."""
        self.record({"kind": "tags", "tags": dict(tags)})

    def finish(self, status: Status) -> None:
        """End the run with a status; say what waits where the store is still away then."""
        self.record({"kind": "status", "status": status, "at": stamp()})
        if self._outbox is not None and not self.deliver():
            print(
                f"{len(self._outbox)} records of this run wait for the MLflow server; they go there when it "
                "is back, at the latest by python -m nca.studies deliver",
                flush=True,
            )

    def record(self, record: Record, data: Path | None = None) -> None:
        """Send a record to the store, or keep it where the store is away or others wait before it.

        Args:
            record: Its `kind`, and the arguments of the method that sends it.
            data: Folder of its files.
        """
        if self._outbox is None:
            self._send(record, data)
        elif not (time.monotonic() >= self._retry_at and self.deliver() and self._try_send(record, data)):
            self._outbox.append(record, data, self.run_id)

    def deliver(self) -> bool:
        """Send what waits, in order; return whether nothing waits any more."""
        if self._outbox is not None:
            for entry, record, data in self._outbox:
                if not self._try_send(record, data):
                    return False
                self._outbox.drop(entry)
        return True

    def _try_send(self, record: Record, data: Path | None) -> bool:
        """Send a record; return False where the store is away, and leave it alone for a while then."""
        began = time.monotonic()
        try:
            self._send(record, data)
        except Exception as error:
            if not is_away(error):
                raise
            self._n_stored = self._stored_images = None  # it may have taken the record
            now = time.monotonic()
            self._retry_at = now + max(RETRY_EVERY_S, PAUSE * (now - began))
            return False
        self._retry_at = float("-inf")
        return True

    def _send(self, record: Record, data: Path | None) -> None:
        arguments = {key: value for key, value in record.items() if key != "kind"}
        files = {} if data is None else {"data": data}
        getattr(self, f"_send_{record['kind']}")(**arguments, **files)

    def _send_losses(self, first: int, values: Sequence[float], at: int) -> None:
        from mlflow.entities import Metric

        if self._n_stored is None:
            history = self._client.get_metric_history(self._id, "loss")
            self._n_stored = max((metric.step + 1 for metric in history), default=0)
        points = [Metric("loss", value, at, step) for step, value in enumerate(values, start=first)]
        points = points[max(0, self._n_stored - first) :]
        for start in range(0, len(points), MAX_BATCH):
            self._client.log_batch(self._id, metrics=points[start : start + MAX_BATCH])
        self._n_stored = max(self._n_stored, first + len(values))

    def _send_metrics(self, values: Mapping[str, float], step: int, at: int) -> None:
        from mlflow.entities import Metric

        self._client.log_batch(self._id, metrics=[Metric(k, v, at, step) for k, v in values.items()])

    def _send_image(self, step: int, at: int, data: Path) -> None:
        if self._stored_images is None:
            images = self._client.list_artifacts(self._id, "images")
            names = [re.match(rf"images/{IMAGE_KEY}\D+step\D+(\d+)", image.path) for image in images]
            self._stored_images = {int(name[1]) for name in names if name}
        if step not in self._stored_images:
            pixels = np.asarray(Image.open(data / PIXELS))
            self._client.log_image(self._id, pixels, key=IMAGE_KEY, step=step, timestamp=at)
            self._stored_images.add(step)

    def _send_files(self, data: Path) -> None:
        self._client.log_artifacts(self._id, str(data))

    def _send_text(self, text: str, name: str) -> None:
        self._client.log_text(self._id, text, name)

    def _send_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self._id, tags=[RunTag(key, value) for key, value in tags.items()])

    def _send_status(self, status: str, at: int | None = None) -> None:
        if status == "RUNNING":
            self._client.update_run(self._id, status=status)
        else:
            self._client.set_terminated(self._id, status, at)

    def _send_run(
        self,
        experiment_id: str,
        name: str,
        parent_run_id: str | None,
        params: Mapping[str, str],
        folder: str | None = None,
    ) -> None:
        """Create the run.

        One of that name and parent that is RUNNING already was lost by a process that died before it could
        note its id, or belongs to another coordinator of the study: that one is taken; of runs without a
        parent only one of the same folder.
        """
        from mlflow.entities import Param

        known = {PARENT: parent_run_id, FOLDER: folder}
        wanted = "attributes.status = 'RUNNING'"
        if "'" not in name:  # which MLflow cannot quote; among hundreds that run it finds one much sooner
            wanted += f" AND attributes.run_name = '{name}'"
        ids = [
            str(run.info.run_id)
            for run in self._client.search_runs([experiment_id], wanted)
            if run.info.run_name == name and all(run.data.tags.get(k) == v for k, v in known.items())
        ]
        if not ids:
            tags = {key: value for key, value in known.items() if value}
            ids = [str(self._client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)]
        self._client.log_batch(ids[0], params=[Param(key, value) for key, value in params.items()])
        self.run_id = ids[0]
        if self._outbox is not None and len(self._outbox):
            self._outbox.run_id = self.run_id
        if self._id_file is not None:
            write_atomically(self._id_file, self.run_id)

    @property
    def _id(self) -> str:
        assert self.run_id is not None  # its creation was delivered first
        return self.run_id


def stamp() -> int:
    """Return the time in milliseconds, as MLflow notes it."""
    return int(time.time() * 1000)
