"""Target images: bundled drawings, photographs, files of the user's and simulations, as pixels or a tensor.

Also a command line, `python -m nca.textures.load draw`, that draws the bundled ones again.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from nca.config.schema import GrayScottTexture, ImageTexture, PlantTexture, Texture
from nca.config.validation import ConfigError, nearest

if TYPE_CHECKING:
    from jaxtyping import Float
    from PIL.Image import Image
    from torch import Tensor

__all__ = ["fetch_photo", "load_pixels", "load_texture", "read_image", "texture_hash"]

Pixels = NDArray[np.uint8]

ASSETS = Path(__file__).parent / "assets"
# A smaller picture holds no texture: it is the smallest size of training.
MIN_SIDE_PX = 16
_DOWNLOAD_TIMEOUT_S = 10.0
_CACHE_VARIABLE = "NCA_CACHE"
# The highest level searches longest and is the same on every processor.
_PNG_COMPRESS_LEVEL = 9
_WHITE = (255, 255, 255, 255)
# White of a picture of large whole numbers, or of real numbers: the first that its largest value allows.
_INTEGER_WHITES = (2**16 - 1, 2**31 - 1)
_REAL_WHITES = (1.0, 2.0**8 - 1.0, 2.0**16 - 1.0)


def load_texture(texture: Texture, size: int) -> Float[Tensor, "3 size size"]:
    """Return the target as float32 RGB in [0, 1] on the CPU; arguments and errors as in `load_pixels`."""
    import torch

    pixels = load_pixels(texture, size)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float() / 255.0


def load_pixels(texture: Texture, size: int) -> Pixels:
    """Return the target's sRGB pixels (size, size, 3): the same for the same config and size.

    Args:
        texture: What to load; a photograph that is not in the cache is downloaded.
        size: Side in px, at least 3.

    Raises:
        ConfigError: If the texture is unknown, cannot be read or downloaded, or comes out empty.
    """
    match texture:
        case PlantTexture(source="photo"):
            return read_image(fetch_photo(texture.name, texture.url), size)
        case PlantTexture():
            path = ASSETS / f"{texture.name}.png"
            if not path.is_file():
                drawn = sorted(asset.stem for asset in ASSETS.glob("*.png"))
                hint = nearest(texture.name, drawn)
                raise ConfigError(f"texture.name={texture.name}: must be one of {', '.join(drawn)}{hint}")
            return read_image(path, size)
        case ImageTexture():
            return read_image(Path(texture.path).expanduser(), size)
        case GrayScottTexture():
            return _render(texture, size)


def _render(texture: GrayScottTexture, size: int) -> Pixels:
    """Render a Gray-Scott texture, with the config's own feed and kill where it has them.

    Raises:
        ConfigError: If the preset is unknown, the rates are refused or leave no pattern.
    """
    from nca.textures.gray_scott import N_STEPS, PRESETS, render_gray_scott

    if texture.preset not in PRESETS:
        hint = nearest(texture.preset, PRESETS)
        raise ConfigError(f"texture.preset={texture.preset}: must be one of {', '.join(PRESETS)}{hint}")
    given = {"feed": texture.feed, "kill": texture.kill}
    changes = {name: rate for name, rate in given.items() if rate is not None}
    try:
        parameters = dataclasses.replace(PRESETS[texture.preset], **changes)
        pixels = render_gray_scott(parameters, size=size, n_steps=N_STEPS, seed=texture.seed)
    except ValueError as error:
        raise ConfigError(f"texture=gray_scott: {error}") from error
    if (pixels == pixels[0, 0]).all():
        rates = f"texture.feed={parameters.feed:g} texture.kill={parameters.kill:g}"
        raise ConfigError(f"{rates}: the reaction leaves no pattern, choose rates closer to a preset's")
    return pixels


def texture_hash(pixels: Pixels) -> str:
    """Return the SHA-256, in hex, of the shape and bytes of a target at the trained size."""
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def read_image(path: Path | str, size: int) -> Pixels:
    """Read the centered square of an image, resized with Lanczos; (size, size, 3).

    PNG, JPEG, WebP, TIFF and whatever else Pillow reads, in any mode; of several frames the first. Turned
    upright as its EXIF says, laid over white where transparent. Color profiles are ignored: values are sRGB.

    Args:
        path: The file.
        size: Side of the result in px.

    Raises:
        ConfigError: If the file is missing, unreadable, not an image, damaged, too small or too large.
    """
    from PIL import Image

    path = Path(path)
    _refuse_unreadable(path)
    with warnings.catch_warnings(), _one_line_errors(path):
        warnings.simplefilter("ignore")
        # Pillow only warns up to twice its limit; a target of 90 million pixels is a mistake already.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with path.open("rb") as stream, Image.open(stream) as image:
            width, height = image.size
            if min(width, height) < MIN_SIDE_PX:
                found = f"{path} is {width} x {height} px"
                raise ConfigError(f"{found}: a texture needs at least {MIN_SIDE_PX} px on a side")
            upright = _convert_to_rgb(image)
    side = min(upright.size)
    left, top = (upright.width - side) // 2, (upright.height - side) // 2
    square = upright.crop((left, top, left + side, top + side))
    return np.array(square.resize((size, size), Image.Resampling.LANCZOS))


def _refuse_unreadable(path: Path) -> None:
    """Refuse what is no file with something in it.

    Raises:
        ConfigError: If it is missing, a folder or empty, or may not be looked at.
    """
    try:
        if path.is_dir():
            raise ConfigError(f"{path} is a folder: give the path of an image file")
        if path.stat().st_size == 0:
            raise ConfigError(f"{path} is empty: give the path of an image file")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: give the path of an image file") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


@contextmanager
def _one_line_errors(path: Path) -> Generator[None]:
    """Turn all that Pillow raises on a bad file into one line.

    Raises:
        ConfigError: In its place.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except ConfigError:
        raise
    except PermissionError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnidentifiedImageError as error:
        raise ConfigError(
            f"{path} is not an image that Pillow can read: try PNG, JPEG, WebP or TIFF"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ConfigError(
            f"{path} is too large: at most {Image.MAX_IMAGE_PIXELS} px are read, shrink it"
        ) from error
    # Pillow's decoders let through whatever they stumble over: SyntaxError, struct.error, EOFError and more.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{path} is damaged or cut off: {reason}") from error


def _convert_to_rgb(image: Image) -> Image:
    """Return an upright 8-bit RGB copy of an image in any mode.

    Raises:
        ValueError: If a picture of real numbers holds values that are not finite.
    """
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode[0] in "IF":
        values = np.asarray(upright, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are not finite")
        whites = _REAL_WHITES if upright.mode == "F" else _INTEGER_WHITES
        white = next((white for white in whites if values.max() <= white), values.max())
        gray = np.rint(np.clip(values / white, 0.0, 1.0) * 255.0).astype(np.uint8)
        return Image.fromarray(gray).convert("RGB")
    if upright.has_transparency_data:
        clear = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, _WHITE), clear).convert("RGB")
    return upright.convert("RGB")


def fetch_photo(name: str, url: str) -> Path:
    """Return the path of a photograph in the user's cache, downloaded the first time.

    The cache is `$NCA_CACHE`, or pooch's folder for nca-sweep. The first download pins the file's SHA-256
    beside it, in `<its stem>.sha256`; another URL is another file. Several processes may fetch at the same
    time: files appear whole or not at all.

    Args:
        name: The texture's name.
        url: http or https address of an image.

    Raises:
        ConfigError: If the URL cannot be downloaded or holds no image, or the cached file has changed.
    """
    import pooch

    instead = "texture.source=drawn uses the drawn stand-in"
    if not url.startswith(("http://", "https://")):
        raise ConfigError(
            f"texture.url={url!r}: must be the http or https address of a photograph; {instead}"
        )
    cache = Path(os.environ.get(_CACHE_VARIABLE) or pooch.os_cache("nca-sweep")).expanduser()
    stem = f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    photo, pin = cache / f"{stem}.photo", cache / f"{stem}.sha256"
    if photo.is_file() and pin.is_file():
        if _file_hash(photo) != pin.read_text().strip():
            raise ConfigError(f"{photo} has changed since its download: delete it to download it again")
        return photo
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
            part = Path(folder) / photo.name
            # Without streaming requests closes the socket also when the connection breaks off.
            pooch.HTTPDownloader(timeout=_DOWNLOAD_TIMEOUT_S, stream=False)(url, str(part), None)
            read_image(part, MIN_SIDE_PX)
            part_pin = part.with_suffix(".sha256")
            part_pin.write_text(_file_hash(part) + "\n")
            # The pin goes first: a photograph in its place is always pinned.
            part_pin.replace(pin)
            part.replace(photo)
    except ConfigError as error:
        raise ConfigError(f"{url} did not give a photograph; {instead}") from error
    # Every error of requests is an OSError too.
    except OSError as error:
        raise ConfigError(f"{url} could not be downloaded ({_explain(error)}); {instead}") from error
    return photo


def _explain(error: OSError) -> str:
    """Name a download's error in a few words; the full text of requests fills several lines."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code}"
    return error.strerror or type(error).__name__


def _file_hash(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _draw(folder: Path) -> None:
    """Write the drawn textures as PNG files without metadata."""
    from PIL import Image

    from tools.draw_textures import TEXTURES, draw_texture

    folder.mkdir(parents=True, exist_ok=True)
    for name in TEXTURES:
        Image.fromarray(draw_texture(name)).save(folder / f"{name}.png", compress_level=_PNG_COMPRESS_LEVEL)


class _OneLineParser(argparse.ArgumentParser):
    """A parser that refuses in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with code 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = _OneLineParser(
        prog="python -m nca.textures.load", description="Look after the bundled textures."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="draw")
    draw = commands.add_parser("draw", help="draw the four bundled textures again")
    draw.add_argument("folder", nargs="?", type=Path, default=ASSETS, help="where to (default: %(default)s)")
    folder: Path = parser.parse_args(arguments).folder
    try:
        _draw(folder)
    except OSError as error:
        parser.error(f"cannot write to {folder}: {error.strerror}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
