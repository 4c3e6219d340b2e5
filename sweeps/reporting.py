"""How a sweep shows itself: lines and the live table, the application's records of the study, the summary."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweeps.application import Application, FinishedTrial
from sweeps.assignment import LOG_FILE, read_progress
from sweeps.dashboard import save_notes
from sweeps.progress import (
    Notes,
    Progress,
    Row,
    Totals,
    estimate_left_s,
    format_duration,
    format_params,
    make_row,
)
from sweeps.spec import Summary, SweepSpec
from sweeps.storage.optuna_storage import RetryingStorage
from sweeps.trial_queue import TrialQueue
from sweeps.trials import (
    N_STEPS,
    best_trial,
    count_reasons,
    final_trials,
    first_attempt,
    pareto_front,
    ranked,
    reason_of,
)

__all__ = ["Reporter", "Running"]

SHOW_EVERY_S = 60.0


@dataclass
class Running:
    """A running trial, as the coordinator follows it.

    Args:
        trial: As it was when it began.
        slot: Where it runs.
        notes: Of its progress so far.
        since: When it was started, on the monotonic clock.
    """

    trial: FrozenTrial
    slot: int
    notes: Notes = field(default_factory=Notes)
    since: float = field(default_factory=time.monotonic)


@dataclass
class Reporter:
    """Shows one sweep.

    Args:
        spec: The sweep.
        application: What it runs.
        progress: Where lines and the table go.
        study: The study.
        storage: Its storage.
        book: Its trials.
        links: What the application returned when the study was opened.
    """

    spec: SweepSpec
    application: Application
    progress: Progress
    study: Study
    storage: RetryingStorage
    book: TrialQueue
    links: Mapping[str, str]
    _durations_s: list[float] = field(default_factory=list)
    _shown_at: float = field(default_factory=time.monotonic)

    def announce_start(self, running: Running) -> None:
        """Say that a trial starts, and with which set."""
        number, first = running.trial.number, first_attempt(running.trial)
        again = "" if first == number else f" (again, trial {first})"
        self.progress.say(f"trial {number}{again} starts: {format_params(running.trial.params)}")

    def announce_end(self, trial: FrozenTrial, running: Running | None) -> None:
        """Say how a trial ended.

        Args:
            trial: As it is now.
            running: As it was followed; None where another coordinator started it.
        """
        value = f" {trial.values[0]:.4g}" if trial.values else ""
        took = where = ""
        if running is not None:
            seconds = time.monotonic() - running.since
            took = f" after {format_duration(seconds)}"
            if trial.state == TrialState.COMPLETE:
                self._durations_s.append(seconds)
        if trial.state == TrialState.FAIL:
            error = trial.user_attrs.get("error", "")
            where = f"{': ' * bool(error)}{error}, see {self.spec.folder_of(trial) / LOG_FILE}"
        self.progress.say(f"trial {trial.number} {reason_of(trial)}{value}{took}{where}")

    def show_study(self, every_s: float = 0.0) -> None:
        """Let the application show the study so far, unless it did a moment ago."""
        if time.monotonic() - self._shown_at < every_s:
            return
        trials = [
            FinishedTrial(
                t.number,
                self.spec.folder_of(t),
                reason_of(t),
                t.values[0] if t.state == TrialState.COMPLETE else None,
                t.params,
                t.user_attrs,
            )
            for t in final_trials(self.book.trials())
        ]
        try:
            notes = self.application.show_study(self.spec.compose({}, 0), self.links, trials)
            save_notes(self.study, self.storage, notes)
        except Exception as error:  # a picture of the sweep is no reason to end it
            self.progress.say(f"the study could not be shown: {type(error).__name__}: {error}")
        self._shown_at = time.monotonic()

    def show(self, running: Iterable[Running], n_slots: int) -> None:
        """Show the running trials and the totals."""
        rows = [self._row(each) for each in running]
        trials = self.book.trials()
        ended, best = final_trials(trials), best_trial(trials)
        to_come = max(0, self.book.n_trials - len(ended) - len(rows))
        totals = Totals(
            study=self.study.study_name,
            n_ended=len(ended),
            n_trials=self.book.n_trials,
            counts=count_reasons(ended),
            best=None if best is None else (best.number, best.values[0]),
            left_s=estimate_left_s(rows, self._durations_s, to_come, n_slots),
        )
        self.progress.show(totals, rows)

    def _row(self, running: Running) -> Row:
        running.notes.add(read_progress(self.spec.folder_of(running.trial)))
        return make_row(running.trial.number, running.slot, running.trial.params, running.notes)

    def close(self, at_limit: bool) -> Summary:
        """End the application's records of the sweep; return how it ended."""
        self.show_study()
        trials = self.book.trials()
        ended, ranking = final_trials(trials), ranked(trials)
        values = {"n_trials": float(len(ended))} | ({"best_value": ranking[0].values[0]} if ranking else {})
        self.application.close_study(self.spec.compose({}, 0), self.links, values)
        return Summary(
            counts=count_reasons(ended),
            ranking=ranking,
            front=pareto_front(trials),
            interrupted=len(ended) < self.book.n_trials,
            at_limit=at_limit,
            pruned_after=[int(t.user_attrs.get(N_STEPS, 0)) for t in ended if reason_of(t) == "pruned"],
            links=self.links,
        )
