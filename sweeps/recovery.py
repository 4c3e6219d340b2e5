"""Recovery of trials whose coordinator is dead."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from optuna.study import Study
from optuna.trial import FrozenTrial

from sweeps.ownership import fail_stale, is_abandoned
from sweeps.storage.optuna_storage import GRACE_PERIOD_S
from sweeps.trial_queue import TrialQueue

STALE_CHECK_S = 30.0
WAITING_CHECK_S = 5.0
RETRY_DELAY_S = 30.0  # at most, from a failure to its retry: end of worker, study lock


@dataclass
class Recovery:
    """Fails the trials of dead coordinators and queues them again.

    Args:
        queue: The study's trials.
        close_records: Ends the application's records of a failed trial, with a reason.
        settle: Fails a trial by its number, with a reason, and queues it again.
    """

    queue: TrialQueue
    close_records: Callable[[FrozenTrial, str], None]
    settle: Callable[[int, str], None]
    _checked_at: float = field(default_factory=time.monotonic)
    _seen_at: dict[int, float] = field(default_factory=dict)  # pending retries

    def __post_init__(self) -> None:
        self.queue.storage.heartbeat_stale_trial_callback = self._retry_stale

    def recover(self, running: Collection[int] = ()) -> None:
        """Recover trials of this host's dead coordinators, and all without a heartbeat, but not `running`.

        How long others had for a retry is measured here, as the clocks and time zones of hosts differ.
        """
        fail_stale(self.queue.study)
        for trial in self.queue.abandoned():
            if trial.number not in running:
                self.settle(trial.number, "interrupted")
        for trial in self.queue.pending_retries():
            seen_at = self._seen_at.setdefault(trial.number, time.monotonic())
            if is_abandoned(trial) or time.monotonic() - seen_at > RETRY_DELAY_S:
                self.queue.retry(trial)

    def recover_at_intervals(self, running: Collection[int], *, is_waiting: bool) -> None:
        """Recover at intervals, shorter ones while the sweep waits for trials of other coordinators.

        A heartbeat of our own trials comes first: after the machine was suspended their workers are alive,
        but their last heartbeat is old.
        """
        if time.monotonic() - self._checked_at < (WAITING_CHECK_S if is_waiting else STALE_CHECK_S):
            return
        self._checked_at = time.monotonic()
        storage = self.queue.storage
        for number in running:
            storage.record_heartbeat(self.queue.trial_id(number))
        if time.monotonic() - storage.failed_at > GRACE_PERIOD_S:  # others had time for a heartbeat
            self.recover(running)

    def _retry_stale(self, study: Study, trial: FrozenTrial) -> None:
        """Queue a trial again that Optuna failed because its heartbeat stopped."""
        self.close_records(trial, "killed")
        self.queue.retry(trial)
