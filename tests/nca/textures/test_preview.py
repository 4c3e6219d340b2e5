"""The preview shows the image with its square, and the target."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from nca.config.schema import GrayScottTexture, PlantTexture
from nca.textures.image_file import View
from nca.textures.load import load_pixels
from nca.textures.preview import MARGIN_PX, PANEL_PX, describe_view, draw_row, join_rows, view_target

LEAF = PlantTexture("roundleaf", "drawn", "")


def view_of(width: int, height: int, box: tuple[int, int, int, int], size: int = 16) -> View:
    """Return a red image whose square is blue."""
    source = Image.new("RGB", (width, height), (200, 0, 0))
    source.paste((0, 0, 200), box)
    return View(source, box, size)


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [
        (PANEL_PX, PANEL_PX // 2, (100, 50, 180, 130)),
        (4 * PANEL_PX, 2 * PANEL_PX, (400, 200, 720, 520)),
        (PANEL_PX // 4, PANEL_PX // 8, (25, 12, 45, 32)),
    ],
)
def test_the_square_is_bright_and_its_surroundings_are_dim(
    width: int, height: int, box: tuple[int, int, int, int]
) -> None:
    pixels = np.asarray(draw_row("x", view_of(width, height, box)))
    source = pixels[MARGIN_PX : MARGIN_PX + PANEL_PX // 2, MARGIN_PX : MARGIN_PX + PANEL_PX]
    assert (source[90, 140] == (0, 0, 200)).all()
    assert (source[20, 20] == (80, 0, 0)).all()
    assert (source[170, 350] == (80, 0, 0)).all()
    framed = (source == (230, 60, 40)).all(axis=2)
    rows, columns = np.nonzero(framed)
    factor = PANEL_PX / width
    ends = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(np.array(ends) - np.array(box) * factor).max() <= 1


@pytest.mark.parametrize("size", [16, 64, 400])
def test_the_target_is_shown_pixel_by_pixel(size: int) -> None:
    view = view_target(LEAF, size)
    pixels = np.asarray(draw_row("x", view))
    factor = max(1, PANEL_PX // size)
    left = 2 * MARGIN_PX + PANEL_PX
    shown = pixels[MARGIN_PX : MARGIN_PX + size * factor : factor, left : left + size * factor : factor]
    assert np.array_equal(shown, load_pixels(LEAF, size))


def test_rows_are_below_each_other() -> None:
    rows = [draw_row("лист", view_of(400, 90, (0, 0, 90, 90))), draw_row("b", view_target(LEAF, 512))]
    page = join_rows(rows)
    assert page.size == (rows[1].width, rows[0].height + rows[1].height)
    assert np.array_equal(np.asarray(page)[rows[0].height :], np.asarray(rows[1]))


def test_views_in_words() -> None:
    assert describe_view(view_of(90, 60, (20, 10, 52, 42))) == "32 x 32 px at 20,10 of 90 x 60 px, scale 0.5"


def test_every_texture_has_a_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nca.textures.gray_scott.N_STEPS", 300)
    texture = GrayScottTexture(
        name="gray_scott", source="gray_scott", preset="coral", seed=0, feed=None, kill=None
    )
    view = view_target(texture, 16)
    assert np.array_equal(view.resample(), load_pixels(texture, 16))
