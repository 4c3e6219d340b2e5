"""The device of a run: selection, checks, TF32, and the host's threads and memory allocator."""

from __future__ import annotations

import ctypes
import math
import os

import torch

from nca.cli.errors import ConfigError
from nca.config.schema import TrainConfig
from sweeps.executors.cgroups import cpu_quota

# glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
NEVER = -1

BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # of x86 and, the last one, of ARM


def pick_device(name: str) -> torch.device:
    """Return the device of a config; auto is the first GPU, or the CPU on a machine without one.

    Raises:
        ConfigError: If the GPU does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ConfigError(f"device={name}: {found} CUDA devices found here; use device=cpu or device=auto")
    return torch.device(name)


def check_device(train: TrainConfig, device: torch.device) -> None:
    """Check that a device supports the precision and the CUDA graph of a config.

    Raises:
        ConfigError: If TF32 or a CUDA graph lacks a GPU, bf16 lacks instructions of the CPU, or a CUDA graph
            would recompute rollouts.
    """
    if train.cuda_graph and train.recompute and train.rollout == "fast":
        # Recomputing resets the generator to draw the same masks again, which a graph cannot.
        raise ConfigError("train.cuda_graph=true: not with train.recompute=true; set one of them to false")
    if device.type == "cuda":
        return
    if train.precision == "tf32":
        raise ConfigError(f"train.precision=tf32: needs a GPU, and device is {device}; give fp32")
    if train.precision == "bf16" and not cpu_multiplies_bf16():
        raise ConfigError(
            "train.precision=bf16: this CPU has no instructions for bf16 and would take many times as long; "
            "give fp32"
        )
    if train.cuda_graph:
        raise ConfigError(f"train.cuda_graph=true: needs a GPU, and device is {device}; give false")


def cpu_multiplies_bf16() -> bool:
    """Return whether the CPU has instructions for products of bf16 numbers."""
    return any(map(torch.cpu.get_capabilities().get, BF16_INSTRUCTIONS))


def allow_tf32(allowed: bool) -> None:
    """Set whether float32 matrix products and convolutions on a GPU may round their factors to TF32."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def limit_threads() -> None:
    """Use no more threads than a container may use CPUs' time, unless OMP_NUM_THREADS gives their number."""
    quota = cpu_quota()
    if quota < torch.get_num_threads() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(math.ceil(quota))


def keep_freed_memory() -> None:
    """Make the host's allocator reuse the memory of freed tensors instead of returning it to the system.

    A training step on the CPU frees and allocates tensors of the same sizes; page faults of returned memory
    took a third of a ReLU step's time. From now on the process keeps its peak. No effect without glibc.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.malloc_trim(0)  # returns the memory that loading has freed
        libc.mallopt(M_MMAP_MAX, 0)  # a separate mapping would be returned as soon as it is freed
        libc.mallopt(M_TRIM_THRESHOLD, NEVER)
