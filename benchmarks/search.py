"""Compares samplers, pruners and warm starts: `python -m benchmarks.search [FOLDER] [METHOD ...]`.

Small studies of roundleaf with the study's model and search space, at 32 px with 512 steps and rollouts of 10
to 19 CA steps, ten per method with different seeds. The command resumes where it stopped; studies in
search.json are not trained again. Prints the training steps that each method needs to reach the best of 50
random configurations, and those that a warm start saves on another texture; draws the curves; writes
search.json.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sweeps.storage.optuna_storage import open_storage
from sweeps.study import find_study
from sweeps.trials import N_STEPS

REPEATS = 10
N_TRIALS = 50
STEPS = 512
BUDGET = N_TRIALS * STEPS
RESULTS = Path(__file__).with_name("search.json")
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "search.png"
COMMON = (
    "train.size=32",
    f"train.steps={STEPS}",
    "train.max_ca_steps=20",
    "features=random_filters",
    "tracking=none",
    "outputs.robustness=false",
    "sweep.objectives=[final_loss_median]",
    "executor.threads=1",
)
PLAIN = (f"sweep.n_trials={N_TRIALS}", "pruner=none")
N_OTHER_TRIALS = 25
OTHER = ("texture=alocasia", "sampler=tpe", f"sweep.n_trials={N_OTHER_TRIALS}", "pruner=none")
PRUNED_BUDGET = BUDGET * 2 // 5
PRUNED = (f"sweep.max_steps={PRUNED_BUDGET}", "sweep.n_trials=1000", "pruner=asha")
HALVES = (*PRUNED, "pruner.min_resource=64", "pruner.reduction_factor=2")
QUARTERS = (*PRUNED, "pruner.min_resource=32", "pruner.reduction_factor=4")
METHODS: dict[str, tuple[str, ...]] = {
    "random": ("texture=roundleaf", "sampler=random", *PLAIN),
    "tpe": ("texture=roundleaf", "sampler=tpe", *PLAIN),
    "tpe-asha": ("texture=roundleaf", "sampler=tpe", *HALVES),
    "tpe-asha-4": ("texture=roundleaf", "sampler=tpe", *QUARTERS),
    "other": OTHER,
    "other-warm": (*OTHER, "sweep.warm_start=tpe-{repeat}"),
}
LABELS = {
    "random": "random search",
    "tpe": "TPE",
    "tpe-asha": "TPE + ASHA, halves",
    "tpe-asha-4": "TPE + ASHA, quarters",
}
WARM_LABELS = {"other": "TPE", "other-warm": "TPE, roundleaf's best five configurations first"}
QUANTILES = (0.25, 0.5, 0.75)


def budget_of(method: str) -> int:
    """Return the training steps of one of a method's studies."""
    if method.startswith("other"):
        return N_OTHER_TRIALS * STEPS
    return PRUNED_BUDGET if "asha" in method else BUDGET


def run(folder: Path, method: str, repeat: int) -> None:
    """Run or resume one study."""
    overrides = [override.format(repeat=repeat) for override in METHODS[method]]
    overrides += [f"sweep.study={method}-{repeat}", f"sweep.seed={repeat}", f"seed={1000 * repeat}"]
    command = [sys.executable, "-m", "nca.sweep", "-m", *COMMON, *overrides, f"runs_dir={folder.absolute()}"]
    with (folder / f"{method}-{repeat}.log").open("ab") as log:
        subprocess.run(command, stdout=log, stderr=log, check=True)


def best_so_far(folder: Path, method: str, repeat: int) -> NDArray[np.float64] | None:
    """Return the training steps and the best value so far at the end of each trial, (n_trials, 2)."""
    study = find_study(open_storage(f"sqlite:///{folder.absolute()}/optuna.db"), f"{method}-{repeat}")
    trials = study.get_trials() if study else []
    counted = [trial for trial in trials if N_STEPS in trial.user_attrs]
    ends = sorted((t.datetime_complete, t.number) for t in counted if t.datetime_complete)
    if not ends:
        return None
    ended = [trials[number] for _, number in ends]
    steps = np.cumsum([t.user_attrs[N_STEPS] for t in ended])
    values = [t.values[0] if t.values else np.inf for t in ended]
    return np.stack([steps, np.minimum.accumulate(values)], axis=1)


def at(curve: NDArray[np.float64], steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a curve's best values at the given steps; infinite before its first trial."""
    index = np.searchsorted(curve[:, 0], steps, side="right") - 1
    return np.where(index < 0, np.inf, curve[np.maximum(index, 0), 1])


def share_to_reach(curves: NDArray[np.float64], shares: NDArray[np.float64], goal: float) -> float:
    """Return the share of the goal's budget at which the median of the curves reaches the goal."""
    reached = np.median(curves, axis=0) <= goal
    return float(shares[reached.argmax()]) if reached.any() else float("inf")


def bootstrap_shares(
    curves: NDArray[np.float64], shares: NDArray[np.float64], goals: NDArray[np.float64]
) -> list[float]:
    """Return the share at which the goals' median is reached, and its 90% bootstrap interval."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(1000):
        rows, goal_rows = (draw.integers(len(x), size=len(x)) for x in (curves, goals))
        found.append(share_to_reach(curves[rows], shares, float(np.median(goals[goal_rows]))))
    low, high = np.quantile(found, [0.05, 0.95], method="nearest")
    return [share_to_reach(curves, shares, float(np.median(goals))), float(low), float(high)]


def read_results() -> dict[str, dict[str, list[list[float]]]]:
    """Return the recorded curves of complete studies, by method and repeat."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))["curves"] if RESULTS.exists() else {}


def collect(folder: Path) -> dict[str, dict[str, list[list[float]]]]:
    """Return the recorded curves and those of further complete studies in a folder."""
    found = read_results()
    for method, repeat in itertools.product(METHODS, range(REPEATS)):
        ours = found.setdefault(method, {})
        curve = None if str(repeat) in ours else best_so_far(folder, method, repeat)
        if curve is not None and curve[-1, 0] >= 0.97 * budget_of(method):
            ours[str(repeat)] = [[step, float(f"{best:.6g}")] for step, best in curve.tolist()]
    return {method: ours for method, ours in found.items() if ours}


def on_grid(curves: dict[str, dict[str, list[list[float]]]]) -> dict[str, NDArray[np.float64]]:
    """Return each method's curves on a common grid of steps, (n_repeats, n_steps)."""
    steps = np.arange(STEPS, BUDGET + 1, STEPS / 2)
    return {
        method: np.stack([at(np.array(curve), steps) for curve in ours.values()])
        for method, ours in curves.items()
    }


def draw(curves: dict[str, NDArray[np.float64]]) -> None:
    """Draw medians and quartiles of both experiments, as far as they have results."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    steps = np.arange(STEPS, BUDGET + 1, STEPS / 2)
    titles = {"roundleaf": LABELS, "alocasia, with and without a warm start": WARM_LABELS}
    shown = {title: labels for title, labels in titles.items() if curves.keys() & labels.keys()}
    figure, axes = plt.subplots(
        1, len(shown), figsize=(6 * len(shown), 4), layout="constrained", squeeze=False
    )
    for axis, (title, labels) in zip(axes[0], shown.items(), strict=True):
        for index, (method, label) in enumerate(labels.items()):
            if method not in curves:
                continue
            ours = curves[method]
            until = steps <= budget_of(method)
            low, high = np.quantile(ours[:, until], (0.25, 0.75), axis=0, method="nearest")
            middle = np.median(ours[:, until], axis=0)
            axis.plot(steps[until] / 1000, middle, label=label, color=f"C{index}")
            axis.fill_between(steps[until] / 1000, low, high, color=f"C{index}", alpha=0.2, linewidth=0)
        ends = [np.median(curves[method][:, -1]) for method in labels if method in curves]
        axis.set(yscale="log", xlabel="training steps spent (thousands)", title=title)
        axis.set_ylim(top=4 * max(ends))  # cuts off the first trials
        axis.legend()
    axes[0, 0].set_ylabel("best loss so far (median of its last 256 steps)")
    figure.savefig(PICTURE, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the missing studies, print, draw, and write search.json."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    folder = Path(argv[0] if argv else "build/search")
    folder.mkdir(parents=True, exist_ok=True)
    for repeat in range(REPEATS):
        for method in argv[1:] or METHODS:
            if str(repeat) not in read_results().get(method, {}):
                if "warm" in method:
                    run(folder, "tpe", repeat)  # the source of the warm start
                run(folder, method, repeat)
                write(collect(folder))
    found = collect(folder)
    write(found)
    curves = on_grid(found)
    steps = np.arange(STEPS, BUDGET + 1, STEPS / 2)
    for method, ours in curves.items():
        against = "other" if method.startswith("other") else "random"
        if against not in curves:
            continue
        share, low, high = bootstrap_shares(ours, steps / budget_of(against), curves[against][:, -1])
        end = np.quantile(ours[:, -1], QUANTILES)
        summary = f"best {end[1]:.3g} ({end[0]:.3g} to {end[2]:.3g})"
        needed, *ends = (f"{x:.0%}" if np.isfinite(x) else "more than all" for x in (share, low, high))
        print(
            f"{method}: {len(ours)} repeats, {summary}; "
            f"reaches the best of {against} with {needed} of its steps (90% interval {' to '.join(ends)})"
        )
    draw(curves)


def write(curves: dict[str, dict[str, list[list[float]]]]) -> None:
    """Write the curves, one per line."""
    lines = [
        f" {json.dumps(method)}: {{\n"
        + ",\n".join(f"  {json.dumps(repeat)}: {json.dumps(curve)}" for repeat, curve in ours.items())
        + "\n }"
        for method, ours in curves.items()
    ]
    partial = RESULTS.with_suffix(f".{os.getpid()}.partial")
    partial.write_text('{"curves": {\n' + ",\n".join(lines) + "\n}}\n", encoding="utf-8")
    partial.replace(RESULTS)  # atomic: another process may run other methods


if __name__ == "__main__":
    main()
