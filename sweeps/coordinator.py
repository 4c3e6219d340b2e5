"""The coordinator of a sweep: it asks for trials, starts, watches, retries and stops them."""

from __future__ import annotations

import contextlib
import signal
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from sweeps import SweepError
from sweeps.application import load_application
from sweeps.assignment import PROGRESS_FILE, Assignment, write_assignment
from sweeps.executors.base import Ended, Executor
from sweeps.ownership import describe_owner
from sweeps.progress import Progress, TrialProgress, format_duration
from sweeps.pruning import make_pruner
from sweeps.recovery import Recovery
from sweeps.reporting import SHOW_EVERY_S, Reporter
from sweeps.samplers import ask, make_sampler
from sweeps.space import n_configurations
from sweeps.spec import Summary, SweepSpec
from sweeps.storage.optuna_storage import StorageError, open_storage
from sweeps.study import LINKS, check_folders, open_study, read_records, write_record
from sweeps.trial_queue import TrialQueue
from sweeps.trials import LOW_MEMORY, OUT_OF_MEMORY, OWNER, STOP, first_attempt, reason_of, trial_index
from sweeps.warm_start import queue_configurations, read_configurations

TICK_S = 0.5
STOP_CHECK_S = 5.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last one if a terminal is closed


class Coordinator:
    """Runs one sweep of one study.

    The executor is closed at the end of the sweep.
    """

    def __init__(self, spec: SweepSpec, executor: Executor, progress: Progress) -> None:
        self._spec = spec
        self._executor = executor
        self._progress = progress
        self._application = load_application(spec.application)
        self._running: dict[int, TrialProgress] = {}
        self._n_stops = 0  # 1: trials save checkpoints and end; 2: they are killed
        self._stop_line = "stopping: trials save checkpoints; press Ctrl-C again to stop now"
        self._error: Exception | None = None  # raised once trials have saved checkpoints
        self._at_limit = False
        self._is_waiting = False  # for trials of other coordinators
        self._is_unavailable = False  # the storage
        self._started_at = self._checked_at = time.monotonic()

    def run(self) -> Summary:
        """Run trials until the study has its total.

        Raises:
            SweepError: If the study cannot be opened or written, or too many trials fail for one reason.
        """
        try:
            self._executor.prepare()
            self._open()
            return self._run()
        except StorageError as error:
            raise SweepError(f"{error}; what it holds is kept, and the same command continues") from error
        finally:
            self._executor.close()

    def _open(self) -> None:
        """Check the specification, open the study and its records, and recover its trials."""
        spec, space = self._spec, self._spec.study.space
        sampler = make_sampler(spec.sampler, space)
        make_pruner(spec.pruner)  # refuses an unknown name
        configurations = {}
        if spec.warm_start is not None:  # before anything is created
            configurations = read_configurations(spec.study.storage, spec.warm_start, space, spec.n_trials)
        storage = self._storage = open_storage(spec.study.storage, timeout_s=spec.storage_timeout_s)
        storage.on_unavailable = self._report_unavailable
        check_folders(spec.study, storage, spec.trials)
        study = self._study = open_study(spec.study, storage)
        study.sampler = sampler
        storage.skip_running_with = OWNER
        n_trials = spec.n_trials
        if spec.sampler.name == "grid" or not space:
            n_trials = int(min(n_trials, n_configurations(space)))
        queue = self._queue = TrialQueue(study, storage, n_trials, spec.retries)
        self._earlier_stop = study.user_attrs.get(STOP)
        self._config = spec.compose({}, 0)
        self._links = self._open_records()
        self._reporter = Reporter(spec, self._application, self._progress, queue, self._config, self._links)
        with queue.study_lock():
            queue_configurations(study, configurations)
        self._recovery = Recovery(queue, self._close_records, self._settle_dead)
        self._recovery.recover()

    def _open_records(self) -> dict[str, str]:
        known = read_records(self._study).get(LINKS, {})
        config = {**self._config, "links": known, "uid": self._queue.uid()}
        links = self._application.open_study(self._study.study_name, config, self._queue.study_lock)
        if links != known:
            write_record(self._study, LINKS, links)
        return links

    def _run(self) -> Summary:
        try:
            with self._handle_signals():
                try:
                    with self._progress:
                        self._loop()
                    if self._error is not None:
                        raise self._error
                finally:
                    self._executor.close()  # before its trials are settled
                    for number in list(self._running):
                        self._settle_dead(number, "interrupted")
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is reported
                self._reporter.close(at_limit=self._at_limit)
            raise
        return self._reporter.close(at_limit=self._at_limit)

    def _loop(self) -> None:
        has_stopped_trials = False
        while True:
            if self._is_unavailable:
                self._is_unavailable = False
                self._progress.print("the storage is available again")
            self._check_limits()
            while not self._n_stops and self._executor.n_free() and (trial := self._ask_if_wanted()):
                self._start(trial)
            if self._n_stops and not has_stopped_trials:
                self._stop_trials()
                has_stopped_trials = True
            if self._n_stops > 1 or not (self._running or self._waits_for_others()):
                break
            ended = self._executor.wait(TICK_S)
            self._queue.refresh()
            for each in ended:
                self._settle(each)
            if ended:
                self._reporter.show_study(SHOW_EVERY_S)
                self._stop_at_failures()
            self._recovery.recover_at_intervals(self._running, is_waiting=self._is_waiting)
            self._reporter.show_progress(list(self._running.values()), self._executor.n_slots)

    def _report_unavailable(self, reason: str) -> None:
        """Print once that the storage is unavailable, and pass on an interrupt, as the loop cannot.

        Raises:
            SweepError: At the second interrupt.
        """
        if not self._is_unavailable:
            self._is_unavailable = True
            timeout = format_duration(self._spec.storage_timeout_s)
            self._progress.print(f"the storage does not answer, retrying for up to {timeout}: {reason}")
        if self._n_stops:
            self._stop_trials()
        if self._n_stops > 1:
            raise SweepError(
                f"sweep.storage={self._spec.study.storage}: does not answer ({reason}); "
                "the same command resumes the running trials"
            )

    def _waits_for_others(self) -> bool:
        """Return whether to wait for trials of other coordinators, and take them over if they die."""
        if self._n_stops:
            return False
        running = [trial for trial in self._queue.trials() if trial.state == TrialState.RUNNING]
        others = [first_attempt(trial) for trial in running + self._queue.pending_retries()]
        if others and not self._is_waiting:
            self._progress.print(f"waiting for trials of other sweeps: {', '.join(map(str, others))}")
        self._is_waiting = bool(others)
        return self._is_waiting or bool(self._queue.n_wanted())

    def _check_limits(self) -> None:
        """Stop at a limit of time or steps, or at a request from outside."""
        spec = self._spec
        if self._n_stops:
            return
        if time.monotonic() - self._checked_at > STOP_CHECK_S:
            self._checked_at = time.monotonic()
            if self._study.user_attrs.get(STOP) != self._earlier_stop:
                self._stop("asked to stop")
                return
        if spec.timeout_s is not None and time.monotonic() - self._started_at >= spec.timeout_s:
            self._at_limit = True
            self._stop(f"stopping after {format_duration(spec.timeout_s)}")
        elif spec.max_steps is not None:
            n_steps = self._queue.n_steps({n: running.n_steps for n, running in self._running.items()})
            if n_steps >= spec.max_steps:
                self._at_limit = True
                self._stop(f"stopping after {n_steps} training steps")

    def _stop_at_failures(self) -> None:
        """Stop if trials fail for a reason that others would fail for too."""
        failure = self._queue.common_failure(self._spec.trials)
        if failure is not None and self._error is None:
            self._error = SweepError(failure)
            self._stop("stopping, as too many trials failed")

    @contextlib.contextmanager
    def _handle_signals(self) -> Iterator[None]:
        under_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        numbers = STOP_SIGNALS[: -1 if under_nohup else None]
        before = {number: signal.signal(number, self._interrupt) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupt(self, number: int, _: object) -> None:
        """Handle a signal: the loop stops the trials at the first one, and kills them at the second.

        A closed terminal may send several. A handler must not print: the loop may be printing.
        """
        if number != signal.SIGHUP or not self._n_stops:
            self._n_stops += 1

    def _stop(self, reason: str) -> None:
        self._n_stops = max(1, self._n_stops)
        self._stop_line = f"{reason}: trials save checkpoints; press Ctrl-C to stop now"

    def _stop_trials(self) -> None:
        if self._stop_line:
            self._progress.print(self._stop_line)
            self._stop_line = ""
        self._executor.stop()

    def _ask_if_wanted(self) -> Trial | None:
        if not self._queue.n_wanted():
            return None
        with self._queue.study_lock():
            self._queue.refresh()  # another coordinator may have asked for the last trial
            return self._ask() if self._queue.n_wanted() else None

    def _ask(self) -> Trial:
        while True:
            with warnings.catch_warnings():
                # A trial without a heartbeat is never stale: the first is recorded here, others by workers.
                warnings.filterwarnings("ignore", message="Heartbeat of storage")
                trial = ask(self._study, self._spec.sampler, self._spec.study.space)
            id_ = self._queue.trial_id(trial.number)
            self._storage.record_heartbeat(id_)
            with contextlib.suppress(UpdateFinishedTrialError):  # another coordinator took it for abandoned
                self._storage.set_trial_system_attr(id_, OWNER, describe_owner())
                return trial

    def _start(self, trial: Trial) -> None:
        try:
            self._launch(self._queue.reread(trial.number))
        except Exception as error:  # no other process would know that it does not run
            failed = self._queue.fail(trial.number, "interrupted")
            self._queue.retry(failed)
            self._error = error
            self._stop(f"stopping, as trial {first_attempt(failed)} cannot be started")

    def _launch(self, trial: FrozenTrial) -> None:
        spec, number, folder = self._spec, trial.number, self._spec.folder_of(trial)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PROGRESS_FILE).unlink(missing_ok=True)  # of an earlier attempt
        assignment = Assignment(
            application=spec.application,
            storage=spec.study.storage,
            study=spec.study.name,
            number=number,
            first_attempt=first_attempt(trial),
            config=spec.compose(trial.params, self._index_of(trial)),
            links=self._links,
            pruner=asdict(spec.pruner),
            artifacts=str(spec.artifacts),
            low_memory=bool(trial.user_attrs.get(LOW_MEMORY)),
            storage_timeout_s=spec.storage_timeout_s,
        )
        write_assignment(folder, assignment)
        slot = self._executor.start(number, folder)
        self._running[number] = TrialProgress(first_attempt(trial), slot, folder, trial.params)
        self._reporter.print_start(trial)

    def _index_of(self, trial: FrozenTrial) -> int:
        first = first_attempt(trial)
        if len(self._queue.trials()) < first:
            self._queue.refresh()
        return trial_index(first, self._queue.trials())

    def _settle(self, ended: Ended) -> None:
        """Record the end of a trial's process; most trials were finished by it."""
        trial = self._queue.reread(ended.number)
        if trial.state.is_finished():
            self._reporter.print_end(trial, self._running.pop(ended.number))
            self._queue.retry(trial)
        elif self._n_stops:
            self._settle_dead(ended.number, "interrupted")
        elif ended.out_of_memory:
            self._settle_dead(ended.number, OUT_OF_MEMORY)
        else:
            self._settle_dead(ended.number, "killed" if ended.signal else "crashed")

    def _settle_dead(self, number: int, reason: str) -> None:
        """Fail a trial whose process died, end its records, and queue it again."""
        running = self._running.pop(number, None)
        trial = self._queue.reread(number)
        if not trial.state.is_finished():
            trial = self._queue.fail(number, reason)
            if reason_of(trial) == reason:
                self._close_records(trial, reason)
        self._reporter.print_end(trial, running)
        self._queue.retry(trial)

    def _close_records(self, trial: FrozenTrial, reason: str) -> None:
        self._application.close_trial(self._spec.folder_of(trial), self._config, reason)
