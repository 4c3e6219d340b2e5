"""How often a trial is queued again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import optuna
import pytest

from sweeps.ownership import describe_owner
from sweeps.storage.optuna_storage import open_storage
from sweeps.trial_queue import TrialQueue
from sweeps.trials import N_STEPS, OWNER

N_OWNERS = 20


def count_retries(folder: Path, pids: Iterable[int | None], *, step: int = 0) -> int:
    """Return how often a trial is retried that is interrupted under coordinators of these process ids.

    Each attempt comes some steps further; a coordinator without a process id dies before it is recorded.
    """
    storage = open_storage(f"sqlite:///{folder / 'optuna.db'}")
    study = optuna.create_study(storage=storage)
    queue = TrialQueue(study, storage, n_trials=1, retries=0)
    study.enqueue_trial({})
    n_retries = 0
    for pid in pids:
        with pytest.warns(UserWarning, match="Heartbeat"):
            trial = study.ask()
        if pid is not None:
            trial.set_user_attr(OWNER, {**describe_owner(), "pid": pid})
        trial.set_user_attr(N_STEPS, step * trial.number)
        queue.retry(queue.fail(trial.number, "interrupted"))
        if not queue.n_wanted():
            break
        n_retries += 1
    return n_retries


def test_coordinators_that_take_each_other_for_dead_do_not_retry_a_trial_for_ever(tmp_path: Path) -> None:
    assert count_retries(tmp_path, [1, 2] * N_OWNERS) == 8


@pytest.mark.parametrize("pids", [range(N_OWNERS), [None] * N_OWNERS])
def test_the_deaths_of_coordinators_use_up_no_retry(tmp_path: Path, pids: Iterable[int | None]) -> None:
    assert count_retries(tmp_path, pids) == N_OWNERS


def test_a_trial_that_gets_further_is_retried_however_often_it_is_interrupted(tmp_path: Path) -> None:
    assert count_retries(tmp_path, [1] * N_OWNERS, step=3) == N_OWNERS
