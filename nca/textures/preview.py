"""A picture of targets for a person: each image with the square that is taken from it, beside the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nca.config.schema import ImageTexture, Texture
from nca.textures.image_file import View
from nca.textures.load import load_pixels, view_texture

if TYPE_CHECKING:
    from PIL.Image import Image

PANEL_PX = 384  # largest side of a picture; a larger target is shown pixel by pixel
MARGIN_PX, CAPTION_PX, FONT_PX = 16, 24, 14
DIMMED = 0.4  # brightness around the square
PAPER, INK, FRAME = (255, 255, 255), (28, 36, 48), (230, 60, 40)


def view_target(texture: Texture, size: int) -> View:
    """Return an image file with its square; any other texture as an image of which all is the target."""
    from PIL import Image

    if isinstance(texture, ImageTexture):
        return view_texture(texture, size)
    return View(Image.fromarray(load_pixels(texture, size)), (0, 0, size, size), size)


def describe_view(view: View) -> str:
    """Return which square of an image the target is, and how much smaller or larger it is shown."""
    left, top = view.box[:2]
    return (
        f"{view.side} x {view.side} px at {left},{top} of {view.source.width} x {view.source.height} px, "
        f"scale {view.size / view.side:.3g}"
    )


def draw_row(name: str, view: View) -> Image:
    """Draw an image with its square marked, beside the target, enlarged without smoothing."""
    from PIL import Image, ImageDraw, ImageFont

    factor = max(1, PANEL_PX // view.size)
    target = Image.fromarray(view.resample().repeat(factor, axis=0).repeat(factor, axis=1))
    source, font = _mark_square(view), ImageFont.load_default(FONT_PX)
    caption = f"{name}: {describe_view(view)}; target, {view.size} px"
    left, height = 2 * MARGIN_PX + source.width, MARGIN_PX + max(source.height, target.height)
    width = max(left + target.width, MARGIN_PX + round(font.getlength(caption))) + MARGIN_PX
    row = Image.new("RGB", (width, height + CAPTION_PX), PAPER)
    row.paste(source, (MARGIN_PX, MARGIN_PX))
    row.paste(target, (left, MARGIN_PX))
    ImageDraw.Draw(row).text((MARGIN_PX, height + 4), caption, INK, font)
    return row


def join_rows(rows: Sequence[Image]) -> Image:
    """Return rows below each other."""
    from PIL import Image

    page = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), PAPER)
    top = 0
    for row in rows:
        page.paste(row, (0, top))
        top += row.height
    return page


def _mark_square(view: View) -> Image:
    """Return the image, fitted to a panel, dimmed and framed around the square."""
    from PIL import Image, ImageDraw

    factor = PANEL_PX / max(view.source.size)
    width, height = (max(1, round(side * factor)) for side in view.source.size)
    fitted = view.source.resize((width, height), Image.Resampling.LANCZOS)
    left, top, right, bottom = (round(end * factor) for end in view.box)
    marked = fitted.point([int(level * DIMMED) for level in range(256)] * 3)
    marked.paste(fitted.crop((left, top, right, bottom)), (left, top))
    ImageDraw.Draw(marked).rectangle((left, top, right - 1, bottom - 1), outline=FRAME, width=2)
    return marked
