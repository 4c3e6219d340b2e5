"""Trackers, which record a training run in MLflow or discard its records."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nca.config.validation import flatten
from nca.tracking.client import is_unavailable
from nca.tracking.outbox import Outbox, Record
from sweeps.files import write_atomically

if TYPE_CHECKING:
    from mlflow import MlflowClient

Status = Literal["FINISHED", "FAILED", "KILLED"]

MAX_BATCH = 1000  # metrics in one MLflow request
FLUSH_EVERY_S = 10.0  # maximum age of a curve in the UI
MAX_LOG_CHARS = 100_000  # of the end of a log
IMAGE_KEY = "output"
PIXELS = "pixels.png"
PARENT_TAG = "mlflow.parentRunId"
USER_TAG = "mlflow.user"  # MLflow's page shows it as the creator
DESCRIPTION_TAG = "mlflow.note.content"  # Markdown
FOLDER_TAG = "folder"  # of a run without a parent: its host and folder
MIN_BACKOFF_S = 5.0  # while a server is unavailable
BACKOFF_FACTOR = 20.0  # times the duration of the failed request: a server that hangs costs training 5%


class Tracker:
    """Records one training run; this base class discards the records.

    Called from one thread of the training process.

    Attributes:
        run_id: The MLflow run; None if there is none, or it is not created yet.
        log_file: Log of the process, whose end is recorded when the run ends.
    """

    run_id: str | None = None
    log_file: Path | None = None

    def __init__(self) -> None:
        self._n_losses = 0  # recorded
        self._flushed_at = time.monotonic()

    def log_losses(self, losses: Sequence[float], *, now: bool = False) -> None:
        """Record the new ones of all losses so far: `now`, after MAX_BATCH steps or after FLUSH_EVERY_S."""
        first = self._n_losses
        age_s = time.monotonic() - self._flushed_at
        if not (now or age_s >= FLUSH_EVERY_S or len(losses) - first >= MAX_BATCH):
            return
        if len(losses) > first:
            self.record({"kind": "losses", "first": first, "values": list(losses[first:]), "at": now_ms()})
            self._n_losses = len(losses)
        self._flushed_at = time.monotonic()

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record single values at a training step."""
        self.record({"kind": "metrics", "values": dict(metrics), "step": step, "at": now_ms()})

    def log_image(self, pixels: NDArray[np.uint8], step: int) -> None:
        """Record the output at a training step, (height, width, 3), unless that step has one."""
        with tempfile.TemporaryDirectory() as folder:
            Image.fromarray(pixels).save(Path(folder) / PIXELS)
            self.record({"kind": "image", "step": step, "at": now_ms()}, Path(folder))

    def log_files(self, folder: Path) -> bool:
        """Record every file of a folder as an artifact; return whether the caller may delete them."""
        return self.record({"kind": "files"}, folder)

    def log_text(self, text: str, name: str) -> None:
        """Record a text as an artifact."""
        self.record({"kind": "text", "text": text, "name": name})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags of the run."""
        self.record({"kind": "tags", "tags": dict(tags)})

    def resume(self) -> None:
        """Set the run back to RUNNING if it had ended."""
        self.record({"kind": "status", "status": "RUNNING"})

    def finish(self, status: Status, at: datetime | None = None) -> None:
        """Record the log file and end the run, now or `at` a time; nothing is recorded after it."""
        if self.log_file is not None:
            with contextlib.suppress(Exception):  # the run ends without its log
                log = self.log_file.read_text(encoding="utf-8", errors="replace")
                self.log_text(log[-MAX_LOG_CHARS:], self.log_file.name)
        self.record({"kind": "status", "status": status, "at": now_ms() if at is None else to_ms(at)})

    def record(self, record: Record, data: Path | None = None) -> bool:
        """Discard a record.

        Args:
            record: Its `kind`, and the arguments of the method that sends it.
            data: Folder of its files.

        Returns:
            Whether the record and its files are kept elsewhere.
        """
        return False


class MlflowTracker(Tracker):
    """Records one MLflow run, new or resumed.

    Records may repeat what the store has: after an answer was lost, or in a run resumed from an older
    checkpoint. Losses, single values and images of steps that the store has are skipped when they are sent.

    Args:
        client: Of the store that has the run.
        run_id: The run; None if it is still to be created, or the outbox has its creation.
        outbox: Where records wait while the server is unavailable, delivered before any new one; None to
            raise errors at once.
        id_file: File to write the id of a new run to.
    """

    def __init__(
        self,
        client: MlflowClient,
        run_id: str | None,
        outbox: Outbox | None = None,
        id_file: Path | None = None,
    ) -> None:
        super().__init__()
        self.run_id = run_id
        self._client = client
        self._outbox = outbox
        self._id_file = id_file
        self._retry_at = float("-inf")
        self._n_stored: int | None = None  # losses in the store; None until it is asked
        self._stored_images: set[int] | None = None  # steps; None until the store is asked

    def create(
        self,
        experiment_id: str,
        name: str,
        *,
        parent_run_id: str | None = None,
        params: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        """Create the run in state RUNNING, or adopt a RUNNING one of the same name and parent.

        That one was created by a process that died before it stored the id, or by another coordinator of the
        study. One without a parent is adopted only in the same folder. Keys of params are joined by dots.
        """
        record = {"kind": "run", "experiment_id": experiment_id, "name": name, "parent_run_id": parent_run_id}
        tag = None if parent_run_id or folder is None else describe_folder(folder)
        values = {key: str(value) for key, value in flatten(params or {}).items()}
        self.record(record | {"params": values, "folder": tag})

    def finish(self, status: Status, at: datetime | None = None) -> None:
        """End the run; print how many records are pending if the server is still unavailable."""
        super().finish(status, at)
        if self._outbox is not None and not self.deliver():
            print(
                f"{len(self._outbox)} records of this run wait for the MLflow server; they are delivered "
                "when it is available, at the latest by python -m nca.studies deliver",
                flush=True,
            )

    def record(self, record: Record, data: Path | None = None) -> bool:
        """Send a record, or put it into the outbox if the server is unavailable or others are pending."""
        if self._outbox is None:
            self._send(record, data)
        elif not (time.monotonic() >= self._retry_at and self.deliver() and self._try_send(record, data)):
            self._outbox.append(record, data, self.run_id)
        return True

    def deliver(self) -> bool:
        """Send the pending records in order; return whether none is pending any more."""
        if self._outbox is not None:
            for entry, record, data in self._outbox:
                if not self._try_send(record, data):
                    return False
                self._outbox.remove(entry)
        return True

    def _try_send(self, record: Record, data: Path | None) -> bool:
        """Send a record; return False and wait before the next attempt if the server is unavailable."""
        began = time.monotonic()
        try:
            self._send(record, data)
        except Exception as error:
            if not is_unavailable(error):
                raise
            self._n_stored = self._stored_images = None  # it may have stored the record
            now = time.monotonic()
            self._retry_at = now + max(MIN_BACKOFF_S, BACKOFF_FACTOR * (now - began))
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

        known = values.keys() & self._client.get_run(self._id).data.metrics.keys()
        stored = {
            key for key in known if step in (m.step for m in self._client.get_metric_history(self._id, key))
        }
        points = [Metric(key, value, at, step) for key, value in values.items() if key not in stored]
        self._client.log_batch(self._id, metrics=points)

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
        from mlflow.entities import Param

        known = {PARENT_TAG: parent_run_id, FOLDER_TAG: folder}
        wanted = "attributes.status = 'RUNNING'"
        if "'" not in name:  # MLflow cannot quote it; the condition is faster among hundreds of runs
            wanted += f" AND attributes.run_name = '{name}'"
        ids = [
            str(run.info.run_id)
            for run in self._client.search_runs([experiment_id], wanted)
            if run.info.run_name == name and all(run.data.tags.get(k) == v for k, v in known.items())
        ]
        if not ids:
            tags = {USER_TAG: name_user()} | {key: value for key, value in known.items() if value}
            ids = [str(self._client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)]
        self._client.log_batch(ids[0], params=[Param(key, value) for key, value in params.items()])
        self.run_id = ids[0]
        if self._outbox is not None and len(self._outbox):
            self._outbox.run_id = self.run_id
        if self._id_file is not None:
            write_atomically(self._id_file, self.run_id)

    @property
    def _id(self) -> str:
        assert self.run_id is not None  # its creation is the first record
        return self.run_id


def describe_folder(folder: Path) -> str:
    """Return a folder's path with its host; it identifies a single run in a store of several machines."""
    return f"{socket.gethostname()}:{folder.absolute()}"


def name_user() -> str:
    """Return the name of the user of this process; its number if it has no name, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError since Python 3.13
        return str(os.getuid())


def now_ms() -> int:
    """Return the time in milliseconds since 1970, as MLflow keeps it."""
    return int(time.time() * 1000)


def to_ms(at: datetime) -> int:
    """Return a time, local if it has no zone, in milliseconds since 1970."""
    return int(at.timestamp() * 1000)
