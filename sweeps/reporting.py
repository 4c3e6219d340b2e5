"""Reports on a sweep: lines and the live table, the application's records of the study, the summary."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from sweeps.application import Application, DashboardNotes
from sweeps.assignment import LOG_FILE, PICTURE_FILE, TARGET_FILE, read_progress
from sweeps.dashboard import save_notes
from sweeps.pictures import Picture
from sweeps.progress import Progress, TrialProgress, estimate_left_s, format_duration, format_params
from sweeps.spec import Summary, SweepSpec
from sweeps.trial_queue import TrialQueue
from sweeps.trials import (
    ERROR,
    N_STEPS,
    TrialSummary,
    count_reasons,
    final_trials,
    first_attempt,
    group_attempts,
    ranked,
    reason_of,
    summarize,
)

SHOW_EVERY_S = 60.0


@dataclass
class Reporter:
    """Reports on one sweep.

    Args:
        config: Config with which the study was opened.
        links: Result of `Application.open_study`.
    """

    spec: SweepSpec
    application: Application
    progress: Progress
    queue: TrialQueue
    config: Mapping[str, Any]
    links: Mapping[str, str]
    _durations_s: list[float] = field(default_factory=list)
    _shown_at: float = field(default_factory=time.monotonic)
    _notes: Future[DashboardNotes] | None = None  # of the application, which is making them

    def print_start(self, trial: FrozenTrial) -> None:
        """Print that a trial starts."""
        first = first_attempt(trial)
        n_attempts = len(group_attempts(self.queue.trials()[: trial.number]).get(first, ())) + 1
        event = "starts" if first == trial.number else f"resumes (attempt {n_attempts})"
        self.progress.print(f"trial {first} {event}: {format_params(trial.params)}")

    def print_end(self, trial: FrozenTrial, running: TrialProgress | None) -> None:
        """Print how a trial ended, and delete the picture of it that the live table showed.

        Its progress is None if another coordinator started it.
        """
        value = f" {trial.values[0]:.4g}" if trial.values else ""
        took = failure = ""
        if running is not None:
            with contextlib.suppress(OSError):  # there is none, or the disk is read-only
                (running.folder / PICTURE_FILE).unlink()
            seconds = time.monotonic() - running.started_at
            took = f" after {format_duration(seconds)}"
            if trial.state == TrialState.COMPLETE:
                self._durations_s.append(seconds)
        if trial.state == TrialState.FAIL:
            error = trial.user_attrs.get(ERROR, "")
            failure = f"{': ' * bool(error)}{error}, see {self.spec.folder_of(trial) / LOG_FILE}"
        self.progress.print(f"trial {first_attempt(trial)} {reason_of(trial)}{value}{took}{failure}")

    def show_study(self, every_s: float) -> None:
        """Let the application show the study in a thread, unless it did so less than `every_s` seconds ago.

        A server that hangs delays no trial. The notes are saved by `show_progress`, once they are made.
        """
        if self._notes is None and time.monotonic() - self._shown_at >= every_s:
            trials = [summarize(trial) for trial in final_trials(self.queue.trials())]
            self._notes = Future()
            Thread(target=self._show, args=(trials, self._notes), daemon=True).start()

    def _show(self, trials: Sequence[TrialSummary], notes: Future[DashboardNotes]) -> None:
        try:
            notes.set_result(self.application.show_study(self.config, self.links, trials))
        except Exception as error:
            notes.set_exception(error)

    def _save_notes(self, notes: Future[DashboardNotes]) -> None:
        """Save the notes, once they are made, or print why there are none."""
        try:
            save_notes(self.queue.study, self.queue.storage, notes.result(), self.spec.artifacts)
        except Exception as error:  # no reason to end the sweep
            self.progress.print(f"the study could not be shown: {type(error).__name__}: {error}")
        self._notes, self._shown_at = None, time.monotonic()

    def show_progress(self, running: Sequence[TrialProgress], n_slots: int) -> None:
        """Show the running trials with their last progress under a headline; save notes that are made."""
        if self._notes is not None and self._notes.done():
            self._save_notes(self._notes)
        for trial in running:
            trial.update(read_progress(trial.folder))
        trials, n_trials = self.queue.trials(), self.queue.n_trials
        n_to_come = max(0, n_trials - len(final_trials(trials)) - len(running))
        left_s = estimate_left_s(running, self._durations_s, n_to_come, n_slots)
        headline = make_headline(self.spec.study.name, trials, n_trials, left_s)
        pictures = [Picture("target", trial.folder / TARGET_FILE) for trial in running[:1]]
        pictures += [Picture(f"trial {trial.number}", trial.folder / PICTURE_FILE) for trial in running]
        self.progress.show(headline, running, pictures)

    def close(self, *, at_limit: bool) -> Summary:
        """End the application's records of the sweep; return its result."""
        if self._notes is not None:  # of an earlier call
            self._save_notes(self._notes)
        self.show_study(0.0)
        if self._notes is not None:
            self._save_notes(self._notes)
        trials = self.queue.trials()
        finished, ranking = final_trials(trials), ranked(trials)
        values = {"n_trials": float(len(finished))}
        if ranking:
            values["best_value"] = ranking[0].values[0]
        ends = [trial.datetime_complete for trial in finished if trial.datetime_complete is not None]
        self.application.close_study(self.config, self.links, values, max(ends, default=None))
        return Summary(
            counts=count_reasons(finished),
            ranking=ranking,
            front=sorted(self.queue.study.best_trials, key=lambda t: t.values),
            interrupted=len(finished) < self.queue.n_trials,
            at_limit=at_limit,
            pruned_after=[int(t.user_attrs.get(N_STEPS, 0)) for t in finished if reason_of(t) == "pruned"],
            links=self.links,
        )


def make_headline(study: str, trials: Sequence[FrozenTrial], n_trials: int, left_s: float | None) -> str:
    """Return the state of a sweep in one line, from all its trials, its total and the seconds left."""
    finished, ranking = final_trials(trials), ranked(trials)
    counts = count_reasons(finished).items()
    parts = [f"{study}: {len(finished)}/{n_trials} trials"]
    parts += [f"{count} {reason}" for reason, count in counts if reason != "complete"]
    if ranking:
        parts.append(f"best {ranking[0].values[0]:.4g} (trial {first_attempt(ranking[0])})")
    if left_s is not None:
        parts.append(f"{format_duration(left_s)} left")
    return ", ".join(parts)
