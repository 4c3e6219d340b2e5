"""The training runs that `benchmarks.peers` compares, ours and published ones, with their curves."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from PIL import Image
from torch import Tensor

from benchmarks.cases import CPU
from benchmarks.published.rules import Munca, Relu
from benchmarks.published.training import RECIPES, PublishedTrainer, Recipe
from nca.automaton.model import Automaton
from nca.automaton.rules import make_automaton
from nca.automaton.seeding import Streams
from nca.config.compose import compose_plain
from nca.config.schema import ModelConfig, TrainConfig, TrialConfig
from nca.config.validation import build
from nca.loss.distance import TextureDistance
from nca.loss.features import Vgg16
from nca.loss.gram import GramLoss
from nca.loss.vgg_weights import resolve_features
from nca.outputs.grown import measure_outputs
from nca.outputs.pictures import to_pixels
from nca.textures.load import load_texture
from nca.training.checkpoint import Checkpoints
from nca.training.run import build_trainer

LIMIT_S = 3600.0  # of training
FIRST_POINT = 16  # training steps
POINTS_PER_DOUBLING = 4
TIMED_ROUNDS = 3  # of alternating steps, after one to warm up
OURS = {"ours, distill": "distill", "ours, munca": "munca"}
NAMES = (*RECIPES, *OURS)
Options = TypeVar("Options", TrainConfig, Recipe)


@dataclass(frozen=True)
class Panel:
    """A target at a size, in pixels."""

    texture: str
    size: int

    @property
    def name(self) -> str:
        """Its name on the command line and in peers.json."""
        return f"{self.texture}-{self.size}"

    def compose(self, *overrides: str) -> TrialConfig:
        """Return a config of ours on this target."""
        fixed = [f"texture={self.texture}", f"train.size={self.size}", "tracking=none", "device=cpu"]
        config: TrialConfig = build(TrialConfig, compose_plain("train", [*overrides, *fixed]))
        return replace(config, features=resolve_features(config.features, config.loss))

    def load_target(self) -> Tensor:
        """Return RGB in [0, 1], (3, size, size)."""
        return load_texture(self.compose("loss=sliced").texture, self.size)


@dataclass(frozen=True)
class Point:
    """The quality of an automaton after some training.

    Args:
        seconds: Processor time of the training, without measurements.
        step: Finished training steps.
        distance: The texture distance, as `final_distance` is measured.
        vgg_ratio: Of the outputs after 1,000 CA steps.
    """

    seconds: float
    step: int
    distance: float
    vgg_ratio: float


class Measure:
    """Measures automata on a target, all in the same way.

    Args:
        target: RGB in [0, 1], (3, size, size).
        weights: VGG-16's.
    """

    def __init__(self, target: Tensor, weights: Mapping[str, Tensor]) -> None:
        self.target = target
        self._distance, self._vgg = TextureDistance(target), GramLoss(Vgg16(weights, CPU), target)
        order = torch.randperm(target[0].numel(), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            self._noise = self._vgg(target.flatten(1)[:, order].view_as(target)[None])

    def __call__(self, model: Automaton, max_ca_steps: int) -> tuple[float, float, Tensor]:
        """Return the texture distance, the VGG ratio and the outputs after 1,000 CA steps."""
        grown = measure_outputs(model, self.target.shape[-1], max_ca_steps, self._distance)
        with torch.no_grad():
            return grown.final_distance, float(self._vgg(grown.images) / self._noise), grown.images


class Learner(Protocol):
    """A training run as this benchmark sees it: `max_ca_steps` as in `TrainConfig`."""

    n_steps: int
    max_ca_steps: int

    def train_step(self) -> object:
        """Take a training step; raises ArithmeticError if it has diverged."""

    def automaton(self) -> Automaton:
        """Return the automaton as it is now."""

    def state(self) -> dict[str, Tensor]:
        """Return all tensors that the next step depends on."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state."""


class Ours:
    """A run of ours at its defaults, at 128 px of the recommended experiments."""

    def __init__(self, panel: Panel, rule: str, *, mean_rollouts: bool = False) -> None:
        group = "experiment" if panel.size == 128 else "model"
        config = panel.compose("loss=sliced", f"{group}={rule}")
        if mean_rollouts:
            config = replace(config, train=with_mean_rollouts(config.train))
        self._trainer = build_trainer(config, CPU)
        self._steps: Iterator[object] = self._trainer.steps()
        self.n_steps, self.max_ca_steps = config.train.steps, config.train.max_ca_steps
        self.state, self.load_state = self._trainer.state, self._trainer.load_state

    def train_step(self) -> object:
        """Take a training step."""
        return next(self._steps)

    def automaton(self) -> Automaton:
        """Return the automaton as it is now."""
        return self._trainer.model


class Published:
    """A run of a published program."""

    def __init__(
        self, panel: Panel, name: str, weights: Mapping[str, Tensor], *, mean_rollouts: bool = False
    ) -> None:
        recipe = with_mean_rollouts(RECIPES[name]) if mean_rollouts else RECIPES[name]
        self._trainer = PublishedTrainer(recipe, panel.load_target(), weights)
        self.n_steps, self.max_ca_steps = recipe.steps, recipe.max_ca_steps
        self.train_step, self.state = self._trainer.train_step, self._trainer.state
        self.load_state = self._trainer.load_state

    def automaton(self) -> Automaton:
        """Return the automaton as it is now, as ours with the same weights."""
        return to_automaton(self._trainer.rule)


def with_mean_rollouts(options: Options) -> Options:
    """Return options with which all rollouts are as long as they were in the mean, rounded down."""
    assert options.min_ca_steps is not None
    mean = (options.min_ca_steps + options.max_ca_steps - 1) // 2
    return replace(options, min_ca_steps=mean, max_ca_steps=mean + 1)


def to_automaton(rule: Relu | Munca) -> Automaton:
    """Return our automaton with the weights, the seed states and the update rate of a published rule."""
    is_relu = isinstance(rule, Relu)
    config = ModelConfig(
        name="distill" if is_relu else "munca",
        channels=rule.get_buffer("filters").shape[0] // (4 if is_relu else 1),
        hidden_channels=len(rule.get_parameter("bias")) if is_relu else None,
        filters=4 if is_relu else None,
        update_rate=rule.update_rate,
        mask="cell",
        clamp=False,
        seed_state="noise" if rule.seed_noise else "zeros",
        seed_noise=rule.seed_noise,
    )
    model = make_automaton(config, Streams(0, CPU))
    weights = {
        name: tensor.detach().flatten(1 if tensor.ndim > 1 else 0) for name, tensor in rule.named_parameters()
    }
    if is_relu:
        weights = {"w0": weights["w1"], "bias": weights["bias"], "w1": weights["w2"]}
    else:
        weights = {"weight": weights["weight"][:, :-1], "bias": weights["weight"][:, -1]}
    model.load_state_dict(weights | {"kernels": model.kernels})
    return model


def is_point(step: int) -> bool:
    """Return whether outputs are measured after so many steps: four times per doubling, from the 16th."""
    if step < FIRST_POINT:
        return False
    return math.floor(POINTS_PER_DOUBLING * math.log2(step)) > math.floor(
        POINTS_PER_DOUBLING * math.log2(step - 1)
    )


class Run:
    """One run with its curve; in its folder are a checkpoint, the curve and a picture of the last outputs.

    Args:
        folder: Of the run alone.
        panel: The target.
        name: One of `NAMES`.
        weights: VGG-16's.
        measure: Of the target.
    """

    def __init__(
        self, folder: Path, panel: Panel, name: str, weights: Mapping[str, Tensor], measure: Measure
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self._folder, self._measure = name, folder, measure
        self._checkpoints = Checkpoints(folder / "checkpoints", 1, 0.0)
        self._learner = make_learner(panel, name, weights)
        self._learner.train_step()  # so that nothing is compiled while seconds are counted
        self._learner = make_learner(panel, name, weights)
        self.curve: list[Point] = []
        self.seconds, self.step, self.end = 0.0, 0, ""
        restored = self._checkpoints.load()
        if restored is not None:
            self._restore(restored)

    def train(self, turn_s: float) -> None:
        """Train for a turn, or to the end, which is after the published steps or `LIMIT_S` seconds."""
        until = self.seconds + turn_s
        while not self.end and self.seconds < until:
            start = time.process_time()
            try:
                self._learner.train_step()
            except ArithmeticError as error:
                self.end = f"diverged: {error}"
                break
            self.seconds += time.process_time() - start
            self.step += 1
            if self.step == self._learner.n_steps:
                self.end = "complete"
            elif self.seconds >= LIMIT_S:
                self.end = "shortened"
            if self.end or is_point(self.step):
                self._add_point()
        self._save()

    def record(self) -> dict[str, object]:
        """Return what peers.json holds of the run."""
        return {
            "steps": self.step,
            "published_steps": self._learner.n_steps,
            "end": self.end or "not finished",
            "seconds_per_step": round(self.seconds / max(1, self.step), 4),
            "curve": [[round(float(value), 4) for value in asdict(point).values()] for point in self.curve],
        }

    def _add_point(self) -> None:
        distance, ratio, outputs = self._measure(self._learner.automaton(), self._learner.max_ca_steps)
        self.curve.append(Point(self.seconds, self.step, distance, ratio))
        pixels = to_pixels(torch.cat([self._measure.target[None], outputs]))
        Image.fromarray(pixels).save(self._folder / "outputs.png")
        print(f"{self._folder.parent.name}, {self.name}: {self.curve[-1]}", flush=True)
        self._save()

    def _save(self) -> None:
        curve = torch.tensor([list(asdict(point).values()) for point in self.curve], dtype=torch.float64)
        ours = {"seconds": torch.tensor(self.seconds, dtype=torch.float64), "curve": curve.view(-1, 4)}
        state = {f"learner.{name}": tensor for name, tensor in self._learner.state().items()}
        end = torch.tensor(list(self.end.encode()), dtype=torch.uint8)
        self._checkpoints.save(state | ours | {"end": end, "step": torch.tensor(self.step)}, self.step)
        (self._folder / "curve.json").write_text(json.dumps(self.record()) + "\n", encoding="utf-8")

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        prefix = "learner."
        self._learner.load_state(
            {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        )
        self.seconds, self.end = float(state["seconds"]), bytes(state["end"].tolist()).decode()
        self.curve = [Point(s, int(step), d, v) for s, step, d, v in state["curve"].tolist()]
        self.step = int(state["step"])


def make_learner(
    panel: Panel, name: str, weights: Mapping[str, Tensor], *, mean_rollouts: bool = False
) -> Learner:
    """Return a run of this name, at its start; see `with_mean_rollouts`."""
    if name in OURS:
        return Ours(panel, OURS[name], mean_rollouts=mean_rollouts)
    return Published(panel, name, weights, mean_rollouts=mean_rollouts)


def time_steps(panel: Panel, weights: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the processor time of a training step of every program, the median of alternating steps.

    All rollouts are as long as a program's are in the mean.
    """
    learners = {name: make_learner(panel, name, weights, mean_rollouts=True) for name in NAMES}
    seconds: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(TIMED_ROUNDS + 1):
        for name, learner in learners.items():
            start = time.process_time()
            learner.train_step()
            seconds[name].append(time.process_time() - start)
    return {name: round(statistics.median(found[1:]), 4) for name, found in seconds.items()}
