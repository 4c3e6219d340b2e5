"""A contact sheet: the pictures of a study in rows; does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

COLUMNS = 10
SIDE_PX = 128
GAP_PX = 8
CAPTION_PX = 24
FONT_PX = 13


def make_contact_sheet(entries: Sequence[tuple[Path, str]]) -> Image.Image:
    """Return pictures in rows with a caption under each; missing ones are left out.

    Args:
        entries: Picture file and caption, in order.
    """
    found = [(path, caption) for path, caption in entries if path.exists()]
    n_columns = max(1, min(COLUMNS, len(found)))
    width, height = SIDE_PX + GAP_PX, SIDE_PX + CAPTION_PX
    n_rows = max(1, -(-len(found) // n_columns))
    sheet = Image.new("RGB", (n_columns * width + GAP_PX, n_rows * height + GAP_PX), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)
    for index, (path, caption) in enumerate(found):
        left, top = GAP_PX + index % n_columns * width, GAP_PX + index // n_columns * height
        with Image.open(path) as picture:
            first = picture.convert("RGB").crop((0, 0, picture.height, picture.height))
        sheet.paste(first.resize((SIDE_PX, SIDE_PX), Image.Resampling.NEAREST), (left, top))
        pen.text((left, top + SIDE_PX + 2), caption, fill="black", font=font)
    return sheet
