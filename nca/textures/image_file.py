"""Image files of any format and mode, as square sRGB pixels."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nca.cli.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MIN_SIDE_PX", "Pixels", "read_image"]

Pixels = NDArray[np.uint8]

# A smaller picture holds no texture: it is the smallest size of training.
MIN_SIDE_PX = 16
_WHITE = (255, 255, 255, 255)
# White of a picture of large whole numbers, or of real numbers: the first that its largest value allows.
_INTEGER_WHITES = (2**16 - 1, 2**31 - 1)
_REAL_WHITES = (1.0, 2.0**8 - 1.0, 2.0**16 - 1.0)


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
