"""Where VGG-16's weights are, and what `features=auto` means here; decided without loading torch."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from pathlib import Path

from nca.config.schema import FeaturesConfig

__all__ = ["WEIGHTS_URL", "hash_weights", "imagenet_weights_path", "resolve_features"]

# torchvision's VGG16_Weights.IMAGENET1K_V1; the name ends in the first digits of the file's sha256.
WEIGHTS_URL = "https://download.pytorch.org/models/vgg16-397923af.pth"
PROBE_TIMEOUT_S = 5.0


def resolve_features(config: FeaturesConfig, *, reach_out: bool = True) -> FeaturesConfig:
    """Return vgg16 or random_filters for auto, anything else as it is.

    Args:
        config: The features asked for.
        reach_out: Whether to ask the network if the weights can be downloaded; else a missing file means
            random_filters.
    """
    if config.name != "auto":
        return config
    if config.weights is not None or imagenet_weights_path().exists() or (reach_out and _can_download()):
        return FeaturesConfig("vgg16", config.weights)
    return FeaturesConfig("random_filters")


def hash_weights(config: FeaturesConfig) -> str:
    """Return the sha256 of the weights file in hex, or a name for weights that are the same for everybody."""
    if config.name == "random_filters":
        return config.name
    if config.weights is None:
        return "IMAGENET1K_V1"
    with Path(config.weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def imagenet_weights_path() -> Path:
    """Return where torch keeps its downloaded VGG-16 weights; the file need not exist."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    hub = Path(os.environ.get("TORCH_HOME", cache / "torch")).expanduser() / "hub"
    return hub / "checkpoints" / os.path.basename(WEIGHTS_URL)  # noqa: PTH119 - of an address


def _can_download() -> bool:
    request = urllib.request.Request(WEIGHTS_URL, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=PROBE_TIMEOUT_S):
            return True
    except OSError:
        return False
