"""Pictures of an automaton: outputs, growth from the seed state, the loss curve."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from nca.automaton.fast_rollout import Rollout
from nca.automaton.model import Automaton, State
from nca.automaton.seeding import Streams
from nca.cli.progress import watch

CA_STEPS_PER_PX = 1.5  # of a picture's side; a pattern spreads by less than a cell per CA step
CA_STEPS_PER_FRAME = 4
GIF_AGES = range(0, 48 * CA_STEPS_PER_FRAME, CA_STEPS_PER_FRAME)  # CA steps, of the GIFs of a run
FRAME_MS = 80  # of a GIF
FRAMES_PER_S = 25  # of a video
CODECS = {".mp4": "libx264", ".webm": "libvpx-vp9"}
ANIMATION_SIDE_PX = 256  # smaller textures are enlarged to about this
GAP_PX = 2
WHITE = 255

Pixels = NDArray[np.uint8]  # (height, width, 3)
Images = Float[Tensor, "batch 3 height width"]  # RGB in [0, 1]


def shown_colors(images: Images) -> Images:
    """Return images as they are shown: in [0, 1], black where a free state has grown beyond all numbers."""
    return images.nan_to_num(nan=0.0).clamp(0, 1)


def to_pixels(images: Images) -> Pixels:
    """Return images in [0, 1] side by side, (height, total width, 3); syncs with the device."""
    columns = (shown_colors(images.detach()) * WHITE).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    gap = np.full((columns.shape[1], GAP_PX, 3), WHITE, dtype=np.uint8)
    pieces = [piece for column in columns for piece in (gap, column)]
    return np.concatenate(pieces[1:], axis=1)


def grow(
    model: Automaton, size: int, ages: Iterable[int], streams: Streams, state: State | None = None
) -> Iterator[State]:
    """Yield the states of one rollout at given ages.

    Args:
        model: The automaton.
        size: Height and width in pixels, a multiple of 16.
        ages: CA steps since the first state, ascending; 0 yields the first state itself.
        streams: Uses `seed_states` and `masks`.
        state: The first states, (batch, channels, size, size); one fresh seed state if not given.
    """
    if state is None:
        state = model.draw_seed_states(1, size, streams["seed_states"])
    rollout = Rollout()
    for before, age in itertools.pairwise((0, *ages)):
        if age > before:
            with torch.no_grad():
                state = rollout(model, state, age - before, streams["masks"])
        yield state


def render_texture(
    model: Automaton, size: int, seed: int, ca_steps: int | None = None, *, watched: bool = False
) -> Pixels:
    """Return the texture that grows from a seed state, by default for 1.5 CA steps per pixel of the side.

    Where it is `watched`, stderr shows how far it is.
    """
    age = round(CA_STEPS_PER_PX * size) if ca_steps is None else ca_steps
    ages = [*range(0, age, CA_STEPS_PER_FRAME), age] if watched else [age]
    states = grow(model, size, ages, Streams(seed, model.kernels.device))
    (state,) = deque(watch(states, len(ages), "growing") if watched else states, maxlen=1)
    return to_pixels(model.rgb(state))


def save_growth(model: Automaton, size: int, seed: int, path: Path) -> None:
    """Write an animation of the first 188 CA steps from a seed state as GIF."""
    save_animation(map(model.rgb, grow(model, size, GIF_AGES, Streams(seed, model.kernels.device))), path)


def save_animation(images: Iterable[Images], path: Path) -> None:
    """Write images, of a batch of 1, as an endless GIF, or as a video if the name ends with .mp4 or .webm.

    Textures of less than 256 px are enlarged to about that.
    """
    frames = map(_draw_frame, images)
    codec = CODECS.get(path.suffix)
    if codec is None:
        first, *others = map(Image.fromarray, frames)
        first.save(path, save_all=True, append_images=others, duration=FRAME_MS, loop=0)
        return
    import imageio_ffmpeg

    start = next(frames)
    video = imageio_ffmpeg.write_frames(str(path), start.shape[:2], fps=FRAMES_PER_S, codec=codec)
    video.send(None)
    for frame in itertools.chain([start], frames):
        video.send(frame.tobytes())
    video.close()


def _draw_frame(image: Images) -> Pixels:
    pixels = to_pixels(image)
    zoom = max(1, ANIMATION_SIDE_PX // len(pixels))
    return pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)


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
