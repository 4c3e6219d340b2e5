"""3x3 convolutions with fixed weights by Winograd's minimal filtering, for the CPU.

A tile of 2x2 outputs takes 16 products instead of 36, and small matrix products for the transforms. That is
faster with many channels and small images, as in the deep layers of VGG-16.
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

Images = Float[Tensor, "batch input height width"]
Outputs = Float[Tensor, "batch output height width"]

TILE = 2  # outputs per side of a tile
PATCH = TILE + 2  # inputs per side of a tile's patch
TILES_PER_CHUNK = 1024  # bounds the memory of the patches

# F(2x2, 3x3) with the points 0, 1, -1 and infinity. Larger tiles save more products but round worse: with
# F(4x4, 3x3) training sometimes missed the recorded trajectory.
INPUT_TRANSFORM = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
KERNEL_TRANSFORM = ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1))
OUTPUT_TRANSFORM = ((1, 1, 1, 0), (0, 1, -1, -1))


class WinogradConvolution:
    """A 3x3 convolution with zero padding whose weights get no gradients.

    Equal to `F.conv2d(images, weight, bias, padding=1)` up to rounding: on rectified random images the
    Frobenius error in float32 is 2e-7 to 4e-7 of the result, against 4e-7 to 8e-7 for oneDNN.

    Source: Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4.
    """

    def __init__(self, weight: Float[Tensor, "output input 3 3"], bias: Float[Tensor, " output"]) -> None:
        self._bias = bias
        self._kernels = weight.new_empty(PATCH**2, weight.shape[1], weight.shape[0])
        for position, row in enumerate(_kronecker_square(KERNEL_TRANSFORM, weight.dtype)):
            self._kernels[position] = (weight.flatten(2) @ row).T
        self._input_transform = _kronecker_square(INPUT_TRANSFORM, weight.dtype)
        self._output_transform = _kronecker_square(OUTPUT_TRANSFORM, weight.dtype)

    def __call__(self, images: Images) -> Outputs:
        """Return the convolution, channels-last; the images get gradients."""
        result: Tensor = _Convolution.apply(self, images)
        return result

    def forward(self, images: Images) -> Outputs:
        """Return the convolution, channels-last, without autograd."""
        batch, _, height, width = images.shape
        images = images.permute(0, 2, 3, 1)
        rows, columns = math.ceil(height / TILE), math.ceil(width / TILE)
        padding = (0, 0, 1, 1 + columns * TILE - width, 1, 1 + rows * TILE - height)
        patches = F.pad(images, padding).unfold(1, PATCH, TILE).unfold(2, PATCH, TILE)
        patches = patches.permute(4, 5, 0, 1, 2, 3)
        shape = (batch, len(self._bias), rows * TILE, columns * TILE)
        outputs = torch.empty(shape, dtype=images.dtype, memory_format=torch.channels_last)
        tiles = _as_tiles(outputs.permute(0, 2, 3, 1))
        for chunk in _chunks(batch, rows, columns):
            products = torch.bmm(_transform(self._input_transform, patches[chunk]), self._kernels)
            tiles[chunk] = _transform(self._output_transform, products).view_as(tiles[chunk])
        outputs += self._bias[:, None, None]
        if outputs.shape[2:] == (height, width):  # not a view, so that callers may work in place
            return outputs
        return outputs[:, :, :height, :width].clone(memory_format=torch.channels_last)

    def backward(self, grad_output: Outputs) -> Images:
        """Return the gradient with respect to the images, channels-last, from that of the outputs."""
        grad_output = grad_output.permute(0, 2, 3, 1)
        batch, height, width, _ = grad_output.shape
        rows, columns = math.ceil(height / TILE), math.ceil(width / TILE)
        tiles = _as_tiles(F.pad(grad_output, (0, 0, 0, columns * TILE - width, 0, rows * TILE - height)))
        # One more row and column of tiles, because the last patches extend beyond their tiles.
        shape = (batch, (rows + 1) * TILE, (columns + 1) * TILE, self._kernels.shape[1])
        grad_padded = grad_output.new_zeros(shape)
        for chunk in _chunks(batch, rows, columns):
            grad_products = _transform(self._output_transform.T, tiles[chunk])
            grad_inputs = torch.bmm(grad_products, self._kernels.mT)
            grad_patches = _transform(self._input_transform.T, grad_inputs)
            grad_patches = grad_patches.view(PATCH, PATCH, *tiles[chunk].shape[2:5], -1)
            for y, x in itertools.product((0, TILE), repeat=2):
                quarter = grad_patches[y : y + TILE, x : x + TILE]
                shifted = grad_padded[:, y : y + rows * TILE, x : x + columns * TILE]
                _as_tiles(shifted)[chunk] += quarter
        return grad_padded[:, 1 : height + 1, 1 : width + 1].contiguous().permute(0, 3, 1, 2)


class _Convolution(torch.autograd.Function):
    """A Winograd convolution as a node of the autograd graph."""

    @staticmethod
    def forward(ctx: Any, convolution: WinogradConvolution, images: Tensor) -> Tensor:
        ctx.convolution = convolution
        return convolution.forward(images)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[None, Tensor]:
        return None, ctx.convolution.backward(grad_output)


def _kronecker_square(rows: tuple[tuple[float, ...], ...], dtype: torch.dtype) -> Tensor:
    """Return the two-dimensional transform of a flattened square: the Kronecker square of `rows`."""
    matrix = torch.tensor(rows, dtype=torch.float64)
    return torch.kron(matrix, matrix).to(dtype)


def _as_tiles(images: Float[Tensor, "batch height width channel"]) -> Float[Tensor, "2 2 batch _ _ channel"]:
    """View images as tiles, (y, x, batch, row, column, channel)."""
    tiles: Tensor = images.unflatten(1, (-1, TILE)).unflatten(3, (-1, TILE))
    return tiles.permute(2, 4, 0, 1, 3, 5)


def _chunks(batch: int, rows: int, columns: int) -> Iterator[tuple[slice, ...]]:
    """Yield indices of at most `TILES_PER_CHUNK` tiles, or one row: whole images, or rows of one image."""
    everything = slice(None)
    n_images = max(1, TILES_PER_CHUNK // (rows * columns))
    n_rows = rows if n_images > 1 else min(rows, max(1, TILES_PER_CHUNK // columns))
    for image, row in itertools.product(range(0, batch, n_images), range(0, rows, n_rows)):
        yield everything, everything, slice(image, image + n_images), slice(row, row + n_rows)


def _transform(matrix: Tensor, grid: Tensor) -> Float[Tensor, "position tile channel"]:
    """Apply a matrix to the positions in patches or tiles."""
    transformed: Tensor = matrix @ grid.reshape(matrix.shape[1], -1)
    return transformed.view(len(matrix), -1, grid.shape[-1])
