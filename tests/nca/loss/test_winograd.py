"""Winograd's convolution is the convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nca.loss.winograd import WinogradConvolution
from tests.builders import generator

# Whole tiles and rests, fewer pixels than a tile, more tiles than are worked on at once.
SHAPES = [(2, 8, 16, 16), (1, 5, 18, 20), (3, 4, 2, 2), (2, 3, 64, 72), (1, 3, 130, 7)]


def make_case(shape: tuple[int, ...], n_outputs: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    random = generator(len(shape) + shape[-1])
    images = torch.randn(shape, generator=random, dtype=torch.float64).relu()
    weight = torch.randn(n_outputs, shape[1], 3, 3, generator=random, dtype=torch.float64)
    weight *= (2 / (9 * shape[1])) ** 0.5
    bias = torch.randn(n_outputs, generator=random, dtype=torch.float64)
    return images.to(dtype), weight.to(dtype), bias.to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_in_float64(shape: tuple[int, ...]) -> None:
    images, weight, bias = make_case(shape, 6, torch.float64)
    images.requires_grad_()
    ours = WinogradConvolution(weight, bias)(images)
    definition = F.conv2d(images, weight, bias, padding=1)
    assert torch.allclose(ours, definition, atol=1e-12)
    direction = torch.randn(definition.shape, generator=generator(), dtype=torch.float64)
    grad_ours, grad_definition = (torch.autograd.grad(y, images, direction)[0] for y in (ours, definition))
    assert torch.allclose(grad_ours, grad_definition, atol=1e-12)


@pytest.mark.parametrize("n_channels", [256, 512])
def test_rounding_in_float32_is_far_below_what_golden_numbers_allow(n_channels: int) -> None:
    images, weight, bias = make_case((2, n_channels, 16, 16), n_channels, torch.float32)
    exact = F.conv2d(images.double(), weight.double(), bias.double(), padding=1)
    error = (WinogradConvolution(weight, bias)(images).double() - exact).norm() / exact.norm()
    assert error < 5e-7


def test_the_result_is_channels_last() -> None:
    images, weight, bias = make_case((2, 8, 16, 16), 6, torch.float32)
    assert WinogradConvolution(weight, bias)(images).is_contiguous(memory_format=torch.channels_last)
