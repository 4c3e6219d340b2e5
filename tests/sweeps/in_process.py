"""An executor without processes, for what a coordinator decides."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import NoReturn

import pytest

from sweeps.assignment import LOG_FILE
from sweeps.executors.base import Ended
from sweeps.worker import run_worker

__all__ = ["InProcessExecutor"]


class Killed(BaseException):
    """Stands for the end of a trial's process."""


class InProcessExecutor:
    """Runs trials in the coordinator's process, one whenever the coordinator waits.

    Trials end in the order of their start. One that kills or leaves its process ends alone, as it would in
    a process of its own. `stop` ends those that have not begun, as a signal ends a process that is starting.

    Args:
        n_slots: Number of trials that may be started at once.
    """

    def __init__(self, n_slots: int) -> None:
        self.n_slots = n_slots
        self._started: dict[int, tuple[int, Path]] = {}
        self._stops = False

    def n_free(self) -> int:
        return self.n_slots - len(self._started)

    def prepare(self) -> None:
        pass

    def start(self, number: int, folder: Path) -> int:
        slot = min(set(range(self.n_slots)) - {taken for taken, _ in self._started.values()})
        self._started[number] = slot, folder
        return slot

    def wait(self, timeout_s: float) -> list[Ended]:
        if not self._started:
            time.sleep(timeout_s)
            return []
        number = next(iter(self._started))
        _, folder = self._started.pop(number)
        return [Ended(number, signal.SIGTERM, 0) if self._stops else run(number, folder)]

    def stop(self) -> None:
        self._stops = True

    def close(self) -> None:
        self._started.clear()


def run(number: int, folder: Path) -> Ended:
    """Run a trial as a worker does, and return how its process would have ended."""

    def kill(pid: int, signal_: int) -> NoReturn:
        assert (pid, signal_) == (os.getpid(), signal.SIGKILL)
        raise Killed

    def abandon(code: int) -> NoReturn:
        raise SystemExit(code)

    handler = signal.getsignal(signal.SIGTERM)
    with (
        (folder / LOG_FILE).open("a") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(os, "kill", kill)
        patch.setattr(os, "_exit", abandon)
        try:
            run_worker(folder)
        except Killed:
            return Ended(number, signal.SIGKILL, 0)
        except SystemExit as end:
            return Ended(number, 0, end.code if isinstance(end.code, int) else 1)
        finally:
            signal.signal(signal.SIGTERM, handler)
    return Ended(number, 0, 0)
