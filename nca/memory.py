"""How much memory a trial needs, and how the process keeps what it has freed."""

from __future__ import annotations

import ctypes
import itertools
import math

from nca.config import ModelConfig, TrainConfig, TrialConfig

__all__ = ["estimate_memory", "keep_freed_memory"]

# glibc's malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # bytes; larger values are refused
NEVER_TRIM = 2**30


def keep_freed_memory() -> None:
    """Let the allocator keep freed tensors for the next ones instead of handing them back to the system.

    A training step on the CPU frees and allocates the same tensors; faulting their pages in again took a
    third of a ReLU step's time. The process holds on to its peak from now on. Without glibc nothing changes.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.malloc_trim(0)  # what loading has freed goes back first
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        libc.mallopt(M_TRIM_THRESHOLD, NEVER_TRIM)


POOL_ROWS_PER_BATCH_ROW = 64
FLOAT_BYTES = 4
INDEX_BYTES = 8  # of a pooled value's place
# VGG-16 up to relu5_1: feature maps of its convolutions by level; each level has half the side.
VGG_LEVELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512,))
WINOGRAD_GROWTH = 16 / 9  # of the weights of levels 3 and 4, kept once more
FILTER_LEVELS = 4
FILTER_MAPS = 64
# Copies of the largest thing of its kind that live at once while gradients flow.
STATES_AT_WORK = 6
FEATURES_AT_WORK = 6
LIBRARIES_MB = 40  # buffers of the libraries that compute


def estimate_memory(config: TrialConfig) -> dict[str, float]:
    """Estimate what a training run holds at its peak, in MB, apart from torch's own code and context.

    Counted from sizes; benchmarks/scaling.py holds it to measured peaks on the CPU.

    Args:
        config: Features resolved or not: auto counts as VGG-16, the larger.

    Returns:
        `pool`, `rollout`, `features`, `weights` and `libraries`; their sum is the estimate.
    """
    train, model = config.train, config.model
    rows = train.pool_size or POOL_ROWS_PER_BATCH_ROW * train.batch_size
    in_features = 2 if train.precision == "bf16" else FLOAT_BYTES
    small = config.features.name == "random_filters"
    parts = {
        "pool": rows * model.channels * train.size**2 * FLOAT_BYTES,
        "rollout": _rollout_bytes(model, train),
        "features": train.batch_size
        * train.size**2
        * (_filter_bytes() if small else _vgg_bytes(in_features)),
        "weights": 0.0 if small else _vgg_weights() * in_features,
    }
    return {name: n_bytes / 1e6 for name, n_bytes in parts.items()} | {"libraries": LIBRARIES_MB}


def _rollout_bytes(model: ModelConfig, train: TrainConfig) -> float:
    longest = train.max_ca_steps - 1
    n_kept = math.ceil(math.sqrt(longest)) if train.recompute else longest
    n_starts = math.ceil(longest / n_kept) if train.recompute else 0
    cells = train.batch_size * train.size**2
    state = train.batch_size * model.channels * (train.size + 2) ** 2 * FLOAT_BYTES
    coins = cells * (model.channels if model.mask == "channel" else 1)
    at_work = STATES_AT_WORK * state
    if model.activation == "relu":
        # perception and hidden features, and the gradient by each
        at_work += 2 * cells * (model.channels * model.filters + model.hidden_channels) * FLOAT_BYTES
    return (n_kept + 1 + n_starts) * state + n_kept * coins + at_work


def _vgg_bytes(in_features: int) -> float:
    """Return bytes per pixel: every convolution's output stays, and pooled values with their places."""
    kept = 0.0
    for level, widths in enumerate(VGG_LEVELS):
        kept += sum(widths) * in_features / 4**level
        if level > 0:
            kept += VGG_LEVELS[level - 1][-1] * (in_features + INDEX_BYTES) / 4**level
    return kept + FEATURES_AT_WORK * VGG_LEVELS[0][0] * in_features


def _filter_bytes() -> float:
    per_level = (2 + FEATURES_AT_WORK / 2) * FILTER_MAPS * FLOAT_BYTES  # padded once more for the mean
    return sum(per_level / 4.0**level for level in range(FILTER_LEVELS))


def _vgg_weights() -> float:
    """Return the number of weights, those kept for Winograd's algorithm counted again."""
    widths = [(level, width) for level, group in enumerate(VGG_LEVELS) for width in group]
    total = 9.0 * 3 * widths[0][1]
    for (_, inputs), (level, outputs) in itertools.pairwise(widths):
        total += 9 * inputs * outputs * (WINOGRAD_GROWTH if level in (2, 3) else 1)
    return total
