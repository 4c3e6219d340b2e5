"""The interface of executors, which run trials."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Ended:
    """A trial whose process has ended.

    Args:
        number: Trial number.
        signal: Signal that killed it; 0 for none.
        exit_code: Exit code if no signal killed it.
        out_of_memory: Whether the system killed it for lack of memory, as far as that can be told.
    """

    number: int
    signal: int
    exit_code: int
    out_of_memory: bool = False


class Executor(Protocol):
    """Runs trials, one per slot. Used by the coordinator, from one thread."""

    @property
    def n_slots(self) -> int:
        """Number of slots."""

    def n_free(self) -> int:
        """Return the number of free slots."""

    def prepare(self) -> None:
        """Start to load what the first trial needs."""

    def start(self, number: int, folder: Path) -> int:
        """Start the trial whose assignment is in a folder; return its slot.

        Raises:
            RuntimeError: If no slot is free.
        """

    def wait(self, timeout_s: float) -> list[Ended]:
        """Return the trials that have ended, as soon as there are any or after the timeout."""

    def stop(self) -> None:
        """Ask all trials to save a checkpoint and end."""

    def close(self) -> None:
        """End all trials at once and free the slots."""
