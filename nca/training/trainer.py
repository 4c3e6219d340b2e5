"""The training loop: an iterator of step records, whose state is what a checkpoint holds."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nca.automaton.fast_rollout import Rollout
from nca.automaton.model import Automaton, State, plain_rollout
from nca.automaton.seeding import Streams
from nca.config.schema import TrainConfig
from nca.loss.style import StyleLoss
from nca.training.cuda_graphs import StepGraphs, capture_on_cuda
from nca.training.pool import Pool

__all__ = ["DivergedError", "StepRecord", "Trainer", "TrainerState", "smoothed_loss"]

RESEED_EVERY = 8  # training steps between fresh seed states in the batch
MILESTONE = 3  # the learning rate drops after steps // 3, if nothing else is asked for
LEARNING_RATE_DROP = 0.3
NORM_EPSILON = 1e-8
LOSS_WINDOW = 256  # training steps of the smoothed loss
# Losses are fetched once per block: a device-to-host sync each. On the CPU a fetch is free.
LOSS_BLOCK = {"cpu": 1}
LOSS_BLOCK_ELSEWHERE = 32


class DivergedError(ArithmeticError):
    """The loss or a gradient was not finite; the model is as it was before that step.

    Args:
        step: The training step.
        loss: What it was.
    """

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(
            f"loss {loss} or its gradient is not finite at step {step}; try a lower learning rate"
        )
        self.step = step


@dataclass(frozen=True)
class StepRecord:
    """One finished training step.

    Args:
        step: From 0.
        fetched: Losses that reached the host with this step, the last being this step's; empty between
            fetches.
    """

    step: int
    fetched: list[float]


@dataclass(frozen=True)
class TrainerState:
    """What a checkpoint holds: tensors by name, and plain values for JSON."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def drop_step(config: TrainConfig) -> int:
    """Return the step from which the learning rate is smaller."""
    return config.steps // MILESTONE if config.drop_step is None else config.drop_step


def smoothed_loss(losses: list[float]) -> float:
    """Return the median of the last 256 losses, or of all when there are fewer; NaN if any of them is."""
    return float(torch.tensor(losses[-LOSS_WINDOW:], dtype=torch.float64).quantile(0.5))


class Trainer:
    """Trains an automaton on a style loss, in the order of events of the study's program.

    Args:
        model: On the device of the pool.
        pool: Its rows are sampled and committed.
        style_loss: Called with RGB in [0, 1].
        config: Steps, batch size, learning rate, CA steps, rollout.
        streams: Uses `ca_steps` and `masks`.
    """

    def __init__(
        self, model: Automaton, pool: Pool, style_loss: StyleLoss, config: TrainConfig, streams: Streams
    ) -> None:
        self.model = model
        self.losses: list[float] = []
        self._pool = pool
        self.style_loss = style_loss
        self._config = config
        self._streams = streams
        fast = config.rollout == "fast"
        rollout = Rollout(recompute=config.recompute, most_ca_steps=config.max_ca_steps - 1)
        self._rollout = rollout if fast else plain_rollout
        device = pool.states.device
        learning_rate: float | Tensor = config.learning_rate
        if config.cuda_graph:  # a graph reads it from memory
            learning_rate = torch.tensor(learning_rate, device=device)
        self._optimizer = torch.optim.Adam(
            model.parameters(),
            lr=learning_rate,
            fused=device.type != "meta",
            capturable=device.type == "cuda",
        )
        self._scheduler = torch.optim.lr_scheduler.MultiStepLR(
            self._optimizer, milestones=[drop_step(config)], gamma=LEARNING_RATE_DROP
        )
        self._diverged = torch.zeros((), device=device)
        self._n_skipped = torch.zeros((), device=device)  # steps from the first diverged one on
        if device.type != "meta":  # fused Adam skips where 1
            self._optimizer.found_inf = self._diverged  # type: ignore[attr-defined]
        self._block = torch.zeros(LOSS_BLOCK.get(device.type, LOSS_BLOCK_ELSEWHERE), device=device)
        rows = [number % len(pool.states) for number in range(config.batch_size)]
        self._output = torch.stack([pool.states[row, :3] for row in rows])
        self._step: Callable[[State, int], tuple[State, Tensor]] = self._step_from
        masks = streams["masks"]
        if config.cuda_graph and masks is not None:
            self._step = StepGraphs(self._step_from, capture_on_cuda([masks]))

    @property
    def step(self) -> int:
        """The next training step, which is also the number of finished ones."""
        return len(self.losses)

    @property
    def target_energy(self) -> float:
        """The target's own Gram energy: what an image without any features would lose."""
        return float(self.style_loss.energy)

    @property
    def output(self) -> Float[Tensor, "batch 3 height width"]:
        """RGB of the last finite step's final states, on the device; a seed before the first step."""
        return self._output

    def steps(self) -> Iterator[StepRecord]:
        """Train the remaining steps; stopping is not asking for the next record.

        Raises:
            DivergedError: Where a loss or gradient is not finite, before the optimizer's step.
        """
        start = self.step
        for step in range(start, self._config.steps):
            pending = (step - start) % len(self._block)
            self._block[pending] = self.train_step(step)
            fetched: list[float] = []
            if pending + 1 == len(self._block) or step + 1 == self._config.steps:
                fetched = self._fetch(pending + 1)
            yield StepRecord(step, fetched)

    def train_step(self, step: int) -> Float[Tensor, ""]:
        """Take one training step and return its loss on the device; no host sync.

        Once a loss or gradient is not finite, neither the weights nor the pool change any more.
        """
        rows = self._pool.draw_rows(self._config.batch_size)
        states = self._pool.sample(rows)
        if step % RESEED_EVERY == 0:
            states[:1] = self._pool.draw_seed()
        final, loss = self._step(states, self.draw_ca_steps())
        self._scheduler.step()
        self._pool.commit(rows, final, keep=self._diverged == 0)
        return loss

    def _step_from(self, states: State, ca_steps: int) -> tuple[State, Float[Tensor, ""]]:
        """Take a training step from sampled states; return the final ones and the loss.

        What it changes stays where it is in memory: the step may be a CUDA graph.
        """
        states = self._rollout(self.model, states, ca_steps, self._streams["masks"])
        images = states[:, :3]
        self._optimizer.zero_grad()
        if self._config.recompute:
            loss, gradient = self.style_loss.by_image(images)
            images.backward(gradient)
        else:
            loss = self.style_loss(images)
            loss.backward()
        finite = self._normalize_gradients() & loss.detach().isfinite()
        self._diverged.copy_(torch.maximum(self._diverged, (~finite).float()))
        self._n_skipped.add_(self._diverged)
        self._optimizer.step()

        final = states.detach()
        self._output.copy_(torch.where(self._diverged == 0, final[:, :3], self._output))
        return final, loss.detach()

    def draw_ca_steps(self) -> int:
        """Draw a rollout's length uniformly from max_ca_steps // 2 .. max_ca_steps - 1, on the host."""
        most = self._config.max_ca_steps
        return int(torch.randint(most // 2, most, (), generator=self._streams["ca_steps"]))

    def state(self) -> TrainerState:
        """Return everything the next step depends on; tensors are shared, not copied."""
        model = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        streams = {f"streams.{k}": v for k, v in self._streams.state().items()}
        moments = {
            f"optimizer.{index}.{key}": value
            for index, entry in self._optimizer.state_dict()["state"].items()
            for key, value in entry.items()
        }
        records = {
            "pool": self._pool.states,
            "output": self._output,
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }
        return TrainerState(
            model | streams | moments | records, {"scheduler": self._scheduler.state_dict()["last_epoch"]}
        )

    def load_state(self, state: TrainerState) -> None:
        """Continue from a state that `state` returned, of the same config."""
        self.model.load_state_dict(_part(state.tensors, "model."))
        self._streams.load_state(_part(state.tensors, "streams."))
        self._pool.states.copy_(state.tensors["pool"])
        self._output.copy_(state.tensors["output"])
        self.losses = state.tensors["losses"].tolist()
        with warnings.catch_warnings():  # torch misses the optimizer's steps: they come with its state
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            for _ in range(state.values["scheduler"]):
                self._scheduler.step()
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(state.tensors, "optimizer.").items():
            index, key = name.split(".")
            entries.setdefault(int(index), {})[key] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": entries, "param_groups": groups})

    def _normalize_gradients(self) -> Bool[Tensor, ""]:
        """Divide each parameter's gradient by its own norm; return whether all norms are finite."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norms = torch.stack([gradient.norm() for gradient in gradients])
        for gradient, norm in zip(gradients, norms, strict=True):
            gradient.div_(norm + NORM_EPSILON)
        return norms.isfinite().all()

    def _fetch(self, n_pending: int) -> list[float]:
        losses: list[float] = self._block[:n_pending].tolist()  # device-to-host sync
        n_finished = n_pending - int(self._n_skipped)  # device-to-host sync
        self.losses += losses[:n_finished]
        if n_finished < n_pending:
            raise DivergedError(self.step, losses[n_finished])
        return losses


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
