"""Time a training step of the fast rollout against the plain one, alternating: `make bench`.

The style loss is that of a VGG-16 with seeded random weights: its cost does not depend on their values.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from nca.config import ModelConfig, TrainConfig
from nca.features import CONVOLUTIONS, Vgg16
from nca.model import make_automaton
from nca.pool import Pool
from nca.seeding import Streams
from nca.style import StyleLoss
from nca.trainer import Trainer

__all__ = ["main"]

ROUNDS = 5  # of each rollout, alternating
SIZE_PX = 128
POOL_ROWS = 8
CPU = torch.device("cpu")
RESULTS = Path(__file__).with_name("results.json")
WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512)


@dataclass(frozen=True)
class Case:
    """One set of hyperparameters."""

    name: str
    rule: str
    channels: int
    hidden_channels: int
    max_ca_steps: int
    batch_size: int
    filters: int


CASES = (
    Case("set 5", "linear", 15, 96, 40, 2, 4),
    Case("set 8", "linear", 6, 32, 40, 2, 6),
    Case("smallest", "linear", 6, 16, 20, 2, 4),
    Case("largest", "linear", 15, 96, 40, 4, 6),
    Case("set 5, ReLU", "relu", 15, 96, 40, 2, 4),
)


def random_vgg(streams: Streams) -> Vgg16:
    """Return a VGG-16 of full width with seeded random weights."""
    weights: dict[str, torch.Tensor] = {}
    n_inputs = 3
    for index, width in zip(CONVOLUTIONS, WIDTHS, strict=True):
        scale = (2 / (9 * n_inputs)) ** 0.5
        weights[f"features.{index}.weight"] = scale * torch.randn(
            width, n_inputs, 3, 3, generator=streams["weights"]
        )
        weights[f"features.{index}.bias"] = torch.zeros(width)
        n_inputs = width
    return Vgg16(weights, CPU)


def make_trainer(case: Case, rollout: str) -> Trainer:
    """Return a trainer of the case whose random draws are the same for both rollouts."""
    streams = Streams(0, CPU)
    model = ModelConfig(
        name=case.name,
        channels=case.channels,
        hidden_channels=case.hidden_channels,
        filters=case.filters,
        update_rate=0.56,
        activation="relu" if case.rule == "relu" else "linear",
        mask="cell" if case.rule == "relu" else "channel",
    )
    train = TrainConfig(
        steps=1000,
        batch_size=case.batch_size,
        learning_rate=1e-5,
        max_ca_steps=case.max_ca_steps,
        size=SIZE_PX,
        pool_size=POOL_ROWS,
        precision="fp32",
        rollout="fast" if rollout == "fast" else "plain",
        recompute=False,
        checkpoint_every=1000,
        checkpoint_every_s=0.0,
    )
    target = torch.rand(3, SIZE_PX, SIZE_PX, generator=streams["weights"])
    style_loss = StyleLoss(random_vgg(streams), target)
    pool = Pool(POOL_ROWS, case.channels, SIZE_PX, streams, CPU)
    return Trainer(make_automaton(model, streams), pool, style_loss, train, streams)


def time_case(case: Case) -> dict[str, float]:
    """Return the median seconds of a training step with each rollout, and their ratio."""
    trainers = {name: make_trainer(case, name) for name in ("plain", "fast")}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for step in range(ROUNDS + 1):
        for name, trainer in trainers.items():
            start = time.perf_counter()
            trainer.train_step(step)
            seconds[name].append(time.perf_counter() - start)
    plain, fast = (statistics.median(seconds[name][1:]) for name in ("plain", "fast"))
    return {"plain_s": plain, "fast_s": fast, "ratio": plain / fast}


def main() -> None:
    """Print the table and write results.json beside this file."""
    table = Table("set", "channels-hidden-CA steps-batch-filters", "plain, s", "fast, s", "ratio")
    results = []
    for case in CASES:
        timed = time_case(case)
        results.append(asdict(case) | timed)
        sizes = f"{case.channels}-{case.hidden_channels}-{case.max_ca_steps}-{case.batch_size}-{case.filters}"
        table.add_row(
            case.name, sizes, f"{timed['plain_s']:.3f}", f"{timed['fast_s']:.3f}", f"{timed['ratio']:.2f}"
        )
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    RESULTS.write_text(
        json.dumps({"machine": machine, "size_px": SIZE_PX, "cases": results}, indent=1) + "\n"
    )
    Console().print(table)


if __name__ == "__main__":
    main()
