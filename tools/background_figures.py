"""`python -m tools.background_figures [FOLDER]`: draws the figures of README.md and docs/background.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.figures.drawing import STYLE, make_figure
from nca.automaton.model import erase_disc, plain_rollout
from nca.automaton.seeding import Streams
from nca.cli.errors import ConfigError, exit_on_error
from nca.cli.options import atomic_output
from nca.config.schema import FeaturesConfig, GrayScottTexture, PlantTexture
from nca.loss.features import load_extractor
from nca.loss.gram import GramLoss
from nca.outputs.model_file import TrainedAutomaton, load_model
from nca.outputs.pictures import grow, to_pixels
from nca.textures.load import load_pixels

USAGE = "python -m tools.background_figures [FOLDER]"
ROOT = Path(__file__).parents[1]
MODEL = ROOT / "tests" / "data" / "orchid_petal.safetensors"
FIRST_MODEL = ROOT / "tests" / "data" / "roundleaf.safetensors"
PRESETS = ("spots", "labyrinth", "coral")
CPU = torch.device("cpu")
SIZE = 128
GROWTH_AT = (0, 8, 16, 32, 64, 128, 400)  # CA steps
REACH_STEPS = (1, 4, 16)  # CA steps back
FIRST_SIZE = 96  # pixels that the first figure's automaton grows, from a target of 64
HEALING_AT = (12, 200)  # CA steps after a disc is erased
HOLE = 0.22  # radius, in sides of the grid
AGE = 180  # CA steps before the state whose pixel the reach figure shows


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the figures into a folder, by default docs/images; exit code 2 on bad input.

    Raises:
        ConfigError: Never: it becomes one line and exit code 2.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    with exit_on_error(OSError):
        if len(argv) > 1:
            raise ConfigError(USAGE)
        folder = Path(argv[0]).expanduser() if argv else ROOT / "docs" / "images"
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder: {USAGE}")
        trained = load_model(MODEL)
        drawings = {
            "first": lambda: draw_first(load_model(FIRST_MODEL)),
            "reaction_diffusion": draw_reaction_diffusion,
            "growth": lambda: draw_growth(trained),
            "reach": lambda: draw_reach(trained),
            "gram": draw_gram,
        }
        for name, draw in drawings.items():
            out = folder / f"{name}.png"
            with rc_context(STYLE), atomic_output(out) as partial:
                draw().savefig(partial)
            print(out)


def draw_first(trained: TrainedAutomaton) -> Figure:
    """Draw a target, what a trained automaton grows from noise, and how it heals a hole."""
    model = trained.automaton
    (grown,) = grow(model, FIRST_SIZE, (AGE,), Streams(0, CPU))
    hole = erase_disc(grown, HOLE, (FIRST_SIZE / 2, FIRST_SIZE / 2))
    states = [grown, hole, *grow(model, FIRST_SIZE, HEALING_AT, Streams(0, CPU), state=hole)]
    target = load_pixels(trained.config.texture, trained.config.train.size)
    pictures = [target, *(to_pixels(model.rgb(state)) for state in states)]
    titles = ["target", f"grown from noise, {AGE} CA steps", "a hole"]
    titles += [f"{n_steps} CA steps later" for n_steps in HEALING_AT]
    widths = [len(picture) for picture in pictures]
    figure = Figure(figsize=(11, 2.75), layout="constrained", dpi=110)
    grid = figure.subplots(1, len(pictures), width_ratios=widths)
    for axes, picture, title in zip(grid, pictures, titles, strict=True):
        axes.imshow(picture, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(title)
    return figure


def draw_reaction_diffusion() -> Figure:
    """Draw the Gray-Scott patterns of three presets."""
    figure = make_figure(1, len(PRESETS), 7, 2.6)
    for axes, preset in zip(figure.axes, PRESETS, strict=True):
        texture = GrayScottTexture(
            name="gray_scott", source="gray_scott", preset=preset, feed=None, kill=None, seed=0
        )
        axes.imshow(load_pixels(texture, SIZE))
        axes.set_axis_off()
        axes.set_title(preset)
    return figure


def draw_growth(trained: TrainedAutomaton) -> Figure:
    """Draw a trained automaton at several CA steps from its seed state on."""
    figure = make_figure(1, len(GROWTH_AT), 9, 1.7)
    for axes, n_steps in zip(figure.axes, GROWTH_AT, strict=True):
        axes.imshow(np.asarray(trained.grow(ca_steps=n_steps)), interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(f"{n_steps} steps")
    return figure


def draw_reach(trained: TrainedAutomaton) -> Figure:
    """Draw the norm of a pixel's gradient in the states of earlier CA steps."""
    size, model = trained.config.train.size, trained.automaton
    (start,) = grow(model, size, (AGE,), Streams(0, CPU))
    figure = make_figure(1, len(REACH_STEPS), 7, 2.7)
    for axes, n_steps in zip(figure.axes, REACH_STEPS, strict=True):
        state = start.detach().clone().requires_grad_()
        end = plain_rollout(model, state, n_steps, torch.Generator().manual_seed(0))
        (gradient,) = torch.autograd.grad(end[0, :3, size // 2, size // 2].sum(), state)
        reach = gradient[0].norm(dim=0).numpy()
        axes.imshow(np.log10(reach + 1e-8), cmap="cividis", vmin=-5, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(f"{n_steps} CA step{'s' * (n_steps > 1)} before")
    return figure


def draw_gram() -> Figure:
    """Draw the roundleaf, shifted and shuffled in several ways, with the style loss of each picture."""
    pixels = load_pixels(PlantTexture(name="roundleaf", source="drawn", url=""), SIZE)
    draw = np.random.default_rng(0)
    shuffled = draw.permutation(pixels.reshape(-1, 3)).reshape(pixels.shape)
    tiles = [block for row in np.split(pixels, 4) for block in np.split(row, 4, axis=1)]
    order = [tiles[i] for i in draw.permutation(len(tiles))]
    cut = np.concatenate([np.concatenate(order[i : i + 4], axis=1) for i in range(0, 16, 4)])
    pictures = {
        "itself": pixels,
        "shifted by a third": np.roll(pixels, (43, 43), (0, 1)),
        "cut in 16 and laid anew": cut,
        "its mean color": np.full_like(pixels, pixels.reshape(-1, 3).mean(0).round()),
        "its pixels shuffled": shuffled,
    }
    extractor = load_extractor(FeaturesConfig("random_filters", None), CPU, torch.float32)
    loss = GramLoss(extractor, as_image(pixels)[0])
    figure = make_figure(1, len(pictures), 9, 2.2)
    for axes, (name, picture) in zip(figure.axes, pictures.items(), strict=True):
        axes.imshow(picture)
        axes.set_axis_off()
        axes.set_title(f"{name}\n{float(loss(as_image(picture))):.2g}", fontsize=8)
    return figure


def as_image(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Return a picture as a batch of one, RGB in [0, 1]."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


if __name__ == "__main__":
    main()
