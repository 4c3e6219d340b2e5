"""Processes of trials, forked from one that has loaded the application, so that each begins at once."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

from sweeps import SweepError
from sweeps.assignment import LOG_FILE

__all__ = ["end", "prepare", "start"]

PRELOAD = "SWEEPS_PRELOAD"  # environment variable: what `sweeps.executors.preload` loads
PR_SET_PDEATHSIG = 1
KILL_WAIT_S = 5.0
SERVER_DIED = 255  # multiprocessing's exit code then

_context = multiprocessing.get_context("forkserver")


def prepare(module: str, application: str, environment: Mapping[str, str]) -> None:
    """Begin to load what trials need in the process that they are forked from; this process has only one.

    Args:
        module: Its `run_worker(folder)` runs a trial; its `warm_up()` loads what that needs.
        application: Dotted path of a class; trials of others have to load them.
        environment: What libraries read as they are loaded.
    """
    _context.set_forkserver_preload(["sweeps.executors.preload"])
    before = dict(os.environ)
    # Python 3.11 does not hand its module path to what it preloads.
    os.environ.update({**environment, PRELOAD: f"{module} {application}", "PYTHONPATH": ":".join(sys.path)})
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def start(
    module: str, application: str, folder: Path, environment: Mapping[str, str], cores: Sequence[int] = ()
) -> BaseProcess:
    """Start a trial.

    Args:
        module: As in `prepare`.
        application: As in `prepare`.
        folder: The trial's, which gets the process's output.
        environment: Of the trial, besides this process's.
        cores: CPU numbers it is pinned to; empty for all.

    Raises:
        SweepError: If the process that it would be forked from died meanwhile.
    """
    prepare(module, application, environment)
    process = _context.Process(target=_run, args=(module, folder, {**os.environ, **environment}, cores))
    try:
        with _without_main():
            process.start()
    except (EOFError, ConnectionError) as error:
        raise SweepError(
            "the process that trials are forked from has died; the same command goes on"
        ) from error
    return process


def end(process: BaseProcess) -> int:
    """Wait for a process that ends; return its exit code, negative for the signal that killed it."""
    process.join(KILL_WAIT_S)
    code = process.exitcode
    return -signal.SIGKILL if code is None or code == SERVER_DIED else code


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide this program, which multiprocessing would have each process import again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _run(module: str, folder: Path, environment: Mapping[str, str], cores: Sequence[int]) -> None:
    """Make this new process its trial's own: group, output, environment, cores; then run the trial."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
    """Have Linux kill this process as soon as its parent has died."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
