"""Checkpoints of a training run: saved atomically, verified when loaded, no pickles."""

from __future__ import annotations

import os
import shutil
import stat
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

N_KEPT = 2  # the newest, and the one before it in case the newest is damaged


class Checkpoints:
    """The checkpoints of one run, each a safetensors file with a checksum in its header.

    Args:
        folder: Created with the first checkpoint.
        every: Minimum number of training steps between checkpoints.
        every_s: Minimum number of seconds between checkpoints; a checkpoint is as large as the pool.
    """

    def __init__(self, folder: Path, every: int, every_s: float) -> None:
        self._folder = folder
        self._every = every
        self._every_s = every_s
        self._saved_step = 0
        self._saved_at = time.monotonic()

    def due(self, n_steps: int) -> bool:
        """Return whether a checkpoint is due after `n_steps` finished training steps."""
        elapsed_s = time.monotonic() - self._saved_at
        return n_steps - self._saved_step >= self._every and elapsed_s >= self._every_s

    def save(self, state: Mapping[str, Tensor], n_steps: int) -> None:
        """Write a checkpoint, named by its number of finished steps, and keep only the two newest.

        Raises:
            OSError: If the disk is full or not writable; earlier checkpoints stay as they are.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / file_name(n_steps)
        partial = path.with_suffix(".partial")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        try:
            partial.touch()
            mode = partial.stat().st_mode
            save_file(tensors, partial, {"checksum": str(_checksum(tensors))})
            partial.chmod(stat.S_IMODE(mode))  # `save_file` allows the owner alone to read it
            _sync(partial)
            partial.replace(path)
            _sync(self._folder)
        except SafetensorError as error:
            raise OSError(f"{path}: cannot be written ({error})") from error
        finally:
            partial.unlink(missing_ok=True)
        for old in self._paths()[N_KEPT:]:
            old.unlink(missing_ok=True)
        self._saved_step, self._saved_at = n_steps, time.monotonic()

    def load(self) -> dict[str, Tensor] | None:
        """Return the newest undamaged checkpoint, on the CPU; None if there is none."""
        for path in self._paths():
            state = _read(path)
            if state is not None:
                self._saved_step, self._saved_at = int(path.stem), time.monotonic()
                return state
        return None

    def clear(self) -> None:
        """Delete every checkpoint of the run."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _paths(self) -> list[Path]:
        """Return the checkpoint files, the newest first."""
        return sorted(self._folder.glob("*.safetensors"), reverse=True)


def file_name(n_steps: int) -> str:
    """Return the file name of the checkpoint after `n_steps` finished steps."""
    return f"{n_steps:08d}.safetensors"


def _read(path: Path) -> dict[str, Tensor] | None:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        checksum = str(_checksum(tensors, header.get("values", "")))
    except (SafetensorError, OSError, AttributeError, TypeError, ValueError):
        return None
    return tensors if header.get("checksum") == checksum else None


def _checksum(tensors: dict[str, Tensor], values: str = "") -> int:
    """Return the CRC-32 of all tensors and of the JSON values that older checkpoints have in the header."""
    checksum = zlib.crc32(values.encode())
    for name in sorted(tensors):
        checksum = zlib.crc32(name.encode(), checksum)
        checksum = zlib.crc32(tensors[name].reshape(-1).numpy().data.cast("B"), checksum)
    return checksum


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
