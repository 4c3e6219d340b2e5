"""Pictures: sizes, frames, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from nca.automaton.model import plain_rollout
from nca.automaton.rules import Srnca, make_automaton
from nca.automaton.seeding import Streams
from nca.outputs.pictures import (
    GAP_PX,
    GIF_AGES,
    grow,
    render_texture,
    save_growth,
    save_loss_curve,
    to_pixels,
)
from tests.builders import CPU, RULES, automaton, generator, model_config


def test_pixels_are_rounded_and_clamped() -> None:
    image = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0, 0.1]).expand(1, 3, 2, 6)
    pixels = to_pixels(image)
    assert pixels.shape == (2, 6, 3)
    assert pixels.dtype == np.uint8
    assert pixels[0, :, 1].tolist() == [0, 0, 128, 255, 255, 26]


def test_pixels_have_rows_columns_and_colors_in_their_places() -> None:
    image = torch.rand(1, 3, 4, 5, generator=generator())
    pixels = to_pixels(image)
    assert pixels[3, 1, 2] == round(float(image[0, 2, 3, 1]) * 255)


def test_several_images_stand_side_by_side_with_a_white_gap() -> None:
    images = torch.stack([torch.full((3, 4, 5), value) for value in (0.0, 0.2, 0.4)])
    pixels = to_pixels(images)
    assert pixels.shape == (4, 3 * 5 + 2 * GAP_PX, 3)
    assert (pixels[:, :5] == 0).all()
    assert (pixels[:, 5 : 5 + GAP_PX] == 255).all()
    assert (pixels[:, 5 + GAP_PX : 10 + GAP_PX] == 51).all()
    assert (pixels[:, -5:] == 102).all()


def test_images_that_want_gradients_can_be_shown() -> None:
    assert to_pixels(torch.zeros(1, 3, 4, 4, requires_grad=True)).shape == (4, 4, 3)


@pytest.mark.parametrize("rule", RULES)
def test_growing_starts_with_the_seed_and_follows_the_rule(rule: str) -> None:
    model = automaton(rule)
    states = list(grow(model, 16, (0, 3, 6), Streams(0, CPU)))
    streams = Streams(0, CPU)
    expected = model.draw_seed_states(1, 16, streams["seed_states"])
    assert torch.equal(states[0], expected)
    for state in states[1:]:
        expected = plain_rollout(model, expected, 3, streams["masks"]).detach()
        assert torch.allclose(state, expected, atol=1e-5)
        assert not state.requires_grad


def test_growing_goes_on_from_a_given_state() -> None:
    state = torch.rand(1, 4, 8, 8, generator=generator())
    assert next(grow(automaton(), 8, (0, 3), Streams(0, CPU), state)) is state


@pytest.mark.parametrize("rule", RULES)
def test_a_texture_is_the_same_whichever_of_its_ages_are_asked_for(rule: str) -> None:
    model = automaton(rule)
    *_, state = grow(model, 16, (0, 1, 4, 9), Streams(0, CPU))
    (at_once,) = grow(model, 16, (9,), Streams(0, CPU))
    assert torch.equal(state, at_once)


@pytest.mark.parametrize("rule", RULES)
def test_a_rendered_texture_depends_on_the_seed(rule: str) -> None:
    model = automaton(rule, seed_state="noise")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3)  # or munca's free states leave the range of colors
    pixels, same, other = (render_texture(model, 64, seed) for seed in (0, 0, 1))
    assert pixels.shape == (64, 64, 3)
    assert np.array_equal(pixels, same)
    assert not np.array_equal(pixels, other)


def test_the_pattern_reaches_the_corners_of_a_rendered_texture() -> None:
    # A rule that only adds what the neighbors have spreads by a cell a step.
    model = make_automaton(model_config("srnca", filters=5, update_rate=0.9), Streams(0, CPU))
    assert isinstance(model, Srnca)
    with torch.no_grad():
        model.w0.zero_()
        model.w0[0, 4::5] = 1.0
        model.w1[:, 0] = 1.0
    assert (render_texture(model, 64, 0) == 255).all()


@pytest.mark.parametrize(("size", "side"), [(16, 256), (48, 240)])
def test_growth_has_all_its_frames_and_a_size_to_look_at(tmp_path: Path, size: int, side: int) -> None:
    save_growth(automaton("distill", update_rate=0.5), size, 0, tmp_path / "g.gif")
    with Image.open(tmp_path / "g.gif") as animation:
        assert animation.size == (side, side)
        assert animation.info["loop"] == 0
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(animation)]
    # Frames without a change are merged with the one before: the time they take stays.
    assert len(durations) > 1
    assert sum(durations) == len(GIF_AGES) * 80


@pytest.mark.parametrize(
    ("losses", "smoothed"),
    [
        ([3.0, 2.0, 1.0], [(0, 3.0), (2, 2.0)]),
        ([3.0], []),
        ([], []),
        ([0.0, 1.0], []),
        ([1.0] * 5, [(4, 1.0)]),
    ],
)
def test_the_loss_curve_is_a_png(
    tmp_path: Path, losses: list[float], smoothed: list[tuple[int, float]]
) -> None:
    save_loss_curve(losses, smoothed, tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as image:
        assert image.format == "PNG"
        assert image.size == (720, 480)
        assert np.asarray(image.convert("L")).std() > 5


def test_the_loss_curve_shows_the_losses(tmp_path: Path) -> None:
    for name, losses in (("a.png", [1.0, 2.0, 3.0]), ("b.png", [3.0, 2.0, 1.0])):
        save_loss_curve(losses, [], tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
