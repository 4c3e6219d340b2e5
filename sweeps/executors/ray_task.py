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

import fsspec

from sweeps.assignment import ASSIGNMENT_FILE, LOG_FILE, read_assignment, write_assignment
from sweeps.executors.base import Ended
from sweeps.executors.local import LocalExecutor
from sweeps.executors.slots import Slot

if TYPE_CHECKING:
    from ray.actor import ActorHandle

__all__ = ["UPLOADS", "Mailbox", "TaskSpec", "delete", "download", "file_exists", "run_trial", "upload"]

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
        address: fsspec address of the stored folder; None where all nodes share `folder`.
        application: Dotted path, see `LocalExecutor`.
        module: Module that runs a trial, see `LocalExecutor`.
        slot: Share of the node that the trial uses.
    """

    number: int
    folder: Path
    address: str | None
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
    if spec.address is None:
        spec.folder.stat()
        return _watch(spec, spec.folder, mailbox, lambda: None)
    with tempfile.TemporaryDirectory(prefix="nca-sweep-", ignore_cleanup_errors=True) as name:
        copy, address = Path(name), spec.address
        download(address, copy)
        stored, stored_at = _scan(copy), time.monotonic()
        if ASSIGNMENT_FILE in stored:
            write_assignment(copy, replace(read_assignment(copy), artifacts=str(copy / UPLOADS)))

        def store() -> None:
            nonlocal stored_at
            if _scan(copy).keys() <= stored.keys() and time.monotonic() < stored_at + UPLOAD_EVERY_S:
                return
            stored_at = time.monotonic()
            try:
                upload(address, copy, stored)
            except Exception as error:  # each filesystem has errors of its own; the next upload repeats it
                with (copy / LOG_FILE).open("a") as log:
                    log.write(f"not stored in {address}: {error}\n")

        ended = _watch(spec, copy, mailbox, store)
        upload(address, copy, stored)
        return ended


def _watch(spec: TaskSpec, folder: Path, mailbox: ActorHandle[Mailbox], on_tick: Callable[[], None]) -> Ended:
    """Start a trial, pass the coordinator's signal on to it, and return how it ended."""
    import ray

    slot = replace(spec.slot, gpu=os.environ.get("CUDA_VISIBLE_DEVICES"))  # as Ray has set it
    executor = LocalExecutor([slot], spec.application, spec.module)
    passed_on = 0
    try:
        executor.start(spec.number, folder)
        while not (ended := executor.wait(TICK_S)):
            on_tick()
            wanted = ray.get(mailbox.read.remote())
            if wanted == signal.SIGKILL:
                return Ended(spec.number, int(signal.SIGKILL), 0)
            if wanted != passed_on:
                executor.stop()
                passed_on = wanted
        return ended[0]
    finally:
        executor.close()


def upload(address: str, folder: Path, stored: dict[str, int]) -> None:
    """Store a folder's changed files, each whole or not at all, the oldest first.

    Args:
        address: fsspec address of the stored folder.
        folder: The folder.
        stored: Names of stored files with the times (ns) of their last change, kept up to date; stored files
            that the folder does not hold any more are deleted.
    """
    files, root = fsspec.url_to_fs(address)
    found = _scan(folder)
    for name in sorted(found, key=found.__getitem__):
        if stored.get(name) != found[name]:
            path = f"{root}/{name}"
            files.makedirs(path.rpartition("/")[0], exist_ok=True)
            files.put_file(str(folder / name), path + PARTIAL)
            files.mv(path + PARTIAL, path)
            stored[name] = found[name]
    for name in stored.keys() - found.keys():
        files.rm(f"{root}/{name}")
        del stored[name]


def download(address: str, folder: Path, is_wanted: Callable[[str], bool] = lambda name: True) -> list[str]:
    """Copy stored files into a folder, each whole or not at all; return the names of all stored files."""
    files, root = fsspec.url_to_fs(address)
    files.invalidate_cache()
    names = [path.removeprefix(f"{root}/") for path in files.find(root) if PARTIAL not in path]
    wanted = list(filter(is_wanted, names))
    partial = [folder / f"{name}{PARTIAL}" for name in wanted]
    for file in partial:
        file.parent.mkdir(parents=True, exist_ok=True)
    files.get([f"{root}/{name}" for name in wanted], [str(file) for file in partial])
    for name, file in zip(wanted, partial, strict=True):
        file.replace(folder / name)
    return names


def delete(address: str) -> None:
    """Delete a stored folder."""
    files, root = fsspec.url_to_fs(address)
    files.invalidate_cache()
    if files.exists(root):
        files.rm(root, recursive=True)


def file_exists(address: str) -> bool:
    """Return whether this node finds a file at an fsspec address."""
    files, path = fsspec.url_to_fs(address)
    return bool(files.exists(path))


def _scan(folder: Path) -> dict[str, int]:
    """Return the names of a folder's files with the times (ns) of their last change."""
    files = [file for file in folder.rglob("*") if PARTIAL not in file.name and file.is_file()]
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in files}
