"""The memory that a run needs at least, and that of its machine; does not import torch."""

from __future__ import annotations

import math
import os

from nca.config.schema import TrainConfig, TrialConfig
from sweeps.executors.cgroups import memory_limit

POOL_ROWS_PER_BATCH_ROW = 64  # unless `train.pool_size` gives the number of rows
BYTES_PER_VALUE = 4
# Values of the features, kept for the backward pass, per pixel of an image; given weights may be narrower.
FEATURES_PER_PX = {"vgg16": 266, "random_filters": 85}


def n_pool_rows(train: TrainConfig) -> int:
    """Return the number of states in the pool."""
    return train.pool_size or POOL_ROWS_PER_BATCH_ROW * train.batch_size


def min_memory_bytes(config: TrialConfig) -> int:
    """Return a lower bound of a run's memory: the pool, the states of a rollout, and the features."""
    train, n_states = config.train, config.train.max_ca_steps
    n_images = train.batch_size
    n_features = 0 if config.features.weights else FEATURES_PER_PX.get(config.features.name, 0)
    if train.precision == "bf16":
        n_features //= 2
    if train.recompute:
        n_states, n_images = math.isqrt(n_states), 1
    n_states = n_pool_rows(train) + n_states * train.batch_size
    return BYTES_PER_VALUE * train.size**2 * (n_states * config.model.channels + n_images * n_features)


def host_memory_bytes() -> int:
    """Return the memory that this process may use, by the machine and its control groups."""
    return min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), memory_limit())
