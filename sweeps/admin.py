"""Administration of studies from outside their sweeps: status, stop, repair, delete."""

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
from sweeps.ownership import fail_stale
from sweeps.storage.optuna_storage import open_storage
from sweeps.study import FINGERPRINT, LINKS, UID, find_study, read_records, trial_id
from sweeps.trial_queue import TrialQueue
from sweeps.trials import (
    STOP,
    TrialSummary,
    count_reasons,
    final_trials,
    first_attempt,
    group_attempts,
    merge_attempts,
    ranked,
    reason_of,
    summarize,
)


@dataclass(frozen=True)
class StudyStatus:
    """The status of a study.

    Args:
        uid: Unique id.
        objectives: Names of the objectives.
        links: Links to its other records.
        counts: Numbers of finished trials by reason.
        reasons: Reason of every attempt by its number; `running` or `waiting` before its end.
        finished: Numbers of the first attempts at finished trials.
        running: Running trials, as far as can be told from this host.
        orphaned: Trials that are RUNNING although their coordinator is dead.
        n_steps: Training steps of all trials that have ended.
        changed_at: Last start or end of a trial.
    """

    name: str
    uid: str | None
    objectives: Sequence[str]
    links: Mapping[str, str]
    counts: Mapping[str, int]
    best: TrialSummary | None
    failed: Sequence[TrialSummary]
    reasons: Mapping[str, str]
    finished: Sequence[int]
    running: Sequence[TrialSummary]
    orphaned: Sequence[TrialSummary]
    n_queued: int
    n_steps: int
    changed_at: datetime | None


class Studies:
    """The studies of a storage. Every method that takes a name raises SweepError if there is no such study.

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
        """Return the status of a study."""
        study = self._find(name)
        queue = TrialQueue(study, self._storage)
        orphaned = [summarize(trial) for trial in queue.abandoned()]
        trials = queue.trials()
        running = [summarize(trial) for trial in trials if trial.state == TrialState.RUNNING]
        final, ranking, records = final_trials(trials), ranked(trials), read_records(study)
        times = [at for t in trials for at in (t.datetime_start, t.datetime_complete) if at is not None]
        return StudyStatus(
            name=name,
            uid=records.get(UID),
            objectives=study.metric_names or ["value"] * len(study.directions),
            links=records.get(LINKS, {}),
            counts=count_reasons(final),
            best=summarize(ranking[0]) if ranking else None,
            failed=[summarize(t) for t in final if t.state == TrialState.FAIL],
            reasons={str(t.number): reason_of(t) for t in trials},
            finished=[first_attempt(t) for t in final],
            running=[trial for trial in running if trial not in orphaned],
            orphaned=orphaned,
            n_queued=sum(t.state == TrialState.WAITING for t in trials),
            n_steps=queue.n_steps(),
            changed_at=max(times, default=None),
        )

    def trials(self, name: str) -> list[TrialSummary]:
        """Return the finished trials of a study by first attempt, each with the reports of all attempts."""
        trials = self._find(name).get_trials(deepcopy=False)
        merged = {first: merge_attempts(attempts) for first, attempts in group_attempts(trials).items()}
        return [
            replace(summarize(trial), reports=merged[first_attempt(trial)].intermediate_values)
            for trial in sorted(final_trials(trials), key=first_attempt)
        ]

    def first_attempts(self, name: str) -> dict[int, int]:
        """Return the number of the first attempt at each trial, which names it, by that of any attempt."""
        return {t.number: first_attempt(t) for t in self._find(name).get_trials(deepcopy=False)}

    def fixed(self, name: str) -> dict[str, Any]:
        """Return the values that a study does not search, by dotted key."""
        fingerprint: dict[str, dict[str, Any]] = read_records(self._find(name)).get(FINGERPRINT, {})
        return dict(fingerprint.get("fixed", {}))

    def attributes(self, name: str, prefix: str) -> dict[str, Any]:
        """Return the attributes of a study whose names have a prefix."""
        return {k: v for k, v in self._find(name).user_attrs.items() if k.startswith(prefix)}

    def set_attribute(self, name: str, key: str, value: Any) -> None:
        """Set or replace an attribute of a study."""
        self._find(name).set_user_attr(key, value)

    def distributions(self, name: str) -> dict[str, BaseDistribution]:
        """Return the distributions of a study's params; empty before the first trial."""
        found: dict[str, BaseDistribution] = {}
        for trial in self._find(name).get_trials(deepcopy=False):
            found |= trial.distributions
        return found

    def queue(
        self, name: str, params: Sequence[Mapping[str, Any]], attributes: Sequence[Mapping[str, Any]]
    ) -> None:
        """Queue trials, which the next sweep runs first; those with `suggested_by`, on top of the total."""
        study = self._find(name)
        for each, known in zip(params, attributes, strict=True):
            study.enqueue_trial(dict(each), user_attrs=dict(known))

    def stop(self, name: str, number: int | None = None) -> None:
        """Ask a running trial to end with its results so far, or without a number all sweeps of the study.

        Args:
            name: The study.
            number: Of any attempt at the trial.

        Raises:
            SweepError: If nothing is running.
        """
        status = self.status(name)
        running = {trial.first_attempt: trial.number for trial in status.running}
        listed = f"running trials: {', '.join(map(str, running))}" if running else "no trial is running"
        first = number if number is None else self.first_attempts(name).get(number, number)
        if first is None:
            if not running:
                raise SweepError(f"study '{name}': {listed}")
            self._find(name).set_user_attr(STOP, uuid4().hex)
        elif first not in running:
            reason = status.reasons.get(str(number))
            state = f"is {reason}" if reason else "does not exist"
            raise SweepError(f"study '{name}': trial {number} {state}; {listed}")
        else:
            self._storage.set_trial_user_attr(trial_id(self._storage, name, running[first]), STOP, True)

    def repair(self, name: str) -> int:
        """Fail orphaned trials and queue them again; return their number.

        Trials of other hosts are orphaned if their heartbeat has stopped.
        """
        study = self._find(name)
        queue = TrialQueue(study, self._storage)
        before = {trial.number for trial in queue.trials() if trial.state == TrialState.RUNNING}
        fail_stale(study)
        for trial in queue.abandoned():
            queue.fail(trial.number, "interrupted")
        queue.refresh()
        ended = [trial for trial in queue.trials() if trial.number in before and trial.state.is_finished()]
        for trial in ended:
            if trial.state == TrialState.FAIL:
                queue.queue_again(trial)
        return len(ended)

    def delete(self, name: str, artifacts: Path) -> None:
        """Delete a study without running trials, and its files in the folder of Optuna's artifact store."""
        study, store = self._find(name), FileSystemArtifactStore(artifacts)
        owners: list[Study | FrozenTrial] = [study, *study.get_trials(deepcopy=False)]
        for owner in owners:
            for meta in get_all_artifact_meta(owner, storage=self._storage):
                with contextlib.suppress(ArtifactNotFound):
                    store.remove(meta.artifact_id)
        optuna.delete_study(study_name=name, storage=self._storage)

    def _find(self, name: str) -> Study:
        study = find_study(self._storage, name)
        if study is None:
            names = ", ".join(self.names()) or "none"
            raise SweepError(f"study '{name}': no such study; there are: {names}")
        return study
