"""The trials of a study: their attributes, their attempts, their results."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState

OWNER = "owner"  # system attribute: host, boot and process id of the coordinator

# Keys of user attributes that the engine writes to trials.
SUGGESTED = "suggested_by"  # method that suggested the trial, which is run on top of the total
PREDICTED = "predicted_"  # prefix of what it predicted
REASON = "reason"  # why the trial ended
FIRST_ATTEMPT = "first_attempt"  # number of the first attempt, which names the folder
RETRY_OF = "retry_of"  # number of the attempt before
LOW_MEMORY = "low_memory"  # whether an earlier attempt ran out of memory
WARM_START = "warm_start"  # study and number of the trial whose params it repeats
STOP = "stop"  # request to stop: on a running trial, or on a study for its running sweeps
N_STEPS = "n_steps"  # training steps, written by the application
ERROR = "error"  # one line, written by the worker or the application

OUT_OF_MEMORY = "out_of_memory"  # a reason
RUNG = "completed_rung_"  # prefix of the system attributes in which Optuna's ASHA keeps values of rungs


@dataclass(frozen=True)
class TrialSummary:
    """A trial as applications and programs outside the engine see it.

    Args:
        first_attempt: Number of the first attempt, which names the folder.
        reason: Why it ended; `running` or `waiting` before.
        values: One value per objective of a complete trial; the last report of a pruned one, a training loss.
        attributes: User attributes, of the engine and of the application.
        reports: Intermediate values by training step.
        started_at: Start of this attempt.
        seconds: Duration of this attempt; None before its end.
        owner: Host and process id of the coordinator; empty if unknown.
    """

    number: int
    first_attempt: int
    params: Mapping[str, Any]
    reason: str
    values: Sequence[float]
    attributes: Mapping[str, Any]
    reports: Mapping[int, float]
    started_at: datetime | None
    seconds: float | None
    owner: str = ""

    @property
    def value(self) -> float | None:
        """First objective of a complete trial."""
        return self.values[0] if self.reason == "complete" else None

    @property
    def error(self) -> str:
        """Error message; empty if there is none."""
        return str(self.attributes.get(ERROR, ""))


def summarize(trial: FrozenTrial) -> TrialSummary:
    """Return the summary of a trial."""
    owner = owner_of(trial)
    return TrialSummary(
        number=trial.number,
        first_attempt=first_attempt(trial),
        params=trial.params,
        reason=reason_of(trial),
        values=trial.values or (),
        attributes=trial.user_attrs,
        reports=trial.intermediate_values,
        started_at=trial.datetime_start,
        seconds=None if trial.duration is None else trial.duration.total_seconds(),
        owner="" if owner is None else f"{owner['host']}, process {owner['pid']}",
    )


def owner_of(trial: FrozenTrial) -> dict[str, Any] | None:
    """Return the coordinator of a trial, which an earlier version kept as a user attribute."""
    owner: dict[str, Any] | None = trial.system_attrs.get(OWNER, trial.user_attrs.get(OWNER))
    return owner


def reason_of(trial: FrozenTrial) -> str:
    """Return why a trial ended; `killed` if Optuna failed it because its heartbeat stopped."""
    failed = "killed" if trial.state == TrialState.FAIL else trial.state.name.lower()
    return str(trial.user_attrs.get(REASON, failed))


def first_attempt(trial: FrozenTrial) -> int:
    """Return the number of the first attempt at a trial."""
    return int(trial.user_attrs.get(FIRST_ATTEMPT, trial.number))


def queued_attributes(trial: FrozenTrial) -> dict[str, Any]:
    """Return what a trial was queued with apart from its params: who proposed it, and what was predicted."""
    known = (SUGGESTED, WARM_START)
    return {k: v for k, v in trial.user_attrs.items() if k in known or k.startswith(PREDICTED)}


def trial_index(number: int, trials: Sequence[FrozenTrial]) -> int:
    """Return how many trials before a number are no retries: the trial's number if there were none."""
    return sum(RETRY_OF not in trial.user_attrs for trial in trials[:number])


def group_attempts(trials: Sequence[FrozenTrial]) -> dict[int, list[FrozenTrial]]:
    """Return the attempts at each trial, by the number of the first attempt."""
    found: dict[int, list[FrozenTrial]] = {}
    for trial in trials:
        found.setdefault(first_attempt(trial), []).append(trial)
    return found


def merge_attempts(attempts: Sequence[FrozenTrial]) -> FrozenTrial:
    """Return the attempts at a trial as one trial that was never interrupted.

    It is the last attempt, with the number of the first, and with the reports and rungs of the others from
    before the step where the last one began to report: Optuna keeps them with each attempt.
    """
    *earlier, last = attempts
    if not earlier:
        return last
    begin = min(last.intermediate_values, default=math.inf)
    reports = {step: v for each in earlier for step, v in each.intermediate_values.items() if step < begin}
    rungs = {key: v for each in earlier for key, v in each.system_attrs.items() if key.startswith(RUNG)}
    merged = copy.copy(last)
    merged.number = first_attempt(last)
    merged.intermediate_values = reports | last.intermediate_values
    passed = {key: value for key, value in rungs.items() if value in reports.values()}
    merged.system_attrs = passed | last.system_attrs
    return merged


def final_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the finished trials that have no retry."""
    retried = {t.user_attrs.get(RETRY_OF) for t in trials}
    return [t for t in trials if t.state.is_finished() and t.number not in retried]


def count_reasons(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """Return the number of trials for each reason."""
    return dict(Counter(map(reason_of, trials)))


def ranked(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the complete trials by their first objective, the best first."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda t: t.values[0])
