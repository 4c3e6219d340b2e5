"""Small pictures for a terminal, side by side over their captions.

The escape codes are written here, as no package fits a sweep that runs for days over ssh (docs/log.md).
"""

from __future__ import annotations

import io
import os
import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from rich.color import Color, ColorSystem
from rich.style import Style
from rich.text import Text

from sweeps.terminal import Graphics

MAX_COLUMNS = 24  # of a picture; it has half as many lines, as cells are twice as high as wide
MIN_COLUMNS = 12
GAP = 2  # columns between pictures
CAPTION_LINES = 2  # the caption, and the empty line in which the cursor stands
MAX_SENT_PX = 192  # side of a picture as PNG
SIXEL_COLORS = 32
WHITE = 255
BAND_PX = 6  # height of a row of sixels
RUN = re.compile(r"(.)\1{3,}")
KITTY_CHUNK = 4096
LIVE_PLACES = 32  # of pictures that are erased; those that stay have higher ones, up to 1023
KEPT = 64  # pictures in memory


@dataclass(frozen=True)
class Picture:
    """A picture file with its caption. Of one that is wider than high, the left square is shown."""

    caption: str
    path: Path


class PictureFile(NamedTuple):
    """A picture file as it was at a time."""

    path: Path
    mtime_ns: int
    size: int


class Strip:
    """As many pictures as fit side by side; those whose file is missing or broken are left out.

    Args:
        pictures: The most important first.
        columns: Width of the terminal.
        lines: Height that is free.
        first_place: Place of the first picture; a picture replaces the one before it in its place.

    Attributes:
        height: Lines that the strip takes, the one of the cursor below it included; 0 without pictures.
        text: The strip's lines: free space and captions.
        overlays: Codes that draw one picture each, and leave the cursor where it was: below the strip.
    """

    def __init__(
        self, pictures: Sequence[Picture], columns: int, lines: int, graphics: Graphics, first_place: int = 0
    ) -> None:
        found = [(each.caption, file) for each in pictures if (file := find_file(each.path)) is not None]
        n_shown, width = lay_out(len(found), columns, lines)
        shown = found[:n_shown]
        rows = width // 2
        self.height = rows + CAPTION_LINES if shown else 0
        captions = (" " * GAP).join(caption[:width].ljust(width) for caption, _ in shown)
        self.text = Text("\n" * rows + captions, no_wrap=True, overflow="crop")
        self.overlays = [
            f"\x1b7\x1b[{rows + 1}A\x1b[{1 + index * (width + GAP)}G"
            f"{draw(file, width, graphics, first_place + index)}\x1b8"
            for index, (_, file) in enumerate(shown)
        ]


def lay_out(n_pictures: int, columns: int, lines: int) -> tuple[int, int]:
    """Return how many pictures fit side by side, and how many columns each has; (0, 0) if none fits.

    The last column of the terminal stays empty: a letter in it would move the cursor.
    """
    highest = min(MAX_COLUMNS, 2 * (lines - CAPTION_LINES))
    for n_shown in range(min(n_pictures, LIVE_PLACES), 0, -1):
        width = min(highest, (columns - 1 + GAP) // n_shown - GAP) // 2 * 2
        if width >= MIN_COLUMNS:
            return n_shown, width
    return 0, 0


def find_file(path: Path) -> PictureFile | None:
    """Return the picture in a file as it is now; None if it is missing or broken."""
    try:
        stat = path.stat()
        file = PictureFile(path, stat.st_mtime_ns, stat.st_size)
        read(file)
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for a broken file
        return None
    return file


@lru_cache(maxsize=KEPT)
def read(file: PictureFile) -> Image.Image:
    """Return the left square of a picture as RGB, at most `MAX_SENT_PX` wide.

    Raises:
        OSError: If it is missing or broken.
    """
    with Image.open(file.path) as image:
        side = min(image.size)
        square = image.convert("RGB").crop((0, 0, side, side))
    square.thumbnail((MAX_SENT_PX, MAX_SENT_PX))
    return square


@lru_cache(maxsize=KEPT)
def draw(file: PictureFile, columns: int, graphics: Graphics, place: int) -> str:
    """Return the codes that draw a square picture to the right of the cursor and below.

    Args:
        file: A picture that `find_file` has found.
        columns: Width in cells, even.
        graphics: How the terminal shows pictures.
        place: The picture's number for Kitty's protocol.
    """
    image, rows = read(file), columns // 2
    width, height = graphics.cell_px if all(graphics.cell_px) else (1, 2)
    match graphics.kind:
        case "kitty":  # the cells that are nearest to a square
            fewer_columns, fewer_rows = round(rows * height / width), round(columns * width / height)
            return _encode_kitty(image, min(columns, fewer_columns), min(rows, fewer_rows), place)
        case "sixel":
            side = min(columns * width, rows * height)
            enlarges = side >= image.width  # then runs of equal pixels make it a third as long
            filtered = Image.Resampling.NEAREST if enlarges else Image.Resampling.BICUBIC
            return _encode_sixel(image.resize((side, side), filtered))
        case "blocks":
            down = f"\x1b[B\x1b[{columns}D"
            return down.join(_encode_blocks(image, columns, rows, exact=graphics.exact_colors))


def erase(graphics: Graphics | None) -> str:
    """Return the codes that delete all pictures that writing text over them does not erase."""
    if graphics is None or graphics.kind != "kitty":
        return ""
    return "".join(f"\x1b_Ga=d,d=I,i={_kitty_id(place)},q=2\x1b\\" for place in range(LIVE_PLACES))


def _kitty_id(place: int) -> int:
    """Return a number that no picture of another process in the same terminal has."""
    return (os.getpid() << 10) + place


def _encode_blocks(image: Image.Image, columns: int, rows: int, *, exact: bool) -> Iterator[str]:
    """Yield lines of half blocks, each the upper of two pixels on the lower one."""
    system = ColorSystem.TRUECOLOR if exact else ColorSystem.EIGHT_BIT
    pixels = np.asarray(image.resize((columns, 2 * rows))).tolist()
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        styles = (
            Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below))
            for above, below in zip(upper, lower, strict=True)
        )
        yield "".join(style.render("▀", color_system=system) for style in styles)


def _encode_kitty(image: Image.Image, columns: int, rows: int, place: int) -> str:
    """Return a picture by Kitty's protocol, which scales it: sw.kovidgoyal.net/kitty/graphics-protocol."""
    png = io.BytesIO()
    image.save(png, "png", optimize=True)
    data = b64encode(png.getvalue()).decode("ascii")
    chunks = [data[start : start + KITTY_CHUNK] for start in range(0, len(data), KITTY_CHUNK)]
    keys = f"a=T,f=100,i={_kitty_id(place)},p=1,c={columns},r={rows},C=1,q=2,"  # no answer; the cursor stays
    last = len(chunks) - 1
    return "".join(
        f"\x1b_G{keys * (index == 0)}m={int(index < last)};{chunk}\x1b\\"
        for index, chunk in enumerate(chunks)
    )


def _encode_sixel(image: Image.Image) -> str:
    """Return a picture as sixels: letters of six pixels of one color each, from the palette's first on.

    Source: DEC, "VT330/VT340 Programmer Reference Manual", volume 2, chapter 14.
    """
    indexed = image.quantize(SIXEL_COLORS)
    palette = np.reshape(indexed.getpalette() or [], (-1, 3)) * 100 // WHITE
    colors = "".join(f"#{index};2;{r};{g};{b}" for index, (r, g, b) in enumerate(palette))
    pixels = np.asarray(indexed)
    bands = [_encode_band(pixels[top : top + BAND_PX]) for top in range(0, len(pixels), BAND_PX)]
    return f'\x1bP0;1;0q"1;1;{image.width};{image.height}{colors}{"-".join(bands)}\x1b\\'


def _encode_band(band: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> str:
    """Return a row of sixels, a pass over it for each color."""
    bits = 1 << np.arange(len(band))
    passes = []
    for color in np.unique(band):
        letters = (63 + bits @ (band == color)).astype(np.uint8).tobytes().decode("ascii")
        passes.append(f"#{color}" + RUN.sub(lambda run: f"!{len(run[0])}{run[1]}", letters))
    return "$".join(passes)
