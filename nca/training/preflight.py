"""Checks of a config before anything is created."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import torch

from nca.cli.errors import ConfigError
from nca.config.schema import TrialConfig
from nca.loss.features import load_extractor
from nca.loss.gram import GramLoss
from nca.textures.load import load_pixels, load_texture
from nca.tracking.client import check_address
from nca.training.custom_parts import check_custom_parts
from nca.training.device import check_device, pick_device
from nca.training.inputs import hash_inputs
from nca.training.memory import host_memory_bytes, min_memory_bytes, n_pool_rows


def check_environment(config: TrialConfig, *, remote: bool = False) -> None:
    """Check that the texture, the device, its memory, the folder and the MLflow store are available.

    Args:
        config: Config of a trial.
        remote: Whether it trains on another machine, which may have a GPU.

    Raises:
        ConfigError: If one is not.
    """
    has_gpu = remote and config.device != "cpu"
    device = torch.device("cuda") if has_gpu else pick_device(config.device)
    check_device(config.train, device)
    if not remote:
        _check_memory(config, device)
    _check_writable(Path(config.runs_dir))
    if config.tracking.uri is not None:
        check_address(config.tracking.uri)
    load_pixels(config.texture, config.train.size)


def check_inputs(config: TrialConfig) -> dict[str, str]:
    """Check the texture, the weights and own classes of a config with resolved features; return their hashes.

    Raises:
        ConfigError: If one is missing or does not fit.
    """
    extractor = load_extractor(config.features, torch.device("cpu"), torch.float32)
    energy = float(GramLoss(extractor, load_texture(config.texture, config.train.size)).energy)
    if not 0 < energy < math.inf:
        if config.features.name != "vgg16":
            raise ConfigError("the texture is black, so that no loss is relative to it; give another one")
        raise ConfigError(
            f"features.weights={config.features.weights}: an image without features has the style loss "
            f"{energy:g}, which must be above 0 and finite; give the weights of a trained VGG-16"
        )
    check_custom_parts(config)
    return hash_inputs(config)


def _check_memory(config: TrialConfig, device: torch.device) -> None:
    found = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else host_memory_bytes()
    needed = min_memory_bytes(config)
    if needed > found:
        given = f"train.pool_size={n_pool_rows(config.train)}, batch_size={config.train.batch_size}"
        raise ConfigError(
            f"{given}, size={config.train.size}, max_ca_steps={config.train.max_ca_steps}: a run needs more "
            f"than {needed / 1e9:,.1f} GB of memory, and {device} has {found / 1e9:,.1f}; give smaller ones"
        )


def _check_writable(folder: Path) -> None:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        raise ConfigError(f"runs_dir={folder}: {existing} is not a folder")
    try:
        # Permissions do not suffice: even root cannot create a folder in /proc or on a read-only disk.
        tempfile.TemporaryDirectory(dir=existing).cleanup()
    except OSError as error:
        raise ConfigError(f"runs_dir={folder}: {existing} is not writable; give runs_dir=FOLDER") from error
