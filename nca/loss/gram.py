"""The loss `gram`: the difference of Gram matrices."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nca.loss.features import FeatureExtractor, Features
from nca.loss.texture_loss import TextureLoss

Gram = Float[Tensor, "batch feature feature"]
Grams = Sequence[Float[Tensor, "_ _ _"]]  # one per style layer, of that layer's number of features

# Compiled loops multiply multiples of so many features at so many positions or more.
FEATURES, MIN_POSITIONS = 32, 8


class _Gram(torch.autograd.Function):
    """F F^T / positions, with one matrix product in the backward pass; autograd would compute two."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        features = features.detach().to(torch.promote_types(features.dtype, torch.float32))
        products = _loops().sum_products(features.mT) if fits_loops(features) else features @ features.mT
        return products / features.shape[-1]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        positions = features.detach().mT
        symmetric = ((grad_output + grad_output.mT) / features.shape[-1]).to(features.dtype)
        grad: Tensor = (
            _loops().multiply(positions, symmetric) if fits_loops(features) else positions @ symmetric
        )
        return grad.mT  # positions first in memory, as in channels-last features


def fits_loops(features: Features) -> bool:
    """Return whether compiled loops multiply these features."""
    is_float = features.device.type == "cpu" and features.dtype in (torch.float32, torch.float64)
    is_whole = features.shape[-2] % FEATURES == 0 and features.shape[-1] >= MIN_POSITIONS
    return is_float and is_whole and features.mT.is_contiguous()  # channels are last


def _loops() -> ModuleType:
    from nca.loss import cpu_gram  # loads Numba

    return cpu_gram


def gram_matrix(features: Features) -> Gram:
    """Return the Gram matrices F F^T / positions, in float32 or the features' own type if that is wider."""
    gram: Tensor = _Gram.apply(features)
    return gram


def style_distance(grams: Grams, target_grams: Grams) -> Float[Tensor, ""]:
    """Return the mean squared difference over batch and entries, summed over layers.

    A target batch of 1 broadcasts. NaN in any entry makes the result NaN.
    """
    terms = [((gram - target) ** 2).mean() for gram, target in zip(grams, target_grams, strict=True)]
    return torch.stack(terms).sum()


class GramLoss(TextureLoss):
    """The distance between the Gram matrices of images and those of a target (RGB in [0, 1]).

    Source: Gatys et al. 2015, "Texture Synthesis Using Convolutional Neural Networks", with equal layer
    weights and the mean instead of the sum. RGB is not normalized as for ImageNet, as in the study.
    """

    def __init__(self, extractor: FeatureExtractor, target: Float[Tensor, "3 height width"]) -> None:
        self._extractor = extractor
        with torch.no_grad():
            self._target_grams = [gram_matrix(features) for features in extractor(target[None])]
        self.energy = torch.stack([(gram**2).mean() for gram in self._target_grams]).sum()

    def __call__(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, ""]:
        """Return the style loss of RGB images in [0, 1]; 0 for the target itself."""
        grams = [gram_matrix(features) for features in self._extractor(images)]
        return style_distance(grams, self._target_grams)
