"""Replays a study under pruners: `python -m benchmarks.pruning [FOLDER STUDY]`.

The exported study has only complete trials (by default docs/study's 50 random ones of distill, 1,500 steps).
They are replayed in random orders: a trial ends at the report at which the pruner ends it, and a pruner that
thaws goes on with an ended trial where it stopped. Prints the training needed until a configuration as good
as the best of 25 has trained to its end, relative to no pruning, with intervals of a bootstrap over
configurations, and writes pruning.json. Takes a minute.
"""

from __future__ import annotations

import json
import sys
from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.special import ndtr

STUDY = (str(Path(__file__).parents[1] / "docs" / "study"), "roundleaf-fifty")
RESULTS = Path(__file__).with_name("pruning.json")
N_REPLAYS = 500
N_RESAMPLED = 60  # studies, resampled from the configurations
N_REPLAYS_EACH = 25  # of a resampled study
N_ROUNDS = 8  # of all configurations, in another order each
GOAL_OF = 25  # random configurations whose best is the goal
FIRST_RUNGS = (1 / 32, 1 / 16, 1 / 8, 1 / 4)  # of a trial's steps
FACTORS = (2, 4)
COMPARED_WITH = "asha 1/8 of the steps 1/4"
CHANCES = (0.02, 0.05, 0.1)
N_LAWS = 20  # power laws per prediction
N_STARTUP = 5  # complete trials before the median pruner prunes
# Standard deviation of the log of the last loss around a prediction, per unit of log(steps / steps so far).
# Measured on docs/study's curves, to the advantage of the method there.
SPREAD = 1.2

Mode = Literal["stop", "thaw", "promote"]


@dataclass(frozen=True)
class Curves:
    """Loss curves of complete trials.

    Args:
        steps: Training steps of the reports, (n_reports,).
        losses: (n_trials, n_reports).
        last: Final losses, (n_trials,).
    """

    steps: NDArray[np.int64]
    losses: NDArray[np.float64]
    last: NDArray[np.float64]

    def take(self, rows: NDArray[np.int64]) -> Curves:
        """Return the curves of some trials, in a given order."""
        return Curves(self.steps, self.losses[rows], self.last[rows])


class Pruner(Protocol):
    """Decides in a replay."""

    def keeps(self, trial: int, report: int) -> bool:
        """Return whether a trial continues after a report that is not its last."""

    def thaw(self) -> int | None:
        """Return an ended trial that is to continue before a new one starts."""


@dataclass
class Halving:
    """Successive halving with asynchronous rungs.

    `stop` is Optuna's SuccessiveHalvingPruner: a trial ends at a rung unless it is among the best 1 / factor
    of those that reached it before; the first ones continue. `thaw` continues an ended trial once it is among
    them, as others came after it. `promote` ends every trial at every rung, and continues the best of those
    that are among the best 1 / factor, the highest rung first, as published.

    Source: Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", algorithm 2.
    """

    losses: NDArray[np.float64]
    rungs: Sequence[int]
    factor: int
    mode: Mode = "stop"
    _seen: list[list[float]] = field(init=False)
    _ended: list[list[tuple[float, int]]] = field(init=False)

    def __post_init__(self) -> None:
        self._seen, self._ended = [[] for _ in self.rungs], [[] for _ in self.rungs]

    def _limit(self, rung: int) -> float:
        n_best = len(self._seen[rung]) // self.factor
        if n_best == 0 and self.mode == "promote":
            return -np.inf
        return self._seen[rung][max(1, n_best) - 1]

    def keeps(self, trial: int, report: int) -> bool:
        if report not in self.rungs:
            return True
        rung, loss = self.rungs.index(report), float(self.losses[trial, report])
        insort(self._seen[rung], loss)
        if self.mode != "promote" and loss <= self._limit(rung):
            return True
        insort(self._ended[rung], (loss, trial))
        return False

    def thaw(self) -> int | None:
        for rung in reversed(range(len(self.rungs)) if self.mode != "stop" else ()):
            if self._ended[rung] and self._ended[rung][0][0] <= self._limit(rung):
                return self._ended[rung].pop(0)[1]
        return None


@dataclass
class Median:
    """Ends a trial whose best loss is worse than the median of the complete trials at that report."""

    losses: NDArray[np.float64]
    first: int
    _complete: list[int] = field(default_factory=list)

    def keeps(self, trial: int, report: int) -> bool:
        bad = len(self._complete) >= N_STARTUP and report >= self.first
        if bad and self.losses[trial, : report + 1].min() > np.median(self.losses[self._complete, report]):
            return False
        if report == self.losses.shape[1] - 2:
            self._complete.append(trial)
        return True

    def thaw(self) -> int | None:
        return None


@dataclass
class PowerLaw:
    """Ends a trial that is unlikely to beat the best so far by an extrapolation with uncertainty.

    Source: Kadra et al. 2023, "Power Laws for Hyperparameter Optimization". They fit an ensemble of networks
    to all curves; here each curve has an ensemble of its own, see `extrapolate`.

    Args:
        last: Final losses.
        predicted: Mean and standard deviation of the log of each trial's final loss, after each report.
        chance: Trials with less are ended.
    """

    last: NDArray[np.float64]
    predicted: tuple[NDArray[np.float64], NDArray[np.float64]]
    chance: float
    _best: float = np.inf

    def keeps(self, trial: int, report: int) -> bool:
        mean, deviation = (part[trial, report] for part in self.predicted)
        if self._best < np.inf and ndtr((np.log(self._best) - mean) / deviation) < self.chance:
            return False
        if report == self.predicted[0].shape[1] - 2:
            self._best = min(self._best, float(self.last[trial]))
        return True

    def thaw(self) -> int | None:
        return None


def extrapolate(curves: Curves) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of the log of final losses, (n_trials, n_reports), at each report.

    Lines through log(loss) against log(step) are fitted to bootstraps of the reports so far, late ones with
    more weight; their deviation and `SPREAD` are added in squares.
    """
    draw = np.random.default_rng(0)
    x, y = np.log(curves.steps / curves.steps[-1]), np.log(curves.losses)
    mean, deviation = y.copy(), np.zeros_like(y)
    for n in range(3, y.shape[1] + 1):
        for trial in range(len(y)):
            rows = draw.integers(n, size=(N_LAWS, n))
            weight = rows + 1.0
            total = weight.sum(1)
            at, log_loss = x[rows], y[trial, rows]
            mid_x, mid_y = (weight * at).sum(1) / total, (weight * log_loss).sum(1) / total
            moments = (weight * (at - mid_x[:, None]) ** 2).sum(1)
            slopes = (weight * (at - mid_x[:, None]) * log_loss).sum(1) / np.maximum(moments, 1e-12)
            ends = mid_y - np.minimum(slopes, 0) * mid_x  # at log 1, of curves that do not rise
            mean[trial, n - 1], deviation[trial, n - 1] = np.median(ends), ends.std()
    return mean, np.hypot(deviation, SPREAD * x) + 1e-9


def read(folder: str, study: str) -> Curves:
    """Return the complete trials of an exported study, but for suggested ones."""
    curves = pd.read_csv(Path(folder) / "curves.csv").query("study == @study")
    trials = pd.read_csv(Path(folder) / "trials.csv").query("study == @study").set_index("trial")
    if "suggested_by" in trials:
        trials = trials[trials["suggested_by"].isna()]
    last = trials["final_loss_median"].dropna()
    table = curves.pivot_table(index="trial", columns="step", values="loss").loc[last.index].dropna()
    return Curves(table.columns.to_numpy(), table.to_numpy(), last.loc[table.index].to_numpy())


def replay(pruner: Pruner | None, n_trials: int, n_reports: int) -> Iterator[tuple[int, int, int]]:
    """Yield a trial, its reports before and its reports now, whenever one has ended or is complete."""
    reached, n_started = [0] * n_trials, 0
    while True:
        trial = None if pruner is None else pruner.thaw()
        if trial is None:
            if n_started == n_trials:
                return
            trial, n_started = n_started, n_started + 1
        before, now = reached[trial], n_reports if pruner is None else reached[trial] + 1
        while pruner is not None and now < n_reports and pruner.keeps(trial, now - 1):
            now += 1
        reached[trial] = now
        yield trial, before, now


def steps_to_goal(pruner: Pruner | None, curves: Curves, goal: float) -> float:
    """Return the training, in complete trials, until a trial ends with a loss as low as the goal."""
    shares, spent = [0.0, *(curves.steps / curves.steps[-1])], 0.0
    for trial, before, now in replay(pruner, *curves.losses.shape):
        spent += shares[now] - shares[before]
        if now == len(curves.steps) and curves.last[trial] <= goal:
            return float(spent)
    return float("inf")


def find_rungs(steps: NDArray[np.int64], first: float, factor: int) -> list[int]:
    """Return the reports at which trials are compared, the first after a share of a trial's steps."""
    full = int(steps[-1])
    wanted = [first * full * factor**k for k in range(10)]
    return [int(np.abs(steps - step).argmin()) for step in wanted if step < 0.9 * full]


Factory = Callable[[Curves, NDArray[np.int64]], Pruner | None]  # of ordered curves, and the order


def make_methods(curves: Curves) -> dict[str, Factory]:
    """Return what makes the pruner of each replay, by name."""
    predicted = extrapolate(curves)

    def halving(first: float, factor: int, mode: Mode) -> Factory:
        rungs = find_rungs(curves.steps, first, factor)
        return lambda ordered, _: Halving(ordered.losses, rungs, factor, mode)

    def median(first: float) -> Factory:
        report = int(np.abs(curves.steps - first * curves.steps[-1]).argmin())
        return lambda ordered, _: Median(ordered.losses, report)

    def power_law(chance: float) -> Factory:
        mean, deviation = predicted
        return lambda ordered, rows: PowerLaw(ordered.last, (mean[rows], deviation[rows]), chance)

    found: dict[str, Factory] = {"no pruning": lambda *_: None}
    modes: dict[str, Mode] = {"asha": "stop", "asha, thawing": "thaw", "asha, promoting": "promote"}
    for name, mode in modes.items():
        for first in FIRST_RUNGS if mode == "stop" else FIRST_RUNGS[1:3]:
            for factor in FACTORS:
                found[f"{name} 1/{round(1 / first)} of the steps 1/{factor}"] = halving(first, factor, mode)
    found |= {f"median 1/{round(1 / first)} of the steps": median(first) for first in (1 / 32, 1 / 8)}
    return found | {f"power law, chance below {chance}": power_law(chance) for chance in CHANCES}


def measure(
    draw: np.random.Generator, curves: Curves, rows: NDArray[np.int64], methods: dict[str, Factory], n: int
) -> dict[str, NDArray[np.float64]]:
    """Return the training that each method needs in n replays of some trials, all in the same orders."""
    last = curves.last[rows]
    goal = float(np.median([draw.choice(last, GOAL_OF, replace=False).min() for _ in range(1000)]))
    found: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(n):
        order = np.concatenate([draw.permutation(rows) for _ in range(N_ROUNDS)])
        ordered = curves.take(order)
        for name, make in methods.items():
            found[name].append(steps_to_goal(make(ordered, order), ordered, goal))
    return {name: np.array(values) for name, values in found.items()}


def relative(spent: dict[str, NDArray[np.float64]], quantile: float = 0.5) -> dict[str, float]:
    """Return a quantile of each method's training, relative to the median without pruning."""
    plain = float(np.median(spent["no pruning"]))
    return {name: float(np.quantile(x, quantile, method="nearest")) / plain for name, x in spent.items()}


def quotient(ours: float, other: float) -> float:
    """Return ours / other; 1 if neither reaches the goal."""
    return 1.0 if ours == other else ours / other


def main(arguments: Sequence[str] | None = None) -> None:
    """Replay, print, and write pruning.json."""
    folder, name = list(sys.argv[1:] if arguments is None else arguments) or STUDY
    curves = read(folder, name)
    draw, n = np.random.default_rng(0), len(curves.last)
    methods = make_methods(curves)
    spent = measure(draw, curves, np.arange(n), methods, N_REPLAYS)
    resampled = [
        relative(measure(draw, curves, draw.integers(n, size=n), methods, N_REPLAYS_EACH))
        for _ in range(N_RESAMPLED)
    ]
    table = Table("pruner", "of no pruning", "90% interval", "nine of ten replays", "of asha 1/8 1/4")
    results = {}
    middle, most = relative(spent), relative(spent, 0.9)
    for method in methods:
        quotients = [quotient(each[method], each[COMPARED_WITH]) for each in resampled]
        found = [middle[method], *interval([each[method] for each in resampled]), most[method]]
        found += [quotient(middle[method], middle[COMPARED_WITH]), *interval(quotients)]
        results[method] = [round(float(x), 2) for x in found]
        own, low, high, tail, against, least, greatest = (f"{x:.2f}" for x in found)
        table.add_row(method, own, f"{low} to {high}", tail, f"{against} ({least} to {greatest})")
    Console(width=120).print(table)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def interval(values: Sequence[float]) -> list[float]:
    """Return the 5% and the 95% quantile; infinite values count as the largest."""
    return [float(x) for x in np.quantile(values, (0.05, 0.95), method="nearest")]


if __name__ == "__main__":
    main()
