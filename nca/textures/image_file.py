"""Reading of image files of any format and mode as square sRGB pixels."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nca.cli.errors import ConfigError
from nca.config.schema import MIN_SIDE_PX

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]

_WHITE = (255, 255, 255, 255)
# Candidates for the value of white in images of large integers and of floats: the first one that is not
# exceeded applies.
_INTEGER_WHITES = (2**16 - 1, 2**31 - 1)
_FLOAT_WHITES = (1.0, 2.0**8 - 1.0, 2.0**16 - 1.0)


@dataclass(frozen=True)
class View:
    """An image and the square of it that is the target.

    Args:
        source: The image, upright, RGB.
        box: Left, top, right and bottom end of the square, in px of the source.
        size: Side of the target in px.
    """

    source: Image
    box: tuple[int, int, int, int]
    size: int

    @property
    def side(self) -> int:
        """Side of the square in px of the source."""
        return self.box[2] - self.box[0]

    def resample(self) -> Pixels:
        """Return the target: the square, resized with Lanczos, as sRGB pixels (size, size, 3)."""
        from PIL import Image

        square = self.source.crop(self.box)
        return np.array(square.resize((self.size, self.size), Image.Resampling.LANCZOS))


def read_image(path: Path | str, size: int) -> Pixels:
    """Read the centered square of an image as sRGB pixels (size, size, 3), see `view_image`."""
    return view_image(path, size).resample()


def view_image(
    path: Path | str, size: int, crop: Sequence[int] | None = None, scale: float | None = None
) -> View:
    """Read an image and find the square of it that is the target.

    PNG, JPEG, WebP, TIFF and every other format that Pillow reads, in any mode; the first frame of several.
    EXIF rotation is applied, transparency is laid over white, color profiles are ignored.

    Args:
        path: The file.
        size: Side of the target in px.
        crop: Left, top, width and height, in px of the upright image, of the part that the square is the
            middle of; None: all of the image.
        scale: Px of the target per px of the image, to the nearest whole side of the square; None: the
            square is as large as the part allows.

    Raises:
        ConfigError: If the file is missing, unreadable, not an image, damaged, too small or too large, or has
            no such part or square.
    """
    from PIL import Image

    path = Path(path)
    with warnings.catch_warnings(), _one_line_errors(path):
        warnings.simplefilter("ignore")
        # Pillow only warns up to twice its limit, but no sensible target has 90 million pixels.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        _check_file(path)
        with path.open("rb") as stream, Image.open(stream) as image:
            if min(image.size) < MIN_SIDE_PX:
                found = f"{path} is {image.width} x {image.height} px"
                raise ConfigError(f"{found}: a texture needs at least {MIN_SIDE_PX} px on a side")
            upright = _convert_to_rgb(image)
    left, top, width, height = crop or (0, 0, *upright.size)
    if left + width > upright.width or top + height > upright.height:
        shown = f"[{left},{top},{width},{height}]"
        raise ConfigError(
            f"texture.crop={shown}: reaches out of {path}, which is {upright.width} x {upright.height} px; "
            "must be [LEFT,TOP,WIDTH,HEIGHT] within it"
        )
    side = _find_side(size, min(width, height), scale)
    left, top = left + (width - side) // 2, top + (height - side) // 2
    return View(upright, (left, top, left + side, top + side), size)


def _find_side(size: int, largest: int, scale: float | None) -> int:
    """Return the side of the square that is resized to `size`, in px of the image; at most `largest`.

    Raises:
        ConfigError: If it would be larger, or smaller than an image may be.
    """
    if scale is None:
        return largest
    side = round(size / scale)
    if MIN_SIDE_PX <= side <= largest:
        return side
    raise ConfigError(
        f"texture.scale={scale:g}: a target of {size} px would show {side} px of an image or crop of "
        f"{largest} px; must be {size / largest:.5g} to {size / MIN_SIDE_PX:.5g}, or null"
    )


def read_picture(path: Path) -> Pixels:
    """Read all pixels of a picture that a run has written, (height, width, 3).

    Raises:
        ConfigError: If it is unreadable, not an image or damaged.
    """
    from PIL import Image

    with _one_line_errors(path), Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _check_file(path: Path) -> None:
    """Check that a path leads to a file with content.

    Raises:
        ConfigError: If it does not.
    """
    if not path.exists():
        problem = "does not exist"
    elif path.is_dir():
        problem = "is a folder"
    elif path.stat().st_size == 0:
        problem = "is empty"
    else:
        return
    raise ConfigError(f"{path} {problem}: give the path of an image file")


@contextmanager
def _one_line_errors(path: Path) -> Generator[None]:
    """Convert every exception of reading an image to one line.

    Raises:
        ConfigError: Instead of any exception.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except ConfigError:
        raise
    except UnidentifiedImageError as error:
        hint = "try PNG, JPEG, WebP or TIFF"
        raise ConfigError(f"{path} is not an image that Pillow can read: {hint}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = Image.MAX_IMAGE_PIXELS
        raise ConfigError(f"{path} is too large: at most {limit} px are read, shrink it") from error
    # Pillow raises many types on damaged files: SyntaxError, struct.error, OSError without errno and more.
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{path} is damaged or cut off: {reason}") from error


def _convert_to_rgb(image: Image) -> Image:
    """Return an upright 8-bit RGB copy of an image in any mode.

    Raises:
        ValueError: If an image of floats has values that are not finite.
    """
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode[0] in "IF":
        values = np.asarray(upright, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("it has values that are not finite")
        whites = _FLOAT_WHITES if upright.mode == "F" else _INTEGER_WHITES
        white = next((white for white in whites if values.max() <= white), values.max())
        gray = np.rint(np.clip(values / white, 0.0, 1.0) * 255.0).astype(np.uint8)
        return Image.fromarray(gray).convert("RGB")
    if upright.has_transparency_data:
        clear = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, _WHITE), clear).convert("RGB")
    return upright.convert("RGB")
