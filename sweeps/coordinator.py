"""The coordinator: asks, starts, watches, retries, stops. It decides and never trains."""

from __future__ import annotations

import contextlib
import signal
import time
import warnings
from typing import Any

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from sweeps import SweepError
from sweeps.application import load_application
from sweeps.assignment import PROGRESS_FILE, Assignment, read_progress, write_assignment
from sweeps.dashboard import load_dashboard
from sweeps.executors.base import Ended, Executor
from sweeps.ownership import OWNER, describe_owner
from sweeps.progress import Progress, format_duration
from sweeps.pruning import make_pruner
from sweeps.recovery import Recovery
from sweeps.reporting import SHOW_EVERY_S, Reporter, Running
from sweeps.samplers import ask, make_sampler
from sweeps.space import n_configurations
from sweeps.spec import Summary, SweepSpec
from sweeps.storage.optuna_storage import first_line, open_storage
from sweeps.study import LINKS, check_folders, open_study
from sweeps.trial_queue import TrialQueue
from sweeps.trials import FIRST_ATTEMPT, LOW_MEMORY, OUT_OF_MEMORY, STOP, reason_of, trial_index
from sweeps.warm_start import queue_configurations, read_configurations

__all__ = ["Coordinator"]

TICK_S = 0.5
STOP_CHECK_S = 5.0


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
        self._running: dict[int, Running] = {}
        self._stops = 0
        self._at_limit = False
        self._waits = False
        self._is_away = False
        self._started_at = time.monotonic()
        self._looked_at = time.monotonic()

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
        make_pruner(spec.pruner)  # refuses an unknown name
        self._storage = open_storage(spec.study.storage, timeout_s=spec.storage_timeout_s)
        self._storage.on_unavailable = self._while_storage_is_away
        warm_sets = {}
        if spec.warm_start is not None:
            warm_sets = read_configurations(self._storage, spec.warm_start, spec.study.space, spec.n_trials)
        check_folders(spec.study, self._storage, spec.trials)
        study = self._study = open_study(spec.study, self._storage)
        n_trials = spec.n_trials
        if spec.sampler.name == "grid" or not spec.study.space:
            n_trials = int(min(n_trials, n_configurations(spec.study.space)))
        self._book = TrialQueue(study, self._storage, n_trials, spec.retries)
        study.sampler = sampler
        self._storage.skip_running_with = OWNER
        self._earlier_stop = study.user_attrs.get(STOP)
        self._links = self._open_records()
        self._reporter = Reporter(
            spec, self._application, self._progress, study, self._storage, self._book, self._links
        )
        with self._book.study_lock():
            queue_configurations(study, warm_sets)
        self._recovery = Recovery(study, self._storage, self._book, self._close_records, self._settle_dead)
        self._recovery.recover()
        before = {
            number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            with self._progress:
                self._loop()
        finally:
            self._executor.close()  # before its trials are settled
            try:
                for number in list(self._running):
                    self._settle_dead(number, "interrupted")
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
            summary = self._reporter.close(self._at_limit)
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
                self._reporter.show_study(SHOW_EVERY_S)
                self._book.give_up_if_hopeless(self._spec.trials)
            self._recovery.recover_now_and_then(self._running, waits=self._waits)
            self._reporter.show(self._running.values(), self._executor.n_slots)

    def _awaits_others(self) -> bool:
        """Say whether the total hangs on trials of other coordinators: where one dies, ours takes it up."""
        if self._stops:
            return False
        running = [trial for trial in self._book.trials() if trial.state == TrialState.RUNNING]
        others = [trial.number for trial in running + self._book.pending_retries()]
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
            folders = {number: spec.folder_of(running.trial) for number, running in self._running.items()}
            running = {n: int(read_progress(folder).get("n_steps", 0)) for n, folder in folders.items()}
            n_steps = self._book.n_steps(running)
            if n_steps >= spec.max_steps:
                self._stop_at_limit(f"{n_steps} training steps")

    def _stop_at_limit(self, limit: str) -> None:
        self._at_limit = True
        self._stop(f"stopping after {limit}", "ctrl-C")

    def _ask_if_wanted(self) -> Trial | None:
        if not self._book.n_wanted():
            return None
        with self._book.study_lock():
            self._book.refresh()  # another coordinator may have asked for the last one meanwhile
            return self._ask() if self._book.n_wanted() else None

    def _ask(self) -> Trial:
        while True:
            with warnings.catch_warnings():
                # The worker beats, and the coordinator at once: a trial that never beat is never stale.
                warnings.filterwarnings("ignore", message="Heartbeat of storage")
                trial = ask(self._study, self._spec.sampler, self._spec.study.space)
            self._storage.record_heartbeat(self._book.trial_id(trial.number))
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
        first = int(trial.user_attrs.get(FIRST_ATTEMPT, number))
        folder = spec.trials / str(first)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PROGRESS_FILE).unlink(missing_ok=True)  # of an earlier attempt
        config = self._compose(trial)
        assignment = Assignment(
            application=spec.application,
            storage=spec.study.storage,
            study=self._study.study_name,
            number=number,
            first_attempt=first,
            config=config,
            links=self._links,
            pruner={
                "name": spec.pruner.name,
                "max_resource": spec.pruner.max_resource,
                "options": dict(spec.pruner.options),
            },
            artifacts=str(spec.artifacts),
            low_memory=bool(trial.user_attrs.get(LOW_MEMORY)),
            storage_timeout_s=spec.storage_timeout_s,
        )
        write_assignment(folder, assignment)
        slot = self._executor.start(number, folder)
        self._running[number] = Running(self._book.reread(number), slot)
        self._reporter.announce_start(self._running[number])

    def _compose(self, trial: Trial | FrozenTrial) -> dict[str, Any]:
        first = int(trial.user_attrs.get(FIRST_ATTEMPT, trial.number))
        if len(self._book.trials()) < first:
            self._book.refresh()
        return self._spec.compose(trial.params, trial_index(first, self._book.trials()))

    def _settle(self, ended: Ended) -> None:
        """Record an ended worker's trial, whether or not it told of its end itself."""
        trial = self._book.reread(ended.number)
        if not trial.state.is_finished():
            reason = "killed" if ended.signal else "crashed"
            if ended.out_of_memory:
                reason = OUT_OF_MEMORY
            self._settle_dead(ended.number, "interrupted" if self._stops else reason)
            return
        self._reporter.announce_end(trial, self._running.pop(ended.number))
        self._book.retry(trial)

    def _settle_dead(self, number: int, reason: str) -> None:
        """Fail a trial whose worker could not, end its records, and queue it again."""
        running = self._running.pop(number, None)
        trial = self._book.reread(number)
        if not trial.state.is_finished():
            trial = self._book.fail(number, reason)
            if reason_of(trial) == reason:
                self._close_records(trial, reason)
        self._reporter.announce_end(trial, running)
        self._book.retry(trial)

    def _close_records(self, trial: FrozenTrial, reason: str) -> None:
        self._application.close_trial(self._spec.folder_of(trial), self._compose(trial), reason)

    def _interrupt(self, *_: object) -> None:
        """First signal: end trials where they can be taken up again. Second: at once. The loop does it."""
        if self._stops:
            self._stops += 1
        else:
            self._stop("stopping", "once more")

    def _stop(self, what: str, how: str) -> None:
        self._stops = 1
        self._progress.say(f"{what}: trials save what they have; {how} to end at once")
