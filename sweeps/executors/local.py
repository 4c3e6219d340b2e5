"""Local processes, one per trial."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from sweeps.executors import forkserver
from sweeps.executors.base import Ended, count_oom_kills
from sweeps.executors.slots import Slot

__all__ = ["LocalExecutor"]


@dataclass
class LocalExecutor:
    """One process per trial on this machine; its output goes to log.txt in the trial's folder.

    They are forked from a process that has loaded the application, so that a trial begins at once.

    Args:
        slots: From `make_slots`.
        application: Dotted path.
        module: Its `run_worker(folder)` runs a trial; its `warm_up()` loads what that needs.
    """

    slots: Sequence[Slot]
    application: str
    module: str = "sweeps.worker"
    _n_oom_kills: int = field(default_factory=count_oom_kills)
    _running: dict[int, tuple[Slot, BaseProcess]] = field(default_factory=dict)

    @property
    def n_slots(self) -> int:
        """Number of slots."""
        return len(self.slots)

    def prepare(self) -> None:
        """Begin to load the application."""
        forkserver.prepare(self.module, self.application, self.slots[0].environment())

    def n_free(self) -> int:
        """Return how many slots are free."""
        return len(self.slots) - len(self._running)

    def start(self, number: int, folder: Path) -> int:
        """Start a trial on the first free slot.

        Its process is in a group of its own: ctrl-C is not for it.

        Raises:
            RuntimeError: If no slot is free.
        """
        taken = {slot.index for slot, _ in self._running.values()}
        slot = next((slot for slot in self.slots if slot.index not in taken), None)
        if slot is None:
            raise RuntimeError("no free slot")
        process = forkserver.start(self.module, self.application, folder, slot.environment(), slot.cores)
        self._running[number] = slot, process
        return slot.index

    def wait(self, timeout_s: float) -> list[Ended]:
        """Sleep until a process ends or the time is over; all are killed if what forks them is."""
        if not self._running:
            time.sleep(timeout_s)
        ready = connection.wait([process.sentinel for _, process in self._running.values()], timeout_s)
        ended = [n for n, (_, process) in self._running.items() if process.sentinel in ready]
        return [self._release(number) for number in ended]

    def stop(self) -> None:
        """Send SIGTERM to every process."""
        for _, process in self._running.values():
            process.terminate()

    def close(self) -> None:
        """Send SIGKILL to every process and wait for it."""
        for _, process in self._running.values():
            process.kill()
        for _, process in self._running.values():
            forkserver.end(process)
        self._running.clear()

    def _release(self, number: int) -> Ended:
        _, process = self._running.pop(number)
        code = forkserver.end(process)
        before, self._n_oom_kills = self._n_oom_kills, count_oom_kills()
        starved = -code == signal.SIGKILL and self._n_oom_kills > before
        return Ended(number, max(0, -code), max(0, code), starved)
