"""Measures how early a trial's rank shows, and in what: `python -m benchmarks.early_ranks [N]`.

Trains N random configurations per rule on roundleaf at 32 px (20, if not given), the study's rule for 512
steps and the rule `distill` for 384, and resumes where it stopped; the trials in early_ranks.json are not
trained again. Prints the rank correlation to the final value of what a pruner could compare at a rung: the
median of the last 256 losses, which trials report; the median of the last 16; and the texture distance of
three grown samples at the age of the longest rollout. Half a minute per trial and core.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from nca.automaton.seeding import Streams
from nca.config.schema import TrialConfig
from nca.loss.distance import TextureDistance
from nca.outputs.grown import N_SEEDS, measure_outputs
from nca.outputs.pictures import grow, shown_colors
from nca.study.plan import make_plans, resolve
from nca.study.spec import sampler_spec
from nca.textures.load import load_texture
from nca.training.run import build_trainer, is_picture_step
from nca.training.trainer import DivergedError, smoothed_loss
from sweeps.samplers import ask

RESULTS = Path(__file__).with_name("early_ranks.json")
N_TRIALS = 20
COMMON = ("texture=roundleaf", "train.size=32", "sampler=random")
RULES = {
    # the trials of a random search of benchmarks.search
    "srnca": (
        "train.steps=512",
        "train.max_ca_steps=20",
        "features=random_filters",
        "sweep.seed=1",
        "seed=1000",
    ),
    "distill": ("train.steps=384", "train.drop_steps=[230,334]", "model=distill", "loss=sliced"),
}
SHARES = (1, 2, 4, 8, 12, 16, 24)  # of 32 of a trial's steps
RECENT = 16  # losses
MEASURES = {"loss": "median of 256 losses", "recent": f"median of {RECENT}", "distance": "texture distance"}
N_RESAMPLED = 1000


def run(config: TrialConfig) -> dict[str, Any] | None:
    """Train a configuration; return its measures by share of its steps, and its final value.

    The final value is that of its study: `final_loss_median`, or with `train.keep=best` `final_distance`.
    None if it diverged.
    """
    train = config.train
    trainer = build_trainer(config, torch.device("cpu"))
    distance = TextureDistance(load_texture(config.texture, train.size))
    found: dict[str, Any] = {name: [] for name in MEASURES}
    rungs = {train.steps * share // 32 for share in SHARES}
    try:
        for record in trainer.steps():
            if record.step + 1 in rungs:
                streams = Streams(0, torch.device("cpu"))
                seeds = trainer.model.draw_seed_states(N_SEEDS, train.size, streams["seed_states"])
                (grown,) = grow(trainer.model, train.size, [train.max_ca_steps - 1], streams, seeds)
                found["distance"].append(float(distance(shown_colors(trainer.model.rgb(grown))).mean()))
                found["loss"].append(smoothed_loss(trainer.losses))
                found["recent"].append(float(np.median(trainer.losses[-RECENT:])))
            is_measured = is_picture_step(record.step, train.steps) and 8 * record.step >= train.steps
            if train.keep == "best" and is_measured:
                outputs = measure_outputs(trainer.model, train.size, train.max_ca_steps, distance)
                trainer.keep_best(outputs.final_distance)
    except DivergedError:
        return None
    trainer.use_best()
    final = smoothed_loss(trainer.losses)
    if train.keep == "best":
        final = measure_outputs(trainer.model, train.size, train.max_ca_steps, distance).final_distance
    return found | {"final": final}


def record(rule: str, n_trials: int, results: dict[str, list[Any]]) -> None:
    """Train the configurations that are missing from the results."""
    plan, _ = resolve(make_plans([*COMMON, *RULES[rule]])[0])
    study, ours = optuna.create_study(), results.setdefault(rule, [])
    for index in range(n_trials):
        trial = ask(study, sampler_spec(plan.config), plan.space)
        study.tell(trial, 0.0)
        if index == len(ours):
            ours.append(run(plan.trial_config(trial.params, index)))
            write(results)


def write(results: dict[str, list[Any]]) -> None:
    """Write early_ranks.json, one trial per line, four digits."""
    rounded = json.loads(json.dumps(results), parse_float=lambda text: float(f"{float(text):.4g}"))
    parts = [
        f'"{rule}": [\n' + ",\n".join(json.dumps(trial) for trial in trials) + "\n]"
        for rule, trials in rounded.items()
    ]
    RESULTS.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def correlate(
    draw: np.random.Generator, trials: Sequence[dict[str, Any]], rung: int, name: str, less: str | None = None
) -> str:
    """Return a measure's rank correlation at a rung to the final value, with its 90% bootstrap interval.

    Args:
        draw: Draws the resampled trials.
        trials: Trials that ended.
        rung: Index in `SHARES`.
        name: The measure.
        less: Another measure, whose correlation is subtracted.
    """
    final = np.array([trial["final"] for trial in trials])
    ours, other = (np.array([trial[key][rung] for trial in trials]) for key in (name, less or name))

    def of(rows: NDArray[np.int64]) -> float:
        subtracted = 0.0 if less is None else spearmanr(other[rows], final[rows])[0]
        return float(spearmanr(ours[rows], final[rows])[0] - subtracted)

    found = [of(draw.integers(len(final), size=len(final))) for _ in range(N_RESAMPLED)]
    low, high = np.nanquantile(found, (0.05, 0.95))
    return f"{of(np.arange(len(final))):.2f} ({low:.2f} to {high:.2f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the missing trials, print, and write early_ranks.json."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    draw = np.random.default_rng(0)
    for rule in RULES:
        record(rule, int(argv[0]) if argv else N_TRIALS, results)
        trials = [trial for trial in results[rule] if trial is not None]
        others = [name for name in MEASURES if name != "loss"]
        titles = (*MEASURES.values(), *(f"{MEASURES[name]}, less the first" for name in others))
        table = Table("after", *titles, title=f"{rule}, {len(trials)} trials")
        for rung, share in enumerate(SHARES):
            cells = [correlate(draw, trials, rung, name) for name in MEASURES]
            cells += [correlate(draw, trials, rung, name, less="loss") for name in others]
            table.add_row(f"{share}/32", *cells)
        Console(width=150).print(table)


if __name__ == "__main__":
    main()
