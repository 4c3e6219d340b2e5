"""Pictures of trials, read from their folders or from a sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from nca.records.paths import RecordPaths

N_COLUMNS = 10  # of a sheet


@dataclass(frozen=True)
class Pictures:
    """A study's pictures; None for one that is missing or unreadable.

    Args:
        target: Reads the target.
        output: Reads the first output of a trial, by its number.
    """

    target: Callable[[], Image.Image | None]
    output: Callable[[int], Image.Image | None]


def open_sheet(sheet: Path, trials: Sequence[int]) -> Pictures:
    """Return the pictures of a sheet that `make_sheet` made of the same trials."""

    def cut(position: int) -> Image.Image | None:
        if not sheet.exists():
            return None
        with Image.open(sheet) as picture:
            side = picture.width // N_COLUMNS
            row, column = divmod(position, N_COLUMNS)
            tile = picture.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
        return tile.convert("RGB") if tile.getbbox() else None  # transparent: missing

    return Pictures(lambda: cut(0), lambda trial: cut(1 + trials.index(trial)))


def make_sheet(pictures: Pictures, trials: Sequence[int]) -> Image.Image | None:
    """Return the target and the first output of each trial in rows of `N_COLUMNS`.

    Returns:
        RGBA, transparent where a picture is missing; None without a target.
    """
    target = pictures.target()
    if target is None:
        return None
    side = target.width
    sheet = Image.new("RGBA", (N_COLUMNS * side, side * -(-(1 + len(trials)) // N_COLUMNS)))
    for position, picture in enumerate([target, *map(pictures.output, trials)]):
        if picture is not None:
            row, column = divmod(position, N_COLUMNS)
            sheet.paste(picture.resize((side, side)), (column * side, row * side))
    return sheet


def read_output(folder: str | Path) -> Image.Image | None:
    """Return the first output in a trial's output.png, which shows several side by side.

    None if it is missing or unreadable, so that a page can show the other trials.
    """
    try:
        with Image.open(Path(folder) / "output.png") as picture:
            return picture.convert("RGB").crop((0, 0, picture.height, picture.height))
    except OSError:
        return None


def has_output(folder: str | Path) -> bool:
    """Return whether a trial has an output.png; reads only the file's header."""
    try:
        with Image.open(Path(folder) / "output.png"):
            return True
    except OSError:
        return False


def read_target(paths: RecordPaths, study: str) -> Image.Image | None:
    """Return a study's target; None if no trial has kept it."""
    file = paths.find_target(study)
    if file is None:
        return None
    with Image.open(file) as picture:
        return picture.convert("RGB")
