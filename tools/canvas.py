"""A periodic canvas and the fields that textures are painted with: noise, cells, color ramps, relief.

The canvas is 256 px wide and high and has several samples per pixel; lengths are in pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WORLD_PX = 256
# 2 x 2 samples per pixel suffice against aliasing of sharp edges; 4 x 4 cost four times as much.
SAMPLES_PER_PX = 2
CANVAS = WORLD_PX * SAMPLES_PER_PX

Field = NDArray[np.float64]
Random = np.random.Generator


def grid() -> tuple[Field, Field]:
    """Return rows and columns of the canvas samples' centers (px), each (canvas, canvas)."""
    axis = (np.arange(CANVAS) + 0.5) / SAMPLES_PER_PX
    return np.repeat(axis[:, None], CANVAS, axis=1), np.repeat(axis[None, :], CANVAS, axis=0)


def shortest_way(difference: Field) -> Field:
    """Return the shortest signed distance around the torus for each coordinate difference (px)."""
    return np.asarray(difference - WORLD_PX * np.rint(difference / WORLD_PX))


def _frequencies() -> tuple[Field, Field]:
    """Return the canvas spectrum's frequencies (1/px) down and across, for `rfft2`."""
    down, across = np.fft.fftfreq(CANVAS), np.fft.rfftfreq(CANVAS)
    return np.asarray(down[:, None] * SAMPLES_PER_PX), np.asarray(across[None, :] * SAMPLES_PER_PX)


def noise(rng: Random, tall_px: float, wide_px: float = 0.0) -> Field:
    """Return periodic noise of mean 0 and variance 1 around a wavelength down and across (0: the same)."""
    # Uniform: NumPy keeps their stream more stable across versions than that of normal numbers.
    white = rng.random((CANVAS, CANVAS)) - 0.5
    down, across = _frequencies()
    squared = (down * tall_px) ** 2 + (across * (wide_px or tall_px)) ** 2
    field = np.fft.irfft2(np.fft.rfft2(white) * squared * np.exp(-squared), s=(CANVAS, CANVAS))
    return np.asarray(field / field.std())


def fractal(rng: Random, tall_px: float, wide_px: float = 0.0, octaves: int = 4) -> Field:
    """Return the sum of octaves of noise, each of half the wavelength and amplitude; variance 1."""
    total = np.zeros((CANVAS, CANVAS))
    for scale in 0.5 ** np.arange(octaves):
        total += scale * noise(rng, tall_px * scale, wide_px * scale)
    return np.asarray(total / total.std())


def blur(field: Field, sigma_px: float) -> Field:
    """Blur with a periodic Gaussian."""
    down, across = _frequencies()
    kernel = np.exp(-2.0 * (np.pi * sigma_px) ** 2 * (down**2 + across**2))
    return np.asarray(np.fft.irfft2(np.fft.rfft2(field) * kernel, s=(CANVAS, CANVAS)))


def smoothstep(field: Field, low: float, high: float) -> Field:
    """Rise smoothly from 0 at `low` to 1 at `high`; fall if `low` is larger."""
    t = np.clip((field - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t))


def ramp(field: Field, stops: str) -> Field:
    """Color a field by interpolating between stops ("0 #000000, 1 #ffffff"); RGB in [0, 1]."""
    positions, codes = zip(*(stop.split() for stop in stops.split(", ")), strict=True)
    colors = np.array([[int(code[i : i + 2], 16) / 255.0 for code in codes] for i in (1, 3, 5)])
    places = np.array(positions, dtype=np.float64)
    return np.stack([np.interp(field, places, channel) for channel in colors], axis=-1)


def mix(below: Field, above: Field, cover: Field) -> Field:
    """Blend two colored canvases: `above` where `cover` is 1, `below` where it is 0."""
    return np.asarray(below + (above - below) * cover[..., None])


def relief(height_px: Field) -> Field:
    """Return the shading of a height field by light from the upper left, a factor around 1."""
    down = (np.roll(height_px, -1, 0) - np.roll(height_px, 1, 0)) * (SAMPLES_PER_PX / 2)
    across = (np.roll(height_px, -1, 1) - np.roll(height_px, 1, 1)) * (SAMPLES_PER_PX / 2)
    lit = (1.0 + 0.75 * down + 0.55 * across) / np.sqrt(1.0 + down**2 + across**2)
    return np.clip(lit, 0.35, 1.5)


def find_cells(rng: Random, n_across: int, rows: Field, columns: Field) -> tuple[Field, Field, Field]:
    """Find the Voronoi cells of a jittered, periodic n x n lattice at given positions (px).

    Source: Worley 1996, "A Cellular Texture Basis Function", with the exact distance to an edge instead of
    F2 - F1, so that veins have a constant width.

    Returns:
        Distance to the nearest edge (px), distance to the center (px), the cell's random number in [0, 1).
    """
    pitch = WORLD_PX / n_across
    jitter, numbers = rng.random((n_across, n_across, 2)), rng.random((n_across, n_across))
    place = np.stack([rows, columns]) / pitch
    home = np.floor(place).astype(np.int64)
    offsets, values = [], []
    for cell in np.ndindex(5, 5):
        # The nearest center and the neighbors with near edges are at most two cells away.
        lattice = home + np.array(cell)[:, None, None] - 2
        index = tuple(lattice % n_across)
        offsets.append(lattice + 0.5 + 0.84 * (np.moveaxis(jitter[index], -1, 0) - 0.5) - place)
        values.append(numbers[index])
    distances = np.stack([np.sqrt((offset**2).sum(axis=0)) for offset in offsets])
    winner = distances.argmin(axis=0)[None]
    nearest = np.take_along_axis(np.stack(offsets), winner[:, None], 0)[0]
    edge = np.full(rows.shape, np.inf)
    for offset in offsets:
        length = np.sqrt(((offset - nearest) ** 2).sum(axis=0))
        to_bisector = 0.5 * (offset**2 - nearest**2).sum(axis=0) / np.maximum(length, 1e-9)
        edge = np.where(length > 1e-9, np.minimum(edge, to_bisector), edge)
    value = np.take_along_axis(np.stack(values), winner, 0)[0]
    return edge * pitch, distances.min(axis=0) * pitch, value
