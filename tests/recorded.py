"""Training runs recorded in a real MLflow store, and a listener that ends them where a test wants it."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from nca.tracking.store import MlflowStore
from nca.training.outcome import Outcome
from nca.training.run import train
from tests.builders import trial_config

STEPS = 12  # of the config that `trial_config` returns


class FakeListener:
    """A listener that records all calls, and prunes, interrupts or fails the run at given steps."""

    def __init__(
        self,
        *,
        prune_at: int = 0,
        stop_at: int = 0,
        fail_at: int = 0,
        error: Exception | None = None,
    ) -> None:
        self.losses: dict[int, float] = {}
        self.reports: dict[int, float] = {}
        self.shown: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []
        self._prune_at, self._stop_at, self._fail_at = prune_at, stop_at, fail_at
        self._error = error or ZeroDivisionError("on purpose")

    def progress(self, n_steps: int, total_steps: int, loss: float) -> None:
        assert total_steps == STEPS
        self.losses[n_steps] = loss
        if n_steps == self._fail_at:
            raise self._error

    def show(self, output: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
        self.shown.append((output, target))

    def report(self, n_steps: int, smoothed: float) -> bool:
        self.reports[n_steps] = smoothed
        return n_steps != self._prune_at

    def interrupt_requested(self) -> bool:
        return max(self.losses) == self._stop_at

    def cancelled(self) -> bool:
        return False


class Recorded:
    """Runs of one config, each recorded in MLflow; an interrupted one is continued by the next call."""

    def __init__(self, folder: Path, uri: str, **changes: Any) -> None:
        self.config = trial_config(folder, uri=uri, **changes)
        self.folder = folder / "trial"
        self.store, self.client = MlflowStore(uri), MlflowClient(uri)
        self.run_id = ""

    def train(self, listener: FakeListener | None = None) -> Outcome:
        experiment = self.store.experiments.open(self.folder.parent.name, self.folder.parent / "artifacts")
        tracker = self.store.open_run(self.folder, experiment, "trial 0", params=asdict(self.config))
        assert tracker.run_id is not None
        self.run_id = tracker.run_id
        return train(self.config, self.folder, tracker, listener or FakeListener())

    @property
    def run(self) -> Run:
        return self.client.get_run(self.run_id)

    @property
    def losses(self) -> list[float]:
        history = self.client.get_metric_history(self.run_id, "loss")
        assert [metric.step for metric in history] == list(range(len(history)))
        return [metric.value for metric in history]

    @property
    def image_steps(self) -> list[int]:
        names = [image.path for image in self.client.list_artifacts(self.run_id, "images")]
        return sorted(int(re.findall(r"step\D+(\d+)", name)[0]) for name in names if name.endswith("png"))

    @property
    def artifacts(self) -> set[str]:
        return {file.path for file in self.client.list_artifacts(self.run_id) if not file.is_dir}

    @property
    def weights(self) -> dict[str, Tensor]:
        return load_file(self.path_of("model.safetensors"))

    def path_of(self, artifact: str) -> Path:
        return self.folder.parent / "artifacts" / self.run_id / "artifacts" / artifact
