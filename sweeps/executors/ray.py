"""Trials as tasks of a Ray cluster: the executor interface, on nodes that may or may not share the disk."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import stat
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sweeps import SweepError
from sweeps.assignment import ASSIGNMENT_FILE, LOG_FILE, read_assignment, write_assignment
from sweeps.executors import forkserver
from sweeps.executors.base import Ended, count_oom_kills
from sweeps.executors.slots import Slot

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

__all__ = ["RayExecutor"]

TICK_S = 0.5  # between a task's looks at its trial
CONNECT_TIMEOUT_S = 10.0
N_CONNECTIONS = 3
NODES_EVERY_S = 2.0
CLOSE_S = 10.0
CHECKPOINTS = "checkpoints"  # folders that travel as artifacts of the run, not with the trial
SMALL = 2**14  # bytes
OWN = (ASSIGNMENT_FILE, LOG_FILE)
UPLOADS = "uploads"  # for Optuna's artifact store, where it is on another disk

Files = dict[str, bytes]  # by path in a trial's folder


@dataclass(frozen=True)
class Order:
    """What a task needs to know of its trial.

    Args:
        number: The trial's.
        folder: The trial's, on the coordinator's disk.
        files: What is in it.
        fresh: Whether it is the first attempt.
        may_share: Whether a task may work in that folder where its node sees it.
        module: What runs a trial, see `LocalExecutor`.
        application: Dotted path.
        environment: Of the trial.
    """

    number: int
    folder: str
    files: Files
    fresh: bool
    may_share: bool
    module: str
    application: str
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Report:
    """How a task's trial ended, and what it has left where the disk is not shared.

    Args:
        code: Exit code; negative for the signal that killed it.
        out_of_memory: Whether the system killed it for want of memory.
        files: All but its log and its checkpoints; None where the coordinator sees them anyway.
        log: What it has printed since the last post.
    """

    code: int
    out_of_memory: bool
    files: Files | None = None
    log: bytes = b""


class Desk:
    """Where tasks leave what their trials print, and learn of a signal for them; an actor."""

    def __init__(self) -> None:
        self._posts: list[tuple[int, bytes, Files]] = []
        self._signal = 0

    def post(self, number: int, log: bytes, files: Files) -> int:
        """Take what a trial has printed and noted; return the signal that is for it, 0 for none."""
        if log or files:
            self._posts.append((number, log, files))
        return self._signal

    def take(self) -> list[tuple[int, bytes, Files]]:
        """Hand over what was posted, in order."""
        posts, self._posts = self._posts, []
        return posts

    def send(self, number: int) -> None:
        """Send a signal to every trial, SIGTERM or SIGKILL."""
        self._signal = number


@dataclass
class _Task:
    reference: ObjectRef[Report]
    slot: int
    folder: Path
    known: set[str]  # names of files that were there


@dataclass
class RayExecutor:
    """One task per trial; the cluster decides where.

    Args:
        application: Dotted path.
        address: Of a running cluster: `auto` for the one this machine belongs to, `ray://HOST:PORT`, or
            HOST:PORT.
        workers: Trials at once; auto is as many as the cluster's nodes hold, which may join and leave.
        threads: CPU threads of a trial.
        trials_per_gpu: Trials on each GPU of the cluster; 0 for trials on CPUs, as where it has no GPU.
        needs_gpu: Whether to refuse a cluster without a GPU.
        shared_disk: Whether tasks use the trials' folders on nodes that see them; else everything travels.
        module: What runs a trial, see `LocalExecutor`.

    Raises:
        SweepError: If no cluster answers.
    """

    application: str
    address: str = "auto"
    workers: int | Literal["auto"] = "auto"
    threads: int = 1
    trials_per_gpu: int = 0
    needs_gpu: bool = False
    shared_disk: bool = True
    module: str = "sweeps.worker"
    _running: dict[int, _Task] = field(default_factory=dict)
    _desk: ActorHandle[Desk] | None = None
    _capacity: tuple[float, int] = (float("-inf"), 0)

    def __post_init__(self) -> None:
        self._connect()
        if not any(node["Resources"].get("GPU") for node in _nodes()) and not self.needs_gpu:
            self.trials_per_gpu = 0
        if self.n_slots == 0:
            self.close()
            what = "GPU" if self.trials_per_gpu else f"node with {self.threads} CPUs"
            raise SweepError(f"executor.address={self.address}: the cluster has no {what}")

    @staticmethod
    def _is_connected() -> bool:
        import ray

        return bool(ray.is_initialized())

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        if ray.is_initialized():
            return
        try:
            host, _, port = self.address.removeprefix("ray://").rpartition(":")
            if port.isdecimal():  # else Ray would try for minutes
                socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
            for _ in range(N_CONNECTIONS - 1):
                # What Ray forks to serve a ray:// client may die at its start.
                with contextlib.suppress(ConnectionAbortedError):
                    self._init()
                    return
            self._init()
        except ConnectionAbortedError as error:
            raise SweepError(
                f"executor.address={self.address}: the Ray cluster there starts no server for this sweep "
                f"({_last_line(error)}); its head node's /tmp/ray/session_latest/logs say why"
            ) from error
        except (ConnectionError, OverflowError, RuntimeError, ValueError, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise SweepError(
                f"executor.address={self.address}: no Ray cluster answers there ({reason}); start one with "
                "'ray start --head', or give executor=local"
            ) from error

    def _init(self) -> None:
        import ray

        ray.init(self.address, log_to_driver=False, logging_level="ERROR", configure_logging=False)

    @property
    def n_slots(self) -> int:
        """Number of trials that the cluster, as it is now, holds at once."""
        checked_at, n_slots = self._capacity
        if time.monotonic() - checked_at > NODES_EVERY_S and self._is_connected():
            n_slots = sum(self._fits(node["Resources"]) for node in _nodes())
            self._capacity = time.monotonic(), n_slots
        return n_slots if self.workers == "auto" else min(n_slots, self.workers)

    def _fits(self, resources: Mapping[str, float]) -> int:
        if self.trials_per_gpu:
            return int(resources.get("GPU", 0)) * self.trials_per_gpu
        return int(resources.get("CPU", 0)) // self.threads

    def prepare(self) -> None:
        """Set up the desk, on the coordinator's own node."""
        if self._desk is None:
            self._connect()
            import ray
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            self._desk = ray.remote(num_cpus=0, scheduling_strategy=here)(Desk).remote()

    def n_free(self) -> int:
        """Return how many more trials the cluster holds."""
        return max(0, self.n_slots - len(self._running))

    def start(self, number: int, folder: Path) -> int:
        """Submit a trial; return the first free slot's number.

        Raises:
            RuntimeError: If no slot is free.
        """
        if not self.n_free():
            raise RuntimeError("no free slot")
        import ray

        self.prepare()
        taken = {task.slot for task in self._running.values()}
        slot = next(index for index in itertools.count() if index not in taken)
        order = Order(
            number=number,
            folder=str(folder.absolute()),
            files=read_files(folder),
            fresh=not (folder / LOG_FILE).exists(),
            may_share=self.shared_disk,
            module=self.module,
            application=self.application,
            environment=Slot(slot, self.threads).environment(),
        )
        needs: dict[str, Any] = {"num_cpus": self.threads}
        if self.trials_per_gpu:
            needs = {"num_cpus": 0, "num_gpus": 1 / self.trials_per_gpu}
        # A task on a GPU would take its process with it, and with it what is loaded.
        task = ray.remote(max_retries=0, max_calls=0)(run_trial)
        reference = task.options(name=f"trial {number}", **needs).remote(order, self._desk)
        self._running[number] = _Task(reference, slot, folder, set(order.files))
        return slot

    def wait(self, timeout_s: float) -> list[Ended]:
        """Sleep until a trial ends or the time is over; what trials have printed is in their folders then."""
        import ray

        references = [task.reference for task in self._running.values()]
        if not references:
            time.sleep(timeout_s)
            return []
        ray.wait(references, num_returns=1, timeout=timeout_s)
        ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        self._collect()
        done = set(ready)
        return [self._end(n) for n, task in list(self._running.items()) if task.reference in done]

    def stop(self) -> None:
        """Have every trial told to save what it has and end."""
        import ray

        if self._desk is not None:
            ray.get(self._desk.send.remote(int(signal.SIGTERM)))

    def close(self) -> None:
        """End every trial at once and wait for it.

        The process stays with the cluster until it ends: Ray may abort one that leaves and comes back.
        """
        import ray
        from ray.exceptions import RayError

        left = [task.reference for task in self._running.values()]
        if self._desk is not None:
            with contextlib.suppress(RayError):  # its node may be gone
                ray.get(self._desk.send.remote(int(signal.SIGKILL)))
                if left:
                    _, left = ray.wait(left, num_returns=len(left), timeout=CLOSE_S)
                self._collect()
            ray.kill(self._desk)
            self._desk = None
        for reference in left:  # never begun, or out of reach
            ray.cancel(reference, force=True)
        self._running.clear()

    def _collect(self) -> None:
        """Write what trials have printed and noted into their folders."""
        import ray

        assert self._desk is not None
        for number, log, files in ray.get(self._desk.take.remote()):
            if number in self._running:
                task = self._running[number]
                append_log(task.folder, log)
                write_files(task.folder, files)
                task.known |= files.keys()

    def _end(self, number: int) -> Ended:
        import ray
        from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

        task = self._running.pop(number)
        try:
            report = ray.get(task.reference)
        except RayTaskError as error:  # the task's own code, as on a full disk
            append_log(task.folder, f"{error}\n".encode())
            return Ended(number, 0, 1)
        except RayError as error:
            append_log(task.folder, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}\n".encode())
            return Ended(number, int(signal.SIGKILL), 0, isinstance(error, OutOfMemoryError))
        if report.files is not None:
            append_log(task.folder, report.log)
            write_files(task.folder, report.files)
            for name in task.known - report.files.keys() - {ASSIGNMENT_FILE}:
                (task.folder / name).unlink(missing_ok=True)
            take_uploads(task.folder)
        return Ended(number, max(0, -report.code), max(0, report.code), report.out_of_memory)


def _nodes() -> Iterator[Mapping[str, Any]]:
    import ray

    return (node for node in ray.nodes() if node["Alive"])


def _last_line(error: Exception) -> str:
    """Return what a server's traceback ends with."""
    return str(error).strip().rpartition("\n")[2]


def append_log(folder: Path, text: bytes) -> None:
    """Append what a trial has printed elsewhere to its log."""
    if text:
        with (folder / LOG_FILE).open("ab") as log:
            log.write(text)


def read_files(folder: Path) -> Files:
    """Return what is in a trial's folder, but its log and its checkpoints."""
    files = {}
    for file in folder.rglob("*"):
        name = file.relative_to(folder)
        if file.is_file() and CHECKPOINTS not in name.parts and name.parts != (LOG_FILE,):
            files[str(name)] = file.read_bytes()
    return files


def write_files(folder: Path, files: Files) -> None:
    """Write files into a trial's folder, each whole or not at all."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.partial")
        partial.write_bytes(content)
        partial.replace(file)


def take_uploads(folder: Path) -> None:
    """Put what a trial has left for Optuna's artifact store there."""
    uploads = folder / UPLOADS
    if uploads.is_dir():
        store = Path(read_assignment(folder).artifacts)
        store.mkdir(parents=True, exist_ok=True)
        for file in uploads.iterdir():
            shutil.move(file, store / file.name)
        uploads.rmdir()


# What follows runs in a task.


def run_trial(order: Order, desk: ActorHandle[Desk]) -> Report:
    """Run a trial in a process of its own and watch it.

    Raises:
        RayActorError: If the desk is gone, and so the coordinator; the trial has been killed then.
        OSError: If the node's disk is full.
    """
    folder, is_shared = find_folder(order)
    environment = dict(order.environment)
    if "CUDA_VISIBLE_DEVICES" in os.environ:  # as Ray has set it for this task
        environment["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
    follower, n_oom_kills = Follower(folder, is_shared), count_oom_kills()
    code = watch(order, folder, environment, follower, desk)
    starved = code == -signal.SIGKILL and count_oom_kills() > n_oom_kills
    if is_shared:
        return Report(code, starved)
    files, (log, _) = read_files(folder), follower.news()
    files.pop(ASSIGNMENT_FILE, None)  # a changed copy
    if not any(folder.rglob(f"{CHECKPOINTS}/*")):  # else for a retry that comes here
        shutil.rmtree(folder)
    return Report(code, starved, files, log)


def watch(
    order: Order, folder: Path, environment: Mapping[str, str], follower: Follower, desk: ActorHandle[Desk]
) -> int:
    """Start a trial's process, pass on what it prints and a wish that it stop, and return its exit code."""
    import ray

    process, told = forkserver.start(order.module, order.application, folder, environment), False
    try:
        while process.is_alive():
            wanted = ray.get(desk.post.remote(order.number, *follower.news()))
            if wanted == signal.SIGKILL:
                break
            if wanted == signal.SIGTERM and not told:
                process.terminate()
                told = True
            process.join(TICK_S)
    finally:
        process.kill()
    return forkserver.end(process)


def find_folder(order: Order) -> tuple[Path, bool]:
    """Return where a task's trial works, and whether that is the coordinator's own folder.

    Elsewhere it is a folder of this node, with what the coordinator's holds; checkpoints that an earlier
    attempt has left there stay.
    """
    theirs = Path(order.folder)
    with contextlib.suppress(OSError):
        if order.may_share and read_files(theirs) == order.files:
            return theirs, True
    import ray

    node = ray.get_runtime_context().get_node_id()
    ours = Path(tempfile.gettempdir()) / f"nca-sweep-{os.getuid()}" / node / name_folder(theirs)
    if order.fresh and ours.exists():
        shutil.rmtree(ours)
    ours.mkdir(parents=True, exist_ok=True)
    (ours / LOG_FILE).unlink(missing_ok=True)
    write_files(ours, order.files)
    if ASSIGNMENT_FILE in order.files:
        write_assignment(ours, replace(read_assignment(ours), artifacts=str(ours / UPLOADS)))
    return ours, False


def name_folder(folder: Path) -> str:
    """Return a name for a trial's folder on another disk."""
    return f"{folder.parent.name}-{folder.name}-{zlib.crc32(str(folder).encode()):08x}"


class Follower:
    """What a trial has printed and noted since it was last asked.

    Args:
        folder: The trial's.
        is_shared: Whether the coordinator sees it anyway: then there are no news.
    """

    def __init__(self, folder: Path, is_shared: bool) -> None:
        self._folder = folder
        self._is_shared = is_shared
        self._n_read = 0
        self._known: dict[Path, int] = {}

    def news(self) -> tuple[bytes, Files]:
        """Return what was appended to the log, and the small files near the top that have changed."""
        if self._is_shared:
            return b"", {}
        log = b""
        with contextlib.suppress(FileNotFoundError), (self._folder / LOG_FILE).open("rb") as file:
            file.seek(self._n_read)
            log = file.read()
            self._n_read += len(log)
        files = {}
        for path in (*self._folder.glob("*"), *self._folder.glob("*/*")):
            with contextlib.suppress(OSError):  # as it is replaced
                about = path.stat()
                is_note = stat.S_ISREG(about.st_mode) and about.st_size <= SMALL and path.name not in OWN
                if is_note and self._known.get(path) != about.st_mtime_ns:
                    files[str(path.relative_to(self._folder))] = path.read_bytes()
                    self._known[path] = about.st_mtime_ns
        return log, files
