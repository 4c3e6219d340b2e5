"""The training loop that the published programs share, and what is different in each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.published.losses import Loss, make_relaxed, make_sinkhorn, make_sliced
from benchmarks.published.rules import Munca, Relu, make_google, make_noisenca, to_rgb

POOL_ROWS, BATCH_SIZE, RESEED_EVERY = 256, 4, 8
LEARNING_RATE = 1e-3
NORM_EPSILON = 1e-8


@dataclass(frozen=True)
class Recipe:
    """What is different between the programs.

    Args:
        make_rule: Returns the rule with its first weights.
        make_loss: Returns the texture loss of a target, with VGG-16's weights.
        steps: Training steps as published.
        drop_steps: From these on, the learning rate is multiplied by `drop`.
        drop: See above.
        min_ca_steps: Of a rollout.
        max_ca_steps: A rollout takes fewer CA steps than this.
        overflow: The penalty of what is outside [-1, 1], summed over a state: its weight and its power.
        normalize: Whether each sample's gradient is divided by its norm at every CA step.
    """

    make_rule: Callable[[torch.Generator], Relu | Munca]
    make_loss: Callable[[Tensor, Mapping[str, Tensor]], Loss]
    steps: int
    drop_steps: tuple[int, int]
    drop: float
    min_ca_steps: int
    max_ca_steps: int
    overflow: tuple[float, int]
    normalize: bool = False


RECIPES = {
    "Google's notebook": Recipe(make_google, make_sliced, 5000, (1000, 2000), 0.3, 32, 96, (1.0, 1)),
    "NoiseNCA": Recipe(make_noisenca, make_relaxed, 4000, (1000, 2000), 0.5, 32, 128, (10.0, 1)),
    "muNCA": Recipe(Munca, make_sinkhorn, 10000, (1000, 4000), 0.3, 32, 128, (1.0, 2), normalize=True),
}


def normalize(grad: Tensor) -> Tensor:
    """Return a gradient divided by its norm, of each sample of the batch on its own."""
    return F.normalize(grad.flatten(1)).view_as(grad)


class PublishedTrainer:
    """Trains as a published program does; see `train_step`.

    Args:
        recipe: The program.
        target: RGB in [0, 1], (3, size, size).
        weights: VGG-16's.
        seed: Of everything that is drawn.
        pool_rows: Rows of the pool.
    """

    def __init__(
        self,
        recipe: Recipe,
        target: Tensor,
        weights: Mapping[str, Tensor],
        seed: int = 0,
        pool_rows: int = POOL_ROWS,
    ) -> None:
        self.recipe, self.step = recipe, 0
        self._generator = torch.Generator().manual_seed(seed)
        self.rule = recipe.make_rule(self._generator)
        self._loss = recipe.make_loss(target, weights)
        self._size = target.shape[-1]
        self.pool = self.rule.draw_seeds(pool_rows, self._size, self._generator)
        self._optimizer = torch.optim.Adam(self.rule.parameters(), lr=LEARNING_RATE)

    def train_step(self) -> float:
        """Take one training step and return its texture loss.

        Raises:
            ArithmeticError: If the loss is not finite.
        """
        recipe, random = self.recipe, self._generator
        rows = torch.randperm(len(self.pool), generator=random)[:BATCH_SIZE]
        state = self.pool[rows]
        if self.step % RESEED_EVERY == 0:
            state[:1] = self.rule.draw_seeds(1, self._size, random)
        for _ in range(int(torch.randint(recipe.min_ca_steps, recipe.max_ca_steps, (), generator=random))):
            state = self.rule(state, random)
            if recipe.normalize:
                state.register_hook(normalize)
        weight, power = recipe.overflow
        overflow = (state - state.clamp(-1, 1)).abs().pow(power).sum()
        loss = self._loss(to_rgb(state), random)
        self._optimizer.zero_grad()
        (loss + weight * overflow).backward()
        if not loss.isfinite():
            raise ArithmeticError(f"the loss of step {self.step} is not finite")
        (group,) = self._optimizer.param_groups
        group["lr"] = LEARNING_RATE * recipe.drop ** sum(self.step >= each for each in recipe.drop_steps)
        for parameter in group["params"]:
            parameter.grad /= parameter.grad.norm() + NORM_EPSILON
        self._optimizer.step()
        self.pool[rows] = state.detach()
        self.step += 1
        return float(loss.detach())

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that the next step depends on, by name; they are shared, not copied."""
        moments = {
            f"optimizer.{index}.{key}": value
            for index, entry in self._optimizer.state_dict()["state"].items()
            for key, value in entry.items()
        }
        rule = {f"rule.{name}": tensor for name, tensor in self.rule.state_dict().items()}
        others = {"step": torch.tensor(self.step), "generator": self._generator.get_state()}
        return moments | rule | others | {"pool": self.pool}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state that `state` returned, of the same recipe and size."""
        self.step = int(state["step"])
        self._generator.set_state(state["generator"])
        self.pool.copy_(state["pool"])
        self.rule.load_state_dict({name: state[f"rule.{name}"] for name in self.rule.state_dict()})
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                entries.setdefault(int(index), {})[key] = value.clone()
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": entries, "param_groups": groups})
