"""Simulates how many GPUs one coordinator and its servers can keep busy: `python -m benchmarks.scale`.

A discrete-event simulation with the costs that `python -m benchmarks.costs` measured: every ask, report,
heartbeat, tell, batch of losses, image and artifact of every trial queues for the coordinator and for the
processors of PostgreSQL and MLflow. For each case it finds the largest number of GPUs, with a trial on each,
that lose at most a twentieth more of their time to waiting than a single one. Prints, draws and writes
scale.json.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.costs import RESULTS as COSTS
from benchmarks.costs import RUNNING

RESULTS = Path(__file__).with_name("scale.json")
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "scale.png"
MAX_LOSS = 0.05  # share of the GPUs' time lost to waiting for others
HEARTBEAT_S, FLUSH_S, POLL_S, READ_S = 15.0, 10.0, 0.5, 0.5
N_REPORTS = 32
WARM_UP_S, COUNTED_S = 300.0, 900.0  # simulated time before and during the count
MINUTES_2, HOURS_2 = 120.0, 7200.0
MAX_GPUS = 20_000
Process = Generator[float, None, None]  # yields the time at which it continues


@dataclass(frozen=True)
class Plan:
    """A sweep and the servers it uses.

    Args:
        train_s: Training time of a trial.
        sampler: `tpe` or `random`.
        postgres: Processors of PostgreSQL.
        mlflow: Processors of the MLflow server; 0 for tracking=none.
        ray: Whether trials are Ray tasks.
    """

    train_s: float
    sampler: str = "tpe"
    postgres: int = 2
    mlflow: int = 2
    ray: bool = True


class Station:
    """A server with several processors and a queue of calls, first come, first served."""

    def __init__(self, n_processors: int) -> None:
        self._free_at = [0.0] * n_processors
        self.n_processors = n_processors
        self.busy_s = 0.0

    def serve(self, now: float, seconds: float) -> float:
        """Return the time at which a call that takes a processor for some seconds is answered."""
        start = max(now, heapq.heappop(self._free_at))
        heapq.heappush(self._free_at, start + seconds)
        self.busy_s += seconds
        return start + seconds


@dataclass
class World:
    """The state of one simulation."""

    plan: Plan
    n_gpus: int
    costs: dict[str, Any]
    now: float = 0.0
    trained_s: float = 0.0
    ended: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.postgres, self.mlflow = Station(self.plan.postgres), Station(max(1, self.plan.mlflow))
        self.coordinator_s = 0.0
        self._queue: list[tuple[float, int, Process]] = []
        self._numbers = itertools.count()
        self.counts_from, self.counts_to = 0.0, float("inf")

    def schedule(self, process: Process, at: float) -> None:
        """Schedule a process."""
        heapq.heappush(self._queue, (at, next(self._numbers), process))

    def run(self, until: float) -> None:
        while self._queue and self._queue[0][0] < until:
            self.now, _, process = heapq.heappop(self._queue)
            at = next(process, None)
            if at is not None:
                self.schedule(process, at)

    def call(self, name: str) -> float:
        """Return the time at which a call of a trial's process is answered."""
        cost: dict[str, float] = self.costs["calls"][name]
        if name in ("create", "losses", "image", "files", "finish"):
            if not self.plan.mlflow:
                return self.now
            between = self.postgres.serve(self.now + cost["caller"] / 2, cost["postgres"])
            answered = self.mlflow.serve(between, cost["mlflow"])
        else:
            answered = self.postgres.serve(self.now + cost["caller"] / 2, cost["postgres"])
        return answered + cost["caller"] / 2


def interpolate(low: float, high: float) -> Callable[[int], float]:
    """Return the cost as a line in the number of running trials, from the costs measured at two numbers."""
    slope = max(0.0, (high - low) / (RUNNING[1] - RUNNING[0]))
    return lambda running: max(0.0, low + slope * (running - RUNNING[0]))


def heartbeats(world: World, until: list[float]) -> Process:
    """Simulate a trial's heartbeat thread."""
    while world.now < until[0]:
        world.call("heartbeat")
        yield world.now + HEARTBEAT_S


def record_times(plan: Plan) -> list[tuple[float, str]]:
    """Return the records of a trial with their times, in seconds of training."""
    steps = [2.0**k for k in range(15)]
    events = [(plan.train_s * step / steps[-1], "image") for step in steps]
    events += [(FLUSH_S * n, "losses") for n in range(1, int(plan.train_s / FLUSH_S) + 1)]
    events += [(plan.train_s * n / N_REPORTS, "report") for n in range(1, N_REPORTS + 1)]
    return sorted(events)


def trial(world: World, gpu: int, trained: float) -> Process:
    """Simulate a trial's process, from `trained` seconds of training on."""
    plan, until = world.plan, [float("inf")]
    world.schedule(heartbeats(world, until), world.now)
    yield world.call("begin")
    yield world.call("create")
    for at, name in record_times(plan):
        if at < trained:
            continue
        begun = world.now
        yield world.now + at - trained
        if world.counts_from <= begun and world.now <= world.counts_to:
            world.trained_s += at - trained
        trained = at
        yield world.call(name)
    for name in ("files", "finish", "tell"):
        yield world.call(name)
    until[0] = world.now
    world.ended.append(gpu)


def coordinator(world: World) -> Process:
    """Simulate the coordinator's loop: start trials, poll, handle ended trials."""
    costs, plan = world.costs, world.plan
    low, high = (costs["coordinator"][f"{plan.sampler}, {n} running"] for n in RUNNING)
    poll_s, trial_s = (interpolate(low[part], high[part]) for part in ("poll", "trial"))
    beat = costs["calls"]["heartbeat"]["wall"] / 2 / 30.0  # per running trial, every 30 s
    ray = costs["ray"][f"poll, {RUNNING[1]} running"] / RUNNING[1] if plan.ray else 0.0
    free, running, begins = list(range(world.n_gpus)), 0, True
    while True:
        begun = world.now
        seconds = poll_s(running) + ray * running
        for gpu in free:
            seconds += trial_s(running)
            yield begun + seconds
            world.postgres.serve(world.now, low["postgres"])
            # In the long run trials are at different steps; the first ones begin like that.
            trained = gpu / world.n_gpus * plan.train_s if begins else 0.0
            world.schedule(trial(world, gpu, trained), world.now)
            running += 1
        world.coordinator_s += seconds
        yield begun + seconds * (1 + beat * running)
        if not world.ended:
            yield max(world.now, begun + POLL_S)
        begins = False
        free, world.ended = world.ended, []
        running -= len(free)


def simulate(plan: Plan, n_gpus: int, costs: dict[str, Any]) -> dict[str, float]:
    """Return the share of the GPUs' time that is training, and the utilization of each server."""
    world = World(plan, n_gpus, costs)
    world.counts_from, world.counts_to = WARM_UP_S, WARM_UP_S + COUNTED_S
    world.schedule(coordinator(world), 0.0)
    world.run(world.counts_from)
    before = world.coordinator_s, world.postgres.busy_s, world.mlflow.busy_s
    world.run(world.counts_to)
    return {
        "training": world.trained_s / COUNTED_S / n_gpus,
        "coordinator": (world.coordinator_s - before[0]) / COUNTED_S,
        "PostgreSQL": (world.postgres.busy_s - before[1]) / COUNTED_S / world.postgres.n_processors,
        "MLflow": (world.mlflow.busy_s - before[2]) / COUNTED_S / world.mlflow.n_processors,
        "Ray's mailbox": costs["ray"]["read"] * n_gpus / READ_S if plan.ray else 0.0,
    }


def find_capacity(plan: Plan, costs: dict[str, Any]) -> tuple[int, dict[str, float]]:
    """Return the largest number of GPUs that the plan keeps busy, and the utilization at that number."""
    alone = simulate(plan, 1, costs)["training"]

    def suffices(n_gpus: int) -> bool:
        found = simulate(plan, n_gpus, costs)
        return found["training"] >= (1 - MAX_LOSS) * alone and found["Ray's mailbox"] < 1

    low, high = 1, 32
    while high < MAX_GPUS and suffices(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 50):
        middle = (low + high) // 2
        low, high = (middle, high) if suffices(middle) else (low, middle)
    return low, simulate(plan, low, costs)


def plans() -> Iterator[tuple[str, Plan]]:
    """Yield the cases by name."""
    for length, train_s in (("2 min", MINUTES_2), ("2 h", HOURS_2)):
        default = Plan(train_s)
        yield f"{length}: defaults", default
        yield f"{length}: MLflow on 8 processors", replace(default, mlflow=8)
        yield f"{length}: the same, sampler=random", replace(default, mlflow=8, sampler="random")
        yield f"{length}: tracking=none", replace(default, mlflow=0)


def draw(curves: dict[str, list[tuple[int, float]]]) -> None:
    """Draw the share of training against the number of GPUs."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, curve in curves.items():
        axis.plot(*zip(*curve, strict=True), marker=".", label=name)
    axis.set(
        xscale="log",
        xlabel="GPUs, one trial on each",
        ylabel="share of their time that is training",
        ylim=(0, 1.02),
    )
    axis.legend()
    axis.grid(alpha=0.3)
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    """Simulate, print, draw, and write scale.json."""
    costs = json.loads(COSTS.read_text(encoding="utf-8"))
    table = Table("trials of", "GPUs", "training", "coordinator", "PostgreSQL", "MLflow", "Ray's mailbox")
    results = {}
    for name, plan in plans():
        n_gpus, found = find_capacity(plan, costs)
        results[name] = {"gpus": n_gpus, **found}
        table.add_row(name, str(n_gpus), *(f"{share:.0%}" for share in found.values()))
        Console(width=110).print(name, n_gpus)
    curves = {}
    for label, plan in (
        ("2 min", Plan(MINUTES_2)),
        ("2 min, MLflow on 8 processors", Plan(MINUTES_2, mlflow=8)),
        ("2 h", Plan(HOURS_2)),
    ):
        sizes = [int(32 * 2 ** (k / 2)) for k in range(13)]
        curves[label] = [(n, simulate(plan, n, costs)["training"]) for n in sizes]
    draw(curves)
    Console(width=110).print(table)
    RESULTS.write_text(json.dumps({"cases": results, "curves": curves}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
