"""What a study's trials say is still to be done: how many are wanted, which are tried again."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweeps import SweepError
from sweeps.storage.optuna_storage import RetryingStorage
from sweeps.study import FINGERPRINT, UID, trial_id
from sweeps.trials import (
    FIRST_ATTEMPT,
    LOW_MEMORY,
    N_STEPS,
    OUT_OF_MEMORY,
    REASON,
    RETRY_OF,
    SUGGESTED,
    count_attempts,
    final_trials,
    first_attempt,
    reason_of,
)

__all__ = ["TrialQueue"]

OWED = timedelta(seconds=30)  # from a failure to its retry: the worker's end, and a turn
SAME_FAILURES = 3  # of the first trials, for the same reason, end the sweep


class TrialQueue:
    """The trials of one study, read when somebody says that they may have changed; queues retries.

    Args:
        study: The study.
        storage: Its storage.
        n_trials: Trials ended for good that are asked for.
        retries: Times a killed trial is tried again.
    """

    def __init__(self, study: Study, storage: RetryingStorage, n_trials: int, retries: int) -> None:
        self._n_trials = n_trials
        self._study = study
        self._storage = storage
        self._retries = retries
        self._trials: list[FrozenTrial] | None = None

    def study_lock(self) -> AbstractContextManager[None]:
        """Keep other coordinators of this study from asking and queueing meanwhile."""
        return self._storage.study_lock(self._study._study_id)

    def refresh(self) -> None:
        """Have the next look at the trials read them anew."""
        self._trials = None

    def uid(self) -> str:
        """Return what tells the study from others of its name in other storages."""
        if UID not in self._study.user_attrs:
            with self.study_lock():
                if UID not in self._study.user_attrs:
                    self._study.set_user_attr(UID, uuid.uuid4().hex)
        return str(self._study.user_attrs[UID])

    def trials(self) -> list[FrozenTrial]:
        """Return all trials as last read; they are not to be changed."""
        if self._trials is None:
            self._trials = self._study.get_trials(deepcopy=False)
        return self._trials

    def trial_id(self, number: int) -> int:
        """Return the storage's id of a trial."""
        return trial_id(self._storage, self._study.study_name, number)

    def reread(self, number: int) -> FrozenTrial:
        """Return a trial as it is now."""
        return self._storage.get_trial(self.trial_id(number))

    @property
    def n_trials(self) -> int:
        """Trials ended for good, in all: what was asked for, and suggestions on top."""
        return self._n_trials + sum(SUGGESTED in trial.user_attrs for trial in self.trials())

    def n_wanted(self) -> int:
        """Return how many trials are still to be started: what is queued, and what the total leaves."""
        trials = self.trials()
        unfinished = sum(t.state == TrialState.RUNNING for t in trials)
        queued = sum(t.state == TrialState.WAITING for t in trials)
        return max(queued, self.n_trials - len(final_trials(trials)) - unfinished)

    def n_steps(self, running: Mapping[int, int]) -> int:
        """Return the training steps of the whole study so far; a trial taken up again counts once.

        Args:
            running: Steps of running trials by number.
        """
        group_attempts: dict[int, int] = {}
        for trial in self.trials():
            n_steps = max(running.get(trial.number, 0), int(trial.user_attrs.get(N_STEPS, 0)))
            group_attempts[first_attempt(trial)] = max(n_steps, group_attempts.get(first_attempt(trial), 0))
        return sum(group_attempts.values())

    def fail(self, number: int, reason: str) -> FrozenTrial:
        """Fail a trial that runs no longer; return it as it is: another coordinator may have been first."""
        with contextlib.suppress(UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(self.trial_id(number), REASON, reason)
            self._storage.set_trial_state_values(self.trial_id(number), TrialState.FAIL)
        self.refresh()
        return self.reread(number)

    def retry(self, trial: FrozenTrial) -> None:
        """Queue a failed trial again while its reason allows it."""
        if trial.state != TrialState.FAIL:
            return
        self.refresh()
        if self._may_be_retried(trial):
            self.queue_again(trial)

    def pending_retries(self) -> list[FrozenTrial]:
        """Return the trials that failed a moment ago, and that whoever ran them is about to queue again."""
        now = datetime.now()
        failed = [trial for trial in final_trials(self.trials()) if trial.state == TrialState.FAIL]
        recent = [trial for trial in failed if abs(now - (trial.datetime_complete or now)) < OWED]
        return [trial for trial in recent if self._may_be_retried(trial)]

    def _may_be_retried(self, trial: FrozenTrial) -> bool:
        reason = reason_of(trial)
        once = min(1, self._retries)
        limit = {"killed": self._retries, "crashed": once, OUT_OF_MEMORY: once}.get(reason, 0)
        return reason == "interrupted" or count_attempts(trial, self.trials(), reason) <= limit

    def queue_again(self, trial: FrozenTrial) -> None:
        """Queue a trial's set again, as another attempt at the same trial, unless somebody has done so."""
        attributes = {FIRST_ATTEMPT: first_attempt(trial), RETRY_OF: trial.number}
        if reason_of(trial) == OUT_OF_MEMORY or trial.user_attrs.get(LOW_MEMORY):
            attributes[LOW_MEMORY] = True
        with self.study_lock():
            self.refresh()
            if not any(t.user_attrs.get(RETRY_OF) == trial.number for t in self.trials()):
                self._study.enqueue_trial(self._params_of(trial), user_attrs=attributes)
                self.refresh()

    def _params_of(self, trial: FrozenTrial) -> dict[str, Any]:
        """Return a trial's set; where its coordinator died over drawing it, what was queued of it, if any."""
        space: dict[str, Any] = self._study.user_attrs.get(FINGERPRINT, {}).get("space", {})
        whole = space.keys() <= trial.params.keys()
        return trial.params if whole else dict(trial.system_attrs.get("fixed_params", {}))

    def give_up_if_hopeless(self, folders: Path) -> None:
        """Refuse to go on once the first trials have all failed alike.

        Args:
            folders: Of the trials' folders.

        Raises:
            SweepError: If so.
        """
        ended = [t for t in self.trials() if t.state.is_finished() and reason_of(t) != "interrupted"]
        reasons = {reason_of(t) for t in ended}
        n_different = len({first_attempt(t) for t in ended})  # one that dies again and again is one trial
        if n_different >= SAME_FAILURES and len(reasons) == 1 and ended[0].state == TrialState.FAIL:
            log = folders / str(first_attempt(ended[-1])) / "log.txt"
            error = ended[-1].user_attrs.get("error", f"see {log}")
            raise SweepError(f"the first {SAME_FAILURES} trials all failed ({reasons.pop()}): {error}")
