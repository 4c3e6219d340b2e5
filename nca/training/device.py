"""Where a run computes, what it may do there, and how the process keeps memory on the host."""

from __future__ import annotations

import ctypes

import torch

from nca.cli.errors import ConfigError
from nca.config.schema import TrainConfig

__all__ = ["allow_tf32", "check_device", "keep_freed_memory", "pick_device"]

# glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
NEVER = -1


def pick_device(name: str) -> torch.device:
    """Return the device of a name; auto is the first GPU where there is one, else the CPU.

    Raises:
        ConfigError: If the name is unknown or the GPU is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, index = name.partition(":")
    if kind not in ("cuda", "cpu") or (colon and not (kind == "cuda" and index.isdecimal())):
        raise ConfigError(f"device={name}: must be auto, cuda, cuda:N or cpu")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ConfigError(f"device={name}: {found} CUDA devices found here; use device=cpu or device=auto")
    return torch.device(name)


def check_device(train: TrainConfig, device: torch.device) -> None:
    """Refuse what only a GPU can do on another device, and what a CUDA graph cannot hold.

    Raises:
        ConfigError: If so.
    """
    if train.cuda_graph and train.recompute and train.rollout == "fast":
        # To draw the same masks a second time sets a generator back, which no graph can.
        raise ConfigError("train.cuda_graph=true: not with train.recompute=true; give one of them")
    if device.type == "cuda":
        return
    if train.precision == "tf32":
        raise ConfigError(f"train.precision=tf32: needs a GPU, and device is {device}; give fp32 or bf16")
    if train.cuda_graph:
        raise ConfigError(f"train.cuda_graph=true: needs a GPU, and device is {device}; give false")


def allow_tf32(allowed: bool) -> None:
    """Let products and convolutions of float32 on a GPU round their factors to TF32, or not."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def keep_freed_memory() -> None:
    """Let the allocator keep freed tensors for the next ones instead of handing them back to the system.

    A training step on the CPU frees and allocates the same tensors; faulting their pages in again took a
    third of a ReLU step's time. The process holds on to its peak from now on. Without glibc nothing changes.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.malloc_trim(0)  # what loading has freed goes back first
        libc.mallopt(M_MMAP_MAX, 0)  # a mapping of its own goes back as soon as it is freed
        libc.mallopt(M_TRIM_THRESHOLD, NEVER)
