"""An application whose trials take milliseconds and do what their config says; also a sweep of it.

What a trial does is a list of acts, one per attempt, the last for all further ones:
`succeed`, `crash`, `exit N`, `kill`, `exhaust` memory unless `low_memory`, `exhaust always`, `diverge`,
`interrupt` itself after a step more than before, `interrupt at once`,
`sleep S`, `hang` until asked to stop, `hang deaf` even then, `after N` once trial N has started, `report S`
of its own value every S seconds until pruned.
"""

from __future__ import annotations

import functools
import io
import json
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from sweeps.application import DashboardNotes, Result
from sweeps.coordinator import Coordinator
from sweeps.executors.base import Executor
from sweeps.executors.local import LocalExecutor
from sweeps.executors.slots import Slot
from sweeps.progress import Progress
from sweeps.running_trial import RunningTrial
from sweeps.samplers import SamplerSpec
from sweeps.space import Choice, Interval, Space
from sweeps.spec import Summary, SweepSpec
from sweeps.study import PrunerSpec, StudySpec
from sweeps.trials import TrialSummary

APPLICATION = "tests.sweeps.fake_application:FakeSweep"
SPACE: Space = {"x": Interval(0.0, 1.0), "y": Choice((1, 2, 3))}
N_STEPS = 16
STARTED = "started.txt"
MAX_WAIT_S = 120.0


class FakeSweep:
    """Keeps its records as lines in the folder that the config names."""

    def open_study(
        self, study: str, config: Mapping[str, Any], lock: Callable[[], AbstractContextManager[None]]
    ) -> dict[str, str]:
        self._note(config, f"open {study}")
        return dict(config["links"]) or {"opened": study}

    def warm_up(self) -> None:
        pass

    def run(self, trial: RunningTrial) -> Result:
        attempt = len(read_started(trial.folder))
        with (trial.folder / STARTED).open("a") as file:
            file.write(f"{trial.number} {time.time()} {os.getpid()} {trial.links['opened']}\n")
        acts = trial.config["acts"]
        value = float(trial.config["value"])
        name, _, argument = acts[min(attempt, len(acts) - 1)].partition(" ")
        ended = ACTS[name](trial, argument)
        others = [-value] * (trial.config["n_objectives"] - 1)
        return ended or Result("complete", (value, *others), {"n_steps": N_STEPS})

    def close_trial(self, folder: Path, config: Mapping[str, Any], reason: str) -> None:
        self._note(config, f"trial {folder.name} {reason}")

    def show_study(
        self, config: Mapping[str, Any], links: Mapping[str, str], trials: Sequence[TrialSummary]
    ) -> DashboardNotes:
        self._note(config, f"show {' '.join(f'{each.number}:{each.reason}:{each.value}' for each in trials)}")
        return DashboardNotes(
            f"study {config['records']}", {each.number: f"trial {each.number}" for each in trials}
        )

    def close_study(
        self,
        config: Mapping[str, Any],
        links: Mapping[str, str],
        summary: Mapping[str, float],
        ended_at: datetime | None,
    ) -> None:
        self._note(config, f"close {links['opened']} {json.dumps(dict(summary))}")

    def _note(self, config: Mapping[str, Any], line: str) -> None:
        with Path(config["records"]).open("a") as file:
            file.write(line + "\n")


def crash(trial: RunningTrial, argument: str) -> Result | None:
    raise ValueError(f"crashed on purpose in trial {trial.first_attempt}")


def hang(trial: RunningTrial, argument: str) -> Result | None:
    since = time.monotonic()
    while time.monotonic() - since < MAX_WAIT_S:
        if argument != "deaf" and trial.interrupt_requested():
            return Result("interrupted", attributes={"n_steps": N_STEPS // 2})
        time.sleep(0.01)
    return None


def after(trial: RunningTrial, other: str) -> Result | None:
    since = time.monotonic()
    while not (trial.folder.parent / other / STARTED).exists():
        if time.monotonic() - since > MAX_WAIT_S / 4:
            raise TimeoutError(f"trial {other} did not start beside trial {trial.number}")
        time.sleep(0.01)
    return None


def report(trial: RunningTrial, argument: str) -> Result | None:
    value = float(trial.config["value"])
    for step in range(1, N_STEPS + 1):
        trial.progress(step, N_STEPS, value)
        if not trial.report(step, value):
            return Result("pruned", attributes={"n_steps": step})
        time.sleep(float(argument or 0))
    return None


def interrupt(trial: RunningTrial, argument: str) -> Result | None:
    return Result("interrupted", attributes={"n_steps": 0 if argument else len(read_started(trial.folder))})


def exhaust(trial: RunningTrial, argument: str) -> Result | None:
    return Result("out_of_memory") if argument or not trial.low_memory else None


ACTS: dict[str, Callable[[RunningTrial, str], Result | None]] = {
    "succeed": lambda trial, _: None,
    "crash": crash,
    "exit": lambda trial, code: os._exit(int(code)),
    "kill": lambda trial, _: os.kill(os.getpid(), signal.SIGKILL),
    "exhaust": exhaust,
    "diverge": lambda trial, _: Result("diverged", attributes={"error": "loss nan"}),
    "sleep": lambda trial, seconds: time.sleep(float(seconds)),
    "hang": hang,
    "interrupt": interrupt,
    "after": after,
    "report": report,
}


def read_started(folder: Path) -> list[tuple[int, float, int]]:
    """Return number, time and process id of every attempt that began in a trial's folder."""
    file = folder / STARTED
    attempts = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    return [(int(number), float(at), int(pid)) for number, at, pid, _ in attempts]


@dataclass
class Sweep:
    """A sweep of the fake application.

    Args:
        folder: Of all its records.
        acts: By number of a trial's first attempt; `otherwise` for the rest.
        values: Likewise what a trial returns; its number otherwise.
        processes: Whether trials run in processes of their own, beside each other.
    """

    folder: str
    n_trials: int = 4
    workers: int = 2
    acts: dict[str, list[str]] = field(default_factory=dict)
    otherwise: str = "succeed"
    values: dict[str, float] = field(default_factory=dict)
    retries: int = 2
    sampler: str = "random"
    pruner: str = "none"
    pruner_options: dict[str, int] = field(default_factory=dict)
    grid: bool = False
    study: str = "fake"
    objectives: tuple[str, ...] = ("value",)
    warm_start: str | None = None
    timeout_s: float | None = None
    max_steps: int | None = None
    server: str | None = None
    processes: bool = False
    ray: str | None = None
    storage_path: str | None = None
    storage_timeout_s: float = 0.0

    @property
    def records(self) -> Path:
        return Path(self.folder) / "records.txt"

    @property
    def storage(self) -> str:
        return self.server or f"sqlite:///{Path(self.folder) / 'optuna.db'}"

    @property
    def trials(self) -> Path:
        return Path(self.folder) / "trials" / self.study

    def trial_folder(self, number: int) -> Path:
        return self.trials / str(number)

    def compose(self, params: Mapping[str, Any], number: int) -> dict[str, Any]:
        return {
            "params": dict(params),
            "acts": self.acts.get(str(number), [self.otherwise]),
            "value": self.values.get(str(number), float(number)),
            "n_objectives": len(self.objectives),
            "records": str(self.records),
        }

    def spec(self) -> SweepSpec:
        folder = Path(self.folder)
        space: Space = {"x": Choice((1, 2)), "y": Choice((1, 2))} if self.grid else SPACE
        return SweepSpec(
            study=StudySpec(self.study, self.storage, space, {"fixed": 1}, self.objectives),
            sampler=SamplerSpec(self.sampler, 0),
            pruner=PrunerSpec(self.pruner, N_STEPS, self.pruner_options),
            n_trials=self.n_trials,
            retries=self.retries,
            application=APPLICATION,
            compose=functools.partial(self.compose),
            trials=self.trials,
            artifacts=folder / "artifacts",
            timeout_s=self.timeout_s,
            max_steps=self.max_steps,
            warm_start=self.warm_start,
            storage_timeout_s=self.storage_timeout_s,
        )

    def run(self, console: Console | None = None) -> Summary:
        progress = Progress(console or Console(file=io.StringIO()))
        return Coordinator(self.spec(), self._make_executor(), progress).run()

    def _make_executor(self) -> Executor:
        if self.ray is not None:
            from sweeps.executors.ray import RayExecutor

            return RayExecutor(
                APPLICATION, Path(self.folder), self.ray, self.workers, storage_path=self.storage_path
            )
        if self.processes:
            return LocalExecutor([Slot(index, 1) for index in range(self.workers)], APPLICATION)
        from tests.sweeps.in_process import InProcessExecutor

        return InProcessExecutor(self.workers)
