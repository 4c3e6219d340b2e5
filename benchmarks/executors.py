"""What a trial costs beyond itself, by executor: `python -m benchmarks.executors`.

Studies of trials that do nothing, random sets, a SQLite file, two slots: local processes, and Ray on two
nodes with a CPU each on this machine, which share the disk or a storage. In turns; prints the median seconds
of a slot per trial, and writes executors.json.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.engine import APPLICATION, run
from sweeps.executors.base import Executor
from sweeps.executors.local import LocalExecutor
from sweeps.executors.ray import RayExecutor
from sweeps.executors.slots import Slot
from tests.cluster.ray_cluster import N_NODES, run_cluster

__all__ = ["main"]

ROUNDS = 5
N_TRIALS = 60
N_WARM = 10  # trials of each run that do not count: nodes load the application for the first ones
RESULTS = Path(__file__).with_name("executors.json")
ROOT = Path(__file__).parents[1]


def seconds_per_trial(executor: Executor) -> float:
    """Return how long a slot is taken per trial."""
    with tempfile.TemporaryDirectory() as folder:
        ends = run("random", Path(folder), N_TRIALS, executor)
    return N_NODES * (ends[-1] - ends[N_WARM]) / (N_TRIALS - 1 - N_WARM)


def main() -> None:
    """Measure, print, and write executors.json."""
    with run_cluster(str(ROOT)) as cluster, tempfile.TemporaryDirectory() as storage:

        def on_ray(storage_path: str | None = None) -> RayExecutor:
            return RayExecutor(APPLICATION, ROOT, cluster.address, storage_path=storage_path)

        makers: dict[str, Callable[[], Executor]] = {
            "local processes": lambda: LocalExecutor([Slot(i, 1) for i in range(N_NODES)], APPLICATION),
            "Ray, shared disk": on_ray,
            "Ray, storage": lambda: on_ray(f"file://{storage}"),
        }
        found: dict[str, list[float]] = {name: [] for name in makers}
        for _ in range(ROUNDS):
            for name, make in makers.items():
                found[name].append(seconds_per_trial(make()))
    table = Table("executor", "s of a slot per trial", "smallest and largest")
    for name, seconds in found.items():
        table.add_row(name, f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f} to {max(seconds):.2f}")
    Console(width=100).print(table)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
