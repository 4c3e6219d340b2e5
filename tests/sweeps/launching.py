"""Sweeps of the fake application as processes of their own, and what they have left in a storage."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from optuna.trial import FrozenTrial
from rich.console import Console

import sweeps.coordinator
import sweeps.recovery
from sweeps.output import protect_output
from sweeps.storage.optuna_storage import NoStudiesError, open_storage
from sweeps.study import find_study
from tests.forked import Forked
from tests.sweeps.fake_application import Sweep

__all__ = ["Launch", "hasten", "launching", "read_trials", "wait_until"]

ROOT = Path(__file__).parents[2]
SOON_S = 0.1
TIMEOUT_S = 240.0
Found = TypeVar("Found")
Launch = Callable[[Sweep], Forked]


@contextmanager
def launching() -> Iterator[Launch]:
    """Yield what starts a sweep; whatever still runs at the end is killed."""
    started: list[Forked] = []

    def start(sweep: Sweep) -> Forked:
        started.append(Forked(run, replace(sweep, processes=True), folder=ROOT))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.wait()
            process.stdout.close()


def run(sweep: Sweep) -> None:
    """Run a sweep as the program of this process; the last line that it prints is the counts."""
    hasten(pytest.MonkeyPatch())
    protect_output()
    print(json.dumps(dict(sweep.run(Console()).counts)))


def hasten(patch: pytest.MonkeyPatch) -> None:
    """Let coordinators look every moment for what they look for every few seconds."""
    patch.setattr(sweeps.coordinator, "STOP_CHECK_S", SOON_S)
    patch.setattr(sweeps.recovery, "WAITING_CHECK_S", SOON_S)


def read_trials(address: str, study: str = "fake") -> list[FrozenTrial]:
    """Return a study's trials, none where there is no such study, and leave no connection open."""
    try:
        storage = open_storage(address, create=False)
    except NoStudiesError:
        return []
    found = find_study(storage, study)
    trials = found.get_trials(deepcopy=False) if found else []
    storage.remove_session()
    storage.engine.dispose()
    return trials


def wait_until(condition: Callable[[], Found]) -> Found:
    """Return what a condition finds as soon as it finds something, four minutes at most."""
    until = time.monotonic() + TIMEOUT_S
    while not (found := condition()):
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.2)
    return found
