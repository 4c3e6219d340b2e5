"""The sliced Wasserstein distance: sorting, directions, the loss and its gradients."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nca.loss.cpu_sliced import INDEX_BITS, sort_indices
from nca.loss.features import FeatureExtractor, RandomFilters
from nca.loss.patches import Patches
from nca.loss.sliced import SlicedLoss, draw_directions, project, sliced_distance, sort
from tests.builders import CPU, generator

META = torch.device("meta")
NORMS: tuple[Literal["l1", "squared"], ...] = ("l1", "squared")


@pytest.fixture(params=["patches", "random_filters"])
def extractor(request: pytest.FixtureRequest) -> FeatureExtractor:
    return Patches(5, 2, 1.0, CPU) if request.param == "patches" else RandomFilters(CPU)


@pytest.fixture
def target() -> Tensor:
    return torch.rand(3, 16, 16, generator=generator(1))


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=generator(seed))


def assert_sorted_as_torch_does(values: Tensor) -> None:
    expected, stable = torch.sort(values, stable=True)
    ours = sort(values)
    assert ours.dtype == values.dtype
    assert torch.equal(ours, expected)
    if values.dtype == torch.float32:
        rows = values.detach().reshape(-1, values.shape[-1]).contiguous()
        indices = torch.from_numpy(sort_indices(rows.numpy()) % 2**INDEX_BITS)
        assert torch.equal(indices.view(stable.shape), stable)


@pytest.mark.parametrize("shape", [(1,), (7,), (2, 5, 1000), (3, 1, 257)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sorting_is_torchs(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert_sorted_as_torch_does(torch.randn(shape, generator=generator()).to(dtype))


def test_ties_stay_in_their_order_and_negative_values_come_first() -> None:
    assert_sorted_as_torch_does(torch.tensor([1.0, -1.0, 0.5, -1.0, 1.0, -2.5, 0.5, 0.5]))
    assert_sorted_as_torch_does((4 * torch.randn(3, 4000, generator=generator())).round() + 0.0)
    assert_sorted_as_torch_does(torch.full((2, 9), -0.25))


def test_numbers_of_any_size_are_sorted() -> None:
    sizes = torch.tensor([0.0, 1e-45, 1e-38, 1e-7, 1.0, 1e7, 3e38, torch.inf])
    assert_sorted_as_torch_does(torch.cat([sizes.flip(0), -sizes[1:]]))


def test_sorting_leaves_its_input_and_takes_any_layout() -> None:
    values = torch.randn(4, 3, generator=generator())
    before = values.clone()
    assert_sorted_as_torch_does(values.T)
    assert_sorted_as_torch_does(values.requires_grad_())
    assert torch.equal(values, before)


@pytest.mark.parametrize(("n_directions", "n_features"), [(5, 8), (8, 8), (20, 8), (3, 1), (1, 75)])
def test_directions_are_orthonormal_in_groups_of_as_many_as_features(
    n_directions: int, n_features: int
) -> None:
    directions = draw_directions(n_directions, n_features, generator())
    assert directions.shape == (n_directions, n_features)
    for group in directions.split(n_features):
        assert torch.allclose(group @ group.T, torch.eye(len(group)), atol=1e-5)


def test_directions_are_uniform_over_the_sphere() -> None:
    directions = draw_directions(30_000, 3, generator())
    # A coordinate has mean 0 and variance 1 / 3; the standard errors are 0.0033 and 0.0017.
    assert float(directions.mean(0).abs().max()) < 0.015
    assert torch.allclose(directions.T @ directions / 30_000, torch.eye(3) / 3, atol=0.01)
    # On a sphere in three dimensions every coordinate is uniform in [-1, 1].
    shares = torch.histc(directions[:, 0], 4, -1, 1) / 30_000
    assert torch.allclose(shares, torch.full((4,), 0.25), atol=0.01)


def test_directions_follow_their_generator() -> None:
    one, same, other = (draw_directions(6, 4, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


# Whole blocks and rests of positions, fewer directions than a tile of the product has.
@pytest.mark.parametrize(("n_directions", "shape"), [(64, (2, 75, 1024)), (3, (1, 5, 7)), (8, (3, 12, 700))])
def test_projections_and_their_gradients_are_those_of_the_matrix_product(
    n_directions: int, shape: tuple[int, int, int]
) -> None:
    directions, features = draw_directions(n_directions, shape[1], generator()), rand(*shape)
    weights = rand(shape[0], n_directions, shape[2], seed=2)
    found = []
    for dtype in (torch.float32, torch.float64):  # by compiled loops, and by PyTorch
        x = features.to(dtype).requires_grad_()
        projections = project(directions.to(dtype), x)
        (gradient,) = torch.autograd.grad(projections, x, weights.to(dtype))
        found += [projections.double(), gradient.double()]
    torch.testing.assert_close(found[0], found[2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], found[3], atol=1e-5, rtol=1e-5)


def test_directions_must_not_change_before_the_backward_pass() -> None:
    directions, features = draw_directions(8, 12, generator()), rand(2, 12, 50).requires_grad_()
    projections = project(directions, features)
    directions.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        projections.sum().backward()


@pytest.mark.parametrize("norm", NORMS)
def test_the_distance_is_the_mean_difference_of_sorted_values(norm: Literal["l1", "squared"]) -> None:
    projections = torch.tensor([[[3.0, 1.0, 2.0]], [[0.0, 5.0, -1.0]]])
    expected = torch.tensor([[[1.0, 2.0, 5.0]]])
    # Sorted: [1, 2, 3] and [-1, 0, 5].
    differences = torch.tensor([0.0, 0.0, 2.0, 2.0, 2.0, 0.0])
    mean = differences.mean() if norm == "l1" else differences.square().mean()
    assert float(sliced_distance(projections, expected, norm)) == pytest.approx(float(mean))


@pytest.mark.parametrize("norm", NORMS)
def test_single_precision_on_a_cpu_has_the_value_and_the_gradient_of_double(
    norm: Literal["l1", "squared"],
) -> None:
    projections, expected = torch.randn(3, 20, 700, generator=generator()), sort(rand(1, 20, 700))
    found = []
    for dtype in (torch.float32, torch.float64):
        values = projections.clone().to(dtype).requires_grad_()
        distance = sliced_distance(values, expected.to(dtype), norm)
        (3 * distance).backward()
        assert values.grad is not None
        found.append((float(distance.detach()), values.grad.double()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_a_value_that_is_no_number_makes_the_distance_none(norm: Literal["l1", "squared"]) -> None:
    values = rand(1, 2, 9)
    values[0, 1, 4] = torch.nan
    assert sliced_distance(values, rand(1, 2, 9), norm).isnan()


@pytest.mark.parametrize("norm", NORMS)
def test_the_order_of_positions_does_not_matter(norm: Literal["l1", "squared"]) -> None:
    projections, expected = rand(2, 3, 50), rand(1, 3, 50, seed=1).sort(-1).values
    shuffled = projections[..., torch.randperm(50, generator=generator())]
    first, second = (sliced_distance(each, expected, norm) for each in (projections, shuffled))
    assert torch.equal(first, second)


def test_a_target_of_another_number_of_positions_is_interpolated() -> None:
    # Quantiles of a uniform distribution, at the middle of each of n equal shares.
    quantiles = {n: ((torch.arange(n) + 0.5) / n)[None, None] for n in (16, 64, 256)}
    for n in (16, 256):
        distance = sliced_distance(quantiles[n], quantiles[64], "l1")
        assert float(distance) < 1e-3
    shifted = sliced_distance(quantiles[16] + 0.5, quantiles[64], "l1")
    assert float(shifted) == pytest.approx(0.5, abs=1e-3)
    expected = F.interpolate(quantiles[64], 16, mode="linear", align_corners=False)
    assert torch.equal(
        sliced_distance(quantiles[16], quantiles[64], "l1"), sliced_distance(quantiles[16], expected, "l1")
    )


@pytest.mark.parametrize("n_expected", [12, 7, 30])
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_the_distance_are_those_of_finite_differences(
    norm: Literal["l1", "squared"], n_expected: int
) -> None:
    projections = torch.randn(2, 3, 12, generator=generator(), dtype=torch.float64).requires_grad_()
    expected = torch.randn(1, 3, n_expected, generator=generator(1), dtype=torch.float64).sort(-1).values
    assert torch.autograd.gradcheck(lambda x: sliced_distance(x, expected, norm), projections)


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_of_the_loss_are_those_of_finite_differences(norm: Literal["l1", "squared"]) -> None:
    extractor = Patches(3, 1, 2.0, CPU, torch.float64)
    target, image = (torch.rand(3, 8, 8, generator=generator(s), dtype=torch.float64) for s in (0, 1))
    loss = SlicedLoss(extractor, target, 4, norm)
    assert torch.autograd.gradcheck(loss, image[None].requires_grad_())


@pytest.mark.parametrize("norm", NORMS)
def test_the_targets_loss_is_0_whatever_is_drawn(
    extractor: FeatureExtractor, target: Tensor, norm: Literal["l1", "squared"]
) -> None:
    loss = SlicedLoss(extractor, target, 8, norm)
    for seed in range(3):
        loss.draw(generator(seed))
        assert float(loss(target[None])) == pytest.approx(0, abs=1e-6)
        assert float(loss(target.expand(3, -1, -1, -1))) == pytest.approx(0, abs=1e-6)


def test_a_shifted_target_has_the_loss_of_the_target(target: Tensor) -> None:
    # By 2 pixels: a whole number of pixels on both levels.
    loss = SlicedLoss(Patches(5, 2, 1.0, CPU), target, 8, "l1")
    assert float(loss(target.roll((2, -4), (1, 2))[None])) == pytest.approx(0, abs=1e-5)


def test_any_other_image_loses_more(extractor: FeatureExtractor, target: Tensor) -> None:
    loss = SlicedLoss(extractor, target, 16, "l1")
    noisy = (target + 0.05 * torch.randn(target.shape, generator=generator())).clamp(0, 1)
    assert 0 < float(loss(noisy[None])) < float(loss(0.2 * target[None]))


def test_fresh_directions_give_another_loss_and_the_same_ones_the_same(
    extractor: FeatureExtractor, target: Tensor
) -> None:
    loss, images = SlicedLoss(extractor, target, 8, "l1"), rand(2, 3, 16, 16, seed=5)
    losses = []
    for seed in (1, 2, 1):
        loss.draw(generator(seed))
        losses.append(float(loss(images)))
    assert losses[0] == losses[2] != losses[1]
    assert float(loss(images)) == losses[2]


def test_every_level_has_directions_of_its_own_that_stay_where_they_are(target: Tensor) -> None:
    loss = SlicedLoss(Patches(5, 2, 1.0, CPU), target, 8, "l1")
    addresses = [directions.data_ptr() for directions in loss._directions]
    loss.draw(generator(1))
    assert [directions.data_ptr() for directions in loss._directions] == addresses
    assert not torch.equal(*loss._directions)


@pytest.mark.parametrize("norm", NORMS)
def test_the_loss_of_a_batch_is_the_mean(
    extractor: FeatureExtractor, target: Tensor, norm: Literal["l1", "squared"]
) -> None:
    loss, images = SlicedLoss(extractor, target, 8, norm), rand(3, 3, 16, 16, seed=4)
    alone = torch.stack([loss(image[None]) for image in images])
    assert torch.allclose(loss(images), alone.mean(), rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_image_by_image_loss_and_gradient_are_those_of_the_batch(
    extractor: FeatureExtractor, target: Tensor, norm: Literal["l1", "squared"]
) -> None:
    loss, images = SlicedLoss(extractor, target, 8, norm), rand(3, 3, 16, 16, seed=4).requires_grad_()
    whole = loss(images)
    (grad_images,) = torch.autograd.grad(whole, images)
    one_by_one, gradient = loss.loss_and_grad(images)
    assert torch.allclose(one_by_one, whole, rtol=1e-5)
    assert not one_by_one.requires_grad
    assert torch.allclose(gradient, grad_images, atol=1e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_energy_is_what_an_image_without_features_would_lose(norm: Literal["l1", "squared"]) -> None:
    # Of the target in gray values x, all features are x, and projections x * sum(direction).
    loss = SlicedLoss(Patches(3, 1, 0.0, CPU), torch.full((3, 8, 8), 0.5), 4, norm)
    sums = 0.5 * loss._directions[0].sum(1)
    expected = sums.abs().mean() if norm == "l1" else sums.square().mean()
    assert torch.allclose(loss.energy, expected, rtol=1e-4)
    assert torch.allclose(loss(torch.zeros(1, 3, 8, 8)), expected, rtol=1e-4)


def test_images_of_another_size_can_be_compared(target: Tensor) -> None:
    loss = SlicedLoss(Patches(5, 2, 1.0, CPU), target, 8, "l1")
    tiled = target.repeat(1, 2, 2)[None]
    assert float(loss(tiled)) < 0.1 * float(loss(rand(1, 3, 32, 32, seed=3) ** 4))


@pytest.mark.parametrize("features", ["patches", "random_filters"])
def test_the_loss_runs_without_a_host_sync(features: str) -> None:
    extractor = Patches(5, 2, 1.0, META) if features == "patches" else RandomFilters(META)
    loss = SlicedLoss(extractor, torch.zeros(3, 16, 16, device=META), 8, "l1")
    images = torch.zeros(2, 3, 16, 16, device=META, requires_grad=True)
    loss.draw(generator())
    result = loss(images)
    result.backward()
    assert (result.device, result.shape) == (META, ())
    assert images.grad is not None
    assert loss.energy.device == META
