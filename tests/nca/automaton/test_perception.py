"""The kernels and what a cell sees through them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import TypeCheckError

from nca.automaton.perception import (
    DISTILL_KERNELS,
    LAPLACIAN,
    MAX_FILTERS,
    SOBEL_COLUMNS,
    SOBEL_ROWS,
    STUDY_KERNELS,
    filter_channels,
    make_channel_kernels,
    make_kernels,
    perceive,
)
from tests.builders import generator

Kernel = list[list[int]]


@pytest.mark.parametrize("named", [STUDY_KERNELS, DISTILL_KERNELS])
@pytest.mark.parametrize("n_filters", range(1, MAX_FILTERS + 1))
def test_as_many_kernels_as_asked_for_the_named_ones_first(n_filters: int, named: tuple[Kernel, ...]) -> None:
    kernels = make_kernels(n_filters, generator(), named)
    assert kernels.shape == (n_filters, 3, 3)
    assert kernels.dtype == torch.float32
    assert torch.equal(kernels[:5], torch.tensor(named[:n_filters], dtype=torch.float32))
    if named is STUDY_KERNELS:
        assert torch.equal(make_kernels(n_filters, generator()), kernels)


def test_named_kernels_are_what_their_names_say() -> None:
    identity, laplacian, rows, columns, moore = make_kernels(5, None)
    assert torch.equal(identity, torch.eye(3)[1].outer(torch.eye(3)[1]))
    assert laplacian.sum() == 0
    assert torch.equal(laplacian, laplacian.mT)
    assert torch.equal(rows, columns.mT)
    assert rows.sum() == 0
    assert moore.sum() == 8
    assert moore[1, 1] == 0


def test_kernels_of_the_notebook_are_what_their_names_say() -> None:
    identity, columns, rows, laplacian, moore = make_kernels(5, None, DISTILL_KERNELS)
    study = make_kernels(5, None)
    assert torch.equal(identity, study[0])
    assert torch.equal(laplacian, study[1])
    assert torch.equal(moore, study[4])
    smoothing, difference = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0])
    assert torch.equal(columns, smoothing.outer(difference))
    assert torch.equal(rows, difference.outer(smoothing))


@pytest.mark.parametrize(
    ("channels", "n_each"), [(3, (1, 1, 1)), (8, (4, 2, 2)), (12, (4, 4, 4)), (16, (6, 5, 5))]
)
def test_each_channel_has_a_kernel_a_third_of_them_each(channels: int, n_each: tuple[int, int, int]) -> None:
    kernels = make_channel_kernels(channels)
    names = [LAPLACIAN] * n_each[0] + [SOBEL_COLUMNS] * n_each[1] + [SOBEL_ROWS] * n_each[2]
    assert kernels.dtype == torch.float32
    assert kernels.tolist() == names


@pytest.mark.parametrize("n_filters", [0, -1, 21])
def test_other_numbers_of_kernels_are_refused(n_filters: int) -> None:
    with pytest.raises(ValueError, match=f"n_filters={n_filters}: must be 1 to 20"):
        make_kernels(n_filters, None)


def test_kernels_beyond_five_are_random_and_reproducible() -> None:
    first, second, other = (make_kernels(20, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first[5:], other[5:])
    assert torch.equal(first[:5], other[:5])
    assert len({tuple(kernel.flatten().tolist()) for kernel in first}) == 20
    # 135 standard normal numbers: the mean has deviation 0.086, the variance 0.12.
    assert abs(float(first[5:].mean())) < 0.4
    assert 0.5 < float(first[5:].var()) < 1.6


def test_identity_sees_the_cell_itself() -> None:
    state = torch.rand(2, 3, 8, 8, generator=generator())
    assert torch.equal(perceive(state, make_kernels(1, None)), state)


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_derivatives_of_a_constant_are_0(value: float) -> None:
    state = torch.full((1, 2, 6, 6), value)
    seen = perceive(state, make_kernels(5, None)).view(2, 5, 6, 6)
    assert torch.equal(seen[:, 1:4], torch.zeros(2, 3, 6, 6))
    assert torch.equal(seen[:, 4], torch.full((2, 6, 6), 8 * value))


@pytest.mark.parametrize("shift", [(1, 0), (0, -1), (3, 5)])
def test_perception_commutes_with_circular_shifts(shift: tuple[int, int]) -> None:
    state = torch.rand(2, 3, 7, 9, generator=generator(), dtype=torch.float64)
    kernels = make_kernels(8, generator())
    shifted = perceive(state.roll(shift, (2, 3)), kernels)
    assert torch.allclose(shifted, perceive(state, kernels).roll(shift, (2, 3)), atol=1e-12)


def test_perception_is_linear() -> None:
    one, two = (torch.rand(1, 2, 5, 5, generator=generator(seed), dtype=torch.float64) for seed in (0, 1))
    kernels = make_kernels(6, generator())
    together = perceive(2 * one - 3 * two, kernels)
    assert torch.allclose(together, 2 * perceive(one, kernels) - 3 * perceive(two, kernels))


def test_channels_are_seen_alone_and_come_channel_major() -> None:
    state = torch.rand(1, 3, 6, 6, generator=generator())
    kernels = make_kernels(4, None)
    seen = perceive(state, kernels)
    assert seen.shape == (1, 12, 6, 6)
    padded = F.pad(state, (1, 1, 1, 1), mode="circular")
    for channel in range(3):
        for number, kernel in enumerate(kernels):
            alone = F.conv2d(padded[:, channel : channel + 1], kernel[None, None])
            assert torch.allclose(seen[:, 4 * channel + number], alone[:, 0], atol=1e-6)


def test_each_channel_is_seen_through_its_own_kernel() -> None:
    state = torch.rand(2, 3, 6, 6, generator=generator())
    seen, all_seen = (see(state, make_channel_kernels(3)) for see in (filter_channels, perceive))
    assert seen.shape == state.shape
    assert torch.allclose(
        seen, all_seen.unflatten(1, (3, 3)).diagonal(dim1=1, dim2=2).movedim(-1, 1), atol=1e-6
    )


def test_derivatives_point_down_and_right() -> None:
    rows = torch.arange(6.0)[:, None].expand(6, 6)[None, None]
    _, _, down, right = perceive(rows, make_kernels(4, None))[0, :, 3, 3]
    assert (down, right) == (6.0, 0.0)
    _, _, down, right = perceive(rows.mT, make_kernels(4, None))[0, :, 3, 3]
    assert (down, right) == (0.0, 6.0)


def test_shapes_are_checked_in_tests() -> None:
    with pytest.raises(TypeCheckError):
        perceive(torch.zeros(3, 8, 8), make_kernels(4, None))
