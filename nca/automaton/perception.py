"""Perception: fixed 3x3 kernels, applied to every channel of the state."""

from __future__ import annotations

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
NAMED_KERNELS = (IDENTITY, LAPLACIAN, PREWITT_ROWS, PREWITT_COLUMNS, MOORE)


def make_kernels(n_filters: int, generator: torch.Generator | None) -> Float[Tensor, "filter 3 3"]:
    """Return the first `n_filters` perception kernels, 1 to 20, float32 on the CPU.

    From the sixth on they are drawn from a standard normal distribution, with the stream `filters` as
    generator, so they are saved with the model.

    Raises:
        ValueError: If `n_filters` is not 1 to 20.
    """
    if not 1 <= n_filters <= MAX_FILTERS:
        raise ValueError(f"n_filters={n_filters}: must be 1 to {MAX_FILTERS}")
    named = torch.tensor(NAMED_KERNELS[:n_filters], dtype=torch.float32)
    extra = torch.randn(max(0, n_filters - len(NAMED_KERNELS)), 3, 3, generator=generator)
    return torch.cat([named, extra])


def perceive(
    state: Float[Tensor, "batch channel height width"], kernels: Float[Tensor, "filter 3 3"]
) -> Float[Tensor, "batch perception height width"]:
    """Correlate every channel with every kernel on the torus; the result is channel-major."""
    channels = state.shape[1]
    padded = F.pad(state, (1, 1, 1, 1), mode="circular")
    weight = kernels.to(state).repeat(channels, 1, 1)[:, None]
    return F.conv2d(padded, weight, groups=channels)
