"""The loss of a config."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from nca.config.custom_class import custom_code, is_custom, load_class
from nca.config.schema import LossConfig
from nca.loss.features import FeatureExtractor
from nca.loss.gram import GramLoss
from nca.loss.sliced import SlicedLoss
from nca.loss.texture_loss import TextureLoss


def make_loss(
    config: LossConfig, extractor: FeatureExtractor, target: Float[Tensor, "3 height width"]
) -> TextureLoss:
    """Return the loss of a config.

    Raises:
        CustomClassError: If it is a class of a user's own that cannot be imported or made.
    """
    if is_custom(config.name):
        with custom_code("loss", config.name):
            loss: Any = load_class("loss", config.name, TextureLoss)
            own: TextureLoss = loss(extractor, target, **(config.options or {}))
            return own
    if config.name == "gram":
        return GramLoss(extractor, target)
    assert config.directions is not None
    assert config.norm is not None
    return SlicedLoss(extractor, target, config.directions, config.norm)
