"""The trials that a study still needs: new ones up to its total, and retries of failed ones."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweeps.assignment import LOG_FILE
from sweeps.ownership import is_abandoned
from sweeps.storage.optuna_storage import RetryingStorage
from sweeps.study import FINGERPRINT, UID, read_records, trial_id, write_record
from sweeps.trials import (
    ERROR,
    FIRST_ATTEMPT,
    LOW_MEMORY,
    N_STEPS,
    OUT_OF_MEMORY,
    REASON,
    RETRY_OF,
    SUGGESTED,
    count_reasons,
    final_trials,
    first_attempt,
    group_attempts,
    owner_of,
    queued_attributes,
    reason_of,
)

# So many trials that fail for one reason end the sweep:
SAME_FAILURES = 3  # the first ones of a study
FAILURES_IN_A_ROW = 5  # of a coordinator, after their retries
DIVERGED_IN_A_ROW = 20  # part of a search space may diverge
# So many interruptions of a trial under one coordinator, without a step, end the trial:
INTERRUPTIONS_IN_A_ROW = 5


class TrialQueue:
    """Trials of a study, which it reads once after each `refresh`.

    Args:
        study: The study.
        storage: Its storage.
        n_trials: Total of finished trials, without suggested ones.
        retries: Retries of a killed trial.
    """

    def __init__(self, study: Study, storage: RetryingStorage, n_trials: int = 0, retries: int = 0) -> None:
        self.study = study
        self.storage = storage
        self._n_trials = n_trials
        self._retries = retries
        self._trials: list[FrozenTrial] | None = None
        self._failures: list[FrozenTrial] = []  # for one reason, since the last success

    def study_lock(self) -> AbstractContextManager[None]:
        """Lock the study against other coordinators that ask for trials or queue retries."""
        return self.storage.study_lock(self.study._study_id)

    def refresh(self) -> None:
        """Make the next call of `trials` read the storage."""
        self._trials = None

    def uid(self) -> str:
        """Return the study's unique id, which tells it from studies of its name in other storages."""
        if UID not in read_records(self.study):
            with self.study_lock():
                if UID not in read_records(self.study):
                    write_record(self.study, UID, uuid.uuid4().hex)
        return str(read_records(self.study)[UID])

    def trials(self) -> list[FrozenTrial]:
        """Return all trials as last read; read-only."""
        if self._trials is None:
            self._trials = self.study.get_trials(deepcopy=False)
        return self._trials

    def trial_id(self, number: int) -> int:
        """Return the storage's id of a trial."""
        return trial_id(self.storage, self.study.study_name, number)

    def reread(self, number: int) -> FrozenTrial:
        """Return a trial as the storage has it now."""
        return self.storage.get_trial(self.trial_id(number))

    @property
    def n_trials(self) -> int:
        """Total of finished trials, with suggested ones."""
        return self._n_trials + len({first_attempt(t) for t in self.trials() if SUGGESTED in t.user_attrs})

    def n_wanted(self) -> int:
        """Return how many trials are still to be started."""
        states = [trial.state for trial in self.trials()]
        n_new = self.n_trials - len(final_trials(self.trials())) - states.count(TrialState.RUNNING)
        return max(states.count(TrialState.WAITING), n_new)

    def n_steps(self, running: Mapping[int, int] | None = None) -> int:
        """Return the training steps of the study, with those of running trials by number.

        Attempts at one trial count once.
        """
        steps = running or {}
        return sum(
            max(max(steps.get(t.number, 0), int(t.user_attrs.get(N_STEPS, 0))) for t in attempts)
            for attempts in group_attempts(self.trials()).values()
        )

    def fail(self, number: int, reason: str) -> FrozenTrial:
        """Fail a trial that no longer runs; return it, which another coordinator may have failed before."""
        with contextlib.suppress(UpdateFinishedTrialError):
            self.storage.set_trial_user_attr(self.trial_id(number), REASON, reason)
            self.storage.set_trial_state_values(self.trial_id(number), TrialState.FAIL)
        self.refresh()
        return self.reread(number)

    def retry(self, trial: FrozenTrial) -> None:
        """Queue a failed trial again if its reason allows it; if not, keep it until a success."""
        self.refresh()
        if trial.state != TrialState.FAIL:
            self._failures = []
        elif self._may_be_retried(trial):
            self.queue_again(trial)
        elif self._failures and reason_of(self._failures[0]) == reason_of(trial):
            self._failures.append(trial)
        else:
            self._failures = [trial]

    def abandoned(self) -> list[FrozenTrial]:
        """Return the running trials whose coordinator is dead.

        One that is alive creates a trial and records itself as its owner under the study's lock.
        """
        with self.study_lock():
            self.refresh()
            return [t for t in self.trials() if t.state == TrialState.RUNNING and is_abandoned(t)]

    def pending_retries(self) -> list[FrozenTrial]:
        """Return the failed trials that their coordinator is about to queue again, unless it has died."""
        failed = [trial for trial in final_trials(self.trials()) if trial.state == TrialState.FAIL]
        return [trial for trial in failed if self._may_be_retried(trial)]

    def _may_be_retried(self, trial: FrozenTrial) -> bool:
        reason = reason_of(trial)
        once = min(1, self._retries)
        limit = {"killed": self._retries, "crashed": once, OUT_OF_MEMORY: once}.get(reason, 0)
        if limit == 0 and reason != "interrupted":
            return False
        attempts = group_attempts(self.trials()[: trial.number + 1])[first_attempt(trial)]
        if reason == "interrupted":
            return not _is_stuck(attempts)
        return sum(reason_of(each) == reason for each in attempts) <= limit

    def queue_again(self, trial: FrozenTrial) -> None:
        """Queue another attempt at a trial, unless it has been queued."""
        attributes = queued_attributes(trial)
        attributes |= {FIRST_ATTEMPT: first_attempt(trial), RETRY_OF: trial.number}
        if reason_of(trial) == OUT_OF_MEMORY or trial.user_attrs.get(LOW_MEMORY):
            attributes[LOW_MEMORY] = True
        with self.study_lock():
            self.refresh()
            if not any(t.user_attrs.get(RETRY_OF) == trial.number for t in self.trials()):
                self.study.enqueue_trial(self._params_of(trial), user_attrs=attributes)
                self.refresh()

    def _params_of(self, trial: FrozenTrial) -> dict[str, Any]:
        """Return a trial's params; if its coordinator died while drawing them, those that were queued."""
        space: dict[str, Any] = read_records(self.study).get(FINGERPRINT, {}).get("space", {})
        is_whole = space.keys() <= trial.params.keys()
        return trial.params if is_whole else dict(trial.system_attrs.get("fixed_params", {}))

    def common_failure(self, folders: Path) -> str | None:
        """Return why to stop a sweep: the study's first trials, or too many in a row, failed for one reason.

        Args:
            folders: Folder of the trials' folders.
        """
        ended = [t for t in self.trials() if t.state.is_finished() and reason_of(t) != "interrupted"]
        n_different = len(group_attempts(ended))  # a trial that dies again and again is one trial
        if (
            n_different >= SAME_FAILURES
            and ended[0].state == TrialState.FAIL
            and len(count_reasons(ended)) == 1
        ):
            return _describe_failures(f"the first {SAME_FAILURES}", ended[-1], folders)
        row = self._failures
        if row and len(row) >= (DIVERGED_IN_A_ROW if reason_of(row[0]) == "diverged" else FAILURES_IN_A_ROW):
            return _describe_failures(f"the last {len(row)}", row[-1], folders)
        return None


def _is_stuck(attempts: Sequence[FrozenTrial]) -> bool:
    """Return whether a trial is interrupted again and again under one coordinator, and gets no further.

    A coordinator that dies or stops interrupts a trial once. More often it is interrupted by a signal that
    another program sends to its workers, or by coordinators that take each other for dead.
    """
    owner = owner_of(attempts[-1])
    last = [each for each in attempts if owner_of(each) == owner][-INTERRUPTIONS_IN_A_ROW:]
    if owner is None or len(last) < INTERRUPTIONS_IN_A_ROW:
        return False
    n_steps = [int(each.user_attrs.get(N_STEPS, 0)) for each in last]
    return {reason_of(each) for each in last} == {"interrupted"} and max(n_steps) == n_steps[0]


def _describe_failures(which: str, last: FrozenTrial, folders: Path) -> str:
    error = last.user_attrs.get(ERROR, f"see {folders / str(first_attempt(last)) / LOG_FILE}")
    return f"{which} trials all failed ({reason_of(last)}): {error}; the same command continues"
