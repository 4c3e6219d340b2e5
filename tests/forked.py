"""Programs that begin within milliseconds: forked from a process that has loaded the libraries."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.templates import DATABASES, copy_databases

__all__ = ["Forked", "load"]

ROOT = Path(__file__).parents[1]
PROCESSES = multiprocessing.get_context("forkserver")


def load() -> None:
    """Begin to load the libraries, unless that was begun.

    It takes longer than most of what tests ask for, so it is done once for each test worker.
    """
    PROCESSES.set_forkserver_preload(["tests.loaded"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # torch reads it as it is loaded
        patch.setenv("PYTHONPATH", str(ROOT))  # Python 3.11 does not hand its module path on
        forkserver.ensure_running()
    resource_tracker.ensure_running()


class Forked:
    """A function in a process of its own, handled as a `subprocess.Popen[str]`.

    It is in a process group of its own: ctrl-C is not for it.

    Args:
        function: What it calls; the result is dropped, `SystemExit` sets the exit code.
        arguments: Of the function.
        folder: Working directory.
        environment: Variables besides those of this process.
        errors: File of the standard errors; they go where the standard output goes otherwise.
    """

    def __init__(
        self,
        function: Callable[..., object],
        *arguments: object,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        errors: str | None = None,
    ) -> None:
        load()
        reading, writing = PROCESSES.Pipe(duplex=False)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        enter = (writing, errors, folder, environment, function, arguments)
        self._process = PROCESSES.Process(target=_run, args=enter)
        self._process.start()
        writing.close()
        self.stdout = os.fdopen(os.dup(reading.fileno()), encoding="utf-8")
        reading.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for the signal that killed it, None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once it has ended."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0.0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Return what it prints until its end."""
        output: list[str] = []
        reading = threading.Thread(target=lambda: output.append(self.stdout.read()), daemon=True)
        reading.start()
        reading.join(timeout)
        if not output:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0.0)
        self.wait(timeout)
        self.stdout.close()
        return output[0], None

    def send_signal(self, number: int) -> None:
        """Send a signal to it, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


def _run(
    output: Connection,
    errors: str | None,
    folder: Path,
    environment: Mapping[str, str],
    function: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    # A server that a sweep of these tests began blocks them.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGHUP))
    os.setpgid(0, 0)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    output.close()
    if errors is not None:
        with Path(errors).open("wb") as file:
            os.dup2(file.fileno(), 2)
    copy_databases(pytest.MonkeyPatch(), Path(environment[DATABASES]))
    try:
        function(*arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
