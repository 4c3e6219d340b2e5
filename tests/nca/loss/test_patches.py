"""Patches of RGB on a Gaussian pyramid."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nca.loss.patches import Patches, hash_pyramid
from tests.builders import CPU, generator


def images(n_images: int = 2, height: int = 16, width: int = 16) -> Tensor:
    return torch.rand(n_images, 3, height, width, generator=generator(), dtype=torch.float64)


def extractor(side: int = 5, levels: int = 1, unsharp: float = 0.0) -> Patches:
    return Patches(side, levels, unsharp, CPU, torch.float64)


@pytest.mark.parametrize("side", [3, 5, 7])
@pytest.mark.parametrize(
    ("size", "levels", "sides"),
    [
        (16, 6, [16, 8]),
        (16, 1, [16]),
        (48, 6, [48, 24, 12]),
        (64, 3, [64, 32, 16]),
        (128, 6, [128, 64, 32, 16, 8]),
    ],
)
def test_levels_halve_until_they_are_smaller_than_eight_pixels(
    side: int, size: int, levels: int, sides: list[int]
) -> None:
    found = extractor(side, levels)(images(2, size, size))
    assert [tuple(patches.shape) for patches in found] == [(2, 3 * side**2, each**2) for each in sides]


def test_the_smaller_side_decides_on_the_number_of_levels() -> None:
    found = extractor(levels=6)(images(1, 16, 64))
    assert [patches.shape[-1] for patches in found] == [16 * 64, 8 * 32]


def test_without_unsharp_masking_the_finest_level_has_the_pixels_around_each_pixel() -> None:
    x = images()
    (patches,) = extractor(3)(x)
    neighborhoods = patches.view(2, 3, 3, 3, 16, 16)
    for row in range(3):
        for column in range(3):
            expected = x.roll((1 - row, 1 - column), (2, 3))
            assert torch.equal(neighborhoods[:, :, row, column], expected)


@pytest.mark.parametrize("unsharp", [0.0, 2.0])
def test_patches_wrap_around(unsharp: float) -> None:
    # By 4 pixels: a whole number of pixels on all three levels.
    x = images(1, 32, 32)
    shifted = extractor(5, 3, unsharp)(x.roll((4, -8), (2, 3)))
    for level, (here, there) in enumerate(zip(extractor(5, 3, unsharp)(x), shifted, strict=True)):
        side, step = 32 >> level, 4 >> level
        moved = here.view(1, -1, side, side).roll((step, -2 * step), (2, 3)).flatten(2)
        assert torch.allclose(moved, there, atol=1e-12)


@pytest.mark.parametrize("unsharp", [0.0, 1.0, 2.0])
def test_a_constant_image_has_itself_in_all_patches(unsharp: float) -> None:
    for patches in extractor(5, 2, unsharp)(torch.full((1, 3, 16, 16), 0.25, dtype=torch.float64)):
        assert torch.allclose(patches, torch.full_like(patches, 0.25), atol=1e-12)


def test_unsharp_masking_adds_as_much_of_the_detail_as_it_says() -> None:
    x = images()
    plain, once, twice = (extractor(3, 2, unsharp)(x) for unsharp in (0.0, 1.0, 2.0))
    for a, b, c in zip(plain, once, twice, strict=True):
        assert torch.allclose(c - b, b - a, atol=1e-12)
        assert float((b - a).abs().max()) > 0.1
        assert torch.allclose(a.mean((1, 2)), c.mean((1, 2)), atol=1e-6)  # the mean color is not detail


def test_colors_stay_apart() -> None:
    x = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    x[:, 1] = images(1)[:, 1]
    for patches in extractor(3, 2, 2.0)(x):
        by_color = patches.view(1, 3, 9, -1)
        assert not by_color[:, [0, 2]].any()
        assert by_color[:, 1].any()


def test_a_level_is_the_blurred_one_before_at_every_other_pixel() -> None:
    x = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    x[:, :, 8, 8] = 1.0
    coarse = extractor(3, 2)(x)[1].view(1, 3, 9, 8, 8)[0, 0, 4]
    # A Gaussian of deviation 1 at offsets 0 and 2: weights relative to the middle.
    assert float(coarse[4, 4]) == pytest.approx(0.4026**2, abs=1e-3)
    assert float(coarse[4, 5] / coarse[4, 4]) == pytest.approx(float(torch.tensor(-2.0).exp()), rel=1e-6)
    assert torch.allclose(coarse, coarse.T)
    assert torch.allclose(coarse[4, 3], coarse[4, 5])
    assert not coarse[0].any()


def test_gradients_are_those_of_finite_differences() -> None:
    x = images(1, 8, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(extractor(3, 1, 2.0)(x)), x)


def test_features_have_the_type_that_is_asked_for() -> None:
    found = Patches(5, 2, 1.0, CPU, torch.bfloat16)(images().float())
    assert {patches.dtype for patches in found} == {torch.bfloat16}


def test_another_pyramid_has_another_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    before = hash_pyramid()
    assert hash_pyramid() == before
    monkeypatch.setattr("nca.loss.patches.BLUR_STD", 1.1)
    assert hash_pyramid() != before


def test_patches_are_made_without_a_host_sync() -> None:
    meta = torch.device("meta")
    found = Patches(5, 3, 2.0, meta)(torch.zeros(2, 3, 32, 32, device=meta))
    assert [patches.shape for patches in found] == [(2, 75, 1024), (2, 75, 256), (2, 75, 64)]
