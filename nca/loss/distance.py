"""A measure of textures that does not depend on the loss, on a scale that all targets share."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nca.automaton.seeding import derive_seed
from nca.loss.patches import Patches
from nca.loss.sliced import draw_directions, sliced_distance, sort
from nca.loss.texture_loss import Images

SIDE, LEVELS, UNSHARP = 5, 4, 1.0  # of the patches
N_DIRECTIONS = 150  # per level
MAX_SEAM = 2.0  # of a target that tiles: difference across its border over the one between neighbors inside


class TextureDistance:
    """The multi-scale sliced Wasserstein distance of images from a target.

    The distance of patches is summed over pyramid levels, with fixed directions that no training draws. It is
    0 for the target itself, if it tiles (shifted, it has less than 0.1), else for the mean of its four crops
    of 3/4 of its side; and 1 for the target with its pixels shuffled. An image that is closer to a target
    that does not tile than its crops are is below 0.

    Args:
        target: RGB in [0, 1], of the size of the images.

    Source: Heitz et al. 2021, "A Sliced Wasserstein Loss for Neural Texture Synthesis", on patches; the scale
    is our own. docs/measure.md shows what it orders as a person would.
    """

    def __init__(self, target: Float[Tensor, "3 height width"]) -> None:
        device = target.device
        self._patches = Patches(SIDE, LEVELS, UNSHARP, device)
        random = torch.Generator().manual_seed(derive_seed(0, "texture_distance"))
        n_features = 3 * SIDE**2
        self._directions = [
            draw_directions(N_DIRECTIONS, n_features, random).to(device) for _ in self._patches(target[None])
        ]
        self._target = self._sorted_projections(target[None])
        order = torch.randperm(target[0].numel(), generator=random).to(device)
        shuffled = target.flatten(1)[:, order].view_as(target)
        self._sample = torch.zeros((), device=device) if tiles(target) else self._compare_crops(target)
        noise = self._measure(shuffled[None])[0]
        self._scale = torch.where(noise > self._sample, noise - self._sample, 1.0)  # 1 for a single color

    def __call__(self, images: Images) -> Float[Tensor, " batch"]:
        """Return the distance of each image."""
        return (self._measure(images) - self._sample) / self._scale

    def _measure(self, images: Images) -> Float[Tensor, " batch"]:
        return torch.stack(
            [_difference(self._sorted_projections(each), self._target) for each in images.split(1)]
        )

    def _compare_crops(self, target: Float[Tensor, "3 height width"]) -> Float[Tensor, ""]:
        """Return the mean distance from the target of its four crops of 3/4 of its side."""
        height, width = (3 * side // 4 for side in target.shape[1:])
        crops = [
            target[None, :, rows, columns]
            for rows in (slice(height), slice(-height, None))
            for columns in (slice(width), slice(-width, None))
        ]
        return torch.stack([self._measure(crop)[0] for crop in crops]).mean()

    def _sorted_projections(self, images: Images) -> list[Tensor]:
        with torch.no_grad():
            levels = zip(self._directions, self._patches(images.float()), strict=False)
            return [sort(directions @ patches) for directions, patches in levels]


def tiles(target: Float[Tensor, "3 height width"]) -> bool:
    """Return whether a texture continues across its borders as it does inside."""
    for dim in (1, 2):
        steps = (target - target.roll(1, dim)).abs().mean(dim=(0, 3 - dim))
        if steps[0] > MAX_SEAM * steps[1:].mean():
            return False
    return True


def _difference(ours: list[Tensor], theirs: list[Tensor]) -> Float[Tensor, ""]:
    return torch.stack([sliced_distance(*pair, "l1") for pair in zip(ours, theirs, strict=False)]).sum()
