"""Four drawn textures that stand in for photographs of plants: deterministic, seamless, stationary.

Everything is drawn on a torus of 256 px a side, with samples finer than a pixel, and averaged down; lengths
are in pixels of the 256 px picture. The painters' literals are colors and strengths chosen by eye so that
each texture reads at 256 px and at 64 px. Not a loader: that is `nca.textures.load`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["TEXTURES", "draw_texture"]

TEXTURES: tuple[str, ...] = ("roundleaf", "orchid_petal", "alocasia", "snake_plant")

_WORLD_PX = 256
# Two by two samples a pixel hide the staircase of a sharp edge; four by four cost four times as much.
_SAMPLES_PER_PX = 2
_CANVAS = _WORLD_PX * _SAMPLES_PER_PX

_SPOT_RADII_PX = (*([26.0] * 6), *([24.0] * 10), *([22.0] * 14), *([19.0] * 12), *([16.0] * 10))
_SPOT_GAP_PX = 1.5
_N_TRUNKS = 5
# Length, half width at the foot and gap between side branches of trunks, branches and twigs.
_LENGTH_PX, _TRUNK_HALF_WIDTH_PX, _GAP_PX = (215.0, 62.0, 25.0), 2.9, (21.0, 16.0)
_STRIDE_PX, _TOUCH_PX = 1.0, 6.0
_INK_REACH_PX = 14.0
_N_BANDS = 5

Field = NDArray[np.float64]
Random = np.random.Generator

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
    """A branch about to grow from its foot (px); heading in radians from up; order 0 is a trunk."""

    row: float
    column: float
    heading: float
    length_px: float
    half_width_px: float
    order: int


def draw_texture(name: str, size: int = _WORLD_PX) -> NDArray[np.uint8]:
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
    if size < 1 or _CANVAS % size:
        raise ValueError(f"size must be a divisor of {_CANVAS}, got {size}")
    seed, paint = _PAINTERS[name]
    canvas = paint(np.random.Generator(np.random.PCG64(seed)))
    step = _CANVAS // size
    averaged = canvas.reshape(size, step, size, step, 3).mean(axis=(1, 3))
    pixels: NDArray[np.uint8] = np.rint(np.clip(averaged, 0.0, 1.0) * 255.0).astype(np.uint8)
    return pixels


def _grid() -> tuple[Field, Field]:
    """Return rows and columns of the canvas samples' centers (px), each (canvas, canvas)."""
    axis = (np.arange(_CANVAS) + 0.5) / _SAMPLES_PER_PX
    return np.repeat(axis[:, None], _CANVAS, axis=1), np.repeat(axis[None, :], _CANVAS, axis=0)


def _wrap(difference: Field) -> Field:
    """Return the shortest signed way around the torus for each coordinate difference (px)."""
    return np.asarray(difference - _WORLD_PX * np.rint(difference / _WORLD_PX))


def _frequencies() -> tuple[Field, Field]:
    """Return the canvas spectrum's frequencies (1/px) down and across, for `rfft2`."""
    down, across = np.fft.fftfreq(_CANVAS), np.fft.rfftfreq(_CANVAS)
    return np.asarray(down[:, None] * _SAMPLES_PER_PX), np.asarray(across[None, :] * _SAMPLES_PER_PX)


def _noise(rng: Random, tall_px: float, wide_px: float = 0.0) -> Field:
    """Make periodic noise of mean 0 and variance 1 around a wavelength down and one across (0: the same)."""
    # Uniform numbers: NumPy holds their stream more strictly across versions than that of normal ones.
    white = rng.random((_CANVAS, _CANVAS)) - 0.5
    down, across = _frequencies()
    squared = (down * tall_px) ** 2 + (across * (wide_px or tall_px)) ** 2
    field = np.fft.irfft2(np.fft.rfft2(white) * squared * np.exp(-squared), s=(_CANVAS, _CANVAS))
    return np.asarray(field / field.std())


def _fractal(rng: Random, tall_px: float, wide_px: float = 0.0, octaves: int = 4) -> Field:
    """Sum octaves of noise, each of half the wavelength and half the amplitude; variance 1."""
    total = np.zeros((_CANVAS, _CANVAS))
    for scale in 0.5 ** np.arange(octaves):
        total += scale * _noise(rng, tall_px * scale, wide_px * scale)
    return np.asarray(total / total.std())


def _blur(field: Field, sigma_px: float) -> Field:
    """Blur with a periodic Gaussian."""
    down, across = _frequencies()
    kernel = np.exp(-2.0 * (np.pi * sigma_px) ** 2 * (down**2 + across**2))
    return np.asarray(np.fft.irfft2(np.fft.rfft2(field) * kernel, s=(_CANVAS, _CANVAS)))


def _smoothstep(field: Field, low: float, high: float) -> Field:
    """Rise smoothly from 0 at `low` to 1 at `high`; falls where `low` is the larger."""
    t = np.clip((field - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t))


def _ramp(field: Field, stops: str) -> Field:
    """Color a field by interpolating between stops ("0 #000000, 1 #ffffff"); RGB in [0, 1]."""
    positions, codes = zip(*(stop.split() for stop in stops.split(", ")), strict=True)
    colors = np.array([[int(code[i : i + 2], 16) / 255.0 for code in codes] for i in (1, 3, 5)])
    places = np.array(positions, dtype=np.float64)
    return np.stack([np.interp(field, places, channel) for channel in colors], axis=-1)


def _mix(below: Field, above: Field, cover: Field) -> Field:
    """Lay one colored canvas over another where `cover` is 1."""
    return np.asarray(below + (above - below) * cover[..., None])


def _relief(height_px: Field) -> Field:
    """Shade a height field by light from the upper left; a factor around 1."""
    down = (np.roll(height_px, -1, 0) - np.roll(height_px, 1, 0)) * (_SAMPLES_PER_PX / 2)
    across = (np.roll(height_px, -1, 1) - np.roll(height_px, 1, 1)) * (_SAMPLES_PER_PX / 2)
    lit = (1.0 + 0.75 * down + 0.55 * across) / np.sqrt(1.0 + down**2 + across**2)
    return np.clip(lit, 0.35, 1.5)


def _cells(rng: Random, n_across: int, rows: Field, columns: Field) -> tuple[Field, Field, Field]:
    """Find the Voronoi cells of a jittered, wrapped n x n lattice, seen from (warped) positions in px.

    Source: Worley 1996, "A Cellular Texture Basis Function"; the distance to an edge is the exact one to the
    bisectors with the neighbors instead of F2 - F1, so that veins keep their width.

    Returns:
        Distance to the nearest edge (px), distance to the center (px), the cell's own number in [0, 1).
    """
    pitch = _WORLD_PX / n_across
    jitter, numbers = rng.random((n_across, n_across, 2)), rng.random((n_across, n_across))
    place = np.stack([rows, columns]) / pitch
    home = np.floor(place).astype(np.int64)
    offsets, values = [], []
    for cell in np.ndindex(5, 5):
        # Two cells around hold the nearest center and the neighbors whose edges lie near.
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


def _scatter(rng: Random, radii_px: Sequence[float]) -> Field:
    """Throw discs on the torus, `_SPOT_GAP_PX` apart or not at all; (n, 3): row, column, radius in px."""
    placed = np.zeros((0, 3))
    for radius in radii_px:
        for place in rng.random((400, 2)) * _WORLD_PX:
            apart = _wrap(placed[:, :2] - place)
            if (np.hypot(apart[:, 0], apart[:, 1]) > radius + placed[:, 2] + _SPOT_GAP_PX).all():
                placed = np.vstack([placed, [*place, radius]])
                break
    return placed


def _roundleaf(rng: Random) -> Field:
    """Paint round spots with pale rims and dark centers on a maple-green leaf."""
    rows, columns = _grid()
    rows, columns = rows + 0.8 * _noise(rng, 36.0), columns + 0.8 * _noise(rng, 36.0)
    ragged_rows, ragged_columns = rows + 1.2 * _fractal(rng, 20.0), columns + 1.2 * _fractal(rng, 20.0)
    net, _, _ = _cells(rng, 9, ragged_rows, ragged_columns)
    fine, _, patch = _cells(rng, 36, ragged_rows, ragged_columns)
    veins = np.clip(np.exp(-((net / 1.3) ** 2)) + 0.45 * np.exp(-((fine / 0.8) ** 2)), 0.0, 1.0)
    tone = 0.5 + 0.17 * _fractal(rng, 60.0) + 0.05 * _fractal(rng, 7.0) + 0.12 * (patch - 0.5)
    leaf = _ramp(tone, "0 #12402a, 0.35 #25642a, 0.6 #3f842c, 0.85 #6ea336, 1 #9fb53c")
    leaf = _mix(leaf, _ramp(tone, "0 #7fa24b, 1 #c3cf6a"), 0.45 * veins)
    height = _blur(-0.5 * veins, 0.5) + 0.07 * _noise(rng, 3.0)
    grain = _fractal(rng, 10.0, octaves=3)
    for row, column, radius in _scatter(rng, _SPOT_RADII_PX):
        reach = np.hypot(_wrap(rows - row), _wrap(columns - column)) / radius
        frayed = reach + grain * 1.5 / (radius + 16.0)
        disc = _mix(_ramp(frayed, _BROWN_SPOT), _ramp(frayed, _OLIVE_SPOT), rng.random((1, 1)))
        leaf = _mix(leaf, disc, _smoothstep(0.65 * reach + 0.35 * frayed, 1.16, 0.90))
        rim, pit = np.exp(-(((reach - 0.80) / 0.20) ** 2)), np.exp(-((reach / 0.45) ** 2))
        height = height + radius * (0.075 * rim - 0.06 * pit)
    return leaf * (0.35 + 0.65 * _relief(height))[..., None] * (1.0 + 0.025 * _noise(rng, 2.5))[..., None]


def _grow_branches(rng: Random) -> list[Field]:
    """Grow trunks up the petal, with branches and twigs that end where they meet others.

    Returns:
        Per branch (n, 3): row and column (px, not wrapped) and half width (px), which tapers to a point.
    """
    feet = (np.arange(_N_TRUNKS) + 0.5 + 0.4 * (rng.random(_N_TRUNKS) - 0.5)) * _WORLD_PX / _N_TRUNKS
    # Steps of the golden ratio spread the trunks' feet over the height, so that no row is bare.
    heights = _WORLD_PX * (0.618034 * np.arange(_N_TRUNKS) % 1.0)
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
        apart = _wrap(taken - np.array([row, column]))
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
    """Measure the distance to the branches' outline (px; negative inside, at most `_INK_REACH_PX`)."""
    outside = np.full(rows.shape, _INK_REACH_PX)
    axis = np.arange(-int(_INK_REACH_PX) * _SAMPLES_PER_PX, int(_INK_REACH_PX) * _SAMPLES_PER_PX)
    for row, column, half_width in np.concatenate(branches):
        i, j = (int(row * _SAMPLES_PER_PX) + axis) % _CANVAS, (int(column * _SAMPLES_PER_PX) + axis) % _CANVAS
        window = np.ix_(i, j)
        distance = np.hypot(_wrap(rows[window] - row), _wrap(columns[window] - column))
        outside[window] = np.minimum(outside[window], distance - half_width)
    return outside


def _orchid_petal(rng: Random) -> Field:
    """Paint branching, tapering magenta pigment on a pale petal."""
    rows, columns = _grid()
    rows, columns = rows + 1.6 * _noise(rng, 40.0), columns + 1.6 * _noise(rng, 40.0)
    outside = _distance_to_branches(_grow_branches(rng), rows, columns)
    bleed = outside + 0.3 * _fractal(rng, 7.0) - 0.75 * _noise(rng, 15.0) * (outside < 6.0)
    _, center, chance = _cells(rng, 13, rows, columns)
    freckle = center - 4.6 * _smoothstep(chance, 0.45, 1.0) + 0.5 * _noise(rng, 6.0)
    ink = np.maximum(_smoothstep(bleed, 0.9, -0.9), 0.85 * _smoothstep(freckle, 0.8, -1.2))
    halo = np.exp(-np.maximum(outside, 0.0) / 2.4) + 0.25 * _blur(ink, 8.0)
    tone = 0.5 + 0.2 * _fractal(rng, 70.0) + 0.08 * _noise(rng, 70.0, 7.0)
    petal = _ramp(tone, "0 #ecb8d8, 0.35 #f6dceb, 0.65 #fcf5f6, 1 #fbf6e0")
    petal = _mix(petal, _ramp(tone, "0 #d678b4, 1 #ea9cc6"), np.clip(0.75 * halo, 0.0, 0.8))
    depth = 0.35 * _smoothstep(outside, 0.0, -3.0) + 0.45 + 0.14 * _fractal(rng, 40.0)
    pigment = _ramp(depth, "0 #e04aa2, 0.35 #c42590, 0.7 #970f74, 1 #5e0b58")
    petal = _mix(petal, pigment, ink)
    height = 0.8 * _blur(ink, 1.0) + 0.07 * _noise(rng, 3.2) + 0.35 * _noise(rng, 44.0, 26.0)
    return petal * (0.6 + 0.4 * _relief(height))[..., None]


def _alocasia(rng: Random) -> Field:
    """Paint pale veins, thick to fine, that net a dark green to purple underside."""
    rows, columns = _grid()
    rows = rows + 2.2 * _fractal(rng, 60.0, octaves=2)
    columns = columns + 2.2 * _fractal(rng, 60.0, octaves=2)
    thick, _, _ = _cells(rng, 3, rows, columns)
    middle, _, field = _cells(rng, 8, rows, columns)
    fine, _, areole = _cells(rng, 26, rows, columns)
    swell = 1.0 + 0.18 * _noise(rng, 40.0)
    first = _smoothstep(thick, 4.6, 2.2)
    second = _smoothstep(middle / swell, 2.2, 0.7)
    third = _smoothstep(fine / swell, 1.0, 0.1)
    tone = 0.32 + 0.14 * field + 0.12 * areole + 0.18 * _fractal(rng, 55.0) + 0.04 * _fractal(rng, 5.0)
    blade = _ramp(tone, "0 #2b1230, 0.25 #2a2233, 0.45 #14352b, 0.7 #1d4c30, 1 #3b6b3c")
    glow = np.clip(0.55 * np.exp(-thick / 6.0) + 0.35 * np.exp(-middle / 3.0), 0.0, 1.0)
    blade = _mix(blade, _ramp(tone, "0 #6b6f58, 1 #7fa56a"), glow * 0.6)
    pale = _ramp(tone, "0 #d9d2b8, 0.5 #dfe3bd, 1 #eef0d2")
    for strength, vein in ((0.30, third), (0.68, second), (0.95, first)):
        blade = _mix(blade, pale, strength * vein)
    height = 2.6 * _blur(first, 1.2) + 1.3 * _blur(second, 0.8) + 0.5 * third + 0.10 * _noise(rng, 2.6)
    return blade * (0.35 + 0.65 * _relief(height))[..., None]


def _snake_plant(rng: Random) -> Field:
    """Paint jagged light and dark bands across a leaf with fine lengthwise fibers."""
    rows, _ = _grid()
    jag = 5.0 * _fractal(rng, 90.0, 26.0, octaves=4) + 2.5 * _noise(rng, 60.0, 5.0)
    wander = 9.0 * _noise(rng, 90.0, 120.0)
    phase = 2.0 * np.pi * _N_BANDS * (rows + jag + wander) / _WORLD_PX
    band = np.sin(phase) + 0.42 * _fractal(rng, 30.0, 110.0) + 0.18 * _fractal(rng, 26.0, 5.0)
    fibers = 0.6 * _noise(rng, 160.0, 3.0) + 0.4 * _noise(rng, 50.0, 6.0)
    light = _smoothstep(band + 0.1 * fibers, -0.25, 0.35)
    tone = 0.5 + 0.14 * _fractal(rng, 60.0) + 0.09 * fibers
    dark = _ramp(tone, "0 #0e2a1c, 0.4 #1b4329, 0.7 #2c5a34, 1 #4a7a42")
    pale = _ramp(tone, "0 #7d9a78, 0.35 #a1b78f, 0.65 #c5cb92, 1 #e3d77e")
    leaf = _mix(dark, pale, light * (0.85 + 0.1 * _noise(rng, 40.0)))
    return leaf * (0.5 + 0.5 * _relief(0.25 * fibers + 0.25 * light))[..., None]


_PAINTERS: dict[str, tuple[int, Callable[[Random], Field]]] = {
    "roundleaf": (11, _roundleaf),
    "orchid_petal": (31, _orchid_petal),
    "alocasia": (37, _alocasia),
    "snake_plant": (41, _snake_plant),
}
