"""Gray-Scott: identities of the equations, the presets' patterns, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nca.textures import gray_scott
from nca.textures.gray_scott import (
    N_STEPS,
    PRESETS,
    GrayScottRates,
    render_gray_scott,
    simulate_gray_scott,
)

RATES = PRESETS["coral"]
N_CELLS = 64


@pytest.fixture
def noise() -> gray_scott.Field:
    return np.random.Generator(np.random.PCG64(1)).random((16, 24))


def test_laplacian_of_a_constant_is_zero() -> None:
    assert np.abs(gray_scott._laplacian(np.full((8, 8), 0.7))).max() < 1e-12


def test_laplacian_conserves_the_mean(noise: gray_scott.Field) -> None:
    assert abs(gray_scott._laplacian(noise).mean()) < 1e-12


def test_laplacian_commutes_with_shifts_around_the_torus(noise: gray_scott.Field) -> None:
    shifted = gray_scott._laplacian(np.roll(noise, (5, -9), (0, 1)))
    assert np.allclose(shifted, np.roll(gray_scott._laplacian(noise), (5, -9), (0, 1)))


def test_laplacian_is_the_stated_stencil() -> None:
    impulse = np.zeros((7, 7))
    impulse[3, 3] = 6.0
    assert np.allclose(gray_scott._laplacian(impulse)[2:5, 2:5], [[1, 4, 1], [4, -20, 4], [1, 4, 1]])


def test_laplacian_of_a_long_wave_is_minus_its_wavenumber_squared() -> None:
    wavenumber = 2 * math.pi / 64
    wave = np.sin(wavenumber * np.arange(64))[None, :] * np.ones((8, 1))
    assert np.allclose(gray_scott._laplacian(wave), -(wavenumber**2) * wave, rtol=2e-3, atol=1e-12)


def test_checkerboard_is_the_fastest_mode(noise: gray_scott.Field) -> None:
    checkerboard = (-1.0) ** np.add.outer(np.arange(16), np.arange(24))
    assert np.allclose(gray_scott._laplacian(checkerboard), -16 / 3 * checkerboard)
    spectrum = np.abs(np.fft.fft2(gray_scott._laplacian(noise)) / np.fft.fft2(noise))
    assert spectrum.max() <= 16 / 3 + 1e-9


def test_u_one_v_zero_is_a_fixed_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        gray_scott, "_seed_fields", lambda size, seed: (np.ones((size,) * 2), np.zeros((size,) * 2))
    )
    u, v = simulate_gray_scott(RATES, size=8, n_steps=50, seed=0)
    assert np.abs(u - 1.0).max() < 1e-12
    assert not v.any()


def test_one_step_is_the_equation() -> None:
    u0, v0 = simulate_gray_scott(RATES, size=N_CELLS, n_steps=0, seed=3)
    u1, v1 = simulate_gray_scott(RATES, size=N_CELLS, n_steps=1, seed=3)
    reaction = u0 * v0**2
    du = gray_scott.DIFFUSION_U * gray_scott._laplacian(u0) - reaction + RATES.feed * (1 - u0)
    dv = gray_scott.DIFFUSION_V * gray_scott._laplacian(v0) + reaction - (RATES.feed + RATES.kill) * v0
    assert np.allclose(u1, u0 + du, atol=1e-14)
    assert np.allclose(v1, v0 + dv, atol=1e-14)


def test_without_feed_and_kill_u_plus_v_is_conserved() -> None:
    closed = GrayScottRates(feed=0.0, kill=0.0)
    before, after = (sum(simulate_gray_scott(closed, size=N_CELLS, n_steps=n, seed=0)) for n in (0, 200))
    assert np.mean(after) == pytest.approx(np.mean(before), rel=1e-12)


def test_same_seed_same_pattern_other_seed_another() -> None:
    first, same, other = (
        simulate_gray_scott(RATES, size=32, n_steps=100, seed=seed)[1] for seed in (5, 5, 6)
    )
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_presets_give_settled_stationary_patterns_that_differ() -> None:
    fingerprints = {}
    for name, parameters in PRESETS.items():
        u, v = simulate_gray_scott(parameters, size=N_CELLS, n_steps=N_STEPS, seed=0)
        assert u.min() >= 0.0, name
        assert u.max() <= 1.0 + 1e-12, name
        assert v.std() > 0.05, name
        quarters = v.reshape(2, N_CELLS // 2, 2, N_CELLS // 2).mean(axis=(1, 3))
        assert np.ptp(quarters) < 1.2 * v.std(), name
        covered = v > 0.5 * v.max()
        # Share covered, outline per cell covered, height: enough to tell spots, lines and holes apart.
        outline = (covered != np.roll(covered, 1, 0)).mean() + (covered != np.roll(covered, 1, 1)).mean()
        fingerprints[name] = np.array([covered.mean(), outline, v.mean()])
    names = list(fingerprints)
    assert len(names) >= 5
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            apart = np.abs(fingerprints[name] / fingerprints[other] - 1.0).max()
            assert apart > 0.06, f"{name} looks like {other}"


def test_picture_spans_the_color_map() -> None:
    pixels = render_gray_scott(RATES, size=32, n_steps=1500, seed=0)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    colors = {tuple(color) for color in pixels.reshape(-1, 3).tolist()}
    assert {gray_scott._COLOR_STOPS[0][1], gray_scott._COLOR_STOPS[-1][1]} <= colors


def test_color_map_rises_in_lightness() -> None:
    colors = np.array([color for _, color in gray_scott._COLOR_STOPS], dtype=np.float64)
    luma = ((colors / 255.0) ** 2.2) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luma) > 0.005).all()


def test_pattern_that_died_out_is_one_color() -> None:
    dead = GrayScottRates(feed=0.01, kill=0.1)
    pixels = render_gray_scott(dead, size=16, n_steps=2000, seed=0)
    assert (pixels == gray_scott._COLOR_STOPS[0][1]).all()


@pytest.mark.parametrize(("size", "n_cells"), [(256, 128), (32, 64), (80, 80)])
def test_picture_of_another_size_is_a_seamless_resampling(size: int, n_cells: int) -> None:
    pixels = render_gray_scott(RATES, size=size, n_steps=300, seed=0).astype(np.float64)
    native = render_gray_scott(RATES, size=n_cells, n_steps=300, seed=0).astype(np.float64)
    assert pixels.shape == (size, size, 3)
    assert np.abs(pixels.mean(axis=(0, 1)) - native.mean(axis=(0, 1))).max() < 8.0
    jumps = np.abs(pixels - np.roll(pixels, 1, 1)).mean(axis=(0, 2))
    assert jumps[0] <= jumps[1:].max()


@pytest.mark.parametrize("size", [5, 8, 12, 19])
def test_resampling_keeps_a_constant_and_a_wave(size: int) -> None:
    assert np.allclose(gray_scott._resample(np.full((9, 9), 0.3), size), 0.3)
    wave, resampled = (
        np.cos(2 * math.pi * 2 * np.arange(n) / n)[:, None] * np.ones((1, n)) for n in (12, size)
    )
    assert np.allclose(gray_scott._resample(wave, size), resampled)


def test_resampling_to_a_coarse_grid_leaves_out_what_it_cannot_hold() -> None:
    fast = np.cos(2 * math.pi * 5 * np.arange(16) / 16)[:, None] * np.ones((1, 16))
    assert np.abs(gray_scott._resample(fast, 8)).max() < 1e-12


@pytest.mark.parametrize("feed", [0.0, 0.2])
@pytest.mark.parametrize("kill", [0.0, 0.2])
def test_simulation_is_stable_at_the_limits_of_the_config(feed: float, kill: float) -> None:
    u, v = simulate_gray_scott(GrayScottRates(feed, kill), size=N_CELLS, n_steps=N_STEPS, seed=0)
    assert max(np.abs(u).max(), np.abs(v).max()) < 1.5
