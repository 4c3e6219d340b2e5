"""3x3 convolutions of fixed weights with fewer multiplications, for the CPU: Winograd's minimal filtering.

A tile of 2x2 outputs takes 16 products where the definition takes 36, and small matrix products around them.
It pays where channels are many and pixels few, as in the deep layers of VGG-16.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["WinogradConvolution"]

TILE = 2  # outputs along a side
PATCH = TILE + 2  # inputs along a side
TILES_AT_ONCE = 1024  # bounds the memory that patches take

# F(2x2, 3x3) with the points 0, 1, -1 and infinity. Larger tiles save more, and round worse: with F(4x4, 3x3)
# the recorded training trajectory was missed now and then.
INPUT_TRANSFORM = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
KERNEL_TRANSFORM = ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1))
OUTPUT_TRANSFORM = ((1, 1, 1, 0), (0, 1, -1, -1))


class WinogradConvolution:
    """A 3x3 convolution with zero padding, whose weights get no gradients.

    Equal to `F.conv2d(images, weight, bias, padding=1)` but for rounding: on rectified random images the
    Frobenius error in float32 is 2e-7 to 4e-7 of the result, where oneDNN's is 4e-7 to 8e-7.

    Args:
        weight: On the CPU.
        bias: Likewise.

    Source: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4.
    """

    def __init__(self, weight: Float[Tensor, "output input 3 3"], bias: Float[Tensor, " output"]) -> None:
        self._bias = bias
        rows = torch.tensor(KERNEL_TRANSFORM, dtype=torch.float64)
        self._kernels = weight.new_empty(PATCH**2, weight.shape[1], weight.shape[0])
        for place, row in enumerate(torch.kron(rows, rows).to(weight.dtype)):
            self._kernels[place] = (weight.flatten(2) @ row).T
        self._from_patch, self._to_tile = (
            torch.kron(matrix, matrix).to(weight.dtype)
            for matrix in (torch.tensor(rows).double() for rows in (INPUT_TRANSFORM, OUTPUT_TRANSFORM))
        )

    def __call__(
        self, images: Float[Tensor, "batch input height width"]
    ) -> Float[Tensor, "batch output height width"]:
        """Return the convolution, channels-last."""
        result: Tensor = _Convolution.apply(self, images)
        return result

    def convolve(self, images: Tensor) -> Tensor:
        """Return the convolution, channels-last."""
        batch, _, height, width = images.shape
        images = images.permute(0, 2, 3, 1)
        rows, columns = _count_tiles(images)
        more = (0, 0, 1, 1 + columns * TILE - width, 1, 1 + rows * TILE - height)
        patches = F.pad(images, more).unfold(1, PATCH, TILE).unfold(2, PATCH, TILE).permute(4, 5, 0, 1, 2, 3)
        shape = (batch, len(self._bias), rows * TILE, columns * TILE)
        outputs = torch.empty(shape, dtype=images.dtype, memory_format=torch.channels_last)
        tiles = _as_tiles(outputs.permute(0, 2, 3, 1))
        for part in _parts(batch, rows, columns):
            inputs = _transform(self._from_patch, patches[part])
            products = torch.bmm(inputs, self._kernels)
            tiles[part] = _transform(self._to_tile, products).view_as(tiles[part])
        outputs += self._bias[:, None, None]
        # No view where none is needed: what follows may then work in place.
        return outputs if more[3] == more[5] == 1 else _channels_last(outputs[:, :, :height, :width])

    def pull_back(self, gradient: Tensor) -> Tensor:
        """Return the gradient by the images, channels-last, of one by the convolution."""
        gradient = gradient.permute(0, 2, 3, 1)
        batch, height, width, _ = gradient.shape
        rows, columns = _count_tiles(gradient)
        more = (0, 0, 0, columns * TILE - width, 0, rows * TILE - height)
        tiles = _as_tiles(F.pad(gradient, more))
        # One row and one column of tiles more, for what the last patches have over.
        shape = (batch, (rows + 1) * TILE, (columns + 1) * TILE, self._kernels.shape[1])
        by_padded = gradient.new_zeros(shape)
        for part in _parts(batch, rows, columns):
            by_products = _transform(self._to_tile.T, tiles[part])
            by_inputs = torch.bmm(by_products, self._kernels.mT)
            by_patches = _transform(self._from_patch.T, by_inputs)
            by_patches = by_patches.view(PATCH, PATCH, *tiles[part].shape[2:5], -1)
            for y, x in itertools.product((0, TILE), repeat=2):
                own = by_patches[y : y + TILE, x : x + TILE]
                shifted = by_padded[:, y : y + rows * TILE, x : x + columns * TILE]
                _as_tiles(shifted)[part][: own.shape[0], : own.shape[1]] += own
        return by_padded[:, 1 : height + 1, 1 : width + 1].contiguous().permute(0, 3, 1, 2)


class _Convolution(torch.autograd.Function):
    """A convolution whose gradient by the images is the algorithm turned around."""

    @staticmethod
    def forward(ctx: Any, convolution: WinogradConvolution, images: Tensor) -> Tensor:
        ctx.convolution = convolution
        return convolution.convolve(images)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        convolution: WinogradConvolution = ctx.convolution
        return None, convolution.pull_back(gradient)


def _channels_last(tensor: Tensor) -> Tensor:
    copy: Tensor = tensor.clone(memory_format=torch.channels_last)
    return copy


def _count_tiles(images: Tensor) -> tuple[int, int]:
    return math.ceil(images.shape[1] / TILE), math.ceil(images.shape[2] / TILE)


def _as_tiles(images: Tensor) -> Tensor:
    """View images as tiles, (y, x, batch, row, column, channel)."""
    tiles: Tensor = images.unflatten(1, (-1, TILE)).unflatten(3, (-1, TILE))
    return tiles.permute(2, 4, 0, 1, 3, 5)


def _parts(batch: int, rows: int, columns: int) -> Iterator[tuple[slice, ...]]:
    """Yield indices of whole images, or of some of one's rows, that hold not too many tiles."""
    every = slice(None)
    n_images = max(1, TILES_AT_ONCE // (rows * columns))
    n_rows = rows if n_images > 1 else min(rows, max(1, TILES_AT_ONCE // columns))
    for image, row in itertools.product(range(0, batch, n_images), range(0, rows, n_rows)):
        yield every, every, slice(image, image + n_images), slice(row, row + n_rows)


def _transform(matrix: Tensor, grid: Tensor) -> Tensor:
    """Apply a matrix to the places within patches or tiles; return (place, tile, channel)."""
    transformed: Tensor = matrix @ grid.reshape(matrix.shape[1], -1)
    return transformed.view(len(matrix), -1, grid.shape[-1])
