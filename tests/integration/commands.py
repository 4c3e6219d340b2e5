"""The real entry points as processes, at a size that trains within seconds."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.templates import DATABASES, copy_databases

SMALL = ("texture=roundleaf", "features=random_filters", "train.size=16", "tracking.endurance=false")
COLUMNS = "200"  # a wide terminal, so that no line of progress is folded
TIMEOUT_S = 300  # of a sweep on cores that others use too
# Loading these takes longer than most of what tests ask for, so it is done once for each worker.
LOADED = [
    "nca.training.preflight",
    "optuna_dashboard",
    "mlflow.store.tracking.sqlalchemy_store",
    "sweeps.coordinator",
]
PROCESSES = multiprocessing.get_context("forkserver")


def environment_of(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment as it is now, with one thread, a wide terminal, and more."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": COLUMNS, **(more or {})}


def run_module(
    module: str, *words: str, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE WORDS` in a folder and return how it ended.

    It is a process of its own, but forked from one that has loaded the libraries; with an environment it is
    begun from nothing.
    """
    if environment is not None:
        return run_python("-m", module, *words, folder=folder, environment=environment)
    PROCESSES.set_forkserver_preload(LOADED)
    with tempfile.TemporaryDirectory() as logs:
        paths = Path(logs, "out"), Path(logs, "err")
        process = PROCESSES.Process(target=_run, args=(module, words, folder, paths, environment_of()))
        with pytest.MonkeyPatch.context() as patch:  # what forks them reads it as it loads torch
            patch.setenv("OMP_NUM_THREADS", "1")
            process.start()
        process.join(TIMEOUT_S)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(words, TIMEOUT_S)
        said = [path.read_text() for path in paths]
        return subprocess.CompletedProcess(words, process.exitcode, *said)


def _run(
    module: str, words: Sequence[str], folder: Path, paths: Sequence[Path], environment: Mapping[str, str]
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path in enumerate(paths, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, descriptor)
        os.close(file)
    sys.argv = [module, *words]
    copy_databases(pytest.MonkeyPatch(), Path(environment[DATABASES]))
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def run_python(
    *words: str, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment_of(environment),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def sweep(
    runs: Path, *words: str, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a small sweep whose records go to `runs`; it must end well."""
    given = {word.partition("=")[0] for word in words}
    small = [word for word in SMALL if word.partition("=")[0] not in given]
    command = ["-m", *small, "executor.workers=2", f"runs_dir={runs}", *words]
    done = run_module("nca.sweep", *command, folder=folder, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@contextlib.contextmanager
def begun(
    runs: Path, *words: str, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start a sweep with two workers; it is ended at the latest with the test."""
    command = ["-m", "nca.sweep", "-m", *SMALL, "executor.workers=2", f"runs_dir={runs}", *words]
    process = subprocess.Popen(
        [sys.executable, *command],
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
        process.communicate()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for a condition that a running sweep brings about."""
    until = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.02)


def listing(folder: Path) -> list[str]:
    """Return every path below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
