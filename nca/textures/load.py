"""Target images: drawings, photographs, files of the user and simulations, as pixels or a tensor."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nca.cli.errors import ConfigError, nearest
from nca.config.schema import GrayScottTexture, ImageTexture, PlantTexture, Texture
from nca.textures import gray_scott
from nca.textures.image_file import Pixels, View, read_image, view_image
from nca.textures.photo import fetch_photo

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

ASSETS = Path(__file__).parent / "assets"
# A simulation takes seconds, and a run loads its texture several times.
_simulate = functools.lru_cache(maxsize=8)(gray_scott.render_gray_scott)


def load_texture(texture: Texture, size: int) -> Float[Tensor, "3 size size"]:
    """Return the target as float32 RGB in [0, 1] on the CPU; arguments and errors as for `load_pixels`."""
    import torch

    pixels = load_pixels(texture, size)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float() / 255.0


def view_texture(texture: ImageTexture, size: int) -> View:
    """Return the image file of a texture and the square of it that is the target, see `view_image`."""
    return view_image(Path(texture.path).expanduser(), size, texture.crop, texture.scale)


def load_pixels(texture: Texture, size: int) -> Pixels:
    """Return the target's sRGB pixels (size, size, 3), determined by the config and the size.

    Args:
        texture: The texture's config; a photograph that is not in the cache is downloaded.
        size: Side in px.

    Raises:
        ConfigError: If the texture is unknown, cannot be read or downloaded, or has no pattern.
    """
    match texture:
        case PlantTexture(source="photo"):
            return read_image(fetch_photo(texture.name, texture.url), size)
        case PlantTexture():
            return read_image(_find_drawing(texture.name), size)
        case ImageTexture():
            return view_texture(texture, size).resample()
        case GrayScottTexture():
            return _render(texture, size)


def check_name(texture: Texture) -> None:
    """Check the name of a drawn plant or of a preset.

    Raises:
        ConfigError: If there is none of that name.
    """
    match texture:
        case GrayScottTexture():
            _find_rates(texture)
        case PlantTexture(source="drawn"):
            _find_drawing(texture.name)


def _find_drawing(name: str) -> Path:
    """Return the file of a drawn plant.

    Raises:
        ConfigError: If there is none of that name.
    """
    path = ASSETS / f"{name}.png"
    if not path.is_file():
        drawn = sorted(asset.stem for asset in ASSETS.glob("*.png"))
        raise ConfigError(f"texture.name={name}: must be one of {', '.join(drawn)}{nearest(name, drawn)}")
    return path


def _render(texture: GrayScottTexture, size: int) -> Pixels:
    """Render a Gray-Scott texture.

    Raises:
        ConfigError: If the preset is unknown or the rates leave no pattern.
    """
    rates = _find_rates(texture)
    pixels = _simulate(rates, size=size, n_steps=gray_scott.N_STEPS, seed=texture.seed)
    if (pixels == pixels[0, 0]).all():
        given = f"texture.feed={rates.feed:g} texture.kill={rates.kill:g}"
        raise ConfigError(f"{given}: the reaction leaves no pattern, choose rates closer to a preset's")
    return pixels.copy()


def _find_rates(texture: GrayScottTexture) -> gray_scott.GrayScottRates:
    """Return the rates of a preset, in place of which the config may have others.

    Raises:
        ConfigError: If the preset is unknown.
    """
    presets = gray_scott.PRESETS
    if texture.preset not in presets:
        hint = nearest(texture.preset, presets)
        raise ConfigError(f"texture.preset={texture.preset}: must be one of {', '.join(presets)}{hint}")
    overrides = {"feed": texture.feed, "kill": texture.kill}
    return dataclasses.replace(
        presets[texture.preset], **{name: rate for name, rate in overrides.items() if rate is not None}
    )


def texture_hash(pixels: Pixels) -> str:
    """Return the SHA-256 in hex of a target's shape and pixels, at the size of training."""
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()
