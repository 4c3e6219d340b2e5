"""The hashes of a run's inputs; those of files do not import torch."""

from __future__ import annotations

from nca.config.custom_class import find_source
from nca.config.schema import TrialConfig, custom_classes
from nca.loss.vgg_weights import hash_file, hash_weights
from nca.textures.load import load_pixels, texture_hash


def hash_inputs(config: TrialConfig) -> dict[str, str]:
    """Return the hashes of the texture and the features of a config with resolved features.

    Imports torch unless the features are VGG-16's.

    Raises:
        ConfigError: If the texture is missing.
    """
    hashes = hash_files(config)
    if config.features.name == "random_filters":
        from nca.loss.features import hash_filters

        hashes["features.hash"] = hash_filters()
    if config.features.name == "patches":
        from nca.loss.patches import hash_pyramid

        hashes["features.hash"] = hash_pyramid()
    return hashes


def hash_files(config: TrialConfig) -> dict[str, str]:
    """Return those hashes of a config that depend on files; errors as for `hash_inputs`."""
    hashes = {"texture.hash": texture_hash(load_pixels(config.texture, config.train.size))}
    if config.features.name == "vgg16":
        hashes["features.hash"] = hash_weights(config.features)
    return hashes | hash_custom_classes(config)


def hash_custom_classes(config: TrialConfig) -> dict[str, str]:
    """Return the hashes of the files that a config's own classes are imported from, and not of their imports.

    Raises:
        CustomClassError: If one is missing.
    """
    own = custom_classes(config)
    return {f"{group}.hash": hash_file(find_source(group, name)) for group, name in own.items()}
