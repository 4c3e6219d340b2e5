"""The outcome of a training run, and the interface of its listeners."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nca.tracking.tracker import Status
from sweeps.files import write_atomically

OUTCOME_FILE = "outcome.json"
Reason = Literal["complete", "pruned", "stopped", "interrupted", "diverged"]
STATUS: dict[Reason, Status] = {
    "complete": "FINISHED",
    "pruned": "KILLED",
    "stopped": "KILLED",
    "interrupted": "KILLED",
    "diverged": "FAILED",
}


@dataclass(frozen=True)
class Outcome:
    """How a training run ended.

    Args:
        n_steps: Training steps finished.
        metrics: Final values by name; empty if it was interrupted.
        picture: Path of output.png in the run's folder; None if it was interrupted.
        run_id: Its MLflow run; None if it has none.
    """

    reason: Reason
    n_steps: int
    metrics: dict[str, float]
    picture: Path | None
    run_id: str | None = None

    def save(self, folder: Path) -> None:
        """Write the outcome of a run that was not interrupted to its folder, atomically."""
        text = json.dumps(asdict(self), default=lambda picture: picture.name)
        write_atomically(folder / OUTCOME_FILE, text)

    @classmethod
    def load(cls, folder: Path) -> Outcome | None:
        """Return the outcome that `save` wrote to a folder; None if there is no outcome."""
        file = folder / OUTCOME_FILE
        if not file.exists():
            return None
        values = json.loads(file.read_text(encoding="utf-8"))
        return cls(**values | {"picture": folder / values["picture"]})


@runtime_checkable  # tests check annotations
class Listener(Protocol):
    """Follows a run and may end it; called from the training thread at each fetch of losses."""

    def progress(self, n_steps: int, total_steps: int, loss: float) -> None:
        """Receive the numbers of finished and of all steps, and the loss of the last finished one."""

    def show(self, output: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
        """Receive the outputs so far side by side and their target as pixels, (height, width, 3).

        Called 32 times a run, and after steps 0, 1, 3, 7, ...
        """

    def report(self, n_steps: int, smoothed: float) -> bool:
        """Receive the smoothed loss, 32 times a run; return False to prune the run."""

    def interrupt_requested(self) -> bool:
        """Return whether the run should save a checkpoint and end, to be continued later."""

    def cancelled(self) -> bool:
        """Return whether the run should end for good, with its results so far."""
