"""Path and hash of VGG-16's weights, and resolution of `features=auto`; does not import torch."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from pathlib import Path

from nca.cli.errors import ConfigError
from nca.config.schema import FeaturesConfig, LossConfig

WEIGHTS_SHA256 = "397923af"  # its first digits
# torchvision's VGG16_Weights.IMAGENET1K_V1
WEIGHTS_URL = f"https://download.pytorch.org/models/vgg16-{WEIGHTS_SHA256}.pth"
PROBE_TIMEOUT_S = 5.0
PATCHES = FeaturesConfig("patches", side=5, levels=4, unsharp=1.0)  # conf/features/patches.yaml


def resolve_features(config: FeaturesConfig, loss: LossConfig, *, use_network: bool = True) -> FeaturesConfig:
    """Replace auto by what suits the loss; return others unchanged.

    That is patches for sliced and for a class of a user's own. For gram it is vgg16 if its weights are
    available, else random_filters. With `use_network`, weights that can be downloaded count as available.
    """
    if config.name != "auto":
        return config
    if loss.name != "gram" and config.weights is None:
        return PATCHES
    if config.weights is not None or imagenet_weights_path().exists() or (use_network and _can_download()):
        return FeaturesConfig("vgg16", config.weights)
    return FeaturesConfig("random_filters")


def check_weights(config: FeaturesConfig) -> None:
    """Check that the weights that a config names are a file.

    Raises:
        ConfigError: If they are not.
    """
    if config.weights is not None and not Path(config.weights).expanduser().is_file():
        raise ConfigError(
            f"features.weights={config.weights}: no such file; give the path of a VGG-16 state dict"
        )


def hash_weights(config: FeaturesConfig) -> str:
    """Return the SHA-256 of a VGG-16's weights file in hex, or the name of the published weights."""
    return "IMAGENET1K_V1" if config.weights is None else hash_file(Path(config.weights).expanduser())


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def imagenet_weights_path() -> Path:
    """Return the path at which torch caches the downloaded weights; the file need not exist."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    hub = Path(os.environ.get("TORCH_HOME", cache / "torch")).expanduser() / "hub"
    return hub / "checkpoints" / WEIGHTS_URL.rpartition("/")[2]


def _can_download() -> bool:
    request = urllib.request.Request(WEIGHTS_URL, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=PROBE_TIMEOUT_S):
            return True
    except OSError:
        return False
