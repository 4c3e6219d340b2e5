"""Gram matrices and the style loss."""

from __future__ import annotations

import pytest
import torch

from nca.automaton.cpu_strips import REGISTER_BYTES
from nca.loss import cpu_gram
from nca.loss.features import FeatureExtractor, RandomFilters, Vgg16
from nca.loss.gram import FEATURES, MIN_POSITIONS, GramLoss, fits_loops, gram_matrix, style_distance
from tests.builders import CPU, generator, vgg_weights


def features(batch: int = 2, n_features: int = 5, positions: int = 30, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, n_features, positions, generator=generator(seed))


@pytest.fixture(scope="module", params=["vgg16", "random_filters"])
def extractor(request: pytest.FixtureRequest) -> FeatureExtractor:
    return Vgg16(vgg_weights(), CPU) if request.param == "vgg16" else RandomFilters(CPU)


@pytest.fixture(scope="module")
def target() -> torch.Tensor:
    return torch.rand(3, 16, 16, generator=generator(7))


def test_gram_is_the_mean_product_of_features() -> None:
    f = features()
    expected = torch.einsum("bip,bjp->bij", f, f) / 30
    assert torch.allclose(gram_matrix(f), expected, atol=1e-6)


def test_gram_is_symmetric_and_positive_semidefinite() -> None:
    gram = gram_matrix(features(positions=3).double()).double()
    assert torch.equal(gram, gram.mT)
    assert float(torch.linalg.eigvalsh(gram).min()) > -1e-6


def test_gram_is_blind_to_the_order_of_positions() -> None:
    f = features()
    shuffled = f[..., torch.randperm(30, generator=generator())]
    assert not torch.equal(f, shuffled)
    assert torch.allclose(gram_matrix(f), gram_matrix(shuffled), atol=1e-6)


def test_gram_does_not_grow_with_the_image() -> None:
    f = features()
    assert torch.allclose(gram_matrix(f), gram_matrix(f.repeat(1, 1, 4)), atol=1e-6)


def test_gram_is_float32_whatever_the_features_are() -> None:
    f = features().bfloat16()
    assert gram_matrix(f).dtype == torch.float32
    assert torch.equal(gram_matrix(f), gram_matrix(f.float()))


def test_distance_is_the_sum_over_layers_of_mean_squares() -> None:
    ours = [gram_matrix(features(seed=seed)) for seed in (0, 1)]
    target = [gram_matrix(features(1, seed=seed)) for seed in (2, 3)]
    expected = sum(((a - b) ** 2).mean() for a, b in zip(ours, target, strict=True))
    assert torch.allclose(style_distance(ours, target), torch.as_tensor(expected))
    assert style_distance(ours, ours) == 0


def test_distance_of_a_nan_is_nan() -> None:
    ours = gram_matrix(features())
    broken = ours.clone()
    broken[1, 2, 3] = torch.nan
    assert style_distance([ours, broken], [ours, ours]).isnan()


def test_every_layer_needs_its_target() -> None:
    gram = gram_matrix(features())
    with pytest.raises(ValueError, match="zip"):
        style_distance([gram, gram], [gram])


def test_the_targets_loss_is_0(extractor: FeatureExtractor, target: torch.Tensor) -> None:
    loss = GramLoss(extractor, target)
    assert float(loss(target[None])) == pytest.approx(0, abs=1e-10)
    assert float(loss(target.expand(3, -1, -1, -1))) == pytest.approx(0, abs=1e-10)


def test_any_other_image_loses_more(extractor: FeatureExtractor, target: torch.Tensor) -> None:
    loss = GramLoss(extractor, target)
    noisy = (target + 0.05 * torch.randn(target.shape, generator=generator())).clamp(0, 1)
    noisier = torch.rand(target.shape, generator=generator())
    assert 0 < float(loss(noisy[None])) < float(loss(noisier[None] * 0.2))


def test_the_loss_of_a_batch_is_the_mean(extractor: FeatureExtractor, target: torch.Tensor) -> None:
    loss = GramLoss(extractor, target)
    images = torch.rand(3, 3, 16, 16, generator=generator())
    alone = torch.stack([loss(image[None]) for image in images])
    assert torch.allclose(loss(images), alone.mean(), rtol=1e-5)


def test_the_loss_has_gradients_in_the_images(extractor: FeatureExtractor, target: torch.Tensor) -> None:
    loss = GramLoss(extractor, target)
    image = torch.rand(1, 3, 16, 16, generator=generator()).requires_grad_()
    loss(image).backward()
    assert image.grad is not None
    assert image.grad.abs().max() > 0
    with torch.no_grad():
        step = image - 1e-3 * image.grad / image.grad.norm()
        assert loss(step) < loss(image)


def test_energy_is_what_an_image_without_features_would_lose(target: torch.Tensor) -> None:
    extractor = Vgg16(vgg_weights(), CPU)
    loss = GramLoss(extractor, target)
    grams = [gram_matrix(f) for f in extractor(target[None])]
    nothing = [torch.zeros_like(gram) for gram in grams]
    assert torch.allclose(loss.energy, style_distance(nothing, grams))
    assert not loss.energy.requires_grad


def test_gradients_of_the_gram_matrix_are_those_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(gram_matrix, features().double()[:, :4, :6].requires_grad_())


def test_image_by_image_loss_and_gradient_are_those_of_the_batch(
    extractor: FeatureExtractor, target: torch.Tensor
) -> None:
    loss = GramLoss(extractor, target)
    images = torch.rand(3, 3, 16, 16, generator=generator(1)).requires_grad_()
    whole = loss(images)
    (grad_images,) = torch.autograd.grad(whole, images)
    one_by_one, gradient = loss.loss_and_grad(images)
    torch.testing.assert_close(one_by_one, whole.detach())
    torch.testing.assert_close(gradient, grad_images)


# The fewest positions, rests of tiles and of blocks, squares above the diagonal, blocks of several parts.
@pytest.mark.parametrize("shape", [(2, 32, 8), (1, 64, 131), (3, 96, 700), (1, 32, 4200)])
def test_compiled_products_are_the_definition_in_float64(shape: tuple[int, int, int]) -> None:
    f = features(*shape).double().mT.contiguous().mT.requires_grad_()
    definition = torch.einsum("bip,bjp->bij", f, f) / shape[2]
    found = gram_matrix(f)
    assert fits_loops(f)
    assert torch.allclose(found, definition, atol=1e-13, rtol=1e-13)
    assert torch.equal(found, found.mT)
    direction = torch.randn(definition.shape, generator=generator(1), dtype=torch.float64)
    ours, theirs = (torch.autograd.grad(gram, f, direction)[0] for gram in (found, definition))
    assert torch.allclose(ours, theirs, atol=1e-13, rtol=1e-12)


def test_compiled_products_do_not_depend_on_the_number_of_threads() -> None:
    positions, n_threads, found = features(3, 64, 5000).mT.contiguous(), torch.get_num_threads(), []
    for n in (1, 2, 3):
        torch.set_num_threads(n)
        gram = cpu_gram.sum_products(positions)
        found.append((gram, cpu_gram.multiply(positions, gram)))
    torch.set_num_threads(n_threads)
    for others in found[1:]:
        assert all(torch.equal(first, other) for first, other in zip(found[0], others, strict=True))


def test_compiled_products_round_as_little_in_float32() -> None:
    positions = features(2, 64, 16384).relu().mT.contiguous()
    exact = positions.double().mT @ positions.double()
    errors = [
        float((found - exact).norm() / exact.norm())
        for found in (cpu_gram.sum_products(positions), positions.mT @ positions)
    ]
    assert errors[0] < max(3e-7, 2 * errors[1])


def test_compiled_products_take_what_they_are_given_on_every_cpu() -> None:
    for size in (4, 8):
        assert FEATURES % (cpu_gram.PANEL_REGISTERS * REGISTER_BYTES // size) == 0
    assert MIN_POSITIONS >= cpu_gram.TILE_ROWS
    assert cpu_gram.POSITIONS_AT_ONCE % cpu_gram.TILE_ROWS == 0
    for size in (4, 8):
        assert cpu_gram.PANEL_REGISTERS * REGISTER_BYTES // size % cpu_gram.TILE_ROWS == 0
