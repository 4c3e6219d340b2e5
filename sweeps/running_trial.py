"""A running trial as its application sees it."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import NoReturn

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage

from sweeps.assignment import PICTURE_FILE, PROGRESS_FILE, TARGET_FILE, Assignment
from sweeps.files import write_atomically
from sweeps.pruning import Pruning
from sweeps.study import trial_id

PROGRESS_EVERY_S = 0.5
EXIT_FENCED = 3  # exit code of a worker whose trial another process has ended


class RunningTrial:
    """The trial that this process runs, in the folder of all its attempts; used from the main thread."""

    def __init__(self, assignment: Assignment, folder: Path, pruning: Pruning, storage: RDBStorage) -> None:
        self.folder = folder
        self.config = assignment.config
        self.links = assignment.links
        self.study_name = assignment.study
        self.number = assignment.number
        self.first_attempt = assignment.first_attempt
        self.low_memory = assignment.low_memory
        self.id = trial_id(storage, assignment.study, assignment.number)
        self._storage = storage
        self._pruning = pruning
        self._interrupt = threading.Event()
        self._cancelled = threading.Event()
        self._written_at = 0.0

    def interrupt(self, *_: object) -> None:
        """Request a checkpoint and the end of the trial, so that a retry continues; a signal handler."""
        self._interrupt.set()

    def interrupt_requested(self) -> bool:
        """Return whether the trial should save a checkpoint and end."""
        return self._interrupt.is_set()

    def cancel(self) -> None:
        """Request the end of the trial for good."""
        self._cancelled.set()

    def cancelled(self) -> bool:
        """Return whether the trial should end for good, with its results so far."""
        return self._cancelled.is_set()

    def progress(self, n_steps: int, total_steps: int, loss: float) -> None:
        """Write finished and total training steps and the last loss to a file, at most twice a second."""
        now = time.monotonic()
        if now - self._written_at >= PROGRESS_EVERY_S or n_steps == total_steps:
            progress = {"n_steps": n_steps, "total_steps": total_steps, "loss": loss, "at": now}
            write_atomically(self.folder / PROGRESS_FILE, json.dumps(progress))
            self._written_at = now

    def show(self, output: bytes, target: bytes) -> None:
        """Write PNG files of the output so far and of its target, which the live table shows."""
        write_atomically(self.folder / TARGET_FILE, target)
        write_atomically(self.folder / PICTURE_FILE, output)

    def report(self, n_steps: int, value: float) -> bool:
        """Record an intermediate value; return False to prune the trial.

        To every pruner NaN is the worst value.
        """
        try:
            self._storage.set_trial_intermediate_value(self.id, n_steps, value)
        except UpdateFinishedTrialError:
            abandon()
        return not self._pruning.should_prune(self.first_attempt)


def abandon() -> NoReturn:
    """Exit at once, without another write: the trial was judged dead, and a retry may be running."""
    print("another process has ended this trial; exiting without a result", flush=True)
    os._exit(EXIT_FENCED)
