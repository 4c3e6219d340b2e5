"""Measures the share of a trial of set 5 that records, images and checkpoints take.

A short real run, recorded in MLflow, in which each kind of record is timed. The share in a whole trial
follows from the number of records of each kind in 16384 steps of the measured length.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cases import LEARNING_RATE, N_STEPS, SET_5, SIZE_PX, UPDATE_RATE, FixedTrainer, make_ours
from nca.config.schema import (
    FeaturesConfig,
    LossConfig,
    ModelConfig,
    PlantTexture,
    TrackingConfig,
    TrainConfig,
    TrialConfig,
)
from nca.tracking.store import MlflowStore
from nca.tracking.tracker import FLUSH_EVERY_S, MlflowTracker
from nca.training import run
from nca.training.checkpoint import Checkpoints
from nca.training.run import is_picture_step

STEPS = 64
CHECKPOINT_EVERY_S = 60.0  # conf/train/default.yaml


class Clock:
    """Sums the time spent in functions, by name; nested calls are counted once, for the outer function."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._busy = False

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        @functools.wraps(function)
        def timed(*arguments: Any, **keywords: Any) -> Any:
            if self._busy:
                return function(*arguments, **keywords)
            self._busy, start = True, time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                self._busy = False
                self.seconds[name] += time.perf_counter() - start
                self.calls[name] += 1

        return timed

    def mean(self, name: str) -> float:
        """Return the mean seconds per call."""
        return self.seconds[name] / max(1, self.calls[name])


class Silent:
    """A listener that does nothing."""

    def progress(self, n_steps: int, total_steps: int, loss: float) -> None:
        """Ignore the progress."""

    def show(self, output: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
        """Ignore the pictures."""

    def report(self, n_steps: int, smoothed: float) -> bool:
        """Return True: training continues."""
        return True

    def interrupt_requested(self) -> bool:
        """Return False: training continues."""
        return False

    def cancelled(self) -> bool:
        """Return False: training continues."""
        return False


def make_config(folder: Path) -> TrialConfig:
    """Return the recorded config; the features come from the benchmark's VGG."""
    model = ModelConfig(
        name="srnca",
        channels=SET_5.channels,
        hidden_channels=SET_5.hidden_channels,
        filters=SET_5.filters,
        update_rate=UPDATE_RATE,
        mask="channel",
        clamp=True,
        seed_state="square",
        seed_noise=0.0,
    )
    train = TrainConfig(
        steps=STEPS,
        batch_size=SET_5.batch_size,
        optimizer="adam",
        learning_rate=LEARNING_RATE,
        warmup_steps=0,
        drop_steps=None,
        min_ca_steps=None,
        max_ca_steps=SET_5.max_ca_steps,
        size=SIZE_PX,
        pool_size=None,
        reseed_every=8,
        damage_every=None,
        precision="fp32",
        rollout="fast",
        recompute=False,
        cuda_graph=False,
        overflow_weight=0.0,
        gradient_per_ca_step=False,
        keep="last",
        checkpoint_every=STEPS // 4,
        checkpoint_every_s=0.0,
        keep_checkpoint=False,
    )
    return TrialConfig(
        texture=PlantTexture("roundleaf", "drawn", ""),
        model=model,
        loss=LossConfig(name="gram"),
        features=FeaturesConfig("random_filters"),
        train=train,
        tracking=TrackingConfig("mlflow", f"sqlite:///{folder / 'mlflow.db'}"),
        seed=0,
        device="cpu",
        runs_dir=str(folder),
    )


def measure() -> dict[str, float]:
    """Return the seconds of each kind of record in a whole trial, and their share of it."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = make_config(folder)
        store = MlflowStore(str(config.tracking.uri))
        experiment = store.experiments.open("benchmark", folder / "artifacts")

        def build(config: TrialConfig, device: torch.device) -> FixedTrainer:
            trainer = make_ours(SET_5, pool_rows=64 * SET_5.batch_size)
            trainer._config = config.train
            return trainer

        patched = {
            (MlflowTracker, "log_losses"): "losses",
            (MlflowTracker, "log_image"): "images",
            (MlflowTracker, "set_tags"): "rest",
            (MlflowTracker, "log_metrics"): "rest",
            (MlflowTracker, "finish"): "rest",
            (Checkpoints, "save"): "checkpoints",
            (Checkpoints, "clear"): "rest",
            (run._Run, "save_files"): "files",
            (run, "describe_run"): "rest",
            (run, "hash_inputs"): "rest",
            (run, "to_pixels"): "images",
        }
        before = {(owner, attribute): getattr(owner, attribute) for owner, attribute in patched}
        before[run, "build_trainer"] = run.build_trainer
        try:
            for (owner, attribute), kind in patched.items():
                setattr(owner, attribute, clock.wrap(kind, before[owner, attribute]))
            run.build_trainer = build
            opened = time.perf_counter()
            tracker = store.open_run(folder / "trial", experiment, "trial", params=asdict(config))
            clock.seconds["rest"] += time.perf_counter() - opened
            start = time.perf_counter()
            run.train(config, folder / "trial", tracker, Silent())
            whole = time.perf_counter() - start
        finally:
            for (owner, attribute), function in before.items():
                setattr(owner, attribute, function)
    return extrapolate(clock, whole)


def extrapolate(clock: Clock, whole_s: float) -> dict[str, float]:
    """Return the seconds by kind of record of a whole trial, from those of a short run."""
    training_s = (whole_s - sum(clock.seconds.values())) / STEPS * N_STEPS
    n_images = sum(is_picture_step(step, N_STEPS) for step in range(N_STEPS))
    n_images_timed = sum(is_picture_step(step, STEPS) for step in range(STEPS))
    seconds = {
        "losses": clock.mean("losses") * training_s / FLUSH_EVERY_S,
        "images": clock.seconds["images"] * n_images / n_images_timed,
        "checkpoints": clock.mean("checkpoints") * training_s / CHECKPOINT_EVERY_S,
        "files": clock.seconds["files"],
        "rest": clock.seconds["rest"],
    }
    total = sum(seconds.values())
    return {**seconds, "training": training_s, "share": total / (training_s + total)}


if __name__ == "__main__":
    print(measure())
