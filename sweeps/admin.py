"""Looking after studies from outside a sweep: what runs, asking it to stop, deleting, mending."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweeps import SweepError
from sweeps.ownership import OWNER, fail_stale, is_abandoned
from sweeps.storage.optuna_storage import open_storage
from sweeps.study import FINGERPRINT, LINKS, UID, find_study, trial_id
from sweeps.trial_queue import TrialQueue
from sweeps.trials import (
    STOP,
    best_trial,
    count_reasons,
    final_trials,
    first_attempt,
    group_attempts,
    merge_attempts,
    reason_of,
)

__all__ = ["Studies", "StudyStatus", "TrialSummary"]


@dataclass(frozen=True)
class TrialSummary:
    """What is known of a trial.

    Args:
        number: The trial's.
        first_attempt: Of its first attempt, whose folder it has.
        params: Its set.
        values: One per objective where it is complete.
        reason: Why it ended; `running` where it has not.
        error: What it said then.
        since: When it began.
        owner: Host and process id of its coordinator; empty where not known.
        seconds: From its beginning to its end; None where either is not known.
        attributes: What its application recorded, and the engine.
        reports: Intermediate values by training step; of a trial that was tried again, those of all attempts.
    """

    number: int
    first_attempt: int
    params: Mapping[str, Any]
    values: Sequence[float]
    reason: str
    error: str
    since: datetime | None
    owner: str
    seconds: float | None
    attributes: Mapping[str, Any]
    reports: Mapping[int, float]


@dataclass(frozen=True)
class StudyStatus:
    """What is known of a study.

    Args:
        name: Its name.
        uid: Of no other study; None of one that was begun before there were any.
        objectives: Names of its values.
        links: Where its other records are.
        counts: Trials ended for good, by reason.
        best: The best complete trial.
        failed: Trials ended for good that failed.
        reasons: Of every trial by number; `running` and `waiting` among them.
        ended: Numbers of first attempts at trials ended for good.
        running: Trials whose coordinator lives, as far as can be told from this host.
        left: Trials that are RUNNING, though their coordinator is gone.
        n_queued: Trials that wait to be started.
        n_steps: Training steps of all trials that have ended.
        last_at: When something last began or ended.
    """

    name: str
    uid: str | None
    objectives: Sequence[str]
    links: Mapping[str, str]
    counts: Mapping[str, int]
    best: TrialSummary | None
    failed: Sequence[TrialSummary]
    reasons: Mapping[str, str]
    ended: Sequence[int]
    running: Sequence[TrialSummary]
    orphaned: Sequence[TrialSummary]
    n_queued: int
    n_steps: int
    last_at: datetime | None


class Studies:
    """The studies of a storage, seen and mended from outside their sweeps.

    Args:
        storage: SQLAlchemy address.

    Raises:
        SweepError: If there is no such storage.
    """

    def __init__(self, storage: str) -> None:
        self._storage = open_storage(storage, create=False)

    def names(self) -> list[str]:
        """Return the names of all studies."""
        return sorted(optuna.get_all_study_names(self._storage))

    def status(self, name: str) -> StudyStatus:
        """Return what is known of a study.

        Raises:
            SweepError: If there is none of that name.
        """
        study = self._study(name)
        trials = study.get_trials(deepcopy=False)
        unfinished = [t for t in trials if t.state == TrialState.RUNNING]
        ended, best = final_trials(trials), best_trial(trials)
        moments = [at for t in trials for at in (t.datetime_start, t.datetime_complete) if at is not None]
        return StudyStatus(
            name=name,
            uid=study.user_attrs.get(UID),
            objectives=study.metric_names or ["value"] * len(study.directions),
            links=study.user_attrs.get(LINKS, {}),
            counts=count_reasons(ended),
            best=None if best is None else _note(best),
            failed=[_note(t) for t in ended if t.state == TrialState.FAIL],
            reasons={str(t.number): reason_of(t) for t in trials},
            ended=[first_attempt(t) for t in ended],
            running=[_note(t) for t in unfinished if not is_abandoned(t)],
            orphaned=[_note(t) for t in unfinished if is_abandoned(t)],
            n_queued=sum(t.state == TrialState.WAITING for t in trials),
            n_steps=self._book(study).n_steps({}),
            last_at=max(moments, default=None),
        )

    def trials(self, name: str) -> list[TrialSummary]:
        """Return a study's trials ended for good, by number.

        Raises:
            SweepError: If there is no study of that name.
        """
        trials = self._study(name).get_trials(deepcopy=False)
        reports = {
            first: merge_attempts(each).intermediate_values for first, each in group_attempts(trials).items()
        }
        return [
            replace(_note(trial), reports=reports[first_attempt(trial)]) for trial in final_trials(trials)
        ]

    def fixed(self, name: str) -> dict[str, Any]:
        """Return the values that a study does not search, by dotted key.

        Raises:
            SweepError: If there is no study of that name.
        """
        fingerprint: dict[str, dict[str, Any]] = self._study(name).user_attrs.get(FINGERPRINT, {})
        return dict(fingerprint.get("fixed", {}))

    def attributes(self, name: str, prefix: str) -> dict[str, Any]:
        """Return the attributes of a study whose names begin so.

        Raises:
            SweepError: If there is no study of that name.
        """
        return {k: v for k, v in self._study(name).user_attrs.items() if k.startswith(prefix)}

    def set_attribute(self, name: str, key: str, value: Any) -> None:
        """Set or replace an attribute of a study.

        Raises:
            SweepError: If there is no study of that name.
        """
        self._study(name).set_user_attr(key, value)

    def distributions(self, name: str) -> dict[str, BaseDistribution]:
        """Return what a study's trials were drawn from, by dotted key; empty before the first trial.

        Raises:
            SweepError: If there is no study of that name.
        """
        found: dict[str, BaseDistribution] = {}
        for trial in self._study(name).get_trials(deepcopy=False):
            found |= trial.distributions
        return found

    def queue(self, name: str, sets: Sequence[Mapping[str, Any]], notes: Sequence[Mapping[str, Any]]) -> None:
        """Queue sets, which run first and on top of the total, the next time that the study goes on.

        Args:
            name: The study's.
            sets: Within its space.
            notes: Attributes of each trial; `suggested_by` among them.

        Raises:
            SweepError: If there is no study of that name.
        """
        study = self._study(name)
        for params, note in zip(sets, notes, strict=True):
            study.enqueue_trial(dict(params), user_attrs=dict(note))

    def stop(self, name: str, number: int | None = None) -> None:
        """Ask a running trial to end for good with what it has, or without a number every sweep of the study.

        Raises:
            SweepError: If there is nothing to stop.
        """
        state = self.status(name)
        running = [note.number for note in state.running]
        runs = f"running trials: {', '.join(map(str, running))}" if running else "no trial of it runs"
        if number is None:
            if not running:
                raise SweepError(f"study '{name}': {runs}")
            self._study(name).set_user_attr(STOP, uuid4().hex)
        elif number not in running:
            is_ = f"is {state.reasons[str(number)]}" if str(number) in state.reasons else "does not exist"
            raise SweepError(f"study '{name}': trial {number} {is_}; {runs}")
        else:
            self._storage.set_trial_user_attr(trial_id(self._storage, name, number), STOP, True)

    def repair(self, name: str) -> int:
        """Fail trials that nobody runs any more and queue them again; return how many.

        Those of this host whose coordinator is gone, and all whose heartbeat has stopped.
        """
        study = self._study(name)
        book = self._book(study)
        before = {t.number for t in book.trials() if t.state == TrialState.RUNNING}
        fail_stale(study)
        book.refresh()
        for trial in book.trials():
            if trial.state == TrialState.RUNNING and is_abandoned(trial):
                book.fail(trial.number, "interrupted")
        found = [trial for trial in book.trials() if trial.number in before and trial.state.is_finished()]
        for trial in found:
            if trial.state == TrialState.FAIL:
                book.queue_again(trial)
        return len(found)

    def delete(self, name: str, artifacts: Path) -> None:
        """Delete a study of which no trial runs, with its trials' pictures.

        Args:
            name: The study's.
            artifacts: Folder of Optuna's artifact store.
        """
        store = FileSystemArtifactStore(artifacts)
        study = self._study(name)
        owners: list[Study | FrozenTrial] = [study, *study.get_trials(deepcopy=False)]
        for owner in owners:
            for meta in get_all_artifact_meta(owner, storage=self._storage):
                with contextlib.suppress(ArtifactNotFound):
                    store.remove(meta.artifact_id)
        optuna.delete_study(study_name=name, storage=self._storage)

    def _book(self, study: Study) -> TrialQueue:
        return TrialQueue(study, self._storage, n_trials=0, retries=0)

    def _study(self, name: str) -> Study:
        study = find_study(self._storage, name)
        if study is None:
            there = ", ".join(self.names()) or "none"
            raise SweepError(f"study '{name}': no such study; there are: {there}")
        return study


def _note(trial: FrozenTrial) -> TrialSummary:
    owner = trial.user_attrs.get(OWNER)
    return TrialSummary(
        number=trial.number,
        first_attempt=first_attempt(trial),
        params=trial.params,
        values=trial.values or (),
        reason=reason_of(trial),
        error=str(trial.user_attrs.get("error", "")),
        since=trial.datetime_start,
        owner="" if owner is None else f"{owner['host']}, process {owner['pid']}",
        seconds=None if trial.duration is None else trial.duration.total_seconds(),
        attributes=trial.user_attrs,
        reports=trial.intermediate_values,
    )
