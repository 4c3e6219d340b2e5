"""The trials of a study: the attributes that the engine writes to them, their attempts, how they ended."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

__all__ = [
    "SUGGESTED",
    "best_trial",
    "count_attempts",
    "count_reasons",
    "final_trials",
    "first_attempt",
    "group_attempts",
    "merge_attempts",
    "pareto_front",
    "ranked",
    "reason_of",
    "trial_index",
]

# Keys of the attributes that the engine writes to trials.
SUGGESTED = "suggested_by"  # attribute of a trial that was queued on top of the total
REASON = "reason"
FIRST_ATTEMPT = "first_attempt"  # number of the first attempt: its folder, its name
RETRY_OF = "retry_of"
LOW_MEMORY = "low_memory"  # an earlier attempt ran out of memory
WARM_START = "warm_start"  # study and number of the trial whose set it repeats
RUNG = "completed_rung_"  # begins Optuna's own keys of the rungs that a trial has come to
N_STEPS = "n_steps"  # that a trial has trained, as its application says
STOP = "stop"  # a request that it ends: of a running trial, or of the sweeps that go on with a study
OUT_OF_MEMORY = "out_of_memory"  # a reason


def reason_of(trial: FrozenTrial) -> str:
    """Return why a trial ended; one that Optuna failed when its heartbeat stopped was `killed`."""
    told = trial.user_attrs.get(REASON)
    if told is not None:
        return str(told)
    return "killed" if trial.state == TrialState.FAIL else trial.state.name.lower()


def first_attempt(trial: FrozenTrial) -> int:
    """Return the number of a trial's first attempt, its own where it is the first."""
    return int(trial.user_attrs.get(FIRST_ATTEMPT, trial.number))


def trial_index(number: int, trials: Sequence[FrozenTrial]) -> int:
    """Return how many different trials were asked for before one: its number, had none been tried again."""
    return sum(RETRY_OF not in trial.user_attrs for trial in trials[:number])


def group_attempts(trials: Sequence[FrozenTrial]) -> dict[int, list[FrozenTrial]]:
    """Return the attempts at each trial, by the number of the first."""
    found: dict[int, list[FrozenTrial]] = {}
    for trial in trials:
        found.setdefault(first_attempt(trial), []).append(trial)
    return found


def merge_attempts(of_one: Sequence[FrozenTrial]) -> FrozenTrial:
    """Return the attempts at a trial as one that was never interrupted.

    It is the last attempt under the number of the first. It has also what the others had reported where it
    began to report, and passed there: Optuna keeps both with each attempt alone.
    """
    *earlier, last = of_one
    if not earlier:
        return last
    begins = min(last.intermediate_values, default=math.inf)
    before = {step: v for each in earlier for step, v in each.intermediate_values.items() if step < begins}
    marks = {key: v for each in earlier for key, v in each.system_attrs.items() if key.startswith(RUNG)}
    one = copy.copy(last)
    one.number = first_attempt(last)
    one.intermediate_values = before | last.intermediate_values
    passed = {key: value for key, value in marks.items() if value in before.values()}
    one.system_attrs = passed | last.system_attrs
    return one


def count_attempts(trial: FrozenTrial, trials: Sequence[FrozenTrial], reason: str) -> int:
    """Return how many attempts at the same trial, up to this one, ended for the reason."""
    same = [t for t in trials if first_attempt(t) == first_attempt(trial) and t.number <= trial.number]
    return sum(reason_of(t) == reason for t in same)


def final_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the finished trials that no retry has followed."""
    superseded = {t.user_attrs[RETRY_OF] for t in trials if RETRY_OF in t.user_attrs}
    return [t for t in trials if t.state.is_finished() and t.number not in superseded]


def count_reasons(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """Return how many of the trials ended for each reason."""
    return dict(Counter(reason_of(t) for t in trials))


def pareto_front(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the complete trials that no other beats in every objective, by the first one."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.values]
    front = [t for t in complete if not any(_dominates(other, t) for other in complete)]
    return sorted(front, key=lambda t: t.values)


def _dominates(one: FrozenTrial, other: FrozenTrial) -> bool:
    pairs = list(zip(one.values, other.values, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def ranked(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the complete trials by their first value, the smallest first."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.values]
    return sorted(complete, key=lambda t: t.values[0])


def best_trial(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Return the complete trial with the smallest first value, None where none is complete."""
    return next(iter(ranked(trials)), None)
