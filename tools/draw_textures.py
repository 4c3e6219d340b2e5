"""`python -m tools.draw_textures [FOLDER]`: draws four textures, the stand-ins for photographs of plants.

They are deterministic, seamless and stationary. Each is painted on a canvas finer than its 256 px and
averaged down; lengths are in pixels of the 256 px picture. The painters' literals are colors and strengths
chosen by eye so that each texture reads at 256 px and at 64 px. Not a loader: that is `nca.textures.load`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nca.cli.errors import ConfigError, exit_on_error
from nca.textures.load import ASSETS
from tools.canvas import (
    CANVAS,
    SAMPLES_PER_PX,
    WORLD_PX,
    Field,
    Random,
    blur,
    find_cells,
    fractal,
    grid,
    mix,
    noise,
    ramp,
    relief,
    shortest_way,
    smoothstep,
)

USAGE = "python -m tools.draw_textures [FOLDER]"
# The slowest level, whose output is the same on every processor.
PNG_COMPRESS_LEVEL = 9
TEXTURES: tuple[str, ...] = ("roundleaf", "orchid_petal", "alocasia", "snake_plant")

_SPOT_RADII_PX = (*([26.0] * 6), *([24.0] * 10), *([22.0] * 14), *([19.0] * 12), *([16.0] * 10))
_SPOT_GAP_PX = 1.5
_N_TRUNKS = 5
# Length, half width at the foot and gap between side branches of trunks, branches and twigs.
_LENGTH_PX, _TRUNK_HALF_WIDTH_PX, _GAP_PX = (215.0, 62.0, 25.0), 2.9, (21.0, 16.0)
_STRIDE_PX, _TOUCH_PX = 1.0, 6.0
_INK_REACH_PX = 14.0
_N_BANDS = 5

_BROWN_SPOT = (
    "0 #1c0d0c, 0.24 #34150f, 0.4 #63301d, 0.52 #94602f, "
    "0.63 #cdb768, 0.74 #f4ebbf, 0.88 #f8f4da, 1 #c9da8c, 1.12 #8db04c"
)
_OLIVE_SPOT = (
    "0 #141a0c, 0.24 #2a2a10, 0.4 #4d4a1a, 0.52 #7d7a30, "
    "0.63 #bfc070, 0.74 #eaefc4, 0.88 #f6f8e2, 1 #c4dc94, 1.12 #8db04c"
)


@dataclass(frozen=True)
class _Shoot:
    """The start of a branch: its foot (px), its heading (radians from up) and its order (0 for a trunk)."""

    row: float
    column: float
    heading: float
    length_px: float
    half_width_px: float
    order: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the textures as PNG files without metadata into a folder, by default nca/textures/assets.

    Raises:
        ConfigError: Never: it becomes one line and exit code 2.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    with exit_on_error(OSError):
        if len(argv) > 1 or argv[:1] == ["--help"]:
            raise ConfigError(USAGE)
        folder = Path(argv[0]).expanduser() if argv else ASSETS
        folder.mkdir(parents=True, exist_ok=True)
        for name in TEXTURES:
            picture = Image.fromarray(draw_texture(name))
            picture.save(folder / f"{name}.png", compress_level=PNG_COMPRESS_LEVEL)


def draw_texture(name: str, size: int = WORLD_PX) -> NDArray[np.uint8]:
    """Draw one of `TEXTURES`; the same bytes every time.

    Args:
        name: One of `TEXTURES`.
        size: Side in px, a divisor of 512. Smaller sizes are box averages of the same picture.

    Returns:
        sRGB pixels (size, size, 3), seamless when tiled.

    Raises:
        ValueError: If the name is unknown or the size does not divide 512.
    """
    if name not in _PAINTERS:
        raise ValueError(f"name must be one of {', '.join(TEXTURES)}, got {name!r}")
    if size < 1 or CANVAS % size:
        raise ValueError(f"size must be a divisor of {CANVAS}, got {size}")
    seed, paint = _PAINTERS[name]
    canvas = paint(np.random.Generator(np.random.PCG64(seed)))
    step = CANVAS // size
    averaged = canvas.reshape(size, step, size, step, 3).mean(axis=(1, 3))
    pixels: NDArray[np.uint8] = np.rint(np.clip(averaged, 0.0, 1.0) * 255.0).astype(np.uint8)
    return pixels


def _scatter(rng: Random, radii_px: Sequence[float]) -> Field:
    """Place discs at random, `_SPOT_GAP_PX` apart, where there is room; (n, 3): row, column, radius (px)."""
    placed = np.zeros((0, 3))
    for radius in radii_px:
        for place in rng.random((400, 2)) * WORLD_PX:
            apart = shortest_way(placed[:, :2] - place)
            if (np.hypot(apart[:, 0], apart[:, 1]) > radius + placed[:, 2] + _SPOT_GAP_PX).all():
                placed = np.vstack([placed, [*place, radius]])
                break
    return placed


def _roundleaf(rng: Random) -> Field:
    """Paint round spots with pale rims and dark centers on a maple-green leaf."""
    rows, columns = grid()
    rows, columns = rows + 0.8 * noise(rng, 36.0), columns + 0.8 * noise(rng, 36.0)
    ragged_rows, ragged_columns = rows + 1.2 * fractal(rng, 20.0), columns + 1.2 * fractal(rng, 20.0)
    net, _, _ = find_cells(rng, 9, ragged_rows, ragged_columns)
    fine, _, patch = find_cells(rng, 36, ragged_rows, ragged_columns)
    veins = np.clip(np.exp(-((net / 1.3) ** 2)) + 0.45 * np.exp(-((fine / 0.8) ** 2)), 0.0, 1.0)
    tone = 0.5 + 0.17 * fractal(rng, 60.0) + 0.05 * fractal(rng, 7.0) + 0.12 * (patch - 0.5)
    leaf = ramp(tone, "0 #12402a, 0.35 #25642a, 0.6 #3f842c, 0.85 #6ea336, 1 #9fb53c")
    leaf = mix(leaf, ramp(tone, "0 #7fa24b, 1 #c3cf6a"), 0.45 * veins)
    height = blur(-0.5 * veins, 0.5) + 0.07 * noise(rng, 3.0)
    grain = fractal(rng, 10.0, octaves=3)
    for row, column, radius in _scatter(rng, _SPOT_RADII_PX):
        reach = np.hypot(shortest_way(rows - row), shortest_way(columns - column)) / radius
        frayed = reach + grain * 1.5 / (radius + 16.0)
        disc = mix(ramp(frayed, _BROWN_SPOT), ramp(frayed, _OLIVE_SPOT), rng.random((1, 1)))
        leaf = mix(leaf, disc, smoothstep(0.65 * reach + 0.35 * frayed, 1.16, 0.90))
        rim, pit = np.exp(-(((reach - 0.80) / 0.20) ** 2)), np.exp(-((reach / 0.45) ** 2))
        height = height + radius * (0.075 * rim - 0.06 * pit)
    return leaf * (0.35 + 0.65 * relief(height))[..., None] * (1.0 + 0.025 * noise(rng, 2.5))[..., None]


def _grow_branches(rng: Random) -> list[Field]:
    """Grow trunks up the petal, with branches and twigs that end where they meet others.

    Returns:
        Per branch (n, 3): row and column (px, not wrapped) and half width (px), which tapers to a point.
    """
    feet = (np.arange(_N_TRUNKS) + 0.5 + 0.4 * (rng.random(_N_TRUNKS) - 0.5)) * WORLD_PX / _N_TRUNKS
    # Steps of the golden ratio spread the trunks' feet over the height, so that no row is bare.
    heights = WORLD_PX * (0.618034 * np.arange(_N_TRUNKS) % 1.0)
    leans = 0.3 * (rng.random(_N_TRUNKS) - 0.5)
    places = np.stack([heights, feet, leans], axis=1).tolist()
    waiting = [_Shoot(y, x, lean, _LENGTH_PX[0], _TRUNK_HALF_WIDTH_PX, 0) for y, x, lean in places]
    taken, branches = np.zeros((0, 2)), []
    while waiting:
        shoot = waiting.pop(0)
        path = _walk(rng, shoot, taken)
        branches.append(path)
        taken = np.concatenate([taken, path[:, :2]])
        if shoot.order < len(_GAP_PX):
            waiting += _sprout(rng, shoot, path)
    return branches


def _walk(rng: Random, shoot: _Shoot, taken: Field) -> Field:
    """Walk one branch until its length is used up or it touches another; (n, 3) as in `_grow_branches`."""
    row, column, heading, wander = shoot.row, shoot.column, shoot.heading, 0.0
    n_steps = int(shoot.length_px / _STRIDE_PX)
    path = []
    for i in range(n_steps):
        rise = min(1.0, (i + 3) / 16.0) if shoot.order == 0 else 1.0
        path.append((row, column, shoot.half_width_px * rise * (1.0 - i / n_steps) ** 0.7 + 0.45))
        wander = 0.8 * wander + 0.075 * (rng.random() - 0.5)
        heading += wander - 0.05 * heading * (shoot.order == 0)
        row, column = row - _STRIDE_PX * np.cos(heading), column + _STRIDE_PX * np.sin(heading)
        apart = shortest_way(taken - np.array([row, column]))
        if i * _STRIDE_PX > 12.0 and len(taken) and np.hypot(apart[:, 0], apart[:, 1]).min() < _TOUCH_PX:
            break
    return np.array(path)


def _sprout(rng: Random, shoot: _Shoot, path: Field) -> list[_Shoot]:
    """Place the side branches of a walked branch, left and right in turn."""
    shoots = []
    gap = _GAP_PX[shoot.order]
    at, side = 0.35 * gap, 1.0 if rng.random() < 0.5 else -1.0
    while at < len(path) * _STRIDE_PX * 0.92:
        row, column, half_width = path[int(at / _STRIDE_PX)]
        step = path[min(int(at / _STRIDE_PX) + 1, len(path) - 1)] - path[max(int(at / _STRIDE_PX) - 1, 0)]
        heading = float(np.arctan2(step[1], -step[0])) + side * 0.78 * (0.7 + 0.6 * rng.random())
        length = _LENGTH_PX[shoot.order + 1] * (0.6 + 0.7 * rng.random())
        shoots.append(_Shoot(row, column, heading, length, 0.75 * half_width, shoot.order + 1))
        at, side = at + gap * (0.6 + 0.8 * rng.random()), -side
    return shoots


def _distance_to_branches(branches: Sequence[Field], rows: Field, columns: Field) -> Field:
    """Return the distance to the branches' outline (px): negative inside, at most `_INK_REACH_PX`."""
    outside = np.full(rows.shape, _INK_REACH_PX)
    axis = np.arange(-int(_INK_REACH_PX) * SAMPLES_PER_PX, int(_INK_REACH_PX) * SAMPLES_PER_PX)
    for row, column, half_width in np.concatenate(branches):
        i, j = (int(row * SAMPLES_PER_PX) + axis) % CANVAS, (int(column * SAMPLES_PER_PX) + axis) % CANVAS
        window = np.ix_(i, j)
        distance = np.hypot(shortest_way(rows[window] - row), shortest_way(columns[window] - column))
        outside[window] = np.minimum(outside[window], distance - half_width)
    return outside


def _orchid_petal(rng: Random) -> Field:
    """Paint branching, tapering magenta pigment on a pale petal."""
    rows, columns = grid()
    rows, columns = rows + 1.6 * noise(rng, 40.0), columns + 1.6 * noise(rng, 40.0)
    outside = _distance_to_branches(_grow_branches(rng), rows, columns)
    bleed = outside + 0.3 * fractal(rng, 7.0) - 0.75 * noise(rng, 15.0) * (outside < 6.0)
    _, center, chance = find_cells(rng, 13, rows, columns)
    freckle = center - 4.6 * smoothstep(chance, 0.45, 1.0) + 0.5 * noise(rng, 6.0)
    ink = np.maximum(smoothstep(bleed, 0.9, -0.9), 0.85 * smoothstep(freckle, 0.8, -1.2))
    halo = np.exp(-np.maximum(outside, 0.0) / 2.4) + 0.25 * blur(ink, 8.0)
    tone = 0.5 + 0.2 * fractal(rng, 70.0) + 0.08 * noise(rng, 70.0, 7.0)
    petal = ramp(tone, "0 #ecb8d8, 0.35 #f6dceb, 0.65 #fcf5f6, 1 #fbf6e0")
    petal = mix(petal, ramp(tone, "0 #d678b4, 1 #ea9cc6"), np.clip(0.75 * halo, 0.0, 0.8))
    depth = 0.35 * smoothstep(outside, 0.0, -3.0) + 0.45 + 0.14 * fractal(rng, 40.0)
    pigment = ramp(depth, "0 #e04aa2, 0.35 #c42590, 0.7 #970f74, 1 #5e0b58")
    petal = mix(petal, pigment, ink)
    height = 0.8 * blur(ink, 1.0) + 0.07 * noise(rng, 3.2) + 0.35 * noise(rng, 44.0, 26.0)
    return petal * (0.6 + 0.4 * relief(height))[..., None]


def _alocasia(rng: Random) -> Field:
    """Paint a net of pale veins, thick to fine, on a dark green to purple underside."""
    rows, columns = grid()
    rows = rows + 2.2 * fractal(rng, 60.0, octaves=2)
    columns = columns + 2.2 * fractal(rng, 60.0, octaves=2)
    thick, _, _ = find_cells(rng, 3, rows, columns)
    middle, _, field = find_cells(rng, 8, rows, columns)
    fine, _, areole = find_cells(rng, 26, rows, columns)
    swell = 1.0 + 0.18 * noise(rng, 40.0)
    first = smoothstep(thick, 4.6, 2.2)
    second = smoothstep(middle / swell, 2.2, 0.7)
    third = smoothstep(fine / swell, 1.0, 0.1)
    tone = 0.32 + 0.14 * field + 0.12 * areole + 0.18 * fractal(rng, 55.0) + 0.04 * fractal(rng, 5.0)
    blade = ramp(tone, "0 #2b1230, 0.25 #2a2233, 0.45 #14352b, 0.7 #1d4c30, 1 #3b6b3c")
    glow = np.clip(0.55 * np.exp(-thick / 6.0) + 0.35 * np.exp(-middle / 3.0), 0.0, 1.0)
    blade = mix(blade, ramp(tone, "0 #6b6f58, 1 #7fa56a"), glow * 0.6)
    pale = ramp(tone, "0 #d9d2b8, 0.5 #dfe3bd, 1 #eef0d2")
    for strength, vein in ((0.30, third), (0.68, second), (0.95, first)):
        blade = mix(blade, pale, strength * vein)
    height = 2.6 * blur(first, 1.2) + 1.3 * blur(second, 0.8) + 0.5 * third + 0.10 * noise(rng, 2.6)
    return blade * (0.35 + 0.65 * relief(height))[..., None]


def _snake_plant(rng: Random) -> Field:
    """Paint jagged light and dark bands across a leaf with fine lengthwise fibers."""
    rows, _ = grid()
    jag = 5.0 * fractal(rng, 90.0, 26.0, octaves=4) + 2.5 * noise(rng, 60.0, 5.0)
    wander = 9.0 * noise(rng, 90.0, 120.0)
    phase = 2.0 * np.pi * _N_BANDS * (rows + jag + wander) / WORLD_PX
    band = np.sin(phase) + 0.42 * fractal(rng, 30.0, 110.0) + 0.18 * fractal(rng, 26.0, 5.0)
    fibers = 0.6 * noise(rng, 160.0, 3.0) + 0.4 * noise(rng, 50.0, 6.0)
    light = smoothstep(band + 0.1 * fibers, -0.25, 0.35)
    tone = 0.5 + 0.14 * fractal(rng, 60.0) + 0.09 * fibers
    dark = ramp(tone, "0 #0e2a1c, 0.4 #1b4329, 0.7 #2c5a34, 1 #4a7a42")
    pale = ramp(tone, "0 #7d9a78, 0.35 #a1b78f, 0.65 #c5cb92, 1 #e3d77e")
    leaf = mix(dark, pale, light * (0.85 + 0.1 * noise(rng, 40.0)))
    return leaf * (0.5 + 0.5 * relief(0.25 * fibers + 0.25 * light))[..., None]


_PAINTERS: dict[str, tuple[int, Callable[[Random], Field]]] = {
    "roundleaf": (11, _roundleaf),
    "orchid_petal": (31, _orchid_petal),
    "alocasia": (37, _alocasia),
    "snake_plant": (41, _snake_plant),
}


if __name__ == "__main__":
    main()
