"""What all figures share: a drawing with its numbers and sentences, labels, colors, columns as numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.statistics import quadratic_ranks

LOSS = "final_loss"
LABELS = {
    "model.channels": "channels",
    "model.hidden_channels": "hidden channels",
    "model.filters": "filters",
    "model.update_rate": "update rate",
    "train.batch_size": "batch size",
    "train.learning_rate": "learning rate",
    "train.max_ca_steps": "most CA steps of a rollout",
    LOSS: "final loss",
    "final_loss_median": "final loss, median of the last 256 steps",
}
LOSS_AXIS = "final loss (style loss, no unit)"
RATING_AXIS = "rating (0 to 5)"
FEW = 3  # observations, below which nothing is drawn
LOG_RANGE = 10  # a parameter that spans more is drawn by orders of magnitude
MORE = "More of them: the sweep's command again with a larger `sweep.n_trials`."
ALL_THE_SAME = "All final losses are the same: nothing explains them."
INK, MARK = "#1c2430", "#0072b2"


@dataclass(frozen=True)
class Drawn:
    """A figure, what it shows as numbers, and what it says.

    Args:
        name: Of its files.
        figure: The drawing.
        data: Its numbers.
        text: Sentences; the numbers in them come from the data.
    """

    name: str
    figure: Figure
    data: pd.DataFrame
    text: Sequence[str] = field(default_factory=list)


def count_complete(trials: Sized) -> str:
    """Return how many trials are complete, in words."""
    return "1 trial is complete" if len(trials) == 1 else f"{len(trials)} trials are complete"


def label_of(name: str) -> str:
    """Return a column in words."""
    return LABELS.get(name, name.rpartition(".")[2].replace("_", " "))


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw figures in one style, readable in print."""
    style: Any = sns.axes_style("whitegrid") | {
        **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color"), INK),
        **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 9),
        **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 8),
    }
    with mpl.rc_context(style):
        yield


def make_figure(n_rows: int = 1, n_columns: int = 1, width: float = 7.0, height: float = 4.4) -> Figure:
    """Return an empty figure with a grid of axes, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    figure.subplots(n_rows, n_columns, squeeze=False)
    return figure


def is_ordered(values: pd.Series) -> bool:
    """Say whether a column holds numbers, not words."""
    return bool(pd.api.types.is_numeric_dtype(values))


def as_numbers(values: pd.Series) -> NDArray[np.float64]:
    """Return a column as numbers: places in the alphabet's order where it holds words."""
    return np.asarray(values if is_ordered(values) else pd.factorize(values, sort=True)[0], float)


def as_columns(values: pd.Series) -> NDArray[np.float64]:
    """Return what a loss may follow of a column: a curve of its ranks, or a level for each word."""
    if is_ordered(values):
        return quadratic_ranks(as_numbers(values))
    return np.asarray(pd.get_dummies(values), float)


def ticks_of(values: pd.Series) -> list[str]:
    """Return the names of a column's different values, in order."""
    choices = sorted(values.unique())
    return [f"{choice:g}" for choice in choices] if is_ordered(values) else list(map(str, choices))
