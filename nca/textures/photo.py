"""Photographs that are downloaded once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from nca.cli.errors import ConfigError
from nca.config.schema import MIN_SIDE_PX
from nca.textures.image_file import read_image

_DOWNLOAD_TIMEOUT_S = 10.0
_CACHE_VARIABLE = "NCA_CACHE"


def fetch_photo(name: str, url: str) -> Path:
    """Return the path of a photograph in the user's cache; download it first if it is missing.

    The cache is `$NCA_CACHE`, by default pooch's folder for nca-sweep. Each URL has its own file, and the
    SHA-256 of its first download beside it. Safe with several processes: both files are moved into the cache
    when they are complete.

    Args:
        name: The texture's name.
        url: http or https URL of an image.

    Raises:
        ConfigError: If the URL cannot be downloaded or is not an image, or the cached file has changed.
    """
    import pooch

    instead = "texture.source=drawn uses the drawn stand-in"
    if not url.startswith(("http://", "https://")):
        raise ConfigError(
            f"texture.url={url!r}: must be the http or https address of a photograph; {instead}"
        )
    cache = Path(os.environ.get(_CACHE_VARIABLE) or pooch.os_cache("nca-sweep")).expanduser()
    stem = f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    photo, sha256 = cache / f"{stem}.photo", cache / f"{stem}.sha256"
    if photo.is_file() and sha256.is_file():
        if _file_hash(photo) != sha256.read_text(encoding="utf-8").strip():
            raise ConfigError(f"{photo} has changed since its download: delete it to download it again")
        return photo
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
            part = Path(folder) / photo.name
            # Without streaming, requests closes the socket even if the connection breaks.
            pooch.HTTPDownloader(timeout=_DOWNLOAD_TIMEOUT_S, stream=False)(url, str(part), None)
            read_image(part, MIN_SIDE_PX)
            part_sha256 = part.with_suffix(".sha256")
            part_sha256.write_text(_file_hash(part) + "\n", encoding="utf-8")
            # The hash is moved first: a photograph in the cache always has one.
            part_sha256.replace(sha256)
            part.replace(photo)
    except ConfigError as error:
        raise ConfigError(f"{url} did not give a photograph; {instead}") from error
    # Every exception of requests is an OSError.
    except OSError as error:
        raise ConfigError(f"{url} could not be downloaded ({_explain(error)}); {instead}") from error
    return photo


def _explain(error: OSError) -> str:
    """Return a short description of a download error; the message of requests has several lines."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code}"
    return error.strerror or type(error).__name__


def _file_hash(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
