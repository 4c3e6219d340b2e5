"""Pictures that trials have left, read and put into pages."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image

from nca.places import Places

__all__ = ["data_url", "has_output", "read_output", "read_target"]


def read_output(folder: str | Path) -> Image.Image | None:
    """Return the first of the outputs that stand side by side in a trial's output.png.

    None where there is none, or none that can be read: a page of many shows the others.
    """
    try:
        with Image.open(Path(folder) / "output.png") as picture:
            return picture.convert("RGB").crop((0, 0, picture.height, picture.height))
    except OSError:
        return None


def has_output(folder: str | Path) -> bool:
    """Say whether a trial has left an output, by the head of the file alone."""
    try:
        with Image.open(Path(folder) / "output.png"):
            return True
    except OSError:
        return False


def read_target(places: Places, study: str) -> Image.Image | None:
    """Return a study's target; None where no trial has kept it."""
    file = places.find_target(study)
    if file is None:
        return None
    with Image.open(file) as picture:
        return picture.convert("RGB")


def data_url(picture: Image.Image, kind: str = "PNG", **options: Any) -> str:
    """Return a picture as a URL that holds it, without its name or anything else that tells of it.

    Args:
        picture: RGB.
        kind: Format, as Pillow names it.
        options: Of the format.
    """
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
