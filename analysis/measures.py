"""How far rated outputs are from their target, by several measures, on the pictures that raters saw.

They tell which measure sees what a viewer sees: no loss of a training can, for each rule minimizes its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from analysis.runs import StudyTable
from nca.cli.progress import watch

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "measure_"  # of a column
VGG16 = "measure_gram_vgg16"
LABELS = {
    VGG16: "Gram matrices, VGG-16",
    "measure_gram_random_filters": "Gram matrices, random filters",
    "measure_sliced_patches": "sliced, patches",
    "measure_texture_distance": "texture distance",
    "distance_at_1000": "distance_at_1000 (three outputs)",
    "final_distance": "final_distance (the worse of two ages)",
}
N_DIRECTIONS = 64  # of the sliced distance, as conf/loss/sliced.yaml

Measure = Callable[["Tensor"], float]


def measure_outputs(table: StudyTable, weights: str | None = None) -> StudyTable:
    """Return a study with a column for each measure; a column that it has already stays.

    A measure is 0 for the target itself (the texture distance 0 or below), and NaN for an output that nobody
    has rated or that has no picture.

    Args:
        table: The study.
        weights: File of a VGG-16 state dict; without it Gram matrices of VGG-16 are left out.

    Raises:
        ConfigError: If the weights cannot be read.
    """
    target, rated = table.pictures.target(), table.trials.dropna(subset=["rating"])["trial"]
    wanted = {name for name in LABELS if name.startswith(PREFIX)} - set(table.trials.columns)
    if weights is None:
        wanted.discard(VGG16)
    if target is None or rated.empty or not wanted:
        return table
    measures = _make_measures(_to_tensor(target), weights if VGG16 in wanted else None)
    pictures = {trial: table.pictures.output(trial) for trial in rated}
    images = {trial: _to_tensor(each) for trial, each in pictures.items() if each is not None}
    values = {
        trial: {name: measures[name](image) for name in wanted}
        for trial, image in watch(images.items(), len(images), f"measuring the outputs of {table.name}")
    }
    columns = {
        name: table.trials["trial"].map({trial: each[name] for trial, each in values.items()})
        for name in LABELS
        if name in wanted
    }
    return replace(table, trials=table.trials.assign(**columns))


def _make_measures(target: Tensor, weights: str | None) -> dict[str, Measure]:
    import torch

    from nca.automaton.seeding import derive_seed
    from nca.config.schema import FeaturesConfig
    from nca.loss.distance import LEVELS, SIDE, UNSHARP, TextureDistance
    from nca.loss.features import RandomFilters, load_extractor
    from nca.loss.gram import GramLoss
    from nca.loss.patches import Patches
    from nca.loss.sliced import SlicedLoss
    from nca.loss.texture_loss import TextureLoss

    device, dtype = target.device, torch.float32
    sliced = SlicedLoss(Patches(SIDE, LEVELS, UNSHARP, device, dtype), target, N_DIRECTIONS, "l1")
    sliced.draw(torch.Generator().manual_seed(derive_seed(0, "measures")))
    found: dict[str, TextureLoss] = {
        "measure_gram_random_filters": GramLoss(RandomFilters(device, dtype), target),
        "measure_sliced_patches": sliced,
    }
    if weights is not None:
        vgg = load_extractor(FeaturesConfig("vgg16", weights=weights), device, dtype)
        found[VGG16] = GramLoss(vgg, target)
    distance = TextureDistance(target)

    def relative(loss: TextureLoss) -> Measure:
        def measure(image: Tensor) -> float:
            with torch.no_grad():
                return float(loss(image[None]) / loss.energy)

        return measure

    return {
        **{name: relative(loss) for name, loss in found.items()},
        "measure_texture_distance": lambda image: float(distance(image[None])[0]),
    }


def _to_tensor(picture: Image.Image) -> Tensor:
    import torch

    return torch.from_numpy(np.array(picture, np.float32) / 255).permute(2, 0, 1).contiguous()
