"""Replays a study under the rungs of successive halving: `python -m benchmarks.pruning [FOLDER STUDY]`.

The exported study has only complete trials (by default docs/study's 62 random configurations of 800 steps).
They are replayed in 1,000 random orders: a trial ends at the first rung at which its smoothed loss is not
among the best of those that reached the rung before, as Optuna's SuccessiveHalvingPruner decides. Prints the
training needed until a configuration as good as the best of 25 has trained to its end, relative to no
pruning, and writes pruning.json. Takes seconds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

STUDY = (str(Path(__file__).parents[1] / "docs" / "study"), "roundleaf-fifty")
RESULTS = Path(__file__).with_name("pruning.json")
N_REPLAYS = 1000
GOAL_OF = 25  # random configurations whose best is the goal
FIRST_RUNGS = (1 / 32, 1 / 16, 1 / 8, 1 / 4)  # of a trial's steps
FACTORS = (2, 4)
QUANTILES = (0.25, 0.5, 0.75)


def read(folder: str, study: str) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return steps (n_reports,), loss curves (n_trials, n_reports) and final losses (n_trials,)."""
    curves = pd.read_csv(Path(folder) / "curves.csv").query("study == @study")
    trials = pd.read_csv(Path(folder) / "trials.csv").query("study == @study").set_index("trial")
    last = trials["final_loss_median"].dropna()
    table = curves.pivot_table(index="trial", columns="step", values="loss").loc[last.index].dropna()
    return table.columns.to_numpy(), table.to_numpy(), last.loc[table.index].to_numpy()


def replay(
    order: NDArray[np.int64], curves: NDArray[np.float64], rungs: Sequence[int], factor: int
) -> list[int]:
    """Return the index of each trial's last rung, len(rungs) if it trains to its end.

    Args:
        order: Trials in the order of the replay.
        curves: Loss curves, see `read`.
        rungs: Indices of the reports at which trials are compared.
        factor: The best 1 / factor continue, and so do the first trials at a rung.
    """
    seen: list[list[float]] = [[] for _ in rungs]
    ends = []
    for trial in order:
        end = 0
        while end < len(rungs):
            values, value = seen[end], float(curves[trial, rungs[end]])
            values.append(value)
            if value > sorted(values)[max(1, len(values) // factor) - 1]:
                break
            end += 1
        ends.append(end)
    return ends


def steps_to_goal(
    draw: np.random.Generator,
    study: tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]],
    first: float | None,
    factor: int,
    goal: float,
) -> float:
    """Return the training, in complete trials, until a trial ends with a loss as low as the goal."""
    steps, curves, last = study
    full = int(steps[-1])
    wanted = [] if first is None else [first * full * factor**k for k in range(10)]
    rungs = [int(np.abs(steps - step).argmin()) for step in wanted if step < 0.9 * full]
    order = np.concatenate([draw.permutation(len(last)) for _ in range(8)])
    spent = 0.0
    for trial, end in zip(order, replay(order, curves, rungs, factor), strict=True):
        whole = end == len(rungs)
        spent += 1.0 if whole else float(steps[rungs[end]] / full)
        if whole and last[trial] <= goal:
            return spent
    return float("inf")


def main(arguments: Sequence[str] | None = None) -> None:
    """Replay, print, and write pruning.json."""
    folder, name = list(sys.argv[1:] if arguments is None else arguments) or STUDY
    study = read(folder, name)
    draw = np.random.default_rng(0)
    last = study[2]
    goal = float(np.median([draw.choice(last, GOAL_OF, replace=False).min() for _ in range(N_REPLAYS)]))
    settings = [(None, 1), *((first, factor) for factor in FACTORS for first in FIRST_RUNGS)]
    table = Table("first rung", "continue", "trials to the goal", "quartiles", "relative to no pruning")
    results = {}
    plain = 1.0
    for first, factor in settings:
        found = [steps_to_goal(draw, study, first, factor, goal) for _ in range(N_REPLAYS)]
        low, middle, high = np.quantile(found, QUANTILES, method="nearest")
        plain = middle if first is None else plain
        label = "no pruning" if first is None else f"1/{round(1 / first)} of the steps"
        share = "" if first is None else f"1/{factor}"
        table.add_row(label, share, f"{middle:.1f}", f"{low:.1f} to {high:.1f}", f"{middle / plain:.2f}")
        results[f"{label} {share}".strip()] = [round(float(x), 2) for x in (low, middle, high)]
    Console(width=100).print(table)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
