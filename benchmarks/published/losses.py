"""The texture losses of the published programs, by autograd.

VGG-16's weights get no gradients here; the programs compute these too, and drop them. A loss is made of the
target, (3, height, width), and takes images, (batch, 3, height, width), and a generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.reference import BLUR, STYLE_LAYERS, make_vgg

Loss = Callable[[Tensor, torch.Generator], Tensor]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
N_PROJECTIONS = 32
MAX_LAYER_SIDE, N_SAMPLES = 32, 1000  # layers with longer sides are compared at so many random positions
NORM_EPSILON = 1e-10
PATCH_SIDE, N_LEVELS, UNSHARP = 5, 5, 2.0
N_PATCHES, N_TARGET_PATCHES = 1024, 2048  # at most, per level
LAST_BLUR, SCALING = 0.05, 0.5  # geomloss' defaults


class VggFeatures:
    """VGG-16's five style layers of images that are normalized as ImageNet's.

    Args:
        weights: See `benchmarks.reference.make_vgg`.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._layers = make_vgg(weights).requires_grad_(False)

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return the normalized images and the features of the layers, (batch, features, height, width)."""
        mean, std = (images.new_tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
        x = (images - mean) / std
        features = [x]
        for index, layer in enumerate(self._layers):
            x = layer(x)
            if index in STYLE_LAYERS:
                features.append(x)
        return features


def make_sliced(target: Tensor, weights: Mapping[str, Tensor]) -> Loss:
    """Return the loss of Google's notebook: sliced optimal transport of RGB and of VGG-16's layers."""
    extract = VggFeatures(weights)
    expected = extract(target[None])

    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        pairs = zip(extract(images), expected, strict=True)
        return torch.stack([sliced_ot(x.flatten(2), y.flatten(2), generator) for x, y in pairs]).sum()

    return loss


def sliced_ot(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """Return the summed squared differences of sorted projections on 32 random directions.

    Args:
        x: Features, (batch, features, positions).
        y: Those of the target, (1, features, positions).
        generator: Draws the directions.
    """
    directions = F.normalize(torch.randn(N_PROJECTIONS, x.shape[1], generator=generator), dim=1)
    ordered, expected = (torch.sort(directions @ each).values for each in (x, y))
    return (ordered - expected).square().sum()


def make_relaxed(target: Tensor, weights: Mapping[str, Tensor]) -> Loss:
    """Return the loss of NoiseNCA: relaxed optimal transport and moments of VGG-16's layers.

    It is the mean over all images. The program, whose target is a batch of one, takes the first image alone.
    """
    extract = VggFeatures(weights)
    expected = extract(target[None])[1:]

    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        layers = extract(images)[1:]
        terms = [
            compare_layer(layer[row], each[0], generator)
            for row in range(len(images))
            for layer, each in zip(layers, expected, strict=True)
        ]
        return torch.stack(terms).sum() / len(images)

    return loss


def compare_layer(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """Return relaxed transport cost plus difference of moments of one layer, (features, height, width)."""
    rows, columns = (each.flatten(1).T for each in (x, y))  # (positions, features)
    if x.shape[1] > MAX_LAYER_SIDE:
        chosen = torch.randperm(len(rows), generator=generator)[:N_SAMPLES]
        rows, columns = rows[chosen], columns[chosen]
    return relaxed_ot(rows, columns) + moment_difference(rows, columns)


def relaxed_ot(x: Tensor, y: Tensor) -> Tensor:
    """Return the larger mean of cosine distances to the nearest point, from x to y and from y to x."""
    lengths = (x.norm(dim=1)[:, None] + NORM_EPSILON) * (y.norm(dim=1) + NORM_EPSILON)
    distances = 1 - x @ y.T / lengths
    return torch.maximum(distances.amin(1).mean(), distances.amin(0).mean())


def moment_difference(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean absolute difference of means plus that of covariances."""
    means = (x.mean(0) - y.mean(0)).abs().mean()
    return means + (torch.cov(x.T) - torch.cov(y.T)).abs().mean()


def make_sinkhorn(target: Tensor, weights: Mapping[str, Tensor]) -> Loss:
    """Return the loss of muNCA: the Sinkhorn divergence of patches, summed over pyramid levels.

    A level in which a patch does not fit is left out: at 64 px there are four. VGG-16 takes no part.
    """
    del weights
    expected = extract_patches(target[None])

    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        terms = []
        for x, y in zip(extract_patches(images), expected, strict=True):
            some = subsample(x, N_PATCHES, generator)
            terms.append(sinkhorn_divergence(some, subsample(y, N_TARGET_PATCHES, generator)).mean())
        return torch.stack(terms).sum()

    return loss


def extract_patches(images: Tensor) -> list[Tensor]:
    """Return the 5x5 patches inside each level of a pyramid of sharpened images, (batch, patches, 75)."""
    taps = images.new_tensor([*BLUR, *BLUR[1::-1]])
    kernel = torch.outer(taps, taps).expand(3, 1, -1, -1)
    levels: list[Tensor] = []
    while len(levels) < N_LEVELS and min(images.shape[2:]) >= PATCH_SIDE:
        blurred = F.conv2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), kernel, groups=3)
        levels.append(F.unfold(images + UNSHARP * (images - blurred), PATCH_SIDE).mT)
        images = blurred[:, :, ::2, ::2]
    return levels


def subsample(points: Tensor, n_points: int, generator: torch.Generator) -> Tensor:
    """Return at most so many random points, the same ones of each row of the batch."""
    if points.shape[1] <= n_points:
        return points
    return points[:, torch.randperm(points.shape[1], generator=generator)[:n_points]]


def sinkhorn_divergence(x: Tensor, y: Tensor) -> Tensor:
    """Return the debiased entropic transport cost between point clouds of equal weights, (batch,).

    The symmetric Sinkhorn iterations of geomloss with its defaults: the cost is half the squared distance,
    the temperature falls from the squared diameter to 0.05 squared, by a quarter at each iteration, and the
    gradient is that of one more iteration.

    Args:
        x: (batch, points, features).
        y: The target's, (1, points, features).

    Source: Feydy 2020, "Geometric data analysis, beyond convolutions", algorithm 3.5.
    """
    costs = {"xy": half_squared_distances(x, y.detach()), "xx": half_squared_distances(x, x.detach())}
    costs |= {"yx": costs["xy"].detach().mT.contiguous(), "yy": half_squared_distances(y, y)}
    others = {"xy": "yx", "yx": "xy", "xx": "xx", "yy": "yy"}  # whose potential a potential is computed from
    temperatures = cool(diameter(x.detach(), y))
    with torch.no_grad():
        potentials = {key: soft_minimum(temperatures[0], costs[key], 0.0) for key in costs}
        for temperature in temperatures:
            new = {key: soft_minimum(temperature, costs[key], potentials[others[key]]) for key in costs}
            potentials = {key: (potentials[key] + new[key]) / 2 for key in costs}
    last = {key: soft_minimum(temperatures[-1], costs[key], potentials[others[key]]) for key in costs}
    return (last["xy"] - last["xx"]).mean(1) + (last["yx"] - last["yy"]).mean(1)


def half_squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return half of the squared distances between all points, (batch, x points, y points)."""
    return (x.square().sum(2)[:, :, None] + y.square().sum(2)[:, None]) / 2 - x @ y.mT


def soft_minimum(temperature: float, cost: Tensor, potential: Tensor | float) -> Tensor:
    """Return the soft minimum of cost - potential over the last dimension, of points of equal weights."""
    if isinstance(potential, Tensor):
        potential = potential[:, None] / temperature
    n_points = cost.shape[2]
    return -temperature * ((potential - cost / temperature).logsumexp(2) - math.log(n_points))


def diameter(x: Tensor, y: Tensor) -> float:
    """Return the diagonal of the box that holds all points."""
    points = torch.cat([x.flatten(0, 1), y.flatten(0, 1)])
    return float((points.amax(0) - points.amin(0)).norm())


def cool(start: float) -> list[float]:
    """Return the temperatures of the iterations, for a diameter."""
    n_scales = max(0, math.ceil(math.log(LAST_BLUR / start) / math.log(SCALING)))
    scales = [start, *(start * SCALING**index for index in range(n_scales)), LAST_BLUR]
    return [scale**2 for scale in scales]
