"""The reference program's recorded numbers: every key of srnca_golden.npz is met."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from nca.automaton.fast_rollout import Rollout
from nca.automaton.model import Automaton, plain_rollout
from nca.automaton.perception import make_kernels
from nca.automaton.rules import Srnca
from nca.automaton.seeding import Streams
from nca.config.schema import ModelConfig, TrainConfig
from nca.loss import features
from nca.loss.features import Vgg16
from nca.loss.gram import GramLoss, gram_matrix
from nca.training.pool import Pool
from nca.training.trainer import Trainer

GOLDEN = np.load(Path(__file__).with_name("srnca_golden.npz"))
CPU = torch.device("cpu")
ROLLOUTS: dict[str, Callable[..., torch.Tensor]] = {"plain": plain_rollout, "fast": Rollout()}
SEEN: set[str] = set()


def golden(key: str) -> torch.Tensor:
    SEEN.add(key)
    return torch.from_numpy(GOLDEN[key].copy())


def assert_close(ours: torch.Tensor, key: str, tolerance: float) -> None:
    reference = golden(key).double()
    error = (ours.detach().double() - reference).norm() / reference.norm()
    assert ours.shape == reference.shape
    assert error <= tolerance, f"{key}: relative Frobenius error {error:.2e}"


def automaton(prefix: str, n_filters: int, weights: tuple[str, str] = ("w0", "w1")) -> Srnca:
    kernels = make_kernels(n_filters, None)
    if n_filters == 6:
        kernels = torch.cat([kernels[:5], golden("step_f6/filters")[5:]])
    w0, w1 = (golden(f"{prefix}/{name}") for name in weights)
    config = ModelConfig(
        name="srnca",
        channels=len(w1),
        hidden_channels=len(w0),
        filters=n_filters,
        update_rate=1.0,
        mask="channel",
        clamp=True,
        seed_state="square",
        seed_noise=0.0,
    )
    return Srnca(config, kernels, w0, w1)


@pytest.fixture(scope="module", params=["winograd", "direct"])
def vgg(request: pytest.FixtureRequest) -> Vgg16:
    """Both ways of the deep layers, whichever is chosen on this machine."""
    weights = {key: golden(key) for key in GOLDEN.files if key.startswith("features.")}
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "direct":
            patch.setattr(features, "WINOGRAD_LAYERS", ())
        return Vgg16({key: tensor.float() for key, tensor in weights.items()}, CPU)


@pytest.mark.parametrize("name", ROLLOUTS)
@pytest.mark.parametrize("n_filters", [4, 5, 6])
def test_steps_and_gradients(n_filters: int, name: str) -> None:
    prefix = f"step_f{n_filters}"
    model = automaton(prefix, n_filters)
    assert torch.equal(model.kernels, golden(f"{prefix}/filters"))
    x0 = golden(f"{prefix}/x0")
    for n_steps in (1, 8):
        assert_close(ROLLOUTS[name](model, x0, n_steps, None), f"{prefix}/x{n_steps}", 1e-5)
    x0.requires_grad_()
    (ROLLOUTS[name](model, x0, 4, None) ** 2).sum().backward()
    for gradient, key in ((model.w0.grad, "w0"), (model.w1.grad, "w1"), (x0.grad, "x0")):
        assert gradient is not None
        assert_close(gradient, f"{prefix}/grad4_{key}", 1e-5)


@pytest.mark.parametrize("name", ROLLOUTS)
def test_masked_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = automaton("masked", 4)
    mask = golden("masked/mask").to(torch.int8)
    monkeypatch.setattr(Automaton, "draw_mask", lambda *_: mask)
    assert_close(ROLLOUTS[name](model, golden("masked/x0"), 1, None), "masked/x1", 1e-5)


def test_gram_matrices_and_style_loss(vgg: Vgg16) -> None:
    images = {name: golden(f"gram/{name}") for name in "ab"}
    for name, image in images.items():
        for layer, found in enumerate(vgg(image)):
            assert_close(gram_matrix(found), f"gram/{name}{layer}", 1e-5)
    loss = GramLoss(vgg, images["b"][0])(images["a"])
    assert_close(loss, "gram/loss", 1e-5)


class ReplayedPool(Pool):
    """A pool whose rows and fresh seeds are the recorded ones."""

    def __init__(self, model: Automaton) -> None:
        super().__init__(128, model, 48, Streams(0, CPU))
        self.states[golden("train/pool_used")] = golden("train/pool")
        self._rows = iter(golden("train/batch_index").tolist())
        self._seeds: Iterator[torch.Tensor] = iter(golden("train/seeds"))

    def draw_rows(self, batch_size: int) -> list[int]:
        return next(self._rows)

    def draw_seed_state(self) -> torch.Tensor:
        return next(self._seeds)[None]


class ReplayedTrainer(Trainer):
    """A trainer whose rollouts have the recorded lengths."""

    def draw_ca_steps(self) -> int:
        return int(golden("train/ca_steps")[self.step])


@pytest.mark.parametrize("name", ROLLOUTS)
def test_training_trajectory(name: Literal["plain", "fast"], vgg: Vgg16) -> None:
    size, batch_size, steps, max_ca_steps, learning_rate = golden("train/meta").tolist()
    config = TrainConfig(
        steps=int(steps),
        batch_size=int(batch_size),
        optimizer="adam",
        learning_rate=learning_rate,
        warmup_steps=0,
        drop_steps=None,
        min_ca_steps=None,
        max_ca_steps=int(max_ca_steps),
        size=int(size),
        pool_size=None,
        reseed_every=8,
        damage_every=None,
        precision="fp32",
        rollout=name,
        recompute=False,
        cuda_graph=False,
        overflow_weight=0.0,
        gradient_per_ca_step=False,
        keep="last",
        checkpoint_every=64,
        checkpoint_every_s=60.0,
        keep_checkpoint=False,
    )
    model = automaton("train", 5, ("w0_init", "w1_init"))
    loss = GramLoss(vgg, golden("train/target")[0])
    trainer = ReplayedTrainer(model, ReplayedPool(model), loss, config, Streams(0, CPU))
    records = list(trainer.steps())
    assert [record.step for record in records] == list(range(24))
    reference = golden("train/losses")
    relative = (torch.tensor(trainer.losses, dtype=torch.float64) - reference).abs() / reference
    assert relative.max() <= 1e-4
    assert_close(model.w0, "train/w0_final", 1e-4)
    assert_close(model.w1, "train/w1_final", 1e-4)


def test_every_key_is_met(vgg: Vgg16, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing recorded is left out by the tests above."""
    SEEN.clear()
    SEEN.update(key for key in GOLDEN.files if key.startswith("features."))
    for n_filters in (4, 5, 6):
        test_steps_and_gradients(n_filters, "fast")
    test_gram_matrices_and_style_loss(vgg)
    test_training_trajectory("fast", vgg)
    test_masked_step("fast", monkeypatch)
    assert set(GOLDEN.files) == SEEN
