"""The coordinator: asks, starts, watches, retries, stops. It decides and never trains."""

from __future__ import annotations

import contextlib
import signal
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from sweeps import SweepError
from sweeps.dashboard import load_dashboard, save_notes
from sweeps.executors.local import Ended, Executor
from sweeps.progress import (
    Notes,
    Progress,
    Row,
    Totals,
    estimate_left_s,
    format_duration,
    format_set,
    make_row,
)
from sweeps.pruning import make_pruner
from sweeps.samplers import make_sampler
from sweeps.space import n_sets, to_distributions
from sweeps.spec import Summary, SweepSpec
from sweeps.storage.optuna_storage import GRACE_PERIOD_S, first_line, open_storage
from sweeps.study import (
    LEAN,
    LINKS,
    N_STEPS,
    ORIGIN,
    OUT_OF_MEMORY,
    OWNER,
    STOP,
    best_trial,
    check_folders,
    count_reasons,
    describe_owner,
    ended_for_good,
    fail_stale,
    is_abandoned,
    open_study,
    ordinal,
    origin,
    pareto_front,
    ranked,
    reason_of,
)
from sweeps.trial_queue import Book
from sweeps.warm_start import queue_sets, read_sets
from sweeps.worker import (
    PROGRESS_FILE,
    Assignment,
    EndedTrial,
    load_application,
    read_progress,
    write_assignment,
)

__all__ = ["Coordinator"]

TICK_S = 0.5
STALE_CHECK_S = 30.0
STOP_CHECK_S = 5.0
SHOW_EVERY_S = 60.0


@dataclass
class _Running:
    trial: FrozenTrial
    folder: Path
    slot: int
    config: Mapping[str, Any]
    notes: Notes = field(default_factory=Notes)
    since: float | None = None  # None where another coordinator started it


class Coordinator:
    """Runs one sweep of one study.

    Args:
        spec: The sweep.
        executor: Where trials run; closed when the sweep ends.
        progress: Where it is shown.
    """

    def __init__(self, spec: SweepSpec, executor: Executor, progress: Progress) -> None:
        self._spec = spec
        self._executor = executor
        self._progress = progress
        self._application = load_application(spec.application)
        self._running: dict[int, _Running] = {}
        self._stops = 0
        self._at_limit = False
        self._waits = False
        self._is_away = False
        self._started_at = time.monotonic()
        self._durations_s: list[float] = []
        self._checked_at = self._looked_at = self._shown_at = time.monotonic()

    def run(self) -> Summary:
        """Bring the study to its total.

        Raises:
            SweepError: If the study cannot be opened or written, or its first trials all fail for the same
                reason.
        """
        try:
            self._executor.prepare()
            load_dashboard()  # while the workers load what is theirs
            return self._run()
        except (StorageInternalError, SQLAlchemyError) as error:
            raise SweepError(
                f"sweep.storage={self._spec.study.storage}: cannot be written ({first_line(error)}); "
                "what it holds is kept, and the same command goes on"
            ) from error
        finally:
            self._executor.close()

    def _run(self) -> Summary:
        spec = self._spec
        sampler = make_sampler(spec.sampler, spec.study.space)
        pruner = make_pruner(spec.pruner)
        self._storage = open_storage(spec.study.storage, patience_s=spec.storage_timeout_s)
        self._storage.while_away = self._while_storage_is_away
        self._storage.heartbeat_stale_trial_callback = self._requeue_stale
        warm_sets = {}
        if spec.warm_start is not None:
            warm_sets = read_sets(self._storage, spec.warm_start, spec.study.space, spec.n_trials)
        check_folders(spec.study, self._storage, spec.trials)
        study = self._study = open_study(spec.study, self._storage)
        n_trials = spec.n_trials
        if spec.sampler.name == "grid" or not spec.study.space:
            n_trials = int(min(n_trials, n_sets(spec.study.space)))
        self._book = Book(study, self._storage, n_trials, spec.retries)
        # Only what asks has the sampler: the grid's stops a study that is told of its last trial.
        self._asking = optuna.load_study(
            study_name=study.study_name, storage=study._storage, sampler=sampler, pruner=pruner
        )
        self._storage.settled_by = OWNER
        self._earlier_stop = study.user_attrs.get(STOP)
        self._links = self._open_records()
        with self._book.turn():
            queue_sets(study, warm_sets)
        self._recover()
        before = {
            number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            with self._progress:
                self._loop()
        finally:
            self._executor.close()  # before its trials are settled
            try:
                for running in list(self._running.values()):
                    self._settle_dead(running, "interrupted")
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
            summary = self._close()
        return summary

    def _while_storage_is_away(self, reason: str) -> None:
        """Say so once, and pass a stop on, as the loop cannot.

        Raises:
            SweepError: If asked twice to stop.
        """
        if not self._is_away:
            self._is_away = True
            patience = format_duration(self._spec.storage_timeout_s)
            self._progress.say(f"the storage does not answer, waiting up to {patience} for it: {reason}")
        if self._stops:
            self._executor.stop()
        if self._stops > 1:
            raise SweepError(
                f"sweep.storage={self._spec.study.storage}: does not answer ({reason}); "
                "the same command takes up what ran"
            )

    def _open_records(self) -> dict[str, str]:
        known = self._study.user_attrs.get(LINKS, {})
        config = {**self._spec.compose({}, 0), "links": known, "uid": self._book.uid()}
        links = self._application.open_study(self._study.study_name, config)
        if links != known:
            self._study.set_user_attr(LINKS, links)
        return links

    def _loop(self) -> None:
        told = False
        while True:
            if self._is_away:
                self._is_away = False
                self._progress.say("the storage is back")
            self._look_at_limits()
            while not self._stops and self._executor.n_free() and (trial := self._ask_if_wanted()):
                self._start(trial)
            if self._stops > 1 or not (self._running or self._awaits_others()):
                break
            if self._stops and not told:
                self._executor.stop()
                told = True
            ended = self._executor.wait(TICK_S)
            self._book.refresh()
            for each in ended:
                self._settle(each)
            if ended:
                self._show_study(SHOW_EVERY_S)
                self._book.give_up_if_hopeless(self._spec.trials)
            self._look_at_others()
            self._show()

    def _awaits_others(self) -> bool:
        """Say whether the total hangs on trials of other coordinators: where one dies, ours takes it up."""
        if self._stops:
            return False
        running = [trial for trial in self._book.trials() if trial.state == TrialState.RUNNING]
        others = [trial.number for trial in running + self._book.owed()]
        if others and not self._waits:
            self._progress.say(f"waiting for trials that run elsewhere: {', '.join(map(str, others))}")
        self._waits = bool(others)
        return self._waits or bool(self._book.n_wanted())

    def _look_at_limits(self) -> None:
        """Stop as ctrl-C does when the time or the steps are over, or somebody wants it elsewhere."""
        spec = self._spec
        if self._stops:
            return
        if time.monotonic() - self._looked_at > STOP_CHECK_S:
            self._looked_at = time.monotonic()
            if self._study.user_attrs.get(STOP) != self._earlier_stop:
                self._stop("asked to stop", "ctrl-C")
                return
        if spec.timeout_s is not None and time.monotonic() - self._started_at >= spec.timeout_s:
            self._stop_at_limit(format_duration(spec.timeout_s))
        elif spec.max_steps is not None:
            notes = {number: read_progress(running.folder) for number, running in self._running.items()}
            n_steps = self._book.n_steps({n: int(note.get("n_steps", 0)) for n, note in notes.items()})
            if n_steps >= spec.max_steps:
                self._stop_at_limit(f"{n_steps} training steps")

    def _stop_at_limit(self, limit: str) -> None:
        self._at_limit = True
        self._stop(f"stopping after {limit}", "ctrl-C")

    def _ask_if_wanted(self) -> Trial | None:
        if not self._book.n_wanted():
            return None
        with self._book.turn():
            self._book.refresh()  # another coordinator may have asked for the last one meanwhile
            return self._ask() if self._book.n_wanted() else None

    def _ask(self) -> Trial:
        while True:
            with warnings.catch_warnings():
                # The worker beats, and the coordinator at once: a trial that never beat is never stale.
                warnings.filterwarnings("ignore", message="Heartbeat of storage")
                trial = self._asking.ask(to_distributions(self._spec.study.space))
            self._storage.record_heartbeat(self._book.id_of(trial.number))
            with contextlib.suppress(UpdateFinishedTrialError):  # another took it for an orphan
                trial.set_user_attr(OWNER, describe_owner())
                return trial

    def _start(self, trial: Trial) -> None:
        try:
            self._launch(trial)
        except BaseException:  # nobody else would know that it does not run
            self._book.retry(self._book.fail(trial.number, "interrupted"))
            raise

    def _launch(self, trial: Trial) -> None:
        spec, number = self._spec, trial.number
        first = int(trial.user_attrs.get(ORIGIN, number))
        folder = spec.trials / str(first)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PROGRESS_FILE).unlink(missing_ok=True)  # of an earlier attempt
        config = self._compose(trial)
        assignment = Assignment(
            application=spec.application,
            storage=spec.study.storage,
            study=self._study.study_name,
            number=number,
            origin=first,
            config=config,
            links=self._links,
            pruner={
                "name": spec.pruner.name,
                "max_resource": spec.pruner.max_resource,
                "options": dict(spec.pruner.options),
            },
            artifacts=str(spec.artifacts),
            lean=bool(trial.user_attrs.get(LEAN)),
            storage_timeout_s=spec.storage_timeout_s,
        )
        write_assignment(folder, assignment)
        slot = self._executor.start(number, folder)
        self._running[number] = _Running(
            self._book.reread(number), folder, slot, config, since=time.monotonic()
        )
        again = "" if first == number else f" (again, trial {first})"
        self._progress.say(f"trial {number}{again} starts: {format_set(trial.params)}")

    def _compose(self, trial: Trial | FrozenTrial) -> dict[str, Any]:
        first = int(trial.user_attrs.get(ORIGIN, trial.number))
        if len(self._book.trials()) < first:
            self._book.refresh()
        return self._spec.compose(trial.params, ordinal(first, self._book.trials()))

    def _settle(self, ended: Ended) -> None:
        """Record an ended worker's trial, whether or not it told of its end itself."""
        running = self._running[ended.number]
        trial = self._book.reread(running.trial.number)
        if not trial.state.is_finished():
            reason = "killed" if ended.signal else "crashed"
            if ended.out_of_memory:
                reason = OUT_OF_MEMORY
            self._settle_dead(running, "interrupted" if self._stops else reason)
            return
        del self._running[ended.number]
        if trial.state == TrialState.COMPLETE and running.since is not None:
            self._durations_s.append(time.monotonic() - running.since)
        self._announce(trial, running)
        self._book.retry(trial)

    def _settle_dead(self, running: _Running, reason: str) -> None:
        """Fail a trial whose worker could not, end its records, and queue it again."""
        self._running.pop(running.trial.number, None)
        trial = self._book.reread(running.trial.number)
        if not trial.state.is_finished():
            trial = self._book.fail(trial.number, reason)
            if reason_of(trial) == reason:
                self._application.close_trial(running.folder, running.config, reason)
        self._announce(trial, running)
        self._book.retry(trial)

    def _recover(self) -> None:
        """Fail trials left RUNNING by a coordinator that is gone, and queue again all that it left.

        Those of other hosts only where their heartbeat has stopped.
        """
        fail_stale(self._study)
        self._book.refresh()
        trials = self._book.trials()
        ended = {trial.number for trial in ended_for_good(trials)}
        for trial in filter(is_abandoned, trials):
            if trial.number in self._running:
                continue
            if trial.state == TrialState.RUNNING:
                folder = self._spec.trials / str(origin(trial))
                self._settle_dead(_Running(trial, folder, 0, self._compose(trial)), "interrupted")
            elif trial.number in ended:  # died between failing it and queueing it again
                self._book.retry(trial)

    def _look_at_others(self) -> None:
        """Take up the trials of dead coordinators, now and then.

        Our own beat here: after the machine has slept their workers live, and have not beaten for long.
        """
        if time.monotonic() - self._checked_at < (STOP_CHECK_S if self._waits else STALE_CHECK_S):
            return
        self._checked_at = time.monotonic()
        for number in self._running:
            self._storage.record_heartbeat(self._book.id_of(number))
        if time.monotonic() - self._storage.back_at > GRACE_PERIOD_S:  # else nobody else has beaten yet
            self._recover()

    def _requeue_stale(self, study: Study, trial: FrozenTrial) -> None:
        """End the records of a trial that Optuna failed as its heartbeat stopped, and queue it again."""
        folder = self._spec.trials / str(origin(trial))
        self._application.close_trial(folder, self._compose(trial), "killed")
        self._book.retry(trial)

    def _interrupt(self, *_: object) -> None:
        """First signal: end trials where they can be taken up again. Second: at once. The loop does it."""
        if self._stops:
            self._stops += 1
        else:
            self._stop("stopping", "once more")

    def _stop(self, what: str, how: str) -> None:
        self._stops = 1
        self._progress.say(f"{what}: trials save what they have; {how} to end at once")

    def _announce(self, trial: FrozenTrial, running: _Running) -> None:
        reason = reason_of(trial)
        value = f" {trial.values[0]:.4g}" if trial.values else ""
        since = running.since
        took = "" if since is None else f" after {format_duration(time.monotonic() - since)}"
        where = ""
        if trial.state == TrialState.FAIL:
            error = trial.user_attrs.get("error", "")
            where = f"{': ' * bool(error)}{error}, see {running.folder / 'log.txt'}"
        self._progress.say(f"trial {trial.number} {reason}{value}{took}{where}")

    def _show_study(self, every_s: float = 0.0) -> None:
        """Let the application show the study so far, unless it did a moment ago."""
        if time.monotonic() - self._shown_at < every_s:
            return
        trials = [
            EndedTrial(
                t.number,
                self._spec.trials / str(origin(t)),
                reason_of(t),
                t.values[0] if t.state == TrialState.COMPLETE else None,
                t.params,
                t.user_attrs,
            )
            for t in ended_for_good(self._book.trials())
        ]
        try:
            notes = self._application.show_study(self._spec.compose({}, 0), self._links, trials)
            save_notes(self._study, self._storage, notes)
        except Exception as error:  # a picture of the sweep is no reason to end it
            self._progress.say(f"the study could not be shown: {type(error).__name__}: {error}")
        self._shown_at = time.monotonic()

    def _show(self) -> None:
        rows = [self._row(running) for running in self._running.values()]
        trials = self._book.trials()
        ended, best = ended_for_good(trials), best_trial(trials)
        to_come = max(0, self._book.n_trials - len(ended) - len(rows))
        totals = Totals(
            study=self._study.study_name,
            n_ended=len(ended),
            n_trials=self._book.n_trials,
            counts=count_reasons(ended),
            best=None if best is None else (best.number, best.values[0]),
            left_s=estimate_left_s(rows, self._durations_s, to_come, self._executor.n_slots),
        )
        self._progress.show(totals, rows)

    def _row(self, running: _Running) -> Row:
        running.notes.add(read_progress(running.folder))
        return make_row(running.trial.number, running.slot, running.trial.params, running.notes)

    def _close(self) -> Summary:
        self._show_study()
        trials = self._book.trials()
        ended, ranking = ended_for_good(trials), ranked(trials)
        values = {"n_trials": float(len(ended))} | ({"best_value": ranking[0].values[0]} if ranking else {})
        self._application.close_study(self._spec.compose({}, 0), self._links, values)
        return Summary(
            counts=count_reasons(ended),
            ranking=ranking,
            front=pareto_front(trials),
            interrupted=len(ended) < self._book.n_trials,
            at_limit=self._at_limit,
            pruned_after=[int(t.user_attrs.get(N_STEPS, 0)) for t in ended if reason_of(t) == "pruned"],
            links=self._links,
        )
