"""Gram matrices and the style loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nca.loss.features import FeatureExtractor, Features

__all__ = ["StyleLoss", "gram_matrix", "style_distance"]

Gram = Float[Tensor, "batch feature feature"]
Grams = Sequence[Float[Tensor, "_ _ _"]]  # one per style layer, of that layer's number of features


class _Gram(torch.autograd.Function):
    """F F^T / positions, with one product less in its gradient: autograd cannot know both factors equal."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        return features @ features.mT / features.shape[-1]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        symmetric = (gradient + gradient.mT) / features.shape[-1]
        by_features: Tensor = features.mT @ symmetric.to(features.dtype)
        return by_features.mT  # positions first, as channels-last features lie


def gram_matrix(features: Features) -> Gram:
    """Return G = F F^T / positions, at least in float32: which features occur together, wherever they do."""
    gram: Tensor = _Gram.apply(features)
    return gram


def style_distance(grams: Grams, target_grams: Grams) -> Float[Tensor, ""]:
    """Return the sum over layers of the mean over batch and entries of the squared difference.

    A target batch of 1 broadcasts. NaN in any entry makes the result NaN.
    """
    terms = [((ours - target) ** 2).mean() for ours, target in zip(grams, target_grams, strict=True)]
    return torch.stack(terms).sum()


class StyleLoss:
    """Distance between images and one target in Gram matrices; the target's are computed once.

    Args:
        extractor: Where features come from.
        target: RGB in [0, 1], (3, height, width).

    Source: Gatys et al. 2015, "Texture Synthesis Using Convolutional Neural Networks", equal layer
    weights, mean in place of sum. RGB enters without ImageNet normalization, as in the study.
    """

    energy: Float[Tensor, ""]

    def __init__(self, extractor: FeatureExtractor, target: Float[Tensor, "3 height width"]) -> None:
        self._extractor = extractor
        with torch.no_grad():
            self._target_grams = [gram_matrix(features) for features in extractor(target[None])]
        self.energy = torch.stack([(gram**2).mean() for gram in self._target_grams]).sum()

    def __call__(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, ""]:
        """Return the style loss of RGB images in [0, 1], 0 for the target itself."""
        grams = [gram_matrix(features) for features in self._extractor(images)]
        return style_distance(grams, self._target_grams)

    def by_image(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch 3 height width"]]:
        """Return the style loss and its gradient by the images; features of one image at a time are held."""
        losses, gradients = [], []
        for image in images.detach().split(1):
            image.requires_grad_()
            loss = self(image) / len(images)
            gradients += torch.autograd.grad(loss, image)
            losses.append(loss.detach())
        return torch.stack(losses).sum(), torch.cat(gradients)
