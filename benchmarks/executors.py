"""Measures the overhead of a trial by executor: `python -m benchmarks.executors`.

Studies of empty trials, random search, a SQLite file, two slots: local processes, and Ray on two nodes with a
CPU each on this machine, with `runs_dir` on a shared disk and with a storage. The executors' runs
alternate; prints the median seconds of a slot per trial, and writes executors.json.
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

ROUNDS = 5
N_TRIALS = 60
N_WARM_UP = 10  # first trials of each run, not counted: nodes load the application
RESULTS = Path(__file__).with_name("executors.json")
ROOT = Path(__file__).parents[1]


def seconds_per_trial(make: Callable[[Path], Executor]) -> float:
    """Return the seconds that a trial occupies a slot."""
    with tempfile.TemporaryDirectory() as folder:
        ends = run("random", Path(folder), N_TRIALS, make(Path(folder)))
    return N_NODES * (ends[-1] - ends[N_WARM_UP]) / (N_TRIALS - 1 - N_WARM_UP)


def main() -> None:
    """Measure, print, and write executors.json."""
    with run_cluster(str(ROOT)) as cluster:

        def with_storage(folder: Path) -> RayExecutor:
            (storage := folder / "storage").mkdir()
            return RayExecutor(APPLICATION, folder, cluster.address, storage_path=f"file://{storage}")

        makers: dict[str, Callable[[Path], Executor]] = {
            "local processes": lambda _: LocalExecutor([Slot(i, 1) for i in range(N_NODES)], APPLICATION),
            "Ray, shared disk": lambda folder: RayExecutor(APPLICATION, folder, cluster.address),
            "Ray, storage": with_storage,
        }
        found: dict[str, list[float]] = {name: [] for name in makers}
        for _ in range(ROUNDS):
            for name, make in makers.items():
                found[name].append(seconds_per_trial(make))
    table = Table("executor", "seconds per trial", "range")
    for name, seconds in found.items():
        table.add_row(name, f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f} to {max(seconds):.2f}")
    Console(width=100).print(table)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
