"""Measures how long the recipes train, with a worker on every core: `python -m benchmarks.recipes`.

Each recipe is trained at its defaults for some seconds, by single-threaded processes at the same time, one on
each core, as a sweep does. Prints the seconds of a training step, the minutes of a run's training, and the
peak memory of a worker, all in all; writes recipes.json. Nothing else should run at the same time. VGG-16 has
seeded random weights.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.cases import CPU, vgg_weights
from benchmarks.memory import resident_mb
from benchmarks.table import measure_machine
from benchmarks.workers import run_at_once
from nca.config.compose import compose_plain
from nca.config.schema import TrialConfig
from nca.config.validation import build
from nca.loss.vgg_weights import resolve_features
from nca.training.device import keep_freed_memory
from nca.training.run import build_trainer

SECONDS = 20.0
RESULTS = Path(__file__).with_name("recipes.json")
RECIPES = {
    "the study's best, 128 px": ["experiment=set5", "features=vgg16"],
    "distill, 64 px": ["model=distill", "loss=sliced"],
    "munca, 64 px": ["model=munca", "loss=sliced"],
    "distill, 128 px": ["experiment=distill"],
    "munca, 128 px": ["experiment=munca"],
}


def train_for(name: str, weights: str, seconds: float) -> dict[str, float]:
    """Return the steps of a recipe, the seconds of one, and the peak memory of this process in MB.

    Args:
        name: Of the recipe.
        weights: Path of VGG-16's, for the recipe that needs them.
        seconds: To train.
    """
    overrides = ["texture=roundleaf", "tracking=none", "device=cpu", *RECIPES[name]]
    overrides += [f"features.weights={weights}"] if "features=vgg16" in overrides else []
    config: TrialConfig = build(TrialConfig, compose_plain("train", overrides))
    config = dataclasses.replace(config, features=resolve_features(config.features, config.loss))
    steps = build_trainer(config, CPU).steps()
    keep_freed_memory()
    next(steps)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(steps)
        done += 1
    step_s = (time.perf_counter() - start) / done
    return {"steps": config.train.steps, "step_s": step_s, "peak_mb": resident_mb("VmHWM")}


def measure(name: str, weights: str) -> dict[str, float]:
    """Return the medians over processes that train a recipe at the same time, one on each core."""
    printed = run_at_once(len(os.sched_getaffinity(0)), "benchmarks.recipes", name, weights)
    found = [json.loads(each) for each in printed]
    return {key: statistics.median(each[key] for each in found) for key in found[0]}


def main() -> None:
    """Measure, print, and write recipes.json."""
    if len(sys.argv) > 1:
        name, weights = sys.argv[1:]
        print(json.dumps(train_for(name, weights, SECONDS)))
        return
    table = Table("recipe", "s per step", "steps", "minutes of training", "peak memory, MB")
    with tempfile.TemporaryDirectory() as folder:
        torch.save(vgg_weights(), f"{folder}/vgg16.pt")
        found = {name: measure(name, f"{folder}/vgg16.pt") for name in RECIPES}
    for name, each in found.items():
        minutes = each["steps"] * each["step_s"] / 60
        table.add_row(
            name, f"{each['step_s']:.3f}", f"{each['steps']:.0f}", f"{minutes:.1f}", f"{each['peak_mb']:.0f}"
        )
    Console(width=100).print(table)
    results = {"machine": measure_machine(), "recipes": found}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
