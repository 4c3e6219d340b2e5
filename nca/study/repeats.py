"""The training runs of a trial, one per seed."""

from __future__ import annotations

import io
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nca.config.schema import TrialConfig
from nca.outputs.contact_sheet import make_contact_sheet
from nca.tracking.run_lock import hold
from nca.tracking.store import MlflowStore
from nca.tracking.tracker import Tracker
from nca.training.outcome import STATUS, Outcome
from nca.training.run import train
from sweeps.application import Result
from sweeps.assignment import LOG_FILE
from sweeps.running_trial import RunningTrial

PICTURE = "target_and_output.png"  # in the dashboard
LOCK_TIMEOUT_S = 300.0  # for an earlier worker, which stops at its next heartbeat, and for a delivery


class Repeats:
    """The training runs of a trial: `repeats` runs with consecutive seeds, one after another.

    Several have a folder each. A run that has ended is not repeated by the trial's next attempt, even if
    the worker died before it reported the end.
    """

    def __init__(self, trial: RunningTrial, config: TrialConfig, repeats: int) -> None:
        self.attributes: dict[str, Any] = {"training_seed": config.seed}
        self._trial = trial
        self._configs = [replace(config, seed=config.seed + index) for index in range(repeats)]

    def train(self, objectives: Sequence[str]) -> Result:
        """Train the runs that have no outcome yet, and return the means of all metrics."""
        outcomes: list[Outcome] = []
        for index in range(len(self._configs)):
            outcomes.append(self._train_one(index))
            if outcomes[-1].reason != "complete":
                break
        last = outcomes[-1]
        outputs = [outcome.picture for outcome in outcomes if outcome.picture is not None]
        if len(self._configs) > 1 and outputs:
            shutil.copy(outputs[0], self._trial.folder / "output.png")
        pictures = [self._draw(outputs)] if outputs else []
        attributes = self.attributes | {"n_steps": sum(outcome.n_steps for outcome in outcomes)}
        if last.reason != "complete":
            return Result(last.reason, attributes=attributes | last.metrics, pictures=pictures)
        metrics = {key: statistics.fmean(o.metrics[key] for o in outcomes) for key in last.metrics}
        if len(outcomes) > 1:
            for key in objectives:
                values = [outcome.metrics[key] for outcome in outcomes]
                attributes |= {f"{key}_of_seeds": values, f"{key}_sd": statistics.stdev(values)}
        return Result("complete", [metrics[key] for key in objectives], attributes | metrics, pictures)

    def _draw(self, outputs: Sequence[Path]) -> Path:
        """Draw the target beside an output of each run, with captions."""
        captions = (
            ["output"] if len(self._configs) == 1 else [f"seed {config.seed}" for config in self._configs]
        )
        target = outputs[0].with_name("target.png")
        drawn = make_contact_sheet([(target, "target"), *zip(outputs, captions, strict=False)])
        drawn.save(self._trial.folder / PICTURE)
        return self._trial.folder / PICTURE

    def _train_one(self, index: int) -> Outcome:
        trial, config, repeats = self._trial, self._configs[index], len(self._configs)
        folder = trial.folder / f"seed {index}" if repeats > 1 else trial.folder
        with hold(folder, LOCK_TIMEOUT_S):
            outcome = Outcome.load(folder)
            tracker = self._open_tracker(folder, config, outcome)
            tracker.set_tags({"optuna_study": trial.study_name, "optuna_trial": str(trial.number)})
            try:
                if outcome is None:
                    tracker.log_file = trial.folder / LOG_FILE
                    title = f"{trial.study_name}, {self._name(config)}"
                    return train(config, folder, tracker, _RunListener(trial, index, repeats), title)
                tracker.finish(STATUS[outcome.reason])
                return outcome
            finally:
                if tracker.run_id is not None:  # an unavailable server creates the run later
                    self.attributes.setdefault("mlflow_run_id", tracker.run_id)

    def _open_tracker(self, folder: Path, config: TrialConfig, outcome: Outcome | None) -> Tracker:
        """Return the tracker of a new run, or of the run of the outcome, or else one that records nothing."""
        trial, uri = self._trial, config.tracking.uri
        if uri is None:
            return Tracker()
        store = MlflowStore(uri)
        if outcome is None:
            return store.open_run(
                folder,
                trial.links["mlflow_experiment_id"],
                name=self._name(config),
                parent_run_id=trial.links["mlflow_run_id"],
                params=asdict(config),
            )
        return store.tracker(outcome.run_id, folder) if store.has_run(outcome.run_id) else Tracker()

    def _name(self, config: TrialConfig) -> str:
        """Return the name of a run: the trial's number, and the seed where there are several."""
        seed = f", seed {config.seed}" if len(self._configs) > 1 else ""
        return f"trial {self._trial.first_attempt}{seed}"


@dataclass(frozen=True)
class _RunListener:
    """Listens to one of a trial's runs; only the first run is pruned."""

    trial: RunningTrial
    index: int
    repeats: int

    def progress(self, n_steps: int, total_steps: int, loss: float) -> None:
        self.trial.progress(self.index * total_steps + n_steps, self.repeats * total_steps, loss)

    def show(self, output: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
        self.trial.show(_encode_png(output), _encode_png(target))

    def report(self, n_steps: int, smoothed: float) -> bool:
        return self.index > 0 or self.trial.report(n_steps, smoothed)

    def interrupt_requested(self) -> bool:
        return self.trial.interrupt_requested()

    def cancelled(self) -> bool:
        return self.trial.cancelled()


def _encode_png(pixels: NDArray[np.uint8]) -> bytes:
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "png")
    return png.getvalue()
