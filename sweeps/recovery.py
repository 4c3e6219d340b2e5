"""Trials whose coordinator is gone, taken over by one that lives."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweeps.ownership import fail_stale, is_abandoned
from sweeps.storage.optuna_storage import GRACE_PERIOD_S, RetryingStorage
from sweeps.trial_queue import TrialQueue
from sweeps.trials import final_trials

__all__ = ["Recovery"]

STALE_CHECK_S = 30.0
WAITING_CHECK_S = 5.0


@dataclass
class Recovery:
    """Takes over the trials of dead coordinators.

    Args:
        study: The study.
        storage: Its storage.
        book: Its trials.
        close_records: Ends an application's records of a failed trial, for the reason given.
        settle: Fails a trial that nobody runs, for the reason given, and queues it again.
    """

    study: Study
    storage: RetryingStorage
    book: TrialQueue
    close_records: Callable[[FrozenTrial, str], None]
    settle: Callable[[int, str], None]
    _checked_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.storage.heartbeat_stale_trial_callback = self._requeue_stale

    def recover(self, running: Collection[int] = ()) -> None:
        """Fail trials left RUNNING by a coordinator that is gone, and queue again all that it left.

        Those of other hosts only where their heartbeat has stopped.

        Args:
            running: Numbers of the trials that this process runs.
        """
        fail_stale(self.study)
        self.book.refresh()
        trials = self.book.trials()
        ended = {trial.number for trial in final_trials(trials)}
        for trial in filter(is_abandoned, trials):
            if trial.number in running:
                continue
            if trial.state == TrialState.RUNNING:
                self.settle(trial.number, "interrupted")
            elif trial.number in ended:  # died between failing it and queueing it again
                self.book.retry(trial)

    def recover_now_and_then(self, running: Collection[int], *, waits: bool) -> None:
        """Recover after a while, a shorter one where the sweep waits for trials of others.

        Our own beat here: after the machine has slept their workers live, and have not beaten for long.
        """
        if time.monotonic() - self._checked_at < (WAITING_CHECK_S if waits else STALE_CHECK_S):
            return
        self._checked_at = time.monotonic()
        for number in running:
            self.storage.record_heartbeat(self.book.trial_id(number))
        if time.monotonic() - self.storage.recovered_at > GRACE_PERIOD_S:  # else nobody else has beaten yet
            self.recover(running)

    def _requeue_stale(self, study: Study, trial: FrozenTrial) -> None:
        """End the records of a trial that Optuna failed as its heartbeat stopped, and queue it again."""
        self.close_records(trial, "killed")
        self.book.retry(trial)
