"""A trial as a task on a node of a Ray cluster, and its folder in a storage that all nodes reach."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import fsspec

from sweeps.assignment import ASSIGNMENT_FILE, LOG_FILE, read_assignment, write_assignment
from sweeps.executors.base import Ended
from sweeps.executors.local import LocalExecutor
from sweeps.executors.slots import Slot

if TYPE_CHECKING:
    from ray.actor import ActorHandle

TICK_S = 0.5  # between two readings of the mailbox
UPLOAD_EVERY_S = 5.0  # changed files; a new one, such as a checkpoint, is uploaded at once
PARTIAL = ".partial"  # in the path of a file that is still being written
UPLOADS = "uploads"  # folder of pictures for Optuna's artifact store, which only the coordinator reaches


@dataclass(frozen=True)
class TaskSpec:
    """A trial for a task.

    Args:
        number: The trial's number.
        folder: The trial's folder on the coordinator.
        storage_path: fsspec address where the folder is stored; None where all nodes share it.
        application: Dotted path, see `LocalExecutor`.
        module: Module that runs a trial, see `LocalExecutor`.
        slot: Share of the node that the trial uses.
    """

    number: int
    folder: Path
    storage_path: str | None
    application: str
    module: str
    slot: Slot


class Mailbox:
    """An actor that holds the coordinator's last signal to all trials: SIGTERM, SIGKILL, or 0 for none."""

    def __init__(self) -> None:
        self._signal = 0

    def send(self, signal_number: int) -> None:
        """Send a signal."""
        self._signal = signal_number

    def read(self) -> int:
        """Return the last signal."""
        return self._signal


def run_trial(spec: TaskSpec, mailbox: ActorHandle[Mailbox]) -> Ended:
    """Run a trial in a process of its own, and store its folder while it runs.

    Raises:
        RayActorError: If the mailbox is gone, and so the coordinator; the trial has been killed then.
        OSError: If this node does not see the trial's folder, or its disk is full.
    """
    if spec.storage_path is None:
        spec.folder.stat()
        return _watch(spec, spec.folder, mailbox, lambda: None)
    with tempfile.TemporaryDirectory(prefix="nca-sweep-", ignore_cleanup_errors=True) as name:
        copy = Path(name)
        stored = StoredFolder(spec.storage_path, spec.folder, copy)
        if ASSIGNMENT_FILE in stored.download():
            write_assignment(copy, replace(read_assignment(copy), artifacts=str(copy / UPLOADS)))

        def upload() -> None:
            try:
                stored.upload(UPLOAD_EVERY_S)
            except Exception as error:  # each filesystem has errors of its own; the next upload tries again
                with (copy / LOG_FILE).open("a", encoding="utf-8") as log:
                    log.write(f"not stored in {stored.address}: {error}\n")

        ended = _watch(spec, copy, mailbox, upload)
        stored.upload()
        return ended


def _watch(spec: TaskSpec, folder: Path, mailbox: ActorHandle[Mailbox], on_tick: Callable[[], None]) -> Ended:
    """Start a trial, pass the coordinator's signal on to it, and return how it ended.

    Raises:
        RayActorError: If the coordinator is gone while the trial runs.
    """
    import ray

    slot = replace(spec.slot, gpu=os.environ.get("CUDA_VISIBLE_DEVICES"))  # as Ray has set it
    executor = LocalExecutor([slot], spec.application, spec.module)
    passed_on = 0
    try:
        executor.start(spec.number, folder)
        while not (ended := executor.wait(TICK_S)):
            on_tick()
            try:
                wanted = ray.get(mailbox.read.remote())
            except ray.exceptions.RayActorError:  # the coordinator is gone; what has ended is kept
                if not (ended := executor.wait(0)):
                    raise
                break
            if wanted == signal.SIGKILL:
                return Ended(spec.number, int(signal.SIGKILL), 0)
            if wanted != passed_on:
                executor.stop()
                passed_on = wanted
        return ended[0]
    finally:
        executor.close()


class StoredFolder:
    """A trial's folder in the storage, as STUDY/NUMBER, and a copy on this machine.

    Files are copied whole or not at all, the oldest first: an upload that breaks off leaves the stored folder
    as it was a moment before.

    Args:
        storage_path: fsspec address of the storage.
        folder: The trial's folder on the coordinator.
        copy: Folder of the copy; None for `folder` itself.
    """

    def __init__(self, storage_path: str, folder: Path, copy: Path | None = None) -> None:
        study = quote(folder.parent.name, safe=" ")  # filesystems read *, ? and [ as patterns
        self.address = f"{storage_path.rstrip('/')}/{study}/{folder.name}"
        self._files, self._root = fsspec.url_to_fs(self.address)
        self._copy = copy or folder
        self._uploaded: dict[str, int] = {}  # names of stored files with the times (ns) of their last change
        self._uploaded_at = float("-inf")

    def upload(self, every_s: float = 0.0) -> None:
        """Store changed files, and delete stored ones that are gone from the copy.

        Args:
            every_s: Seconds between uploads, unless there is a new file.
        """
        found = self._scan()
        if found.keys() <= self._uploaded.keys() and time.monotonic() < self._uploaded_at + every_s:
            return
        self._uploaded_at = time.monotonic()
        for name in sorted(found, key=found.__getitem__):
            if self._uploaded.get(name) != found[name]:
                path = f"{self._root}/{name}"
                self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(self._copy / name), path + PARTIAL)
                self._files.mv(path + PARTIAL, path)
                self._uploaded[name] = found[name]
        for name in self._uploaded.keys() - found.keys():
            self._files.rm(f"{self._root}/{name}")
            del self._uploaded[name]

    def download(self, is_wanted: Callable[[str], bool] = lambda name: True) -> list[str]:
        """Copy stored files; return the names of all that are stored."""
        self._files.invalidate_cache()
        names = [path.removeprefix(f"{self._root}/") for path in self._files.find(self._root)]
        names = [name for name in names if PARTIAL not in name]
        wanted = list(filter(is_wanted, names))
        partial = [self._copy / f"{name}{PARTIAL}" for name in wanted]
        for file in partial:
            file.parent.mkdir(parents=True, exist_ok=True)
        self._files.get([f"{self._root}/{name}" for name in wanted], [str(file) for file in partial])
        for name, file in zip(wanted, partial, strict=True):
            file.replace(self._copy / name)
        self._uploaded = self._scan()
        return names

    def delete(self) -> None:
        """Delete the stored folder."""
        self._files.invalidate_cache()
        if self._files.exists(self._root):
            self._files.rm(self._root, recursive=True)

    def _scan(self) -> dict[str, int]:
        files = [file for file in self._copy.rglob("*") if PARTIAL not in file.name and file.is_file()]
        return {str(file.relative_to(self._copy)): file.stat().st_mtime_ns for file in files}


def file_exists(address: str) -> bool:
    """Return whether this node finds a file at an fsspec address."""
    files, path = fsspec.url_to_fs(address)
    return bool(files.exists(path))
