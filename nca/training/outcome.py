"""How a training run ends, and who follows it until then."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from nca.tracking.tracker import Status
from sweeps.files import write_atomically

__all__ = ["STATUS", "Listener", "Outcome", "Reason"]

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
        reason: Why it ended.
        n_steps: Training steps finished.
        metrics: Values at its end by name; empty where it was interrupted.
        picture: The last output, in the run's folder; None where it was interrupted.
        run_id: Of its MLflow run; None where it has none.
    """

    reason: Reason
    n_steps: int
    metrics: dict[str, float]
    picture: Path | None
    run_id: str | None = None

    def save(self, folder: Path) -> None:
        """Note in the run's folder how it ended, all at once."""
        values = asdict(self) | {"picture": None if self.picture is None else self.picture.name}
        write_atomically(folder / OUTCOME_FILE, json.dumps(values))

    @classmethod
    def load(cls, folder: Path) -> Outcome | None:
        """Return what `save` has noted, None where it has not."""
        note = folder / OUTCOME_FILE
        if not note.exists():
            return None
        values = json.loads(note.read_text())
        picture = None if values["picture"] is None else folder / values["picture"]
        return cls(**values | {"picture": picture})


@runtime_checkable  # tests check annotations
class Listener(Protocol):
    """Follows a run and may end it; called from the training thread at each fetch of losses."""

    def progress(self, n_steps: int, of: int, loss: float) -> None:
        """Receive the number of finished steps and the loss of the last one."""

    def report(self, n_steps: int, smoothed: float) -> bool:
        """Receive an intermediate value, 32 times a run; return False to prune the run."""

    def interrupt_requested(self) -> bool:
        """Return whether the run should save a checkpoint and end, to be continued later."""

    def cancelled(self) -> bool:
        """Return whether the run should end for good, with the results it has."""
