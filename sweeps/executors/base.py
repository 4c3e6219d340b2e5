"""Where trials run: the interface, and the count of processes that were killed for want of memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

__all__ = ["Ended", "Executor", "count_oom_kills"]

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Ended:
    """A trial whose process has ended.

    Args:
        number: The trial's.
        signal: What killed it; 0 where it ended by itself.
        exit_code: 0 where it ended as it should.
        out_of_memory: Whether the system killed it for want of memory, as far as that can be told.
    """

    number: int
    signal: int
    exit_code: int
    out_of_memory: bool = False


class Executor(Protocol):
    """Runs one trial per slot. Used by the coordinator, from one thread."""

    @property
    def n_slots(self) -> int:
        """Number of slots."""

    def n_free(self) -> int:
        """Return how many slots are free."""

    def prepare(self) -> None:
        """Begin with what the first trial would have to wait for."""

    def start(self, number: int, folder: Path) -> int:
        """Start a trial whose assignment lies in its folder; return its slot.

        Raises:
            RuntimeError: If no slot is free.
        """

    def wait(self, timeout_s: float) -> list[Ended]:
        """Return the trials that have ended, at once when there are any, else after the timeout."""

    def stop(self) -> None:
        """Ask every trial to save what it has and end."""

    def close(self) -> None:
        """End every trial at once and release the slots."""


def count_oom_kills() -> int:
    """Return how many processes of this one's control group the system has killed for want of memory.

    0 where no control group counts them.
    """
    for line in _lines(OWN_CGROUP):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            counters = CGROUPS / path.lstrip("/") / "memory.events"
        elif "memory" in controllers.split(","):
            counters = CGROUPS / "memory" / path.lstrip("/") / "memory.oom_control"
        else:
            continue
        for counter in _lines(counters):
            name, _, number = counter.partition(" ")
            if name == "oom_kill":
                return int(number)
    return 0


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
