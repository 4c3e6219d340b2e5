"""What is checked before anything is created, and what identifies a run's inputs."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from nca.cli.errors import ConfigError
from nca.config.schema import TrialConfig
from nca.loss.features import load_extractor
from nca.loss.vgg_weights import hash_weights
from nca.textures.load import load_pixels, texture_hash
from nca.tracking.client import check_address
from nca.training.device import check_device, pick_device


def check_surroundings(config: TrialConfig, *, elsewhere: bool = False) -> None:
    """Refuse a config whose texture, device, folder or store is not to be had; creates nothing.

    Args:
        config: Of a trial.
        elsewhere: Whether it trains on another machine, which may have a GPU where this one has none.

    Raises:
        ConfigError: If so.
    """
    has_gpu = elsewhere and config.device != "cpu"
    check_device(config.train, torch.device("cuda") if has_gpu else pick_device(config.device))
    check_writable(Path(config.runs_dir))
    if config.tracking.uri is not None:
        check_address(config.tracking.uri)
    load_pixels(config.texture, config.train.size)


def check_inputs(config: TrialConfig) -> dict[str, str]:
    """Read a resolved config's texture and weights and return what identifies them: their hashes.

    Raises:
        ConfigError: If either cannot be had or does not fit.
    """
    load_extractor(config.features, torch.device("cpu"), torch.float32)
    return identify_inputs(config)


def identify_inputs(config: TrialConfig) -> dict[str, str]:
    """Return the hashes of a resolved config's texture and weights.

    Raises:
        ConfigError: If the texture cannot be had.
    """
    texture = texture_hash(load_pixels(config.texture, config.train.size))
    return {"texture.hash": texture, "features.hash": hash_weights(config.features)}


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be created or written; leaves nothing behind.

    Raises:
        ConfigError: If so.
    """
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        raise ConfigError(f"runs_dir={folder}: {existing} is not a folder")
    try:
        # Permissions do not tell: nobody can make a folder in /proc, or on a disk mounted read-only.
        tempfile.TemporaryDirectory(dir=existing).cleanup()
    except OSError as error:
        raise ConfigError(f"runs_dir={folder}: {existing} is not writable; give runs_dir=FOLDER") from error
