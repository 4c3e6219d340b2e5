"""Where a run computes, and what it may do there."""

from __future__ import annotations

import torch

from nca.config.schema import TrainConfig
from nca.config.validation import ConfigError

__all__ = ["allow_tf32", "check_device", "pick_device"]


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
