"""The real entry points as processes, at a size that trains within seconds."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

SMALL = ("texture=roundleaf", "features=random_filters", "train.size=16", "tracking.endurance=false")
TIMEOUT_S = 300  # of a sweep on cores that others use too


def run_module(
    module: str, *words: str, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE WORDS` in a folder and return how it ended."""
    return run_python("-m", module, *words, folder=folder, environment=environment)


def run_python(
    *words: str, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        # A wide terminal, so that no line of progress is folded.
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **(environment or {})},
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
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **(environment or {})},
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
