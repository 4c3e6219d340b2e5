"""A picture of a screen shows its letters and blocks in their colors."""

from __future__ import annotations

import numpy as np
import pyte

from tools.terminal import CELL_PX, draw_screen

BACKGROUND, FOREGROUND = (16, 16, 16), (208, 208, 208)


def test_a_picture_of_a_screen_shows_blocks_in_their_colors_and_letters() -> None:
    screen = pyte.Screen(4, 5)
    pyte.Stream(screen).feed("\x1b[38;2;255;0;0;48;2;0;0;255m▀\x1b[0m▄█\r\n\x1b[1mW\x1b[0mW")
    width, height = CELL_PX
    pixels = np.asarray(draw_screen(screen)).reshape(2, height, 4, width, 3)
    upper, lower = slice(height // 2), slice(height // 2, height)
    for line, part, column, color in (
        (0, upper, 0, (255, 0, 0)),
        (0, lower, 0, (0, 0, 255)),
        (0, upper, 1, BACKGROUND),
        (0, lower, 1, FOREGROUND),
        (0, slice(height), 2, FOREGROUND),
        (1, slice(height), 3, BACKGROUND),
    ):
        assert (pixels[line, part, column] == color).all()
    bold, plain = pixels[1, :, 0].astype(int).sum(), pixels[1, :, 1].astype(int).sum()
    assert bold > plain > np.prod([*CELL_PX, 3]) * BACKGROUND[0]
