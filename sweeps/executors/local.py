"""Local processes, one per trial."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sweeps.executors.base import Ended, count_oom_kills
from sweeps.executors.forkserver import ForkServer
from sweeps.executors.slots import Slot

__all__ = ["LocalExecutor"]


@dataclass
class LocalExecutor:
    """One process per trial on this machine; its output goes to log.txt in the trial's folder.

    They are forked from a process that has loaded the application, so that a trial begins at once.

    Args:
        slots: From `make_slots`.
        application: Dotted path.
        module: What runs a trial, see `ForkServer`.
    """

    slots: Sequence[Slot]
    application: str
    module: str = "sweeps.worker"
    _n_oom_kills: int = field(default_factory=count_oom_kills)
    _running: dict[int, Slot] = field(default_factory=dict)
    _server: ForkServer | None = None

    @property
    def n_slots(self) -> int:
        """Number of slots."""
        return len(self.slots)

    def prepare(self) -> None:
        """Begin to load the application."""
        if self._server is None:
            self._server = ForkServer(self.module, self.application, self.slots[0].environment())

    def n_free(self) -> int:
        """Return how many slots are free."""
        return len(self.slots) - len(self._running)

    def start(self, number: int, folder: Path) -> int:
        """Start a trial on the first free slot.

        Its process is in a group of its own: ctrl-C is not for it.

        Raises:
            RuntimeError: If no slot is free.
        """
        taken = {slot.index for slot in self._running.values()}
        slot = next((slot for slot in self.slots if slot.index not in taken), None)
        if slot is None:
            raise RuntimeError("no free slot")
        self.prepare()
        assert self._server is not None
        self._server.start(number, folder, slot.environment(), slot.cores)
        self._running[number] = slot
        return slot.index

    def wait(self, timeout_s: float) -> list[Ended]:
        """Sleep until a process ends or the time is over; all are killed if what forks them is."""
        if self._server is None:
            time.sleep(timeout_s)
            return []
        statuses, lives = self._server.wait(timeout_s)
        if not lives:
            self._close_server()
            statuses |= dict.fromkeys(self._running.keys() - statuses.keys(), int(signal.SIGKILL))
        return [self._release(number, status) for number, status in statuses.items()]

    def stop(self) -> None:
        """Send SIGTERM to every process."""
        if self._server is not None:
            self._server.stop()

    def close(self) -> None:
        """Send SIGKILL to every process and wait for it."""
        self._close_server()
        self._running.clear()

    def _close_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _release(self, number: int, status: int) -> Ended:
        del self._running[number]
        code = os.waitstatus_to_exitcode(status)
        before, self._n_oom_kills = self._n_oom_kills, count_oom_kills()
        starved = -code == signal.SIGKILL and self._n_oom_kills > before
        return Ended(number, max(0, -code), max(0, code), starved)
