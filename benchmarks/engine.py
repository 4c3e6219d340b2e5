"""Measures the throughput of the sweep engine: `python -m benchmarks.engine [N_TRIALS]`.

A study of 2,000 empty trials per sampler, with the real engine, two workers and a SQLite file. Prints trials
per second and the coordinator's memory by quarter of the study, and writes engine.json.
"""

from __future__ import annotations

import io
import json
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sweeps.application import DashboardNotes, Result
from sweeps.coordinator import Coordinator
from sweeps.executors.base import Executor
from sweeps.executors.local import LocalExecutor
from sweeps.executors.slots import Slot
from sweeps.progress import Progress
from sweeps.running_trial import RunningTrial
from sweeps.samplers import SamplerSpec
from sweeps.space import Interval
from sweeps.spec import SweepSpec
from sweeps.storage.optuna_storage import open_storage
from sweeps.study import PrunerSpec, StudySpec, find_study
from sweeps.trials import TrialSummary

N_TRIALS = 2000
QUARTERS = 4
SAMPLERS = ("random", "tpe")
APPLICATION = "benchmarks.engine:Nothing"
RESULTS = Path(__file__).with_name("engine.json")
PAGES_TO_MB = resource.getpagesize() / 1e6


class Nothing:
    """An application whose trials return their sampled parameter at once."""

    def open_study(self, study: str, config: Mapping[str, Any]) -> dict[str, str]:
        return {}

    def warm_up(self) -> None:
        pass

    def run(self, trial: RunningTrial) -> Result:
        trial.report(1, trial.config["x"])
        return Result("complete", (trial.config["x"],), {"n_steps": 1})

    def close_trial(self, folder: Path, config: Mapping[str, Any], reason: str) -> None:
        pass

    def show_study(
        self, config: Mapping[str, Any], links: Mapping[str, str], trials: Sequence[TrialSummary]
    ) -> DashboardNotes:
        return DashboardNotes()

    def close_study(
        self, config: Mapping[str, Any], links: Mapping[str, str], summary: Mapping[str, float]
    ) -> None:
        pass


class Memory(threading.Thread):
    """Records the resident memory of this process, in MB, once a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mb: list[float] = []
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.wait(1.0):
            pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
            self.mb.append(pages * PAGES_TO_MB)


def run(sampler: str, folder: Path, n_trials: int, executor: Executor) -> list[float]:
    """Run a study in a SQLite file; return the end times of its trials, in seconds, sorted."""
    storage = f"sqlite:///{folder / 'optuna.db'}"
    spec = SweepSpec(
        study=StudySpec("nothing", storage, {"x": Interval(0.0, 1.0), "y": Interval(0.0, 1.0)}, {}),
        sampler=SamplerSpec(sampler, 0),
        pruner=PrunerSpec("none", 1),
        n_trials=n_trials,
        retries=0,
        application=APPLICATION,
        compose=lambda params, trial_index: {"x": params.get("x", 0.0), "links": {}},
        trials=folder / "trials",
        artifacts=folder / "artifacts",
    )
    Coordinator(spec, executor, Progress(Console(file=io.StringIO()))).run()
    study = find_study(open_storage(storage), "nothing")
    assert study is not None
    ends = sorted(t.datetime_complete.timestamp() for t in study.trials if t.datetime_complete)
    assert len(ends) == n_trials
    return ends


def measure(sampler: str, folder: Path, n_trials: int) -> dict[str, list[float]]:
    """Run a study; return trials per second and memory in MB by quarter of the study."""
    memory = Memory()
    memory.start()
    executor = LocalExecutor([Slot(index, 1) for index in range(2)], APPLICATION)
    ends = run(sampler, folder, n_trials, executor)
    memory.stop.set()
    size = n_trials // QUARTERS
    rates = [(size - 1) / (ends[q * size + size - 1] - ends[q * size]) for q in range(QUARTERS)]
    every = len(memory.mb) // QUARTERS
    return {"trials_per_s": rates, "memory_mb": [memory.mb[(q + 1) * every - 1] for q in range(QUARTERS)]}


def main() -> None:
    """Measure, print, and write engine.json."""
    n_trials = int(sys.argv[1]) if len(sys.argv) > 1 else N_TRIALS
    table = Table("sampler", "trials/s by quarter", "memory at the end of each quarter, MB")
    results = {}
    for sampler in SAMPLERS:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            results[sampler] = measure(sampler, Path(folder), n_trials)
        found = results[sampler]
        table.add_row(
            f"{sampler}, {time.perf_counter() - start:.0f} s",
            " ".join(f"{rate:.1f}" for rate in found["trials_per_s"]),
            " ".join(f"{mb:.0f}" for mb in found["memory_mb"]),
        )
    Console(width=100).print(table)
    RESULTS.write_text(json.dumps({"n_trials": n_trials, **results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
