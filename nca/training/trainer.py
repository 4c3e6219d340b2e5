"""The training loop: an iterator of step records, with a state that checkpoints save."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

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

RESEED_EVERY = 8  # training steps between fresh seed states in the batch
DROP_DIVISOR = 3  # the learning rate drops after steps // 3, unless `train.drop_step` is set
LEARNING_RATE_DROP = 0.3
NORM_EPSILON = 1e-8
LOSS_WINDOW = 256  # training steps of the smoothed loss
# Training steps between fetches of losses, each a device-to-host sync; on the CPU a fetch is free.
FETCH_EVERY = {"cpu": 1, "cuda": 32}


class DivergedError(ArithmeticError):
    """The loss or a gradient was not finite; the model is the one before that step."""


@dataclass(frozen=True)
class StepRecord:
    """One finished training step.

    Args:
        step: Counted from 0.
        fetched: Losses since the last fetch, this step's last; empty if this step fetches none.
    """

    step: int
    fetched: list[float]


def drop_step(config: TrainConfig) -> int:
    """Return the step from which the learning rate is smaller."""
    return config.steps // DROP_DIVISOR if config.drop_step is None else config.drop_step


def smoothed_loss(losses: list[float]) -> float:
    """Return the median of the last 256 losses, or of all when there are fewer; NaN if any of them is."""
    return float(torch.tensor(losses[-LOSS_WINDOW:], dtype=torch.float64).quantile(0.5))


class Trainer:
    """Trains an automaton on a style loss.

    One training step, in the order of events:

        rows = pool.draw_rows(batch_size); states = pool.sample(rows)
        if step % 8 == 0: states[0] = pool.draw_seed_state()
        states = rollout(model, states, randint(max_ca_steps // 2, max_ca_steps))
        loss = style_loss(states[:, :3])
        loss.backward()
        for p in model.parameters(): p.grad /= p.grad.norm() + 1e-8
        adam.step()  # at 0.3 times the learning rate from step steps // 3 on
        pool.commit(rows, states)

    A run has diverged when a loss or a gradient is not finite. The host cannot stop it at once, as it fetches
    losses only every 32 steps on a GPU. So the device keeps a flag, `_diverged`, which is 1 from the first
    such step on and freezes the run: fused Adam skips its step (PyTorch calls the flag `found_inf`),
    `pool.commit` writes nothing, and `output` keeps its value. `_fetch` gets each step's flag with its loss,
    drops the losses whose flag is 1, and raises `DivergedError` with the first of them.

    Args:
        model: On the device of the pool.
        style_loss: Called with RGB in [0, 1].
        streams: Uses `ca_steps` and `masks`.

    Attributes:
        losses: Fetched losses of all steps so far.
        output: RGB of the last finite step's final states, on the device; at first, of seed states.

    Source: Niklasson et al. 2021, "Self-Organising Textures", whose notebook these eight lines follow.
    """

    output: Float[Tensor, "batch 3 height width"]

    def __init__(
        self, model: Automaton, pool: Pool, style_loss: StyleLoss, config: TrainConfig, streams: Streams
    ) -> None:
        self.model = model
        self.style_loss = style_loss
        self.losses: list[float] = []
        self._pool = pool
        self._config = config
        self._streams = streams
        fast = Rollout(recompute=config.recompute, max_ca_steps=config.max_ca_steps - 1)
        self._rollout = fast if config.rollout == "fast" else plain_rollout
        device = pool.states.device
        rate = config.learning_rate
        lr = torch.tensor(rate, device=device) if config.cuda_graph else rate  # a graph reads it from memory
        self._optimizer = torch.optim.Adam(
            model.parameters(), lr=lr, fused=device.type != "meta", capturable=device.type == "cuda"
        )
        self._diverged = torch.zeros((), device=device)
        if device.type != "meta":
            self._optimizer.found_inf = self._diverged  # type: ignore[attr-defined]
        # Per step since the last fetch: its loss, and the flag after it.
        self._pending = torch.zeros(2, FETCH_EVERY.get(device.type, 1), device=device)
        rows = [number % len(pool.states) for number in range(config.batch_size)]
        self.output = torch.stack([pool.states[row, :3] for row in rows])
        self._update: Callable[[State, int], tuple[State, Tensor]] = self._update_model
        masks = streams["masks"]
        if config.cuda_graph and masks is not None:
            self._update = StepGraphs(self._update_model, capture_on_cuda([masks]))

    @property
    def step(self) -> int:
        """The next training step, which is also the number of finished ones."""
        return len(self.losses)

    def steps(self) -> Iterator[StepRecord]:
        """Train the remaining steps; training stops when the caller stops iterating.

        Raises:
            DivergedError: If a loss or gradient is not finite; the model is the one before that step.
        """
        start, fetch_every = self.step, self._pending.shape[1]
        for step in range(start, self._config.steps):
            index = (step - start) % fetch_every
            self._pending[:, index] = torch.stack([self.train_step(step), self._diverged])
            is_due = index + 1 == fetch_every or step + 1 == self._config.steps
            yield StepRecord(step, self._fetch(index + 1) if is_due else [])

    def train_step(self, step: int) -> Float[Tensor, ""]:
        """Take one training step and return its loss on the device; no host sync."""
        rows = self._pool.draw_rows(self._config.batch_size)
        states = self._pool.sample(rows)
        if step % RESEED_EVERY == 0:
            states[:1] = self._pool.draw_seed_state()
        self._set_learning_rate(step)
        states, loss = self._update(states, self.draw_ca_steps())
        self._pool.commit(rows, states, keep=self._diverged == 0)
        return loss

    def draw_ca_steps(self) -> int:
        """Draw a rollout's length uniformly from max_ca_steps // 2 .. max_ca_steps - 1, on the host."""
        stop = self._config.max_ca_steps
        return int(torch.randint(stop // 2, stop, (), generator=self._streams["ca_steps"]))

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that the next step depends on, by name; they are shared, not copied."""
        model = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        streams = {f"streams.{k}": v for k, v in self._streams.state().items()}
        moments = {
            f"optimizer.{index}.{key}": value
            for index, entry in self._optimizer.state_dict()["state"].items()
            for key, value in entry.items()
        }
        losses = torch.tensor(self.losses, dtype=torch.float64)
        records = {"pool": self._pool.states, "output": self.output, "losses": losses}
        return model | streams | moments | records

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state that `state` returned, of the same config."""
        self.model.load_state_dict(_part(state, "model."))
        self._streams.load_state(_part(state, "streams."))
        self._pool.states.copy_(state["pool"])
        self.output.copy_(state["output"])
        self.losses = state["losses"].tolist()
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(state, "optimizer.").items():
            index, key = name.split(".")
            entries.setdefault(int(index), {})[key] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": entries, "param_groups": groups})

    def _set_learning_rate(self, step: int) -> None:
        drop = LEARNING_RATE_DROP if step >= drop_step(self._config) else 1.0
        (group,) = self._optimizer.param_groups
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(drop * self._config.learning_rate)
        else:
            group["lr"] = drop * self._config.learning_rate

    def _update_model(self, states: State, ca_steps: int) -> tuple[State, Float[Tensor, ""]]:
        """Take Adam's step for a batch of sampled states; return its final states and the loss.

        Every tensor that it changes stays at one memory address, for CUDA graphs.
        """
        states = self._rollout(self.model, states, ca_steps, self._streams["masks"])
        images = states[:, :3]
        self._optimizer.zero_grad()
        if self._config.recompute:
            loss, gradient = self.style_loss.loss_and_grad(images)
            images.backward(gradient)
        else:
            loss = self.style_loss(images)
            loss.backward()
        finite = self._normalize_gradients() & loss.detach().isfinite()
        self._diverged.copy_(torch.maximum(self._diverged, (~finite).float()))
        self._optimizer.step()

        final = states.detach()
        self.output.copy_(torch.where(self._diverged == 0, final[:, :3], self.output))
        return final, loss.detach()

    def _normalize_gradients(self) -> Bool[Tensor, ""]:
        """Divide each parameter's gradient by its own norm; return whether all norms are finite."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norms = torch.stack([gradient.norm() for gradient in gradients])
        for gradient, norm in zip(gradients, norms, strict=True):
            gradient.div_(norm + NORM_EPSILON)
        return norms.isfinite().all()

    def _fetch(self, n_pending: int) -> list[float]:
        """Append the pending losses to `losses` and return them.

        Raises:
            DivergedError: If one belongs to a diverged step; those before it are appended.
        """
        losses, flags = self._pending[:, :n_pending].tolist()  # device-to-host sync
        n_finished = n_pending - int(sum(flags))
        self.losses += losses[:n_finished]
        if n_finished < n_pending:
            raise DivergedError(
                f"loss {losses[n_finished]} or its gradient is not finite at step {self.step}; "
                "try a lower learning rate"
            )
        return list(losses)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
