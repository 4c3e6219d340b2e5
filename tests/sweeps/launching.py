"""Sweeps of the fake application as processes of their own, and what they have left in a storage."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from optuna.trial import FrozenTrial

from sweeps.storage.optuna_storage import open_storage
from sweeps.study import find_study
from tests.sweeps.fake_application import Sweep

__all__ = ["Launch", "launching", "read_trials", "wait_until"]

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240.0
Found = TypeVar("Found")
Launch = Callable[[Sweep], subprocess.Popen[str]]


@contextmanager
def launching() -> Iterator[Launch]:
    """Yield what starts a sweep; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(sweep: Sweep) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.sweeps.fake_application", json.dumps(asdict(sweep))]
        started.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                process_group=0,
            )
        )
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def read_trials(address: str, study: str = "fake") -> list[FrozenTrial]:
    """Return a study's trials, none where there is no such study, and leave no connection open."""
    storage = open_storage(address, create=False)
    found = find_study(storage, study)
    trials = found.get_trials(deepcopy=False) if found else []
    storage.remove_session()
    storage.engine.dispose()
    return trials


def wait_until(condition: Callable[[], Found]) -> Found:
    """Return what a condition finds as soon as it finds something, four minutes at most."""
    until = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.2)
    return found
