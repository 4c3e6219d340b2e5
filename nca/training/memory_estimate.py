"""How much memory a training run needs, from its sizes."""

from __future__ import annotations

import itertools
import math

from nca.automaton.fast_rollout import n_kept_steps
from nca.config.schema import ModelConfig, TrainConfig, TrialConfig
from nca.loss.features import N_LEVELS, N_RANDOM_FILTERS
from nca.training.pool import n_pool_rows

__all__ = ["estimate_memory"]

FLOAT_BYTES = 4
INDEX_BYTES = 8  # of a pooled value's place
# VGG-16 up to relu5_1: feature maps of its convolutions by level; each level has half the side.
VGG_LEVELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512,))
WINOGRAD_LEVELS = (2, 3)  # whose convolutions but one `features.WINOGRAD_LAYERS` names
WINOGRAD_GROWTH = 16 / 9  # of those weights
# Copies of the largest thing of its kind that live at once while gradients flow.
STATES_AT_WORK = 6
FEATURES_AT_WORK = 6
LIBRARIES_MB = 40  # buffers of the libraries that compute


def estimate_memory(config: TrialConfig) -> dict[str, float]:
    """Estimate what a training run holds at its peak, in MB, apart from torch's own code and context.

    Counted from sizes, and held to measured peaks on the CPU by test.

    Args:
        config: Features resolved or not: auto counts as VGG-16, the larger.

    Returns:
        `pool`, `rollout`, `features`, `weights` and `libraries`; their sum is the estimate.
    """
    train, model = config.train, config.model
    in_features = 2 if train.precision == "bf16" else FLOAT_BYTES
    pixels = (1 if train.recompute else train.batch_size) * train.size**2
    small = config.features.name == "random_filters"
    parts = {
        "pool": n_pool_rows(train) * model.channels * train.size**2 * FLOAT_BYTES,
        "rollout": _rollout_bytes(model, train),
        "features": pixels * (_filter_bytes() if small else _vgg_bytes(in_features)),
        "weights": 0.0 if small else _vgg_weights() * in_features,
    }
    return {name: n_bytes / 1e6 for name, n_bytes in parts.items()} | {"libraries": LIBRARIES_MB}


def _rollout_bytes(model: ModelConfig, train: TrainConfig) -> float:
    """Return bytes of the states and coins that stay, and of what a CA step works on."""
    longest = train.max_ca_steps - 1
    n_kept = n_kept_steps(longest, recompute=train.recompute)
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
    """Return bytes per pixel: convolutions' outputs, pooled values and their places."""
    kept = 0.0
    for level, widths in enumerate(VGG_LEVELS):
        kept += sum(widths) * in_features / 4**level
        if level > 0:
            kept += VGG_LEVELS[level - 1][-1] * (in_features + INDEX_BYTES) / 4**level
    return kept + FEATURES_AT_WORK * VGG_LEVELS[0][0] * in_features


def _filter_bytes() -> float:
    """Return bytes per pixel: responses, padded once more for the constant feature."""
    per_level = (2 + FEATURES_AT_WORK / 2) * N_RANDOM_FILTERS * FLOAT_BYTES
    return sum(per_level / 4.0**level for level in range(N_LEVELS))


def _vgg_weights() -> float:
    """Return the number of weights, those in Winograd's form as the larger arrays they are."""
    widths = [(level, width) for level, group in enumerate(VGG_LEVELS) for width in group]
    total = 9.0 * 3 * widths[0][1]
    for (_, inputs), (level, outputs) in itertools.pairwise(widths):
        total += 9 * inputs * outputs * (WINOGRAD_GROWTH if level in WINOGRAD_LEVELS else 1)
    return total
