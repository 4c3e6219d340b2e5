"""Gray-Scott reaction-diffusion patterns: simulation on a torus, presets and their colors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["N_STEPS", "PRESETS", "GrayScottParameters", "render_gray_scott", "simulate_gray_scott"]

Field = NDArray[np.float64]

# Euler steps of dt = 1: by then every preset fills the torus and has settled, or divides for ever (mitosis).
N_STEPS = 8000
# Other pictures are resampled: on a small torus spots die out together, on a large one the time adds up.
MIN_GRID_CELLS, MAX_GRID_CELLS = 64, 128
# The most negative eigenvalue of `_laplacian` is -16/3, at the checkerboard; Euler with dt = 1 needs
# diffusion * 16/3 + linear decay <= 2.
_LAPLACIAN_RADIUS = 16.0 / 3.0
_EULER_LIMIT = 2.0
# One seeding square of side 6 cells on every 16 x 16 cells.
_SQUARE_CELLS = 6
_CELLS_PER_SQUARE = 256
# Below this spread of v nothing is left to see: the reaction has died out or flooded the torus.
EMPTY_SPREAD = 1e-3


@dataclass(frozen=True)
class GrayScottParameters:
    """Rates of du/dt = r_u lap u - u v^2 + f (1 - u), dv/dt = r_v lap v + u v^2 - (f + k) v.

    Args:
        feed: f, per time unit, in [0, 1].
        kill: k, per time unit, in [0, 1].
        diffusion_u: r_u, cells^2 per time unit, 0 or more.
        diffusion_v: r_v, cells^2 per time unit, 0 or more.

    Raises:
        ValueError: If a rate is out of its range or NaN, or explicit Euler with dt = 1 is unstable with them.
    """

    feed: float
    kill: float
    # Pearson's 2e-5 and 1e-5 on a grid of pitch 2.5 / 256.
    diffusion_u: float = 0.21
    diffusion_v: float = 0.105

    def __post_init__(self) -> None:
        """Check the ranges and Euler's limit.

        Raises:
            ValueError: If one is broken.
        """
        for name in ("feed", "kill", "diffusion_u", "diffusion_v"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        fastest = max(
            self.diffusion_u * _LAPLACIAN_RADIUS + self.feed,
            self.diffusion_v * _LAPLACIAN_RADIUS + self.feed + self.kill,
        )
        if fastest > _EULER_LIMIT:
            raise ValueError(
                "diffusion * 16/3 + feed (for v: + feed + kill) must be at most "
                f"{_EULER_LIMIT:g} for the time step of 1, got {fastest:g}"
            )


PRESETS: dict[str, GrayScottParameters] = {
    "spots": GrayScottParameters(feed=0.030, kill=0.062),
    "mitosis": GrayScottParameters(feed=0.022, kill=0.059),
    "labyrinth": GrayScottParameters(feed=0.029, kill=0.057),
    "coral": GrayScottParameters(feed=0.0545, kill=0.062),
    "holes": GrayScottParameters(feed=0.039, kill=0.058),
    "worms": GrayScottParameters(feed=0.046, kill=0.063),
}

# Our own, of rising lightness: night blue, teal, leaf green, sand, cream.
_COLOR_STOPS = (
    (0.00, (18, 16, 51)),
    (0.18, (29, 52, 97)),
    (0.38, (31, 107, 117)),
    (0.56, (86, 158, 104)),
    (0.74, (206, 184, 96)),
    (0.88, (243, 208, 150)),
    (1.00, (253, 243, 222)),
)


def simulate_gray_scott(
    parameters: GrayScottParameters, *, size: int, n_steps: int, seed: int
) -> tuple[Field, Field]:
    """Simulate from seeded squares scattered over a torus; (u, v), each (size, size).

    Explicit Euler, dt = 1, in float64; elementwise sums and products only, so the same on every machine.

    Args:
        parameters: The four rates.
        size: Cells on a side, at least 3.
        n_steps: Euler steps, 0 or more.
        seed: 0 or more; places the squares and draws the 1% noise on them.

    Raises:
        ValueError: If `size`, `n_steps` or `seed` is out of its range, or the fields left the finite numbers.

    Source: Pearson 1993, "Complex Patterns in a Simple System", whose initial state is u = 1/2, v = 1/4 in a
    square; many squares here, so that the pattern is stationary.
    """
    for name, value, least in (("size", size, 3), ("n_steps", n_steps, 0), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    u, v = _seed_fields(size, seed)
    decay = parameters.feed + parameters.kill
    for _ in range(n_steps):
        reaction = u * v
        reaction *= v
        u += parameters.diffusion_u * _laplacian(u) - reaction + parameters.feed * (1.0 - u)
        v += parameters.diffusion_v * _laplacian(v) + reaction - decay * v
    if not (np.isfinite(u).all() and np.isfinite(v).all()):
        raise ValueError(f"the simulation diverged within {n_steps} steps with {parameters}")
    return u, v


def render_gray_scott(
    parameters: GrayScottParameters, *, size: int, n_steps: int, seed: int
) -> NDArray[np.uint8]:
    """Simulate and color v from its smallest to its largest value; (size, size, 3).

    Below `MIN_GRID_CELLS` and above `MAX_GRID_CELLS` the picture is a seamless resampling of a simulation of
    that size. An even field, of a spread below `EMPTY_SPREAD`, is all of the darkest color.

    The arguments and errors are those of `simulate_gray_scott`.
    """
    n_cells = min(max(size, MIN_GRID_CELLS), MAX_GRID_CELLS)
    _, v = simulate_gray_scott(parameters, size=n_cells, n_steps=n_steps, seed=seed)
    if size != n_cells:
        v = _resample(v, size)
    spread = float(np.ptp(v))
    shares = (v - v.min()) / spread if spread >= EMPTY_SPREAD else np.zeros_like(v)
    places = np.array([place for place, _ in _COLOR_STOPS])
    colors = np.array([color for _, color in _COLOR_STOPS], dtype=np.float64)
    channels = [np.interp(shares, places, colors[:, channel]) for channel in range(3)]
    pixels: NDArray[np.uint8] = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return pixels


def _seed_fields(size: int, seed: int) -> tuple[Field, Field]:
    """Return u = 1, v = 0 but for scattered noisy squares of u = 1/2, v = 1/4."""
    rng = np.random.Generator(np.random.PCG64(seed))
    u, v = np.ones((size, size)), np.zeros((size, size))
    square = np.arange(min(_SQUARE_CELLS, size))
    for place in rng.random((max(1, size * size // _CELLS_PER_SQUARE), 2)):
        row, column = (int(share * size) for share in place)
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
    # [1, 4, 1] in each direction holds all but the center: their product's middle is 16, so 36 is taken off.
    across = padded[:, :-2] + padded[:, 2:]
    across += 4.0 * padded[:, 1:-1]
    total = across[:-2] + across[2:]
    total += 4.0 * across[1:-1]
    total -= 36.0 * field
    return np.asarray(total / 6.0)


def _resample(field: Field, size: int) -> Field:
    """Resample a square periodic field to (size, size) through its Fourier series, without aliasing."""
    n_cells = field.shape[0]
    # Frequencies that both grids hold; the lone highest one of an even grid has no partner and is left out.
    highest = (min(size, n_cells) - 1) // 2
    kept = np.arange(-highest, highest + 1)
    spectrum = np.zeros((size, size), dtype=np.complex128)
    spectrum[np.ix_(kept % size, kept % size)] = np.fft.fft2(field)[np.ix_(kept % n_cells, kept % n_cells)]
    return np.asarray(np.fft.ifft2(spectrum).real * (size / n_cells) ** 2)
