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
from nca.loss.texture_loss import TextureLoss
from nca.training.cuda_graphs import StepGraphs, capture_on_cuda
from nca.training.pool import Pool
from nca.training.soap import Soap

DROP_DIVISOR = 3  # the learning rate drops after steps // 3, unless `train.drop_steps` are given
LEARNING_RATE_DROP = 0.3
NORM_EPSILON = 1e-8
LOSS_WINDOW = 256  # training steps of the smoothed loss
# Training steps between fetches of losses, each a device-to-host sync; on the CPU a fetch is free.
FETCH_EVERY = {"cpu": 1, "cuda": 32}


def overflow(states: State) -> Float[Tensor, ""]:
    """Return how far states are outside [-1, 1], summed over all values of the batch."""
    return (states - states.clamp(-1.0, 1.0)).abs().sum()


def make_optimizer(model: Automaton, config: TrainConfig, diverged: Tensor) -> torch.optim.Optimizer:
    """Return the optimizer of all weights, which changes none of them while `diverged` is not 0."""
    device, lr = diverged.device, config.learning_rate
    rate = torch.tensor(lr, device=device) if config.cuda_graph else lr  # a graph reads it from memory
    if config.optimizer == "soap":
        return Soap(model.parameters(), lr=rate, found_inf=diverged)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=rate, fused=device.type != "meta", capturable=device.type == "cuda"
    )
    if device.type != "meta":
        optimizer.found_inf = diverged  # type: ignore[attr-defined]
    return optimizer


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


def drop_steps(config: TrainConfig) -> list[int]:
    """Return the steps from which the learning rate is smaller."""
    return [config.steps // DROP_DIVISOR] if config.drop_steps is None else config.drop_steps


def smoothed_loss(losses: list[float]) -> float:
    """Return the median of the last 256 losses, or of all when there are fewer; NaN if any of them is."""
    return float(torch.tensor(losses[-LOSS_WINDOW:], dtype=torch.float64).quantile(0.5))


class Trainer:
    """Trains an automaton on the loss of its textures.

    One training step, in the order of events:

        rows = pool.draw_rows(batch_size); states = pool.sample(rows)
        if step % reseed_every == 0: states[0] = pool.draw_seed_state()
        if step % damage_every == 0: states[-1] = pool.damage(states[-1])
        states = rollout(model, states, randint(min_ca_steps, max_ca_steps))
        loss = texture_loss(model.rgb(states)) + overflow_weight * overflow(states)
        loss.backward()  # with gradient_per_ca_step, each sample's gradient has norm 1 at every CA step
        for p in model.parameters(): p.grad /= p.grad.norm() + 1e-8
        optimizer.step()  # the rate rises over warmup_steps, and is times 0.3 from each of drop_steps on
        pool.commit(rows, states)

    A run has diverged when a loss or a gradient is not finite. The host cannot stop it at once, as it fetches
    losses only every 32 steps on a GPU. So the device keeps a flag, `_diverged`, which is 1 from the first
    such step on and freezes the run: the optimizer changes nothing (PyTorch calls the flag `found_inf`),
    `pool.commit` writes nothing, and `output` keeps its value. `_fetch` gets each step's flag with its loss,
    drops the losses whose flag is 1, and raises `DivergedError` with the first of them.

    Args:
        model: On the device of the pool.
        texture_loss: Called with RGB in [0, 1].
        streams: Uses `ca_steps`, `masks` and `directions`.

    Attributes:
        losses: Fetched texture losses of all steps so far, without the overflow.
        output: RGB of the last finite step's final states, on the device; at first, of seed states.

    Source: Niklasson et al. 2021, "Self-Organising Textures", whose notebook these lines follow; damage is
    from Mordvintsev et al. 2020, "Growing Neural Cellular Automata", experiment 3.
    """

    output: Float[Tensor, "batch 3 height width"]

    def __init__(
        self, model: Automaton, pool: Pool, texture_loss: TextureLoss, config: TrainConfig, streams: Streams
    ) -> None:
        self.model = model
        self.texture_loss = texture_loss
        self.losses: list[float] = []
        self._pool = pool
        self._config = config
        self._streams = streams
        fast = Rollout(recompute=config.recompute, max_ca_steps=config.max_ca_steps - 1)
        self._rollout = fast if config.rollout == "fast" else plain_rollout
        device = pool.states.device
        self._diverged = torch.zeros((), device=device)
        self._optimizer = make_optimizer(model, config, self._diverged)
        # Per step since the last fetch: its loss, and the flag after it.
        self._pending = torch.zeros(2, FETCH_EVERY.get(device.type, 1), device=device)
        rows = [number % len(pool.states) for number in range(config.batch_size)]
        self.output = model.rgb(torch.stack([pool.states[row] for row in rows])).clone()
        self._best: dict[str, Tensor] = {}
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
        if step % self._config.reseed_every == 0:
            states[:1] = self._pool.draw_seed_state()
        if self._config.damage_every is not None and step % self._config.damage_every == 0:
            states[-1:] = self._pool.damage(states[-1:])
        self._set_learning_rate(step)
        self.texture_loss.draw(self._streams["directions"])
        states, loss = self._update(states, self.draw_ca_steps())
        self._pool.commit(rows, states, keep=self._diverged == 0)
        return loss

    def draw_ca_steps(self) -> int:
        """Draw a rollout's length uniformly from min_ca_steps .. max_ca_steps - 1, on the host."""
        start, stop = self._config.min_ca_steps, self._config.max_ca_steps
        first = stop // 2 if start is None else start
        return int(torch.randint(first, stop, (), generator=self._streams["ca_steps"]))

    def keep_best(self, distance: float) -> None:
        """Keep a copy of the model if its distance is less than those of all models before."""
        if not self._best or distance < float(self._best["distance"]):
            weights = {f"model.{name}": tensor.clone() for name, tensor in self.model.state_dict().items()}
            self._best = {"distance": torch.tensor(distance, dtype=torch.float64), **weights}

    def use_best(self) -> None:
        """Replace the model by the best one that was kept, if there is one."""
        if self._best:
            self.model.load_state_dict(_part(self._best, "model."))

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
        best = {f"best.{name}": tensor for name, tensor in self._best.items()}
        return model | streams | moments | records | best

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state that `state` returned, of the same config."""
        self.model.load_state_dict(_part(state, "model."))
        self._streams.load_state(_part(state, "streams."))
        self._pool.states.copy_(state["pool"])
        self.output.copy_(state["output"])
        self.losses = state["losses"].tolist()
        self._best = _part(state, "best.")
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(state, "optimizer.").items():
            index, key = name.split(".")
            entries.setdefault(int(index), {})[key] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": entries, "param_groups": groups})

    def _set_learning_rate(self, step: int) -> None:
        factor = LEARNING_RATE_DROP ** sum(step >= each for each in drop_steps(self._config))
        if step < self._config.warmup_steps:
            factor *= (step + 1) / self._config.warmup_steps
        (group,) = self._optimizer.param_groups
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(factor * self._config.learning_rate)
        else:
            group["lr"] = factor * self._config.learning_rate

    def _update_model(self, states: State, ca_steps: int) -> tuple[State, Float[Tensor, ""]]:
        """Take the optimizer's step for a batch of sampled states; return its final states and the loss.

        Every tensor that it changes stays at one memory address, for CUDA graphs.
        """
        masks, normalize = self._streams["masks"], self._config.gradient_per_ca_step
        states = self._rollout(self.model, states, ca_steps, masks, normalize=normalize)
        images = self.model.rgb(states)
        self._optimizer.zero_grad()
        total = self._config.overflow_weight * overflow(states) if self._config.overflow_weight else 0.0
        if self._config.recompute:
            loss, gradient = self.texture_loss.loss_and_grad(images)
            total = total + (images * gradient).sum()  # has that gradient
        else:
            loss = self.texture_loss(images)
            total = total + loss
        total.backward()
        finite = self._normalize_gradients() & loss.detach().isfinite()
        self._diverged.copy_(torch.maximum(self._diverged, (~finite).float()))
        self._optimizer.step()

        final = states.detach()
        self.output.copy_(torch.where(self._diverged == 0, self.model.rgb(final), self.output))
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
