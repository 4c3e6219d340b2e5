"""Pictures of an automaton: outputs, growth from the seed, the loss curve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nca.automaton.fast_rollout import Rollout
from nca.automaton.model import Automaton, State, make_seed_state
from nca.automaton.seeding import Streams

__all__ = [
    "FRAMES",
    "grow",
    "make_contact_sheet",
    "render_large",
    "save_frames",
    "save_growth",
    "save_loss_curve",
    "save_pixels",
    "to_pixels",
]

LARGE = 4  # side of output_large.png over the trained side
LARGE_CA_STEPS_PER_PX = 1.5  # the pattern spreads by less than a cell a step
FRAMES = 48  # of an animation
GROWTH_CA_STEPS_PER_FRAME = 4
FRAME_MS = 80
ANIMATION_SIDE_PX = 256  # smaller textures are enlarged to about this
SHEET_COLUMNS = 10
SHEET_SIDE_PX = 128
SHEET_GAP_PX = 8
SHEET_CAPTION_PX = 24
SHEET_FONT_PX = 13
GAP_PX = 2
WHITE = 255


def to_pixels(images: Float[Tensor, "batch 3 height width"]) -> NDArray[np.uint8]:
    """Return images in [0, 1] side by side, (height, total width, 3); syncs with the device."""
    columns = (images.detach().clamp(0, 1) * WHITE).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    gap = np.full((columns.shape[1], GAP_PX, 3), WHITE, dtype=np.uint8)
    pieces = [piece for column in columns for piece in (gap, column)]
    return np.concatenate(pieces[1:], axis=1)


def grow(
    model: Automaton, size: int, ca_steps_per_frame: int, streams: Streams, state: State | None = None
) -> Iterator[State]:
    """Yield the states of an endless rollout from a seed state, the seed itself first.

    Args:
        model: The automaton.
        size: Height and width in pixels, a multiple of 16.
        ca_steps_per_frame: CA steps between the yielded states.
        streams: Uses `seed_states` and `masks`.
        state: Where to start instead of a seed.
    """
    device = model.w0.device
    if state is None:
        state = make_seed_state(1, model.channels, size, streams["seed_states"], device)
    while True:
        yield state
        with torch.no_grad():
            state = Rollout()(model, state, ca_steps_per_frame, streams["masks"])


def render_large(model: Automaton, size: int, seed: int) -> NDArray[np.uint8]:
    """Return a texture grown from the seed on a grid of four times the trained side."""
    side = LARGE * size
    states = grow(model, side, int(LARGE_CA_STEPS_PER_PX * side), Streams(seed, model.w0.device))
    next(states)
    return to_pixels(next(states)[:, :3])


def save_growth(model: Automaton, size: int, seed: int, path: Path) -> None:
    """Write an animation of the first 188 CA steps from the seed as GIF."""
    states = grow(model, size, GROWTH_CA_STEPS_PER_FRAME, Streams(seed, model.w0.device))
    save_frames([to_pixels(next(states)[:, :3]) for _ in range(FRAMES)], path)


def save_frames(frames: Sequence[NDArray[np.uint8]], path: Path) -> None:
    """Write frames, (height, width, 3), as an endless GIF; small ones enlarged."""
    zoom = max(1, ANIMATION_SIDE_PX // frames[0].shape[0])
    images = [Image.fromarray(frame.repeat(zoom, axis=0).repeat(zoom, axis=1)) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=FRAME_MS, loop=0)


def save_pixels(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write pixels, (height, width, 3), as PNG."""
    Image.fromarray(pixels).save(path)


def make_contact_sheet(entries: Sequence[tuple[Path, str]]) -> Image.Image:
    """Return pictures in rows with a caption under each; missing ones are left out.

    Args:
        entries: Picture file and caption, in order.
    """
    found = [(path, caption) for path, caption in entries if path.exists()]
    n_columns = max(1, min(SHEET_COLUMNS, len(found)))
    width, height = SHEET_SIDE_PX + SHEET_GAP_PX, SHEET_SIDE_PX + SHEET_CAPTION_PX
    n_rows = max(1, -(-len(found) // n_columns))
    sheet = Image.new("RGB", (n_columns * width + SHEET_GAP_PX, n_rows * height + SHEET_GAP_PX), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(SHEET_FONT_PX)
    for index, (path, caption) in enumerate(found):
        left, top = SHEET_GAP_PX + index % n_columns * width, SHEET_GAP_PX + index // n_columns * height
        with Image.open(path) as picture:
            first = picture.convert("RGB").crop((0, 0, picture.height, picture.height))
        sheet.paste(first.resize((SHEET_SIDE_PX, SHEET_SIDE_PX), Image.Resampling.NEAREST), (left, top))
        pen.text((left, top + SHEET_SIDE_PX + 2), caption, fill="black", font=font)
    return sheet


def save_loss_curve(losses: Sequence[float], smoothed: Sequence[tuple[int, float]], path: Path) -> None:
    """Write the loss over training steps as PNG, every draw in light and the smoothed loss on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(range(len(losses)), losses, color="#9ecae1", linewidth=0.5, label="every step")
    if smoothed:
        steps, values = zip(*smoothed, strict=True)
        axes.plot(steps, values, color="#08519c", linewidth=1.5, label="median of the last 256")
    axes.set(xlabel="training step", ylabel="style loss", yscale="log")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path)
