"""Processes of trials, forked from a server process that has loaded the application: they start at once."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import IO

from sweeps import SweepError
from sweeps.assignment import LOG_FILE

PRELOAD = "SWEEPS_PRELOAD"  # environment variable: the modules that `sweeps.executors.preload` loads
OUTPUT = "SWEEPS_OUTPUT"  # environment variable: the file that the server's output goes to
PR_SET_PDEATHSIG = 1
RESTART_TIMEOUT_S = 60.0  # the server loads the application meanwhile
RETRY_EVERY_S = 0.1

_context = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class ForkServer:
    """The server process, of which this process has at most one.

    Args:
        module: Module with `warm_up()`, which the server calls, and `run_worker(folder)`, which runs a trial.
        application: Dotted path of the application that the server loads.
        environment: Environment variables for libraries that read them when they are loaded.
    """

    module: str
    application: str
    environment: Mapping[str, str]

    def prepare(self) -> None:
        """Start the server unless it is running."""
        _context.set_forkserver_preload(["sweeps.executors.preload"])
        before, preload = dict(os.environ), f"{self.module} {self.application}"
        # Python 3.11 does not pass the module path to what it preloads.
        variables = {PRELOAD: preload, OUTPUT: f"/proc/{os.getpid()}/fd/{_output_file().fileno()}"}
        os.environ.update({**self.environment, **variables, "PYTHONPATH": ":".join(sys.path)})
        try:
            forkserver.ensure_running()
        finally:
            os.environ.clear()
            os.environ.update(before)

    def start(self, folder: Path, environment: Mapping[str, str], cores: Sequence[int]) -> BaseProcess:
        """Start a trial in its folder, with environment variables besides ours, on some cores or on all.

        Raises:
            SweepError: If the server dies again and again.
        """
        arguments = (self.module, folder, {**os.environ, **environment}, cores)
        process = _context.Process(target=_run, args=arguments)
        until = time.monotonic() + RESTART_TIMEOUT_S
        while True:
            self.prepare()
            try:
                with hide_main():
                    process.start()
            except (EOFError, ConnectionError) as error:  # a killed server is seen as dead a moment later
                if time.monotonic() > until:
                    raise SweepError(
                        f"the process from which trials are forked died: {self.read_output().strip()}\n"
                        "the same command continues"
                    ) from error
                time.sleep(RETRY_EVERY_S)
            else:
                return process

    def read_output(self) -> str:
        """Return what the server, and trials before they had a log, have printed since the last call."""
        return _output_file().read().decode(errors="replace")


@functools.cache
def _output_file() -> IO[bytes]:
    return tempfile.TemporaryFile()


@contextlib.contextmanager
def hide_main() -> Iterator[None]:
    """Hide the main module, which multiprocessing would import again in each process."""
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _run(module: str, folder: Path, environment: Mapping[str, str], cores: Sequence[int]) -> None:
    os.setpgid(0, 0)  # Ctrl-C is for the coordinator
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))  # the server blocks it
    die_with_parent()
    threading.Thread(target=_die_with_coordinator, daemon=True).start()
    with (folder / LOG_FILE).open("ab") as log:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), stream.fileno())
    os.environ.update(environment)
    if cores:
        os.sched_setaffinity(0, cores)
    importlib.import_module(module).run_worker(folder)


def _die_with_coordinator() -> None:
    coordinator = multiprocessing.parent_process()
    assert coordinator is not None
    connection.wait([coordinator.sentinel])
    os._exit(1)


def die_with_parent() -> None:
    """Make Linux kill this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
