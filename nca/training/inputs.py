"""The hashes of a run's inputs; those of files do not import torch."""

from __future__ import annotations

from nca.config.schema import TrialConfig
from nca.loss.vgg_weights import hash_weights
from nca.textures.load import load_pixels, texture_hash


def hash_inputs(config: TrialConfig) -> dict[str, str]:
    """Return the hashes of the texture and the features of a config with resolved features.

    Imports torch if the features are random filters.

    Raises:
        ConfigError: If the texture is missing.
    """
    if config.features.name != "random_filters":
        return hash_files(config)
    from nca.loss.features import hash_filters

    return hash_files(config) | {"features.hash": hash_filters()}


def hash_files(config: TrialConfig) -> dict[str, str]:
    """Return those hashes of a config that depend on files; errors as for `hash_inputs`."""
    hashes = {"texture.hash": texture_hash(load_pixels(config.texture, config.train.size))}
    if config.features.name != "random_filters":
        hashes["features.hash"] = hash_weights(config.features)
    return hashes
