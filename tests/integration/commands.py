"""The real entry points as processes, at a size that trains within seconds."""

from __future__ import annotations

import contextlib
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

import sweeps.executors.local
from tests.forked import Forked
from tests.sweeps.in_process import InProcessExecutor

SMALL = ("texture=roundleaf", "features=random_filters", "train.size=16", "outputs.robustness=false")
COLUMNS = "200"  # a wide terminal, so that no line of progress is folded
TIMEOUT_S = 300  # of a sweep on cores that others use too

Program = Forked | subprocess.Popen[str]


def environment_of(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment, with one thread, a wide terminal, and more."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": COLUMNS, **(more or {})}


def run_module(
    module: str,
    *argv: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    in_process: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGV` in a folder and return how it ended.

    It is a process of its own, but forked from one that has loaded the libraries; with an environment it is
    begun from nothing. A sweep's trials may run in its process.
    """
    if environment is not None:
        return run_python("-m", module, *argv, folder=folder, environment=environment)
    with tempfile.NamedTemporaryFile("r") as errors:
        program = start_module(module, *argv, folder=folder, errors=errors.name, in_process=in_process)
        try:
            output, _ = program.communicate(TIMEOUT_S)
        finally:
            program.kill()
        return subprocess.CompletedProcess(argv, program.wait(), output, errors.read())


def start_module(
    module: str, *argv: str, folder: Path, errors: str | None = None, in_process: bool = False
) -> Forked:
    """Start `python -m MODULE ARGV` in a process forked from one that has loaded the libraries."""
    more = {"COLUMNS": COLUMNS}
    return Forked(_run, module, argv, in_process, folder=folder, environment=more, errors=errors)


def _run(module: str, argv: Sequence[str], in_process: bool) -> None:
    if in_process:
        pytest.MonkeyPatch().setattr(
            sweeps.executors.local, "LocalExecutor", lambda slots, *_: InProcessExecutor(len(slots))
        )
    sys.argv = [module, *argv]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def run_python(
    *argv: str, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv],
        cwd=folder,
        env=environment_of(environment),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def sweep(
    runs: Path, *overrides: str, folder: Path, processes: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a small sweep whose records go to `runs`; it must end well.

    Its trials run in the process of the sweep, unless they shall have processes of their own.
    """
    given = {override.partition("=")[0] for override in overrides}
    small = [override for override in SMALL if override.partition("=")[0] not in given]
    command = ["-m", *small, "executor.workers=2", f"runs_dir={runs}", *overrides]
    done = run_module("nca.sweep", *command, folder=folder, in_process=not processes)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@contextlib.contextmanager
def begun(runs: Path, *overrides: str, environment: Mapping[str, str] | None = None) -> Iterator[Program]:
    """Start a sweep with two workers; it is ended at the latest with the test.

    With an environment it is begun from nothing.
    """
    command = ["-m", *SMALL, "executor.workers=2", f"runs_dir={runs}", *overrides]
    process: Program
    if environment is None:
        process = start_module("nca.sweep", *command, folder=runs.parent)
    else:
        process = subprocess.Popen(
            [sys.executable, "-m", "nca.sweep", *command],
            cwd=runs.parent,
            env=environment_of(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def wait_until(condition: Callable[[], bool], process: Program) -> None:
    """Wait for a condition that a running sweep brings about."""
    until = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.02)


def listing(folder: Path) -> list[str]:
    """Return every path below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
