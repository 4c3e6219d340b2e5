"""Gray-Scott reaction-diffusion patterns: simulation on a torus, presets and their colors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]

# Euler steps of dt = 1: by then every preset fills the torus and has settled, or divides for ever (mitosis).
N_STEPS = 8000
# Simulated grids; other sizes are resampled from them: on a small torus spots die out together, and a large
# one takes too long.
MIN_GRID_CELLS, MAX_GRID_CELLS = 64, 128
# cells^2 per time unit: Pearson's 2e-5 and 1e-5 on a grid of pitch 2.5 / 256. The largest eigenvalue of
# `_laplacian` is 16/3 in magnitude, so explicit Euler with dt = 1 is stable with all feed and kill rates that
# the config allows: diffusion * 16/3 + decay <= 2.
DIFFUSION_U, DIFFUSION_V = 0.21, 0.105
# One seed square of 6 x 6 cells per 16 x 16 cells.
_SQUARE_CELLS = 6
_CELLS_PER_SQUARE = 256
# With a smaller range of v no pattern is visible: the reaction has died out or flooded the torus.
MIN_RANGE = 1e-3


@dataclass(frozen=True)
class GrayScottRates:
    """Rates f and k of du/dt = r_u lap u - u v^2 + f (1 - u), dv/dt = r_v lap v + u v^2 - (f + k) v."""

    feed: float  # f, per time unit, in [0, 0.2]
    kill: float  # k, per time unit, in [0, 0.2]


PRESETS: dict[str, GrayScottRates] = {
    "spots": GrayScottRates(feed=0.030, kill=0.062),
    "mitosis": GrayScottRates(feed=0.022, kill=0.059),
    "labyrinth": GrayScottRates(feed=0.029, kill=0.057),
    "coral": GrayScottRates(feed=0.0545, kill=0.062),
    "holes": GrayScottRates(feed=0.039, kill=0.058),
    "worms": GrayScottRates(feed=0.046, kill=0.063),
}

# Level of v and its RGB color, of rising lightness: night blue, teal, leaf green, sand, cream.
_COLOR_STOPS = (
    (0.00, (18, 16, 51)),
    (0.18, (29, 52, 97)),
    (0.38, (31, 107, 117)),
    (0.56, (86, 158, 104)),
    (0.74, (206, 184, 96)),
    (0.88, (243, 208, 150)),
    (1.00, (253, 243, 222)),
)


def simulate_gray_scott(rates: GrayScottRates, *, size: int, n_steps: int, seed: int) -> tuple[Field, Field]:
    """Simulate u and v on a torus of (size, size) cells, from seed squares scattered at random.

    Explicit Euler with dt = 1 in float64. Elementwise sums and products only, so every machine gets the same
    result.

    Args:
        rates: Feed and kill rate.
        size: Cells per side.
        n_steps: Euler steps.
        seed: Determines the places of the squares and the 1 % noise on them.

    Source: Pearson 1993, "Complex Patterns in a Simple System", whose initial state is u = 1/2, v = 1/4 in a
    square; many squares here, so that the pattern is stationary.
    """
    u, v = _seed_fields(size, seed)
    decay = rates.feed + rates.kill
    for _ in range(n_steps):
        reaction = u * v
        reaction *= v
        u += DIFFUSION_U * _laplacian(u) - reaction + rates.feed * (1.0 - u)
        v += DIFFUSION_V * _laplacian(v) + reaction - decay * v
    return u, v


def render_gray_scott(rates: GrayScottRates, *, size: int, n_steps: int, seed: int) -> NDArray[np.uint8]:
    """Return sRGB pixels (size, size, 3) of a simulation: v, colored from its smallest to its largest value.

    Sizes below `MIN_GRID_CELLS` and above `MAX_GRID_CELLS` are resampled, seamlessly, from a simulation of
    that size. A field with a range below `MIN_RANGE` is rendered in the darkest color. Arguments as in
    `simulate_gray_scott`.
    """
    n_cells = min(max(size, MIN_GRID_CELLS), MAX_GRID_CELLS)
    _, v = simulate_gray_scott(rates, size=n_cells, n_steps=n_steps, seed=seed)
    if size != n_cells:
        v = _resample(v, size)
    value_range = float(np.ptp(v))
    levels = (v - v.min()) / value_range if value_range >= MIN_RANGE else np.zeros_like(v)
    stops = np.array([stop for stop, _ in _COLOR_STOPS])
    colors = np.array([color for _, color in _COLOR_STOPS], dtype=np.float64)
    channels = [np.interp(levels, stops, colors[:, channel]) for channel in range(3)]
    return np.asarray(np.rint(np.stack(channels, axis=-1)), dtype=np.uint8)


def _seed_fields(size: int, seed: int) -> tuple[Field, Field]:
    """Return u = 1, v = 0 with scattered noisy squares of u = 1/2, v = 1/4."""
    rng = np.random.Generator(np.random.PCG64(seed))
    u, v = np.ones((size, size)), np.zeros((size, size))
    square = np.arange(_SQUARE_CELLS)
    for position in rng.random((max(1, size * size // _CELLS_PER_SQUARE), 2)):
        row, column = (int(fraction * size) for fraction in position)
        window = np.ix_((row + square) % size, (column + square) % size)
        noise = 1.0 + 0.02 * (rng.random((2, len(square), len(square))) - 0.5)
        u[window], v[window] = 0.5 * noise[0], 0.25 * noise[1]
    return u, v


def _laplacian(field: Field) -> Field:
    """Return the 9-point Laplacian [[1, 4, 1], [4, -20, 4], [1, 4, 1]] / 6 on the torus (cells^-2).

    Source: Patra and Karttunen 2006, "Stencils with isotropic discretization error for differential
    operators", the 9-point one.
    """
    padded = np.empty((field.shape[0] + 2, field.shape[1] + 2))
    padded[1:-1, 1:-1] = field
    padded[0, 1:-1], padded[-1, 1:-1] = field[-1], field[0]
    padded[:, 0], padded[:, -1] = padded[:, -2], padded[:, 1]
    # The outer product of [1, 4, 1] with itself is the stencil except for its center: 16 instead of -20.
    across = padded[:, :-2] + padded[:, 2:]
    across += 4.0 * padded[:, 1:-1]
    total = across[:-2] + across[2:]
    total += 4.0 * across[1:-1]
    total -= 36.0 * field
    return np.asarray(total / 6.0)


def _resample(field: Field, size: int) -> Field:
    """Resample a square periodic field to (size, size) through its Fourier series, without aliasing."""
    n_cells = field.shape[0]
    # Frequencies that both grids have; the Nyquist frequency of an even grid has no partner and is left out.
    highest = (min(size, n_cells) - 1) // 2
    kept = np.arange(-highest, highest + 1)
    spectrum = np.zeros((size, size), dtype=np.complex128)
    spectrum[np.ix_(kept % size, kept % size)] = np.fft.fft2(field)[np.ix_(kept % n_cells, kept % n_cells)]
    return np.asarray(np.fft.ifft2(spectrum).real * (size / n_cells) ** 2)
