"""The loss `sliced`: the distance of distributions of features, along random directions."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nca.loss.features import FeatureExtractor, Features
from nca.loss.texture_loss import Images, Scalar, TextureLoss

Projections = Float[Tensor, "batch direction position"]


class SlicedLoss(TextureLoss):
    """The sliced Wasserstein distance of the features of images from a target's, summed over levels.

    Features are projected on directions and sorted: two distributions are equal if and only if their sorted
    projections are, along all directions. Each draw has other directions, so that nothing stays hidden
    between fixed ones.

    Args:
        extractor: Maps RGB in [0, 1] to features.
        target: RGB in [0, 1].
        n_directions: Per level. They are orthogonal, as many as a level has features.
        norm: `l1` for the mean absolute difference, `squared` for the mean squared one.

    Source: Heitz et al. 2021, "A Sliced Wasserstein Loss for Neural Texture Synthesis"; on patches, Elnekave
    and Weiss 2022, "Generating natural images with direct Patch Distributions Matching".
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        target: Float[Tensor, "3 height width"],
        n_directions: int,
        norm: Literal["l1", "squared"],
    ) -> None:
        self._extractor, self._n_directions, self._norm = extractor, n_directions, norm
        with torch.no_grad():
            self._target = extractor(target[None])
        self._directions = [
            torch.empty(n_directions, features.shape[1], dtype=features.dtype, device=features.device)
            for features in self._target
        ]
        self.draw(torch.Generator().manual_seed(0))
        self.energy = self._compare([torch.zeros_like(features) for features in self._target])

    def draw(self, generator: torch.Generator | None) -> None:
        """Draw directions from a generator on the host; they stay at one address, for CUDA graphs."""
        for directions in self._directions:
            n_directions, n_features = directions.shape
            directions.copy_(draw_directions(n_directions, n_features, generator), non_blocking=True)

    def __call__(self, images: Images) -> Scalar:
        """Return the mean distance of images from the target."""
        return self._compare(self._extractor(images))

    def _compare(self, levels: list[Tensor]) -> Scalar:
        terms = []
        for features, target, directions in zip(levels, self._target, self._directions, strict=True):
            with torch.no_grad():
                expected = sort(project(directions, target))
            projections = project(directions, features)
            terms.append(sliced_distance(projections, expected, self._norm))
        return torch.stack(terms).sum()


def project(directions: Float[Tensor, "direction feature"], features: Features) -> Projections:
    """Return the projections of features on directions, which get no gradients."""
    if _is_fast(features):
        from nca.loss.cpu_sliced import Projection  # loads Numba

        projections: Tensor = Projection.apply(directions, features)
        return projections
    return directions @ features


def sliced_distance(
    projections: Projections, expected: Float[Tensor, "1 direction _"], norm: Literal["l1", "squared"]
) -> Scalar:
    """Return the mean difference between sorted projections and the target's, which are sorted already.

    If these are of another number of positions, they are interpolated.
    """
    n_positions = projections.shape[-1]
    if expected.shape[-1] != n_positions:
        expected = F.interpolate(expected, n_positions, mode="linear", align_corners=False)
    if _is_fast(projections):
        from nca.loss.cpu_sliced import SortedDifference  # loads Numba

        distance: Tensor = SortedDifference.apply(projections, expected, norm == "squared")
        return distance
    with torch.no_grad():
        order = torch.sort(projections, stable=True).indices
    difference = projections.gather(-1, order) - expected
    return difference.abs().mean() if norm == "l1" else difference.square().mean()


def sort(values: Float[Tensor, "*_ position"]) -> Float[Tensor, "*_ position"]:
    """Return values in ascending order along the last dimension, without a gradient.

    NumPy sorts with vector instructions, 20 times as fast as `torch.sort` on a CPU.
    """
    if not _is_fast(values):
        return torch.sort(values.detach()).values
    return torch.from_numpy(np.sort(values.detach().numpy()))


def _is_fast(values: Tensor) -> bool:
    """Return whether NumPy sorts such values, and compiled loops project and compare them."""
    return values.device.type == "cpu" and values.dtype == torch.float32


def draw_directions(
    n_directions: int, n_features: int, generator: torch.Generator | None
) -> Float[Tensor, "direction feature"]:
    """Draw unit directions, uniform over the sphere; each group of `n_features` is orthogonal."""
    groups = []
    for start in range(0, n_directions, n_features):
        n = min(n_features, n_directions - start)
        normal = torch.randn(n_features, n, generator=generator)
        q, r = torch.linalg.qr(normal)
        groups.append((q * r.diagonal().sign()).T)
    return torch.cat(groups)
