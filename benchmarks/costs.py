"""Measures the cost of calls: `python -m benchmarks.costs`, five minutes idle; writes costs.json.

A real PostgreSQL server, a real MLflow server that stores its data in it, and Ray, on this machine. For each
kind of call: seconds until its answer with one caller, and its processor time in the caller and in each
server. For the coordinator: the time per trial and per poll of many running trials, measured with an executor
whose trials end at once or never. `python -m benchmarks.scale` simulates with these numbers.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table
from sqlalchemy import QueuePool

from benchmarks.engine import APPLICATION
from nca.tracking.store import MlflowStore
from nca.tracking.tracker import MlflowTracker
from sweeps.application import Result
from sweeps.assignment import PROGRESS_FILE, Assignment
from sweeps.coordinator import Coordinator
from sweeps.executors.base import Ended
from sweeps.progress import Progress
from sweeps.pruning import Pruning
from sweeps.running_trial import RunningTrial
from sweeps.samplers import SamplerSpec
from sweeps.space import Choice, Interval, Space, to_distributions
from sweeps.spec import SweepSpec
from sweeps.storage.optuna_storage import RetryingStorage, open_storage
from sweeps.study import PrunerSpec, StudySpec, find_study, trial_id
from sweeps.worker import tell
from tests.cluster.mlflow_server import MlflowServer, run_mlflow_server
from tests.cluster.postgres import PASSWORD, Postgres, run_postgres
from tests.cluster.ray_cluster import run_cluster

RESULTS = Path(__file__).with_name("costs.json")
ROOT = Path(__file__).parents[1]
N_FINISHED = 1000  # finished trials in the measured study
N_CALLS, N_FEW = 200, 50
RUNNING = (32, 256)  # concurrent trials, for the cost of a poll
N_POLLS = 40
N_LOSSES = 100  # per batch: ten seconds at 0.1 s per step
N_PARAMS, N_TAGS = 30, 16
FILES_KB = (1, 1029, 1051, 76, 7, 27, 104, 21, 7, 54)  # a trial's artifacts at 48 px
SPACE: Space = {
    "model.channels": Choice((6, 9, 12, 15)),
    "model.hidden_channels": Choice((16, 32, 64, 96)),
    "model.filters": Choice((4, 5, 6)),
    "model.update_rate": Interval(0.5, 1.0),
    "train.batch_size": Choice((2, 4)),
    "train.learning_rate": Interval(3e-4, 5e-3, log=True),
}
ATTRIBUTES = {f"metric_{index}": 0.5 for index in range(12)}
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """Seconds per call.

    Args:
        wall: Until its answer.
        caller: Processor time of the caller.
        postgres: Processor time of PostgreSQL.
        mlflow: Processor time of the MLflow server.
    """

    wall: float
    caller: float
    postgres: float
    mlflow: float = 0.0


def stat(pid: str) -> list[str]:
    """Return the fields of /proc/PID/stat after the process's name; none if the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []


def processor_s(selected: Callable[[list[str]], bool], with_children: bool = False) -> float:
    """Return the processor time of the selected processes, optionally with that of their ended children."""
    ticks = 0
    for entry in Path("/proc").iterdir():
        fields = stat(entry.name) if entry.name.isdigit() else []
        if fields and selected(fields):
            ticks += sum(map(int, fields[11 : 15 if with_children else 13]))
    return ticks / TICKS_PER_S


@dataclass
class Meter:
    """Measures calls to the servers."""

    postgres: Postgres
    mlflow: MlflowServer
    costs: dict[str, Cost] = field(default_factory=dict)

    def postgres_s(self) -> float:
        first = (self.postgres.folder / "data" / "postmaster.pid").read_text(encoding="utf-8").split()[0]
        itself = sum(map(int, stat(first)[11:15])) / TICKS_PER_S
        return itself + processor_s(lambda fields: fields[1] == first)

    def mlflow_s(self) -> float:
        assert self.mlflow._process is not None
        session = str(self.mlflow._process.pid)
        return processor_s(lambda fields: fields[3] == session, with_children=True)

    def measure(self, name: str, call: Callable[[int], object], n_calls: int = N_CALLS) -> None:
        """Make calls one after the other, after one that is not counted."""
        call(0)
        before = self.postgres_s(), self.mlflow_s(), time.process_time(), time.perf_counter()
        for index in range(1, n_calls + 1):
            call(index)
        wall, caller = time.perf_counter() - before[3], time.process_time() - before[2]
        servers = self.postgres_s() - before[0], self.mlflow_s() - before[1]
        self.costs[name] = Cost(*(round(s / n_calls, 6) for s in (wall, caller, *servers)))
        print(name, self.costs[name], flush=True)


def fill(storage: RetryingStorage, name: str) -> None:
    """Create a study with `N_FINISHED` finished trials."""
    study = optuna.create_study(study_name=name, storage=storage, direction="minimize")
    draw = np.random.default_rng(0)
    distributions = to_distributions(SPACE)
    for _ in range(N_FINISHED):
        params = {
            key: domain.options[draw.integers(len(domain.options))]
            if isinstance(domain, Choice)
            else draw.uniform(domain.low, domain.high)
            for key, domain in SPACE.items()
        }
        attributes = {**ATTRIBUTES, "reason": "complete", "n_steps": 1}
        study.add_trial(
            optuna.create_trial(
                params=params, distributions=distributions, value=draw.random(), user_attrs=attributes
            )
        )


def measure_worker(meter: Meter, folder: Path) -> None:
    """Measure the calls of a trial's process to PostgreSQL."""
    address, name = meter.postgres.address, "worker"
    storage = open_storage(address)
    fill(storage, name)
    study = find_study(storage, name)
    assert study is not None
    numbers = [study.ask(to_distributions(SPACE)).number for _ in range(N_FEW + 2)]
    picture = folder / "output.png"
    picture.write_bytes(bytes(27_000))

    def begin(_: int) -> None:
        own = open_storage(address, create=False)
        found = find_study(own, name)
        assert found is not None
        trial_id(own, name, numbers[0])
        own.remove_session()
        own.engine.dispose()

    def make(number: int) -> RunningTrial:
        assignment = Assignment(
            application=APPLICATION,
            storage=address,
            study=name,
            number=number,
            first_attempt=number,
            config={},
            links={},
            pruner={"name": "none", "max_resource": 1, "options": {}},
            artifacts=str(folder / "artifacts"),
        )
        return RunningTrial(assignment, folder, pruning, storage)

    pruning = Pruning(PrunerSpec("none", 1), study)
    trial = make(numbers[0])
    id_ = trial_id(storage, name, numbers[0])

    def beat(_: int) -> None:
        storage.record_heartbeat(id_)
        storage.get_trial(id_)

    result = Result("complete", (0.5,), dict(ATTRIBUTES), (picture,))
    meter.measure("begin", begin, N_FEW)
    meter.measure("report", lambda index: trial.report(index + 1, 0.5))
    meter.measure("heartbeat", beat)
    told = [make(number) for number in numbers[1:]]
    meter.measure("tell", lambda i: tell(told[i], study, storage, result, str(folder / "artifacts")), N_FEW)


def measure_tracking(meter: Meter, folder: Path) -> None:
    """Measure the calls of a trial's process to the MLflow server."""
    store = MlflowStore(meter.mlflow.uri)
    experiment = store.experiments.open("costs", folder)
    parent = store.create_run(experiment, "study")
    params = {f"param_{index}": index for index in range(N_PARAMS)}
    files = folder / "files"
    files.mkdir()
    for index, size in enumerate(FILES_KB):
        (files / f"{index}.bin").write_bytes(os.urandom(1000 * size))
    pixels = np.random.default_rng(0).integers(0, 255, (48, 96, 3), dtype=np.uint8)
    trackers: list[MlflowTracker] = []

    def create(index: int) -> None:
        run = {"parent_run_id": parent, "params": params}
        trackers.append(store.open_run(folder / f"run-{index}", experiment, f"trial {index}", **run))
        trackers[-1].set_tags({f"tag_{n}": "value" for n in range(N_TAGS)})

    for index in range(RUNNING[-1]):  # other running runs
        store.create_run(experiment, f"other {index}", parent_run_id=parent)
    meter.measure("create", create, N_FEW)
    tracker = trackers[0]
    meter.measure("losses", lambda index: tracker.log_losses([0.5] * (N_LOSSES * (index + 1)), now=True))
    meter.measure("image", lambda index: tracker.log_image(pixels, index), N_FEW)
    meter.measure("files", lambda _: tracker.log_files(files), N_FEW)

    def finish(index: int) -> None:
        trackers[index].log_metrics(ATTRIBUTES, 1)
        trackers[index].set_tags({"reason": "complete"})
        trackers[index].finish("FINISHED")

    meter.measure("finish", finish, N_FEW)


@dataclass
class StubExecutor:
    """An executor whose trials end, one per poll, and later never; it times the coordinator between polls."""

    n_slots: int
    storage: RetryingStorage
    study: str
    running: list[int] = field(default_factory=list)
    polls: list[float] = field(default_factory=list)
    since: float | None = None

    def n_free(self) -> int:
        return self.n_slots - len(self.running)

    def prepare(self) -> None:
        pass

    def start(self, number: int, folder: Path) -> int:
        note = {"n_steps": 5, "total_steps": 10, "loss": 0.5, "at": time.monotonic()}
        (folder / PROGRESS_FILE).write_text(json.dumps(note), encoding="utf-8")
        self.running.append(number)
        return len(self.running) - 1

    def wait(self, timeout_s: float) -> list[Ended]:
        if self.since is not None:
            self.polls.append(time.perf_counter() - self.since)
        ended = []
        if len(self.polls) < N_POLLS:
            number = self.running.pop(0)
            other = threading.Thread(target=self._tell, args=(number,))
            other.start()
            other.join()
            ended.append(Ended(number, 0, 0))
        elif len(self.polls) >= 2 * N_POLLS:
            os.kill(os.getpid(), signal.SIGINT)
        self.since = time.perf_counter()
        return ended

    def costs(self) -> dict[str, float]:
        """Return the seconds of a poll, and the additional seconds of one ended trial."""
        with_one, without = self.polls[2:N_POLLS], self.polls[N_POLLS + 2 : 2 * N_POLLS]
        poll = statistics.median(without)
        return {"poll": poll, "trial": statistics.median(with_one) - poll}

    def _tell(self, number: int) -> None:
        id_ = trial_id(self.storage, self.study, number)
        self.storage.set_trial_state_values(id_, TrialState.COMPLETE, [0.5])
        self.storage.remove_session()

    def stop(self) -> None:
        self.running.clear()

    def close(self) -> None:
        self.running.clear()


def measure_coordinator(meter: Meter, folder: Path) -> dict[str, Any]:
    """Measure the coordinator's time per trial and per poll."""
    found: dict[str, Any] = {}
    storage = open_storage(meter.postgres.address)
    for sampler, n_running in itertools.product(("tpe", "random"), RUNNING):
        name = f"{sampler}, {n_running} running"
        fill(storage, name)
        stub = StubExecutor(n_running, storage, name)
        before = meter.postgres_s()
        Coordinator(make_spec(name, meter.postgres.address, sampler, folder), stub, silent()).run()
        found[name] = {part: round(seconds, 6) for part, seconds in stub.costs().items()}
        found[name]["postgres"] = round((meter.postgres_s() - before) / (N_POLLS + n_running), 6)
        print(name, found[name], flush=True)
        shutil.rmtree(folder / "trials")
    return found


def make_spec(name: str, address: str, sampler: str, folder: Path) -> SweepSpec:
    """Return the spec of a sweep that does not end by itself."""
    return SweepSpec(
        study=StudySpec(name, address, SPACE, {}),
        sampler=SamplerSpec(sampler, 0),
        pruner=PrunerSpec("none", 1),
        n_trials=100 * N_FINISHED,
        retries=0,
        application=APPLICATION,
        compose=lambda params, trial_index: {"links": {}, **params},
        trials=folder / "trials",
        artifacts=folder / "artifacts",
    )


def silent() -> Progress:
    """Return a progress display that is discarded."""
    return Progress(Console(file=io.StringIO()))


def measure_ray() -> dict[str, float]:
    """Measure a reading of the Ray executor's mailbox, and the executor's poll of many running tasks."""
    with run_cluster(str(ROOT)) as cluster, tempfile.TemporaryDirectory() as folder:
        import ray

        from sweeps.executors.ray import RayExecutor
        from sweeps.executors.ray_task import Mailbox

        executor = RayExecutor(APPLICATION, Path(folder), cluster.address)
        executor.prepare()
        mailbox = executor._mailbox
        assert mailbox is not None

        def read(n_calls: int) -> float:
            start = time.perf_counter()
            ray.get([mailbox.read.remote() for _ in range(n_calls)])
            return (time.perf_counter() - start) / n_calls

        read(100)
        found = {"read": round(statistics.median(read(1000) for _ in range(5)), 6)}
        never = ray.remote(Mailbox).options(num_cpus=1000)
        waiting = [never.remote().read.remote() for _ in range(RUNNING[-1])]

        def poll() -> float:
            start = time.perf_counter()
            ray.wait(waiting, num_returns=1, timeout=0)
            ray.wait(waiting, num_returns=len(waiting), timeout=0)
            return time.perf_counter() - start

        poll()
        found[f"poll, {RUNNING[-1]} running"] = round(statistics.median(poll() for _ in range(20)), 6)
        executor.close()
    print(found, flush=True)
    return found


def count_connections(postgres: Postgres) -> int:
    """Return the number of connections of a trial's process, that of its heartbeat included."""
    storage = open_storage(postgres.address, create=False)
    storage.get_all_studies()
    beats = threading.Thread(target=storage.get_all_studies)
    beats.start()
    beats.join()
    pool = storage.engine.pool
    assert isinstance(pool, QueuePool)
    n_open = pool.checkedout() + pool.checkedin()
    storage.remove_session()
    storage.engine.dispose()
    return n_open


@contextmanager
def servers(folder: Path) -> Iterator[Meter]:
    """Start PostgreSQL and an MLflow server that stores its data in it."""
    os.environ["PGPASSWORD"] = PASSWORD
    kept = folder / "server"
    kept.mkdir()
    with run_postgres() as postgres, run_mlflow_server(kept, postgres.create("mlflow")) as mlflow:
        yield Meter(postgres, mlflow)


def main() -> None:
    """Measure, print, and write costs.json."""
    with tempfile.TemporaryDirectory() as name, servers(Path(name)) as meter:
        measure_worker(meter, Path(name))
        coordinator = measure_coordinator(meter, Path(name))
        n_connections = count_connections(meter.postgres)
        measure_tracking(meter, Path(name))
    results = {
        "calls": {call: asdict(cost) for call, cost in meter.costs.items()},
        "coordinator": coordinator,
        "connections": n_connections,
        "ray": measure_ray(),
    }
    table = Table("call", "answer, ms", "caller, ms", "PostgreSQL, ms", "MLflow, ms")
    for call, cost in meter.costs.items():
        table.add_row(call, *(f"{1000 * seconds:.1f}" for seconds in asdict(cost).values()))
    Console(width=100).print(table)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
