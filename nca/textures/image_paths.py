"""The image files that a path of the command line means: a file, several with commas between, or a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nca.cli.errors import ConfigError

# Suffixes of the files that are taken from a folder; a file that is named itself may have any.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


def find_images(text: str) -> tuple[list[str], str]:
    """Return the image files that `texture.path` means, and a line on the folders among them.

    A path that exists is taken as it is, with the commas in it. Of a folder all visible files with a suffix
    of an image are taken, sorted by name; its subfolders are not searched.

    Args:
        text: A path; several with commas between; `~` is the home.

    Returns:
        Paths as they were given, those of a folder below it; and a line on what was taken from folders,
        empty without one. A single path that is no folder is returned unchecked.

    Raises:
        ConfigError: If one of several does not exist, or a folder has no image or cannot be read.
    """
    paths: list[str] = []
    notes = []
    pieces = list(_split(text))
    for piece in pieces:
        exists = _exists(piece)
        if exists and Path(piece).expanduser().is_dir():
            found, note = _list_folder(piece)
            paths += found
            notes.append(note)
        elif exists or len(pieces) == 1:
            paths.append(piece)
        else:
            raise ConfigError(f"texture.path={text}: there is no file {piece}; commas separate images")
    return paths, "; ".join(notes)


def _split(text: str) -> Iterator[str]:
    """Split a text at its commas, but not within the path of a file that exists."""
    pieces = text.split(",")
    while pieces:
        ends = range(len(pieces), 0, -1)
        n = next((end for end in ends if _exists(",".join(pieces[:end]))), 1)
        yield ",".join(pieces[:n])
        del pieces[:n]


def _exists(path: str) -> bool:
    try:
        return bool(path) and Path(path).expanduser().exists()
    except OSError:  # of a name that is too long, for instance
        return False


def _list_folder(folder: str) -> tuple[list[str], str]:
    """Return the images of a folder, and a line on how many there are.

    Raises:
        ConfigError: If there is none, or the folder cannot be read.
    """
    try:
        files = sorted(entry.name for entry in Path(folder).expanduser().iterdir() if entry.is_file())
    except OSError as error:
        raise ConfigError(f"texture.path={folder}: cannot be read ({error.strerror})") from error
    images = [name for name in files if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    if not images:
        kinds = ", ".join(SUFFIXES)
        raise ConfigError(f"texture.path={folder}: a folder without images; must hold files with {kinds}")
    others = len(files) - len(images)
    left_out = f", {others} other {'file' if others == 1 else 'files'} left out" if others else ""
    counted = f"{len(images)} {'image' if len(images) == 1 else 'images'}"
    return [str(Path(folder, name)) for name in images], f"{folder}: {counted}{left_out}"
