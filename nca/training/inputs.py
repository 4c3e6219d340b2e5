"""The hashes of a run's inputs; does not import torch."""

from __future__ import annotations

from nca.config.schema import TrialConfig
from nca.loss.vgg_weights import hash_weights
from nca.textures.load import load_pixels, texture_hash


def hash_inputs(config: TrialConfig) -> dict[str, str]:
    """Return the hashes of the texture and the weights of a config with resolved features.

    Raises:
        ConfigError: If the texture is missing.
    """
    texture = texture_hash(load_pixels(config.texture, config.train.size))
    return {"texture.hash": texture, "features.hash": hash_weights(config.features)}
