"""Where trials run: the interface, and local processes, one per trial."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sweeps.slots import Slot
from sweeps.worker import LOG_FILE

__all__ = ["Ended", "Executor", "LocalExecutor"]

KILL_WAIT_S = 5.0
AT_MOST_AHEAD = 2  # processes; each holds what the application imports
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

    def start(self, number: int, folder: Path) -> int:
        """Start a trial whose assignment lies in its folder; return its slot.

        Raises:
            RuntimeError: If no slot is free.
        """

    def prepare(self, n_trials: int) -> None:
        """Make ready for so many further trials, as far as that lets them begin sooner."""

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


@dataclass
class _Process:
    slot: Slot
    popen: subprocess.Popen[bytes]
    pidfd: int


@dataclass
class LocalExecutor:
    """One process per trial on this machine; its output goes to log.txt in the trial's folder.

    A few processes are started ahead: they load the application and wait for a trial, so that one begins at
    once on a slot that becomes free.

    Args:
        slots: From `make_slots`.
        application: Dotted path, loaded by processes started ahead.
        module: What runs a trial: `python -m MODULE APPLICATION PID` reads where from a line of JSON, see
            `sweeps.worker.wait_for_trial`.
    """

    slots: Sequence[Slot]
    application: str
    module: str = "sweeps.worker"
    _n_oom_kills: int = field(default_factory=count_oom_kills)
    _running: dict[int, _Process] = field(default_factory=dict)
    _ahead: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def n_slots(self) -> int:
        """Number of slots."""
        return len(self.slots)

    def n_free(self) -> int:
        """Return how many slots are free."""
        return len(self.slots) - len(self._running)

    def start(self, number: int, folder: Path) -> int:
        """Give a trial to a process on the first free slot.

        It is in a process group of its own: ctrl-C is not for it.

        Raises:
            RuntimeError: If no slot is free.
        """
        taken = {process.slot.index for process in self._running.values()}
        slot = next((slot for slot in self.slots if slot.index not in taken), None)
        if slot is None:
            raise RuntimeError("no free slot")
        start = json.dumps({"folder": str(folder), "environment": slot.environment()}).encode() + b"\n"
        popen = self._take_ahead() or self._open(folder / LOG_FILE)
        assert popen.stdin is not None
        with contextlib.suppress(BrokenPipeError), popen.stdin:
            popen.stdin.write(start)
        if slot.cores:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(popen.pid, slot.cores)
        self._running[number] = _Process(slot, popen, os.pidfd_open(popen.pid))
        return slot.index

    def prepare(self, n_trials: int) -> None:
        """Start processes ahead, a few at most; none before every slot is taken."""
        if self.n_free() == 0:
            while len(self._ahead) < min(n_trials, len(self.slots), AT_MOST_AHEAD):
                self._ahead.append(self._open(Path(os.devnull)))

    def wait(self, timeout_s: float) -> list[Ended]:
        """Sleep until a process ends or the time is over."""
        poll = select.poll()
        for process in self._running.values():
            poll.register(process.pidfd, select.POLLIN)
        poll.poll(timeout_s * 1000)
        ended = [number for number, process in self._running.items() if process.popen.poll() is not None]
        return [self._release(number) for number in ended]

    def stop(self) -> None:
        """Send SIGTERM to every process."""
        self._end_ahead()
        for process in self._running.values():
            process.popen.terminate()

    def close(self) -> None:
        """Send SIGKILL to every process and wait for it."""
        self._end_ahead()
        for process in self._running.values():
            process.popen.kill()
        for process in self._running.values():
            process.popen.wait(KILL_WAIT_S)
            os.close(process.pidfd)
        self._running.clear()

    def _open(self, log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", self.module, self.application, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.slots[0].environment()},
                process_group=0,
            )

    def _take_ahead(self) -> subprocess.Popen[bytes] | None:
        """Return a process started ahead; one that could not load says why when it is started anew."""
        while self._ahead:
            popen = self._ahead.pop(0)
            if popen.poll() is None:
                return popen
            _close_input(popen)
        return None

    def _end_ahead(self) -> None:
        for popen in self._ahead:
            popen.kill()
            popen.wait(KILL_WAIT_S)
            _close_input(popen)
        self._ahead.clear()

    def _release(self, number: int) -> Ended:
        process = self._running.pop(number)
        os.close(process.pidfd)
        code = process.popen.returncode
        before, self._n_oom_kills = self._n_oom_kills, count_oom_kills()
        starved = -code == signal.SIGKILL and self._n_oom_kills > before
        return Ended(number, max(0, -code), max(0, code), starved)


def _close_input(popen: subprocess.Popen[bytes]) -> None:
    assert popen.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        popen.stdin.close()
