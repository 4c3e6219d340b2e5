"""The executor for this machine: one process per trial."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from sweeps.assignment import LOG_FILE
from sweeps.executors.base import Ended
from sweeps.executors.cgroups import count_oom_kills
from sweeps.executors.forkserver import ForkServer
from sweeps.executors.slots import Slot

KILL_TIMEOUT_S = 5.0
SERVER_DIED = 255  # exit code that multiprocessing reports then


@dataclass
class LocalExecutor:
    """Runs each trial in a process of its own, whose output goes to log.txt in the trial's folder.

    Args:
        slots: Slots, from `make_slots`.
        application: Dotted path of the application, which is loaded once for all trials.
        module: Module that runs a trial, see `ForkServer`.
    """

    slots: Sequence[Slot]
    application: str
    module: str = "sweeps.worker"
    _n_oom_kills: int = field(default_factory=count_oom_kills)
    _running: dict[int, tuple[Slot, BaseProcess, Path]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._server = ForkServer(self.module, self.application, self.slots[0].environment())

    @property
    def n_slots(self) -> int:
        """Number of slots."""
        return len(self.slots)

    def n_free(self) -> int:
        """Return the number of free slots."""
        return len(self.slots) - len(self._running)

    def prepare(self) -> None:
        """Start to load the application."""
        self._server.prepare()

    def start(self, number: int, folder: Path) -> int:
        """Start a trial on the first free slot; return the slot's index.

        Raises:
            RuntimeError: If no slot is free.
        """
        taken = [slot for slot, *_ in self._running.values()]
        slot = next((slot for slot in self.slots if slot not in taken), None)
        if slot is None:
            raise RuntimeError("no free slot")
        process = self._server.start(folder, slot.environment(), slot.cores)
        self._running[number] = slot, process, folder
        return slot.index

    def wait(self, timeout_s: float) -> list[Ended]:
        """Return the trials that have ended, as soon as there are any or after the timeout."""
        if not self._running:
            time.sleep(timeout_s)
        ready = connection.wait([process.sentinel for _, process, _ in self._running.values()], timeout_s)
        numbers = [n for n, (_, process, _) in self._running.items() if process.sentinel in ready]
        return [self._release(number) for number in numbers]

    def stop(self) -> None:
        """Send SIGTERM to all trials."""
        for _, process, _ in self._running.values():
            process.terminate()

    def close(self) -> None:
        """Send SIGKILL to all trials and wait for their ends."""
        for _, process, _ in self._running.values():
            process.kill()
        for number in list(self._running):
            self._release(number)

    def _release(self, number: int) -> Ended:
        _, process, folder = self._running.pop(number)
        process.join(KILL_TIMEOUT_S)
        code = process.exitcode
        if code is None or code == SERVER_DIED:  # with the server all trials die
            code = -signal.SIGKILL
        if code:
            self._explain(folder)
        before, self._n_oom_kills = self._n_oom_kills, count_oom_kills()
        is_oom = code == -signal.SIGKILL and self._n_oom_kills > before
        return Ended(number, max(0, -code), max(0, code), is_oom)

    def _explain(self, folder: Path) -> None:
        """Add to a failed trial's log what was printed before the trial had a log."""
        log, output = folder / LOG_FILE, self._server.read_output()
        if output or not log.exists():
            with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:
                file.write(f"the process that forks trials printed: {output or 'nothing'}\n")
