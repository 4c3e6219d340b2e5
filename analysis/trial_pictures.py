"""Pictures that trials have left, read and put into pages."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from nca.records.paths import RecordPaths

__all__ = [
    "FolderPictures",
    "Pictures",
    "SheetPictures",
    "data_url",
    "has_output",
    "make_sheet",
    "read_output",
    "read_target",
]

COLUMNS = 10  # pictures side by side in a sheet


class Pictures(Protocol):
    """A study's target and outputs; None for what is missing or cannot be read."""

    def target(self) -> Image.Image | None:
        """Return the target."""

    def output(self, trial: int) -> Image.Image | None:
        """Return the first of a trial's outputs."""


@dataclass(frozen=True)
class FolderPictures:
    """Pictures in the folders that trials have left.

    Args:
        paths: Where records are.
        study: The study's name.
        folders: By trial.
    """

    paths: RecordPaths
    study: str
    folders: Mapping[int, str]

    def target(self) -> Image.Image | None:
        """Return the target."""
        return read_target(self.paths, self.study)

    def output(self, trial: int) -> Image.Image | None:
        """Return the first of a trial's outputs."""
        return read_output(self.folders[trial])


@dataclass(frozen=True)
class SheetPictures:
    """Pictures cut out of one sheet.

    Args:
        sheet: The file that `make_sheet` made.
        trials: In the order that they have there, after the target.
    """

    sheet: Path
    trials: Sequence[int]

    def target(self) -> Image.Image | None:
        """Return the target."""
        return self._cut(0)

    def output(self, trial: int) -> Image.Image | None:
        """Return the first of a trial's outputs."""
        return self._cut(1 + self.trials.index(trial))

    def _cut(self, place: int) -> Image.Image | None:
        if not self.sheet.exists():
            return None
        with Image.open(self.sheet) as sheet:
            side = sheet.width // COLUMNS
            row, column = divmod(place, COLUMNS)
            tile = sheet.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
        return tile.convert("RGB") if tile.getbbox() else None  # clear where one is missing


def make_sheet(pictures: Pictures, trials: Sequence[int]) -> Image.Image | None:
    """Return the target and the outputs in rows, pixel by pixel, clear where one is missing.

    Args:
        pictures: A study's.
        trials: In the order that they will have.

    Returns:
        RGBA; None without a target.
    """
    target = pictures.target()
    if target is None:
        return None
    side = target.width
    sheet = Image.new("RGBA", (COLUMNS * side, side * -(-(1 + len(trials)) // COLUMNS)))
    for place, picture in enumerate([target, *map(pictures.output, trials)]):
        if picture is not None:
            row, column = divmod(place, COLUMNS)
            sheet.paste(picture.resize((side, side)), (column * side, row * side))
    return sheet


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


def read_target(paths: RecordPaths, study: str) -> Image.Image | None:
    """Return a study's target; None where no trial has kept it."""
    file = paths.find_target(study)
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
