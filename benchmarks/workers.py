"""Measures how workers should share a CPU: `python -m benchmarks.workers`.

Training steps of one process with a thread per core, against a single-threaded process per core, at the
study's size and at that of conf/experiment/quick.yaml. Prints the steps per second of the whole machine;
nothing else should run at the same time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.cases import DISTILL, SET_5, Case, make_ours

ROUNDS = 3
SECONDS = 12.0
RESULTS = Path(__file__).with_name("workers.json")
CASES: dict[str, tuple[Case, int]] = {
    "set 5, 128 px": (SET_5, 128),
    "distill, 128 px": (DISTILL, 128),
    "distill, 64 px": (DISTILL, 64),
}


def train_for(name: str, seconds: float) -> float:
    """Return the steps per second of this process over `seconds`, after two warm-up steps."""
    case, size = CASES[name]
    trainer = make_ours(case, size=size)
    for step in range(2):
        trainer.train_step(step)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        trainer.train_step(done)
        done += 1
    return done / (time.perf_counter() - start)


def run_at_once(processes: int, *command: str) -> list[bytes]:
    """Return what concurrent processes print that share the cores evenly, with a thread for each of theirs.

    Args:
        processes: Their number.
        command: A module of Python and its arguments.
    """
    cores = sorted(os.sched_getaffinity(0))
    share = len(cores) // processes
    started = []
    for index in range(processes):
        own = ",".join(map(str, cores[index * share : (index + 1) * share]))
        environment = os.environ | {"OMP_NUM_THREADS": str(share), "MKL_NUM_THREADS": str(share)}
        pinned = ["taskset", "-c", own, sys.executable, "-m", *command]
        started.append(subprocess.Popen(pinned, stdout=subprocess.PIPE, env=environment))
    return [process.communicate()[0] for process in started]


def measure(name: str, processes: int) -> float:
    """Return the steps per second of concurrent processes."""
    return sum(float(rate) for rate in run_at_once(processes, "benchmarks.workers", name))


def main() -> None:
    """Measure, print, and write workers.json."""
    if len(sys.argv) > 1:
        from nca.training.device import keep_freed_memory

        keep_freed_memory()
        print(train_for(sys.argv[1], SECONDS))
        return
    n_cores = len(os.sched_getaffinity(0))
    table = Table("trials", f"one worker, {n_cores} threads", f"{n_cores} workers, one thread", "ratio")
    results = {}
    for name in CASES:
        rates: dict[int, list[float]] = {1: [], n_cores: []}
        for _ in range(ROUNDS):
            for processes, found in rates.items():
                found.append(measure(name, processes))
        one, many = (sorted(found)[ROUNDS // 2] for found in rates.values())
        results[name] = {"one_worker": one, "one_thread_each": many}
        table.add_row(name, f"{one:.2f} steps/s", f"{many:.2f} steps/s", f"{many / one:.2f}")
    Console(width=100).print(table)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
