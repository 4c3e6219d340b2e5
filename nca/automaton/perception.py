"""Perception: fixed 3x3 kernels, applied to every channel of the state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

MAX_FILTERS = 20

# In the study's order; its program calls the Prewitt kernels "sobel".
IDENTITY = [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
LAPLACIAN = [[1, 2, 1], [2, -12, 2], [1, 2, 1]]
PREWITT_ROWS = [[-1, -1, -1], [0, 0, 0], [1, 1, 1]]
PREWITT_COLUMNS = [[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]]
MOORE = [[1, 1, 1], [1, 0, 1], [1, 1, 1]]
SOBEL_ROWS = [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]
SOBEL_COLUMNS = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
STUDY_KERNELS = (IDENTITY, LAPLACIAN, PREWITT_ROWS, PREWITT_COLUMNS, MOORE)
DISTILL_KERNELS = (IDENTITY, SOBEL_COLUMNS, SOBEL_ROWS, LAPLACIAN, MOORE)


def make_kernels(
    n_filters: int,
    generator: torch.Generator | None,
    named: Sequence[Sequence[Sequence[int]]] = STUDY_KERNELS,
) -> Float[Tensor, "filter 3 3"]:
    """Return the first `n_filters` perception kernels, 1 to 20, float32 on the CPU.

    After the named ones they are drawn from a standard normal distribution, with the stream `filters` as
    generator, so they are saved with the model.

    Raises:
        ValueError: If `n_filters` is not 1 to 20.
    """
    if not 1 <= n_filters <= MAX_FILTERS:
        raise ValueError(f"n_filters={n_filters}: must be 1 to {MAX_FILTERS}")
    first = torch.tensor(named[:n_filters], dtype=torch.float32)
    extra = torch.randn(max(0, n_filters - len(named)), 3, 3, generator=generator)
    return torch.cat([first, extra])


def make_channel_kernels(channels: int) -> Float[Tensor, "channel 3 3"]:
    """Return a kernel per channel: Laplacian, Sobel over columns, Sobel over rows, a third each."""
    third = channels // 3
    names = [LAPLACIAN] * (channels - 2 * third) + [SOBEL_COLUMNS] * third + [SOBEL_ROWS] * third
    return torch.tensor(names, dtype=torch.float32)


def perceive(
    state: Float[Tensor, "batch channel height width"], kernels: Float[Tensor, "filter 3 3"]
) -> Float[Tensor, "batch perception height width"]:
    """Correlate every channel with every kernel on the torus; the result is channel-major."""
    return filter_channels(state, kernels.repeat(state.shape[1], 1, 1))


def filter_channels(
    state: Float[Tensor, "batch channel height width"], kernels: Float[Tensor, "kernel 3 3"]
) -> Float[Tensor, "batch kernel height width"]:
    """Correlate each channel with its own kernels, as many for each, on the torus."""
    padded = F.pad(state, (1, 1, 1, 1), mode="circular")
    return F.conv2d(padded, kernels.to(state)[:, None], groups=state.shape[1])
