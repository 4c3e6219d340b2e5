"""Opening a study: the fingerprint of what must not change; its attempts."""

from __future__ import annotations

import copy
import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweeps import SweepError
from sweeps.space import Space, describe

__all__ = [
    "SUGGESTED",
    "PrunerSpec",
    "StudySpec",
    "as_one",
    "attempts",
    "best_trial",
    "by_origin",
    "count_reasons",
    "ended_for_good",
    "fail_stale",
    "find_study",
    "is_abandoned",
    "open_study",
    "ordinal",
    "origin",
    "pareto_front",
    "ranked",
    "reason_of",
]

SUGGESTED = "suggested_by"  # attribute of a trial that was queued on top of the total
ORPHAN_S = 5  # age at which a trial that still has no owner has lost it
SHOWN_DIFFERENCES = 5

# Keys of the attributes that the engine writes to studies and trials.
FINGERPRINT = "fingerprint"
REASON = "reason"
ORIGIN = "origin"  # number of the first attempt: its folder, its name
RETRY_OF = "retry_of"
LEAN = "lean"  # an earlier attempt ran out of memory
OWNER = "owner"
LINKS = "links"  # of a study: what its application returned
WARM_START = "warm_start"  # study and number of the trial whose set it repeats
RUNG = "completed_rung_"  # begins Optuna's own keys of the rungs that a trial has come to
N_STEPS = "n_steps"  # that a trial has trained, as its application says
UID = "uid"  # of a study: no other has it, of whatever name in whatever storage
STOP = "stop"  # a request that it ends: of a running trial, or of the sweeps that go on with a study
OUT_OF_MEMORY = "out_of_memory"  # a reason


@dataclass(frozen=True)
class PrunerSpec:
    """A pruner by name and its options; `max_resource` is a trial's number of steps."""

    name: str
    max_resource: int
    options: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StudySpec:
    """What a study is.

    Args:
        name: Its name in the storage.
        storage: SQLAlchemy address.
        space: What the sampler varies.
        fixed: Every other value that a result depends on, by dotted key; JSON scalars.
        objectives: Names of what is minimized.
    """

    name: str
    storage: str
    space: Space
    fixed: Mapping[str, Any]
    objectives: Sequence[str] = ("value",)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What two commands must agree on to share the study."""
        fixed = {**self.fixed, "sweep.objectives": ",".join(self.objectives)}
        return {"fixed": fixed, "space": describe(self.space)}


def find_study(storage: RDBStorage, name: str) -> Study | None:
    """Return a study without changing anything, None where there is none."""
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None


def open_study(spec: StudySpec, storage: RDBStorage) -> Study:
    """Create a study, or go on with it if it is the same.

    Raises:
        SweepError: If a study of that name differs in its space or in a fixed value.
    """
    known = find_study(storage, spec.name)
    if known is not None and FINGERPRINT in known.user_attrs:
        check_fingerprint(spec, known.user_attrs[FINGERPRINT])
    study = optuna.create_study(
        study_name=spec.name,
        storage=storage,
        directions=["minimize"] * len(spec.objectives),
        load_if_exists=True,
    )
    recorded = study.user_attrs.get(FINGERPRINT)
    if recorded is None:
        study.set_user_attr(FINGERPRINT, spec.fingerprint)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(spec.objectives))
        return study
    check_fingerprint(spec, recorded)
    return study


def check_fingerprint(spec: StudySpec, recorded: Mapping[str, Any]) -> None:
    """Refuse to go on with a study under another config or space.

    Raises:
        SweepError: If a key differs; named with both values.
    """
    ours = json.loads(json.dumps(spec.fingerprint))
    differences = []
    for part in ("space", "fixed"):
        for key in sorted(ours[part].keys() | recorded[part].keys()):
            before, now = (side[part].get(key, "(none)") for side in (recorded, ours))
            newer = before == "(none)" and now is None  # a key that there was not when the study began
            moved = part == "fixed" and key in ours["space"].keys() ^ recorded["space"].keys()
            if before != now and not newer and not moved:
                differences.append(f"{key} {before} -> {now}")
    if differences:
        more = len(differences) - SHOWN_DIFFERENCES
        shown = "; ".join(differences[:SHOWN_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
        raise SweepError(
            f"study '{spec.name}' was begun with another config: {shown}. "
            "Go back to it, or begin another study with sweep.study=NAME"
        )


def check_folders(spec: StudySpec, storage: RDBStorage, trials: Path) -> None:
    """Refuse to begin among the folders of another study of that name, which the storage does not know.

    Args:
        spec: The study.
        storage: Where it is, or will be.
        trials: Folder of its trials' folders.

    Raises:
        SweepError: If there are folders of trials that it does not have.
    """
    folders = {int(folder.name) for folder in trials.glob("*") if folder.name.isdecimal()}
    study = find_study(storage, spec.name)  # after the folders: another sweep may be making both
    unknown = folders - {trial.number for trial in study.get_trials(deepcopy=False)} if study else folders
    if unknown:
        raise SweepError(
            f"{trials}: holds trial {min(unknown)} of a study that sweep.storage={spec.storage} does not "
            "know; give the storage that does, or another name with sweep.study=NAME, or delete that folder"
        )


def reason_of(trial: FrozenTrial) -> str:
    """Return why a trial ended; one that Optuna failed when its heartbeat stopped was `killed`."""
    told = trial.user_attrs.get(REASON)
    if told is not None:
        return str(told)
    return "killed" if trial.state == TrialState.FAIL else trial.state.name.lower()


def origin(trial: FrozenTrial) -> int:
    """Return the number of a trial's first attempt, its own where it is the first."""
    return int(trial.user_attrs.get(ORIGIN, trial.number))


def ordinal(number: int, trials: Sequence[FrozenTrial]) -> int:
    """Return how many different trials were asked for before one: its number, had none been tried again."""
    return sum(RETRY_OF not in trial.user_attrs for trial in trials[:number])


def by_origin(trials: Sequence[FrozenTrial]) -> dict[int, list[FrozenTrial]]:
    """Return the attempts at each trial, by the number of the first."""
    found: dict[int, list[FrozenTrial]] = {}
    for trial in trials:
        found.setdefault(origin(trial), []).append(trial)
    return found


def as_one(of_one: Sequence[FrozenTrial]) -> FrozenTrial:
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
    one.number = origin(last)
    one.intermediate_values = before | last.intermediate_values
    passed = {key: value for key, value in marks.items() if value in before.values()}
    one.system_attrs = passed | last.system_attrs
    return one


def attempts(trial: FrozenTrial, trials: Sequence[FrozenTrial], reason: str) -> int:
    """Return how many attempts at the same trial, up to this one, ended for the reason."""
    same = [t for t in trials if origin(t) == origin(trial) and t.number <= trial.number]
    return sum(reason_of(t) == reason for t in same)


def ended_for_good(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
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


def describe_owner() -> dict[str, Any]:
    """Return what tells whether this process still lives: host, boot and process id."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return {
        "host": os.uname().nodename,
        "boot": boot.read_text().strip() if boot.exists() else "",
        "pid": os.getpid(),
    }


def fail_stale(study: Study) -> None:
    """Fail trials whose heartbeat stopped; the storage's callback is told of each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        fail_stale_trials(study)


def is_abandoned(trial: FrozenTrial) -> bool:
    """Say whether the coordinator that asked for a trial is known to be gone; another host's never is.

    Not for a trial that this process runs: another that bears its process id is of an earlier boot or
    container. A trial without an owner lost its coordinator in the moment between the two writes.
    """
    owner, ours = trial.user_attrs.get(OWNER), describe_owner()
    if owner is None:
        age = datetime.now() - (trial.datetime_start or datetime.now())
        return age > timedelta(seconds=ORPHAN_S)
    if owner["host"] != ours["host"]:
        return False
    return owner["boot"] != ours["boot"] or owner["pid"] == ours["pid"] or not _lives(owner["pid"])


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
