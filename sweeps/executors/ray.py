"""Trials as tasks of a Ray cluster: the executor interface, on nodes that share a disk or a storage."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import fsspec
import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeps import SweepError
from sweeps.assignment import (
    ASSIGNMENT_FILE,
    LOG_FILE,
    PICTURE_FILE,
    PROGRESS_FILE,
    TARGET_FILE,
    read_assignment,
)
from sweeps.executors.base import Ended
from sweeps.executors.ray_task import UPLOADS, Mailbox, StoredFolder, TaskSpec, file_exists, run_trial
from sweeps.executors.slots import Slot

CONNECT_TIMEOUT_S = 10.0
N_CONNECTIONS = 3
PROBE_TIMEOUT_S = 120.0  # a node may have to start a process
FETCH_EVERY_S = 5.0  # logs and progress from the storage
CLOSE_TIMEOUT_S = 10.0
CHECKPOINTS = "checkpoints/"  # in paths of files that stay in the storage


@dataclass
class RayExecutor:
    """One task per trial; the cluster decides where.

    Args:
        application: Dotted path, see `LocalExecutor`.
        runs_dir: Folder above the trials' folders.
        address: Running cluster: `auto` for the one this machine belongs to, `ray://HOST:PORT`, or HOST:PORT.
        workers: Trials at once; auto is as many as the cluster's nodes hold, which may join and leave.
        threads: CPU threads of a trial.
        trials_per_gpu: Trials on each GPU of the cluster; 0 for trials on CPUs, as where it has no GPU.
        needs_gpu: Whether to refuse a cluster without a GPU.
        storage_path: fsspec address where trials' folders are stored; None where all nodes share `runs_dir`.
        module: Module that runs a trial, see `LocalExecutor`.

    Raises:
        SweepError: If no cluster answers, it holds no trial, or a node does not see the storage.
    """

    application: str
    runs_dir: Path
    address: str = "auto"
    workers: int | Literal["auto"] = "auto"
    threads: int = 1
    trials_per_gpu: int = 0
    needs_gpu: bool = False
    storage_path: str | None = None
    module: str = "sweeps.worker"
    _running: dict[int, tuple[ObjectRef[Ended], TaskSpec]] = field(default_factory=dict)
    _mailbox: ActorHandle[Mailbox] | None = None
    _fetched_at: float = float("-inf")

    def __post_init__(self) -> None:
        self._connect()
        if not any(node["Resources"].get("GPU") for node in _nodes()) and not self.needs_gpu:
            self.trials_per_gpu = 0
        if self.n_slots == 0:
            missing = "GPU" if self.trials_per_gpu else f"node with {self.threads} CPUs"
            raise SweepError(f"executor.address={self.address}: the cluster has no {missing}")
        self._check_storage()

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if ray.is_initialized():
            return
        try:
            host, _, port = self.address.removeprefix("ray://").rpartition(":")
            if port.isdecimal():  # else Ray would try for minutes
                socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
            options = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
            for _ in range(N_CONNECTIONS - 1):
                # Ray's server process for a ray:// client may die at its start.
                with contextlib.suppress(ConnectionAbortedError):
                    ray.init(self.address, **options)
                    return
            ray.init(self.address, **options)
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

    def _check_storage(self) -> None:
        """Check that every node finds a file that is written here, and then deleted.

        Raises:
            SweepError: If a node does not see it.
        """
        runs = self.runs_dir.absolute()
        where = self.storage_path or str(next(folder for folder in (runs, *runs.parents) if folder.exists()))
        key = f"executor.storage_path={where}" if self.storage_path else f"runs_dir={self.runs_dir}"
        file = f"{where.rstrip('/')}/.nca-sweep-{uuid.uuid4().hex}"
        nodes = [node for node in _nodes() if self._fits(node["Resources"])]
        try:
            files, path = fsspec.url_to_fs(file)
            files.pipe_file(path, b"probe")
            try:
                probes = [_on_node(node["NodeID"], file_exists).remote(file) for node in nodes]
                seen = ray.get(probes, timeout=PROBE_TIMEOUT_S)
            finally:
                files.rm(path)
        except Exception as error:  # each filesystem has errors of its own
            raise SweepError(f"{key}: cannot be used ({_last_line(error)})") from error
        if not all(seen):
            raise SweepError(
                f"{key}: node {nodes[seen.index(False)]['NodeManagerHostname']} does not see it; give "
                "executor.storage_path, an address that all nodes reach: file:///DISK/FOLDER, s3://BUCKET/FOLDER"
            )

    @property
    def n_slots(self) -> int:
        """Number of trials that the cluster, as it is now, holds at once."""
        n_slots = sum(self._fits(node["Resources"]) for node in _nodes())
        return n_slots if self.workers == "auto" else min(n_slots, self.workers)

    def _fits(self, resources: Mapping[str, float]) -> int:
        if self.trials_per_gpu:
            return int(resources.get("GPU", 0)) * self.trials_per_gpu
        return int(resources.get("CPU", 0)) // self.threads

    def prepare(self) -> None:
        """Create the mailbox, on the coordinator's own node."""
        if self._mailbox is None:
            self._mailbox = _on_node(ray.get_runtime_context().get_node_id(), Mailbox).remote()

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
        self.prepare()
        taken = {spec.slot.index for _, spec in self._running.values()}
        slot = Slot(next(index for index in itertools.count() if index not in taken), self.threads)
        folder = folder.absolute()
        spec = TaskSpec(number, folder, self.storage_path, self.application, self.module, slot)
        self._store(folder)
        n_gpus = 1 / self.trials_per_gpu if self.trials_per_gpu else 0
        needs = {"num_cpus": 0 if n_gpus else self.threads, "num_gpus": n_gpus}
        # By default Ray ends the process of a task on a GPU, and what it has loaded would be lost.
        task = ray.remote(max_retries=0, max_calls=0)(run_trial)
        reference = task.options(name=f"trial {number}", **needs).remote(spec, self._mailbox)
        self._running[number] = reference, spec
        return slot.index

    def _store(self, folder: Path) -> None:
        """Upload a trial's folder, unless the nodes share it.

        Raises:
            SweepError: If the storage cannot be written.
        """
        if self.storage_path is None:
            return
        try:
            stored = StoredFolder(self.storage_path, folder)
            if not (folder / LOG_FILE).exists():  # what is stored there belongs to another study
                stored.delete()
            stored.upload()
        except Exception as error:  # each filesystem has errors of its own
            raise SweepError(
                f"executor.storage_path={self.storage_path}: cannot be written ({_last_line(error)}); "
                "the same command continues"
            ) from error

    def wait(self, timeout_s: float) -> list[Ended]:
        """Return the trials that have ended, as soon as there are any or after the timeout."""
        references = [reference for reference, _ in self._running.values()]
        if not references:
            time.sleep(timeout_s)
            return []
        ray.wait(references, num_returns=1, timeout=timeout_s)
        self._fetch_progress()
        return self._take_ended(0.0)

    def stop(self) -> None:
        """Ask all trials to save a checkpoint and end."""
        if self._mailbox is not None:
            ray.get(self._mailbox.send.remote(int(signal.SIGTERM)))

    def close(self) -> None:
        """End all trials at once and wait for them.

        This process stays with the cluster until it ends: Ray may abort one that leaves and comes back.
        """
        if self._mailbox is not None:
            with contextlib.suppress(RayError):  # its node may be gone
                ray.get(self._mailbox.send.remote(int(signal.SIGKILL)))
                self._take_ended(CLOSE_TIMEOUT_S)
            ray.kill(self._mailbox)
            self._mailbox = None
        for reference, _ in self._running.values():  # never begun, or out of reach
            ray.cancel(reference, force=True)
        self._running.clear()

    def _take_ended(self, timeout_s: float) -> list[Ended]:
        """Wait for all trials; return those that have ended."""
        numbers = {reference: number for number, (reference, _) in self._running.items()}
        ready = ray.wait(list(numbers), num_returns=len(numbers), timeout=timeout_s)[0] if numbers else []
        return [self._end(numbers[reference]) for reference in ready]

    def _end(self, number: int) -> Ended:
        reference, spec = self._running.pop(number)
        reasons = []
        try:
            ended: Ended = ray.get(reference)
        except RayTaskError as error:  # the task's own code, as on a full disk
            ended = Ended(number, 0, 1)
            reasons.append(str(error))
        except RayError as error:
            ended = Ended(number, int(signal.SIGKILL), 0, isinstance(error, OutOfMemoryError))
            reasons.append(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
        try:
            _fetch(spec)
        except Exception as error:  # each filesystem has errors of its own
            reasons.append(f"executor.storage_path={self.storage_path}: cannot be read ({error})")
        if reasons:
            with (spec.folder / LOG_FILE).open("a", encoding="utf-8") as log:
                log.writelines(f"{reason}\n" for reason in reasons)
        return ended

    def _fetch_progress(self) -> None:
        """Copy logs, progress and pictures of running trials from the storage, every few seconds."""
        if self.storage_path is None or time.monotonic() - self._fetched_at < FETCH_EVERY_S:
            return
        self._fetched_at = time.monotonic()
        folders = [spec.folder for _, spec in self._running.values()]
        names = (LOG_FILE, PROGRESS_FILE, PICTURE_FILE, TARGET_FILE)
        files = [folder / name for folder in folders for name in names]
        addresses = [f"{StoredFolder(self.storage_path, file.parent).address}/{file.name}" for file in files]
        contents = fsspec.url_to_fs(self.storage_path)[0].cat_ranges(addresses, None, None)
        for file, content in zip(files, contents, strict=True):
            if isinstance(content, bytes):  # else an error: the trial has not begun
                file.write_bytes(content)


def _fetch(spec: TaskSpec) -> None:
    """Copy an ended trial's folder from the storage, and delete it there unless it holds checkpoints."""
    if spec.storage_path is None:
        return
    stored = StoredFolder(spec.storage_path, spec.folder)
    names = stored.download(_is_record)
    for file in spec.folder.rglob("*") if names else ():
        name = str(file.relative_to(spec.folder))
        if file.is_file() and _is_record(name) and name not in names:
            file.unlink()
    if not any(CHECKPOINTS in name for name in names):
        stored.delete()
    pictures = list((spec.folder / UPLOADS).glob("*"))
    if pictures:
        store = Path(read_assignment(spec.folder).artifacts)
        store.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        shutil.move(picture, store / picture.name)


def _is_record(name: str) -> bool:
    """Return whether the coordinator's copy of a trial's folder holds a file too."""
    return CHECKPOINTS not in name and name != ASSIGNMENT_FILE


def _on_node(node_id: str, code: Callable[..., Any]) -> Any:
    """Return a remote function or class that runs on a node and takes no CPU of it."""
    where = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=where)(code)


def _nodes() -> list[Mapping[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _last_line(error: Exception) -> str:
    """Return the last line of an error's text, which may be a remote traceback."""
    return str(error).strip().rpartition("\n")[2] or type(error).__name__
