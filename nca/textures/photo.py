"""Photographs from the network, kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from nca.cli.errors import ConfigError
from nca.textures.image_file import MIN_SIDE_PX, read_image

__all__ = ["fetch_photo"]

_DOWNLOAD_TIMEOUT_S = 10.0
_CACHE_VARIABLE = "NCA_CACHE"


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
