"""A terminal gets the pixels of a picture file, in each of the ways in which it may show them."""

from __future__ import annotations

import io
import os
import re
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sweeps.pictures import (
    GAP,
    LIVE_PLACES,
    MAX_COLUMNS,
    MIN_COLUMNS,
    Picture,
    Strip,
    draw,
    erase,
    find_file,
    lay_out,
)
from sweeps.terminal import Graphics

BLOCKS, KITTY, SIXEL = Graphics("blocks"), Graphics("kitty"), Graphics("sixel", cell_px=(4, 9))
SIDE = 24
CELL = re.compile(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m▀\x1b\[0m")


def pixels(seed: int = 0, side: int = SIDE) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)


def save(path: Path, image: NDArray[np.uint8]) -> Path:
    Image.fromarray(image).save(path)
    return path


def drawn(path: Path, columns: int, graphics: Graphics, place: int = 0) -> str:
    file = find_file(path)
    assert file is not None
    return draw(file, columns, graphics, place)


def test_a_half_block_shows_two_pixels(tmp_path: Path) -> None:
    image = pixels()
    rows = drawn(save(tmp_path / "a.png", image), SIDE, BLOCKS).split(f"\x1b[B\x1b[{SIDE}D")
    assert len(rows) == SIDE // 2
    for row, codes in enumerate(rows):
        cells = [[int(value) for value in match.groups()] for match in CELL.finditer(codes)]
        assert cells == np.concatenate([image[2 * row], image[2 * row + 1]], axis=1).tolist()
        assert CELL.sub("", codes) == ""


def test_a_terminal_of_256_colors_gets_those(tmp_path: Path) -> None:
    red = np.zeros((SIDE, SIDE, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    codes = drawn(save(tmp_path / "a.png", red), 12, Graphics("blocks", exact_colors=False))
    assert codes.count("\x1b[38;5;196;48;5;196m▀\x1b[0m") == 12 * 6


def test_of_several_outputs_side_by_side_the_first_is_shown(tmp_path: Path) -> None:
    both = np.concatenate([pixels(0), pixels(1)], axis=1)
    codes = [
        drawn(save(tmp_path / f"{at}.png", image), 12, BLOCKS) for at, image in enumerate((pixels(0), both))
    ]
    assert codes[0] == codes[1]


def test_kitty_gets_the_file_as_png_and_scales_it(tmp_path: Path) -> None:
    image = pixels(side=100)
    codes = drawn(save(tmp_path / "a.png", image), SIDE, KITTY, 3)
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", codes)
    assert "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in parts) == codes
    assert parts[0][0] == f"a=T,f=100,i={os.getpid() * 1024 + 3},p=1,c=24,r=12,C=1,q=2,m=1"
    assert [keys for keys, _ in parts[1:]] == ["m=1"] * (len(parts) - 2) + ["m=0"]
    assert all(len(data) <= 4096 for _, data in parts)
    sent = Image.open(io.BytesIO(b64decode("".join(data for _, data in parts))))
    assert np.array_equal(np.asarray(sent), image)


@pytest.mark.parametrize(
    ("cell_px", "size"), [((8, 19), "c=24,r=10"), ((9, 16), "c=21,r=12"), ((0, 0), "c=24,r=12")]
)
def test_kitty_shows_a_square_in_cells_of_any_shape(
    tmp_path: Path, cell_px: tuple[int, int], size: str
) -> None:
    assert f",{size}," in drawn(save(tmp_path / "a.png", pixels()), SIDE, Graphics("kitty", cell_px=cell_px))


def test_pictures_of_kitty_are_erased_by_their_numbers() -> None:
    first = os.getpid() * 1024
    numbers = [int(number) for number in re.findall(r"a=d,d=I,i=(\d+),", erase(KITTY))]
    assert numbers == list(range(first, first + LIVE_PLACES))
    assert erase(BLOCKS) == erase(SIXEL) == erase(None) == ""


def test_sixels_hold_the_pixels_of_a_picture_in_its_cells(tmp_path: Path) -> None:
    image = np.kron(pixels(side=8) // 128 * 255, np.ones((6, 6, 1))).astype(np.uint8)  # 48 px, eight colors
    shown = decode_sixels(drawn(save(tmp_path / "a.png", image), 12, SIXEL))
    assert shown.shape == (48, 48, 3)  # 12 columns of 4 px; 6 lines of 9 px would be higher
    assert np.abs(shown - image).max() <= 3  # sixels know percents


def decode_sixels(codes: str) -> NDArray[np.float64]:
    """Return the pixels that a terminal would show."""
    start = re.fullmatch(r'\x1bP0;1;0q"1;1;(\d+);(\d+)([^\x1b]*)\x1b\\', codes)
    assert start is not None
    shown, at, row, palette, color = np.full((int(start[2]), int(start[1]), 3), np.nan), 0, 0, {}, ""
    for token in re.findall(r"#\d+(?:;2;\d+;\d+;\d+)?|!\d+.|.", start[3]):
        match token[0]:
            case "#" if ";" in token:
                number, _, *percents = token.split(";")
                palette[number] = [255 * int(percent) / 100 for percent in percents]
            case "#":
                color = token
            case "$":
                at = 0
            case "-":
                at, row = 0, row + 6
            case _:
                n = int(token[1:-1]) if token[0] == "!" else 1
                for bit in range(6):
                    if (ord(token[-1]) - 63) >> bit & 1:
                        assert np.isnan(shown[row + bit, at : at + n]).all(), "each pixel is drawn once"
                        shown[row + bit, at : at + n] = palette[color]
                at += n
    assert not np.isnan(shown).any(), "all pixels are drawn"
    return shown


@pytest.mark.parametrize("columns", [10, 13, 40, 80, 81, 160, 400])
@pytest.mark.parametrize("lines", [3, 8, 9, 14, 50])
@pytest.mark.parametrize("n", [0, 1, 2, 5, 70])
def test_pictures_fit_beside_each_other_and_into_the_lines(n: int, columns: int, lines: int) -> None:
    n_shown, width = lay_out(n, columns, lines)
    assert n_shown <= n
    assert n_shown * (width + GAP) - GAP < columns
    if n_shown:
        assert MIN_COLUMNS <= width <= MAX_COLUMNS
        assert width // 2 + 2 <= lines
    elif n:
        assert columns <= MIN_COLUMNS or lines < MIN_COLUMNS // 2 + 2


def test_a_strip_shows_the_files_that_can_be_read(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.png" for name in ("target", "missing", "broken", "empty", "trial 3")}
    for name in ("target", "trial 3"):
        save(files[name], pixels())
    whole = save(tmp_path / "whole.png", pixels()).read_bytes()
    files["broken"].write_bytes(whole[: len(whole) // 2])
    files["empty"].touch()
    strip = Strip([Picture(name, file) for name, file in files.items()], 80, 24, BLOCKS)
    assert strip.text.plain.split("\n") == [*[""] * 12, f"{'target':24}  {'trial 3':24}"]
    assert strip.height == 14
    for overlay, column in zip(strip.overlays, (1, 27), strict=True):
        assert overlay.startswith(f"\x1b7\x1b[13A\x1b[{column}G\x1b[38;2;")
    assert all(overlay.endswith("\x1b8") for overlay in strip.overlays)


def test_a_picture_is_read_again_when_its_file_has_changed(tmp_path: Path) -> None:
    before = drawn(save(tmp_path / "a.png", pixels(0)), 12, BLOCKS)
    os.utime(tmp_path / "a.png", ns=(1, 1))
    (tmp_path / "a.png").write_bytes(save(tmp_path / "b.png", pixels(1)).read_bytes())
    assert drawn(tmp_path / "a.png", 12, BLOCKS) == drawn(tmp_path / "b.png", 12, BLOCKS) != before


def test_a_picture_over_ssh_is_small(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", pixels(side=64))
    n_bytes = {kind.kind: len(drawn(path, MAX_COLUMNS, kind).encode()) for kind in (BLOCKS, KITTY)}
    assert n_bytes["blocks"] < 14_000  # 24 x 12 letters of two colors each
    assert n_bytes["kitty"] < 20_000  # noise; textures compress better
