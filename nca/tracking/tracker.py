"""What records a training run: in MLflow, or nowhere."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nca.tracking.outbox import Outbox, Record

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["MlflowTracker", "NullTracker", "Status", "Tracker", "is_away"]

Status = Literal["FINISHED", "FAILED", "KILLED"]
Known = TypeVar("Known")

MAX_BATCH = 1000  # metrics in one MLflow request
FLUSH_EVERY_S = 10.0  # so that a curve in the UI is never older
IMAGE_KEY = "output"
PIXELS = "pixels.png"
PARENT = "mlflow.parentRunId"  # tag
FOLDER = "folder"  # tag of a run without a parent: its host and folder
RETRY_EVERY_S = 5.0  # at least, while a server is away
PAUSE = 20.0  # times as long as the last attempt took, so that a server that hangs costs training 5%
AWAY = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"}


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


class MlflowTracker:
    """Records one MLflow run, new or taken up again.

    Args:
        client: Of the store that holds the run.
        run_id: The run; None where the outbox holds its creation.
        outbox: Where records wait while the store is away; None for a store that never is. What waits there
            is delivered before anything else.
        created: Called with the id of a run that is created late.
    """

    def __init__(
        self,
        client: MlflowClient,
        run_id: str | None,
        outbox: Outbox | None = None,
        created: Callable[[str], None] = lambda run_id: None,
    ) -> None:
        self.run_id = run_id
        self._client = client
        self._outbox = outbox
        self._created = created
        self._flushed_at = time.monotonic()
        self._try_at = float("-inf")
        self._n_losses: int | None = None  # recorded so far; None before the store was asked
        self._image_steps: set[int] | None = None
        self._confirmed: int | None = None  # losses that the store is known to hold
        self._guessed = False  # whether the store could not tell what it holds

    def log_losses(self, losses: Sequence[float], *, now: bool = False) -> None:
        """Append losses beyond the last recorded step, so that a curve has neither gap nor overlap."""
        first = self._first_loss()
        age_s = time.monotonic() - self._flushed_at
        if not (now or age_s >= FLUSH_EVERY_S or len(losses) - first >= MAX_BATCH):
            return
        if len(losses) > first:
            self.record({"kind": "losses", "first": first, "values": list(losses[first:]), "at": stamp()})
            self._n_losses = len(losses)
        self._flushed_at = time.monotonic()

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record single values in one request."""
        self.record({"kind": "metrics", "values": dict(metrics), "step": step, "at": stamp()})

    def log_image(self, pixels: NDArray[np.uint8], step: int) -> None:
        """Record the output under the key that the UI's step slider shows."""
        if step in self._known_images():
            return
        with tempfile.TemporaryDirectory() as folder:
            Image.fromarray(pixels).save(Path(folder) / PIXELS)
            self.record({"kind": "image", "step": step, "at": stamp()}, Path(folder))
        self._known_images().add(step)

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
        if self._outbox and not self.deliver():
            print(
                f"{len(self._outbox)} records of this run wait for the MLflow server; they go there when it "
                "is back, at the latest by python -m nca.studies deliver",
                flush=True,
            )

    def record(self, record: Record, data: Path | None = None) -> None:
        """Send a record to the store, or keep it where the store is away or others wait before it."""
        if self._outbox is None:
            self._send(record, data)
            return
        if self._outbox and time.monotonic() >= self._try_at:
            self.deliver()
        if not self._outbox and self._attempt(record, data):
            return
        self._outbox.put(record, data)
        if self.run_id is not None:
            self._outbox.run_id = self.run_id

    def deliver(self) -> bool:
        """Send what waits, in order; return whether nothing waits any more."""
        for entry, record, data in self._outbox or ():
            if not self._attempt(record, data, again=True):
                return False
            assert self._outbox is not None
            self._outbox.drop(entry)
        return True

    def _attempt(self, record: Record, data: Path | None, *, again: bool = False) -> bool:
        """Send a record; return False where the store is away, and leave it alone for a while then."""
        began = time.monotonic()
        try:
            self._send(record, data, again=again)
        except Exception as error:
            if not is_away(error):
                raise
            self._confirmed = None
            now = time.monotonic()
            self._try_at = now + max(RETRY_EVERY_S, PAUSE * (now - began))
            return False
        return True

    def _send(self, record: Record, data: Path | None, *, again: bool = False) -> None:
        """Send a record.

        Args:
            record: What to record.
            data: Folder of its files.
            again: Whether it may have been taken before.
        """
        getattr(self, f"_send_{record['kind']}")(record, data, again)

    def _send_losses(self, record: Record, data: Path | None, again: bool) -> None:
        from mlflow.entities import Metric

        first, values, at = record["first"], record["values"], record["at"]
        begin = max(first, self._n_stored()) if again or self._guessed else first
        for start in range(begin, first + len(values), MAX_BATCH):
            batch = values[start - first : start - first + MAX_BATCH]
            points = [Metric("loss", value, at, start + i) for i, value in enumerate(batch)]
            self._client.log_batch(self._id, metrics=points)
        self._confirmed = max(begin, first + len(values))

    def _send_metrics(self, record: Record, data: Path | None, again: bool) -> None:
        """Send single values; MLflow keeps one that has the same time and step once."""
        from mlflow.entities import Metric

        step, at = record["step"], record["at"]
        points = [Metric(key, value, at, step) for key, value in record["values"].items()]
        self._client.log_batch(self._id, metrics=points)

    def _send_image(self, record: Record, data: Path | None, again: bool) -> None:
        assert data is not None
        step, at = record["step"], record["at"]
        if (again or self._guessed) and step in self._stored_images():
            return
        with Image.open(data / PIXELS) as picture:
            self._client.log_image(self._id, np.asarray(picture), key=IMAGE_KEY, step=step, timestamp=at)

    def _send_files(self, record: Record, data: Path | None, again: bool) -> None:
        self._client.log_artifacts(self._id, str(data))

    def _send_text(self, record: Record, data: Path | None, again: bool) -> None:
        self._client.log_text(self._id, record["text"], record["name"])

    def _send_tags(self, record: Record, data: Path | None, again: bool) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self._id, tags=[RunTag(key, value) for key, value in record["tags"].items()])

    def _send_status(self, record: Record, data: Path | None, again: bool) -> None:
        if record["status"] == "RUNNING":
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._client.set_terminated(self._id, record["status"], record["at"])

    def _send_run(self, record: Record, data: Path | None, again: bool) -> None:
        """Create the run.

        One of that name and parent that is RUNNING already was lost by a process that died before it could
        note its id, or belongs to another coordinator of the study: that one is taken; of runs without a
        parent only one of the same folder.
        """
        from mlflow.entities import Param

        client, name = self._client, record["name"]
        known = {PARENT: record["parent_run_id"], FOLDER: record.get("folder")}
        wanted = "attributes.status = 'RUNNING'"
        if "'" not in name:  # which MLflow cannot quote; among hundreds that run it finds one much sooner
            wanted += f" AND attributes.run_name = '{name}'"
        ids = [
            str(run.info.run_id)
            for run in client.search_runs([record["experiment_id"]], wanted)
            if run.info.run_name == name and all(run.data.tags.get(k) == v for k, v in known.items())
        ]
        if not ids:
            tags = {key: value for key, value in known.items() if value}
            created = client.create_run(record["experiment_id"], run_name=name, tags=tags)
            ids = [str(created.info.run_id)]
        client.log_batch(ids[0], params=[Param(key, str(value)) for key, value in record["params"].items()])
        self.run_id = ids[0]
        if self._outbox:
            self._outbox.run_id = self.run_id
        self._created(self.run_id)

    @property
    def _id(self) -> str:
        assert self.run_id is not None  # its creation was delivered first
        return self.run_id

    def _first_loss(self) -> int:
        """Return how many losses are recorded; where the store does not tell, what waits."""
        if self._n_losses is None:
            waiting = self._outbox.n_losses if self._outbox else 0
            self._n_losses = max(waiting, self._ask(self._n_stored, 0))
        return self._n_losses

    def _known_images(self) -> set[int]:
        """Return the steps of the images recorded; where the store does not tell, those that wait."""
        if self._image_steps is None:
            waiting: set[int] = {r["step"] for _, r, _ in self._outbox or () if r["kind"] == "image"}
            nothing: set[int] = set()
            self._image_steps = waiting | self._ask(self._stored_images, nothing)
        return self._image_steps

    def _ask(self, question: Callable[[], Known], otherwise: Known) -> Known:
        """Return what the store says, or what to go by while it is away."""
        try:
            return question()
        except Exception as error:
            if self._outbox is None or not is_away(error):
                raise
            self._guessed = True
            return otherwise

    def _n_stored(self) -> int:
        """Return how many losses the store holds."""
        if self._confirmed is None:
            history = [] if self.run_id is None else self._client.get_metric_history(self.run_id, "loss")
            self._confirmed = max((metric.step + 1 for metric in history), default=0)
        return self._confirmed

    def _stored_images(self) -> set[int]:
        """Return the steps of the images that the store holds."""
        images = [] if self.run_id is None else self._client.list_artifacts(self.run_id, "images")
        names = [re.match(rf"images/{IMAGE_KEY}\D+step\D+(\d+)", image.path) for image in images]
        return {int(name[1]) for name in names if name}


def stamp() -> int:
    """Return the time in milliseconds, as MLflow notes it."""
    return int(time.time() * 1000)
