"""The timed configurations, with our trainers and those of the reference program's algorithm.

The reference program has the rule srnca alone; the baseline of the other rules is plain autograd: the plain
rollout, and for the sliced loss that of `benchmarks.reference`.

VGG-16 has seeded random weights: its cost does not depend on their values.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Literal

import torch

from benchmarks import reference
from nca.automaton.model import Automaton, draw_squares
from nca.automaton.rules import Munca, Srnca, make_automaton
from nca.automaton.seeding import Streams
from nca.config.schema import ModelConfig, TrainConfig
from nca.loss.features import CONVOLUTIONS, Vgg16
from nca.loss.gram import GramLoss
from nca.loss.patches import Patches
from nca.loss.sliced import SlicedLoss, draw_directions
from nca.loss.texture_loss import TextureLoss
from nca.training.pool import Pool
from nca.training.trainer import Trainer

CPU = torch.device("cpu")
SIZE_PX = 128
UPDATE_RATE = 0.559994317  # of set 5
LEARNING_RATE = 1e-5
N_STEPS = 16384
SEED_NOISE = 0.2  # of the other rules
PATCH_SIDE, LEVELS, UNSHARP = 5, 4, 1.0  # conf/features/patches.yaml
DIRECTIONS = 64  # conf/loss/sliced.yaml
SMALL_POOL = 8  # rows, for measurements that do not concern the pool
Precision = Literal["fp32", "tf32", "bf16"]
WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512)  # of VGG-16's convolutions up to relu5_1


@dataclass(frozen=True)
class Case:
    """One configuration of the hyperparameters; munca has no hidden channels and no number of filters.

    The loss `gram` is that of VGG-16, `sliced` that of patches.
    """

    name: str
    channels: int
    hidden_channels: int
    max_ca_steps: int
    batch_size: int
    filters: int
    rule: Literal["srnca", "distill", "munca"] = "srnca"
    update_rate: float = UPDATE_RATE
    size_px: int = SIZE_PX
    loss: Literal["gram", "sliced"] = "gram"

    @property
    def ca_steps(self) -> int:
        """CA steps of a timed rollout: the mean of the drawn lengths, rounded up."""
        return -(-3 * self.max_ca_steps // 4)

    @property
    def sizes(self) -> str:
        """The sizes in the study's notation."""
        parts = (self.channels, self.hidden_channels, self.max_ca_steps, self.batch_size, self.filters)
        return "-".join(map(str, parts))


SET_5 = Case("set 5", 15, 96, 40, 2, 4)
SIX = (
    SET_5,
    Case("set 8", 6, 32, 40, 2, 6),
    Case("smallest", 6, 16, 20, 2, 4),
    Case("largest", 15, 96, 40, 4, 6),
    Case("third", 9, 64, 30, 2, 5),
    Case("fourth", 12, 32, 40, 4, 4),
)
DISTILL = Case("distill", 12, 48, 58, 2, 4, rule="distill", update_rate=1.0, size_px=64, loss="sliced")
DISTILL_HALF = dataclasses.replace(DISTILL, name="distill, update rate 0.5", update_rate=0.5)  # as published
MUNCA = Case("munca", 12, 0, 58, 2, 0, rule="munca", update_rate=1.0, size_px=64, loss="sliced")


class FixedTrainer(Trainer):
    """A trainer whose rollouts all have the same length."""

    ca_steps = 0

    def draw_ca_steps(self) -> int:
        """Return `ca_steps`."""
        return self.ca_steps


class PlainSlicedLoss(TextureLoss):
    """The sliced loss of `benchmarks.reference`, along the directions that `SlicedLoss` draws."""

    def __init__(self, target: torch.Tensor) -> None:
        self._target = self._extract(target[None])
        self.draw(torch.Generator().manual_seed(0))
        self.energy = reference.sliced_loss(
            [torch.zeros_like(level) for level in self._target], self._target, self._directions
        )

    def draw(self, generator: torch.Generator | None) -> None:
        """Draw directions from a generator on the host."""
        self._directions = [
            draw_directions(DIRECTIONS, level.shape[1], generator).to(level.device) for level in self._target
        ]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the mean distance of images from the target."""
        return reference.sliced_loss(self._extract(images), self._target, self._directions)

    def _extract(self, images: torch.Tensor) -> list[torch.Tensor]:
        return reference.extract_patches(images, PATCH_SIDE, LEVELS, UNSHARP)


def make_loss(case: Case, target: torch.Tensor, dtype: torch.dtype, *, plain: bool) -> TextureLoss:
    """Return the loss of a case; `plain` is for the sliced one."""
    if case.loss == "gram":
        return GramLoss(Vgg16(vgg_weights(), target.device, dtype), target)
    if plain:
        return PlainSlicedLoss(target)
    patches = Patches(PATCH_SIDE, LEVELS, UNSHARP, target.device, dtype)
    return SlicedLoss(patches, target, DIRECTIONS, "l1")


@functools.cache
def vgg_weights() -> dict[str, torch.Tensor]:
    """Return weights of full width under which features keep their magnitude from layer to layer."""
    random = torch.Generator().manual_seed(0)
    weights: dict[str, torch.Tensor] = {}
    n_inputs = 3
    for index, width in zip(CONVOLUTIONS, WIDTHS, strict=True):
        scale = (2 / (9 * n_inputs)) ** 0.5
        weights[f"features.{index}.weight"] = torch.randn(width, n_inputs, 3, 3, generator=random).mul_(scale)
        weights[f"features.{index}.bias"] = torch.zeros(width)
        n_inputs = width
    return weights


def make_model(case: Case, streams: Streams) -> Automaton:
    """Return a model whose states change slightly per CA step, as in training."""
    is_srnca = case.rule == "srnca"
    config = ModelConfig(
        name=case.rule,
        channels=case.channels,
        hidden_channels=case.hidden_channels or None,
        filters=case.filters or None,
        update_rate=case.update_rate,
        mask="channel" if is_srnca else "cell",
        clamp=is_srnca,
        seed_state="square" if is_srnca else "noise",
        seed_noise=0.0 if is_srnca else SEED_NOISE,
    )
    model = make_automaton(config, streams)
    if not isinstance(model, Munca):  # whose weights are of that size already
        with torch.no_grad():
            model.get_parameter("w1").normal_(0, 1e-3, generator=streams["weights"])
    return model


def make_ours(
    case: Case,
    precision: Precision = "fp32",
    *,
    device: torch.device = CPU,
    size: int | None = None,
    pool_rows: int = SMALL_POOL,
    **options: bool,
) -> FixedTrainer:
    """Return our trainer.

    Args:
        case: The configuration.
        precision: Of the features.
        device: Device of the training.
        size: In pixels, instead of the case's.
        pool_rows: Rows of the pool.
        options: `recompute`, `cuda_graph`, and `plain`: the rollout and the sliced loss by autograd.
    """
    streams, plain = Streams(0, device), options.get("plain", False)
    size = size or case.size_px
    config = TrainConfig(
        steps=N_STEPS,
        batch_size=case.batch_size,
        optimizer="adam" if case.rule == "srnca" else "soap",
        learning_rate=LEARNING_RATE,
        warmup_steps=0,
        drop_steps=None,
        min_ca_steps=None,
        max_ca_steps=case.max_ca_steps,
        size=size,
        pool_size=pool_rows,
        reseed_every=8,
        damage_every=None,
        precision=precision,
        rollout="plain" if plain else "fast",
        recompute=options.get("recompute", False),
        cuda_graph=options.get("cuda_graph", False),
        overflow_weight=0.0 if case.rule == "srnca" else 1.0,
        gradient_per_ca_step=case.rule != "srnca",
        keep="last",
        checkpoint_every=N_STEPS,
        checkpoint_every_s=0.0,
        keep_checkpoint=False,
    )
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    target = torch.rand(3, size, size, generator=streams["weights"]).to(device)
    loss = make_loss(case, target, dtype, plain=plain)
    model = make_model(case, streams).to(device)
    pool = Pool(pool_rows, model, size, streams)
    trainer = FixedTrainer(model, pool, loss, config, streams)
    trainer.ca_steps = case.ca_steps
    return trainer


def reference_parameters(case: Case, device: torch.device = CPU) -> dict[str, torch.Tensor]:
    """Return a model of the rule srnca in the form that the transcription takes."""
    model = make_model(case, Streams(0, CPU)).to(device)
    assert isinstance(model, Srnca)
    return {"filters": model.kernels, "w0": model.w0.detach(), "w1": model.w1.detach()}


def make_reference(
    case: Case, pool_rows: int = SMALL_POOL, device: torch.device = CPU
) -> reference.ReferenceTrainer:
    """Return a trainer of the reference program's algorithm."""
    random = torch.Generator().manual_seed(0)
    vgg = reference.make_vgg(vgg_weights()).to(device)
    target = torch.rand(1, 3, case.size_px, case.size_px, generator=random).to(device)
    pool = draw_squares((pool_rows, case.channels, case.size_px, case.size_px), random, CPU).to(device)
    loss = functools.partial(reference.style_loss, target=target, vgg=vgg)
    return reference.ReferenceTrainer(
        reference_parameters(case, device), pool, loss, (LEARNING_RATE, N_STEPS), case.update_rate
    )
