"""The features `patches`: all patches of RGB on a Gaussian pyramid."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nca.loss.texture_loss import Images

MIN_LEVEL_SIDE = 8  # px
BLUR_SIDE, BLUR_STD = 5, 1.0  # px


class Patches:
    """Square patches around every pixel of every pyramid level, which wrap around as states do.

    Before its patches are taken, the detail of a level is made stronger, `x + unsharp * (x - blurred x)`:
    without it, differences of brightness outweigh shapes.

    Args:
        side: Of a patch, in pixels.
        levels: Of the pyramid; those of less than 8 px are left out.
        unsharp: 0 to take levels as they are.
        device: Device of the features.
        dtype: Type of the features.

    Source: pyramid and unsharp masking as in Mordvintsev and Niklasson 2021, "muNCA: Texture Generation with
    Ultra-Compact Neural Cellular Automata".
    """

    def __init__(
        self, side: int, levels: int, unsharp: float, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self._side, self._levels, self._unsharp, self._dtype = side, levels, unsharp, dtype
        offsets = torch.arange(BLUR_SIDE, dtype=torch.float64) - BLUR_SIDE // 2
        taps = torch.exp(-((offsets / BLUR_STD) ** 2) / 2)
        taps /= taps.sum()
        self._blur = (taps[:, None] * taps).expand(3, 1, -1, -1).to(device, dtype)

    def __call__(self, images: Images) -> list[Float[Tensor, "batch feature position"]]:
        """Return the patches of every level, finest first."""
        level, patches = images.to(self._dtype), []
        for _ in range(self._levels):
            if min(level.shape[2:]) < MIN_LEVEL_SIDE:
                break
            blurred = F.conv2d(_wrap(level, BLUR_SIDE // 2), self._blur, groups=3)
            sharp = level + self._unsharp * (level - blurred)
            patches.append(F.unfold(_wrap(sharp, self._side // 2), self._side))
            level = blurred[:, :, ::2, ::2]
        return patches


def hash_pyramid() -> str:
    """Return a SHA-256 in hex of what the options of patches leave open."""
    return hashlib.sha256(repr((MIN_LEVEL_SIDE, BLUR_SIDE, BLUR_STD)).encode()).hexdigest()


def _wrap(images: Tensor, margin: int) -> Tensor:
    return F.pad(images, (margin,) * 4, mode="circular")
