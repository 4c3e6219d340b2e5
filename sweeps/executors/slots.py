"""Slots: shares of a machine's cores and GPUs, one for each trial that runs at once."""

from __future__ import annotations

import itertools
import math
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sweeps import SweepError
from sweeps.executors.cgroups import cpu_quota

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
NVIDIA_SMI_LINE = re.compile(r"^\s*(GPU|MIG)\b.*\(UUID: ([^)]+)\)", re.MULTILINE)
DRIVER_GPUS = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU


@dataclass(frozen=True)
class Slot:
    """The share of a machine that one trial uses.

    Args:
        index: Number of the slot, from 0.
        threads: CPU threads.
        cores: Numbers of the cores that the trial is pinned to; empty for all.
        gpu: Value of CUDA_VISIBLE_DEVICES; None leaves it as it is.
    """

    index: int
    threads: int
    cores: tuple[int, ...] = ()
    gpu: str | None = None

    def environment(self) -> dict[str, str]:
        """Return the environment variables that limit a process to this slot."""
        variables = dict.fromkeys(THREAD_VARIABLES, str(self.threads))
        return variables if self.gpu is None else variables | {"CUDA_VISIBLE_DEVICES": self.gpu}


def make_slots(
    workers: int | Literal["auto"],
    threads: int | Literal["auto"],
    gpus: int | Literal["auto"],
    trials_per_gpu: int = 1,
) -> list[Slot]:
    """Divide this machine's GPUs and cores into slots.

    Args:
        workers: Number of slots; auto is `trials_per_gpu` on each GPU, or without a GPU as many as the cores
            hold, or the CPU time that a container may use.
        threads: CPU threads of a slot; auto is one, or the cores divided by the number of slots where that is
            given or follows from the GPUs.
        gpus: Number of GPUs to use; auto is all visible ones.
        trials_per_gpu: Slots on each GPU.

    Returns:
        The slots, pinned to cores of their own where there are enough. Under a limit of CPU time they are not
        pinned, as other containers could be pinned to the same cores.

    Raises:
        SweepError: If fewer GPUs are visible.
    """
    cores = sorted(os.sched_getaffinity(0))
    devices = [] if gpus == 0 else visible_gpus()
    if gpus != "auto" and gpus > len(devices):
        raise SweepError(
            f"executor.gpus={gpus}: {len(devices)} GPUs are visible here; give {len(devices)} or auto"
        )
    devices = devices if gpus == "auto" else devices[:gpus]
    per_slot = 1 if threads == "auto" else threads
    n_cores = math.ceil(min(len(cores), cpu_quota()))
    n_auto = len(devices) * trials_per_gpu or max(1, n_cores // per_slot)
    n_slots = n_auto if workers == "auto" else workers
    n_threads = max(1, n_cores // n_slots) if threads == "auto" else threads
    can_pin = n_slots * n_threads <= n_cores == len(cores)
    no_gpu = "" if gpus == 0 else None
    slots = []
    for index in range(n_slots):
        pinned = tuple(cores[index * n_threads : (index + 1) * n_threads]) if can_pin else ()
        slots.append(Slot(index, n_threads, pinned, devices[index % len(devices)] if devices else no_gpu))
    return slots


def visible_gpus() -> list[str]:
    """Return the visible GPUs as CUDA_VISIBLE_DEVICES names them, without loading torch.

    A process uses one instance of a GPU that is divided by MIG, so that each instance counts as a GPU.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None and not named.strip():
        return []
    present = _list_gpus()
    if named is not None:
        names = [name.strip() for name in named.split(",")]
        return list(dict.fromkeys(itertools.takewhile(lambda name: _is_present(name, present), names)))
    if not any(present.values()):
        return [str(index) for index in range(len(present))]
    return [name for gpu, instances in present.items() for name in (instances or [gpu])]


def _is_present(name: str, gpus: Mapping[str, Sequence[str]]) -> bool:
    """Return whether CUDA finds a GPU by its name; it reads the list of names up to the first it does not."""
    if name.isdecimal():
        return not gpus or int(name) < len(gpus)
    if name.startswith("GPU-"):
        return not gpus or any(gpu.startswith(name) for gpu in gpus)
    return name.startswith("MIG-")


def _list_gpus() -> dict[str, list[str]]:
    """Return the UUIDs of this machine's GPUs, each with those of its MIG instances."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, encoding="utf-8", timeout=20, check=True
        )
    except FileNotFoundError:  # containers may have the driver without its programs
        return {gpu.name: [] for gpu in sorted(DRIVER_GPUS.glob("*"))}
    except (OSError, subprocess.SubprocessError):
        return {}
    gpus: dict[str, list[str]] = {}
    for kind, uuid in NVIDIA_SMI_LINE.findall(listed.stdout):
        if kind == "GPU":
            gpus[uuid] = []
        else:
            gpus[next(reversed(gpus))].append(uuid)
    return gpus
