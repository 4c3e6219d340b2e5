"""The training runs of one trial, one per seed."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nca.config.schema import TrialConfig
from nca.tracking.run_lock import hold
from nca.tracking.store import MlflowStore
from nca.tracking.tracker import Tracker
from nca.training.outcome import STATUS, Outcome
from nca.training.run import train
from sweeps.application import Result
from sweeps.assignment import LOG_FILE
from sweeps.running_trial import RunningTrial

__all__ = ["TrialRuns"]

PATIENCE_S = 60.0  # with an earlier worker of a trial, which leaves it at its next heartbeat
MOST_OF_LOG = 100_000  # last characters that the run keeps


class TrialRuns:
    """The training runs of one trial: one, or `repeats` that differ in their seed alone, one after another.

    Each has a folder of its own then. One that has ended is not trained again in the trial's next attempt,
    even where the worker died before it told of the end.
    """

    def __init__(self, trial: RunningTrial, config: TrialConfig, repeats: int) -> None:
        first = config.seed
        self.attributes: dict[str, Any] = {"training_seed": first}
        self._trial = trial
        self._configs = [replace(config, seed=first + index) for index in range(repeats)]

    def train(self, objectives: Sequence[str]) -> Result:
        """Train what has not ended yet; return the means of the objectives."""
        outcomes: list[Outcome] = []
        for index, config in enumerate(self._configs):
            outcomes.append(self._train_one(index, config))
            if outcomes[-1].reason != "complete":
                break
        last, n_steps = outcomes[-1], sum(outcome.n_steps for outcome in outcomes)
        pictures = [outcome.picture for outcome in outcomes if outcome.picture is not None]
        if len(self._configs) > 1 and pictures:
            shutil.copy(pictures[0], self._trial.folder / "output.png")
        attributes = self.attributes | {"n_steps": n_steps}
        if last.reason != "complete":
            return Result(last.reason, attributes=attributes | last.metrics, pictures=pictures)
        metrics = {key: statistics.fmean(o.metrics[key] for o in outcomes) for key in last.metrics}
        if len(outcomes) > 1:
            for key in objectives:
                values = [outcome.metrics[key] for outcome in outcomes]
                attributes |= {f"{key}_of_seeds": values, f"{key}_sd": statistics.stdev(values)}
        return Result("complete", [metrics[key] for key in objectives], attributes | metrics, pictures)

    def _train_one(self, index: int, config: TrialConfig) -> Outcome:
        folder = self._folder(index)
        with hold(folder, PATIENCE_S):
            return self._train_in(folder, index, config)

    def _train_in(self, folder: Path, index: int, config: TrialConfig) -> Outcome:
        trial = self._trial
        tags = {"optuna_study": trial.study_name, "optuna_trial": str(trial.number)}
        tracker = Tracker()
        done = Outcome.load(folder)
        if done is not None:
            if done.run_id is not None and config.tracking.uri is not None:
                store = MlflowStore(config.tracking.uri)
                if store.has_run(done.run_id):
                    self.attributes.setdefault("mlflow_run_id", done.run_id)
                    tracker = store.tracker(done.run_id, folder)
                    tracker.set_tags(tags)
                    tracker.finish(STATUS[done.reason])
            return done
        if config.tracking.uri is not None:
            seed = f", seed {config.seed}" if len(self._configs) > 1 else ""
            tracker = MlflowStore(config.tracking.uri).open_run(
                folder,
                trial.links["mlflow_experiment_id"],
                name=f"trial {trial.first_attempt}{seed}",
                parent_run_id=trial.links["mlflow_run_id"],
                params=asdict(config),
            )
            tracker.set_tags(tags)
        try:
            return train(config, folder, tracker, _OneOf(trial, index, len(self._configs)))
        finally:
            log = trial.folder / LOG_FILE
            if log.exists():
                tracker.log_text(log.read_text(errors="replace")[-MOST_OF_LOG:], LOG_FILE)
            if tracker.run_id is not None:
                self.attributes.setdefault("mlflow_run_id", tracker.run_id)

    def _folder(self, index: int) -> Path:
        return self._trial.folder / f"seed {index}" if len(self._configs) > 1 else self._trial.folder


@dataclass(frozen=True)
class _OneOf:
    """Follows one of several training runs of a trial; the first alone decides whether it is pruned."""

    trial: RunningTrial
    index: int
    repeats: int

    def progress(self, n_steps: int, of: int, loss: float) -> None:
        self.trial.progress(self.index * of + n_steps, self.repeats * of, loss)

    def report(self, n_steps: int, smoothed: float) -> bool:
        return self.index > 0 or self.trial.report(n_steps, smoothed)

    def interrupt_requested(self) -> bool:
        return self.trial.interrupt_requested()

    def cancelled(self) -> bool:
        return self.trial.cancelled()
