"""Parts that all figures share: style, labels, columns as numbers, and sentences in place of a figure."""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype

LOSS = "final_loss"
RATING_AXIS = "rating (0 to 5)"
MIN_TRIALS = 3
MAX_CHOICES = 6  # a parameter with more values is drawn as a continuous one
LOG_RATIO = 10  # a positive parameter with a larger ratio of its ends is drawn on a logarithmic axis
MORE_TRIALS = "For more trials, repeat the sweep's command with a larger `sweep.n_trials`."
ALL_THE_SAME = "All trials came to the same, so there is nothing to explain."
INK, MARK, GRAY = "#1c2430", "#0072b2", "#9aa7b6"
STYLE: Any = sns.axes_style("whitegrid") | {  # of all figures, readable in print
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color"), INK),
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 9),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 8),
    **dict.fromkeys(("legend.fontsize", "legend.title_fontsize"), 7),
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Outcome:
    """What a trial came to.

    Args:
        column: Of a table of trials.
        name: In words.
        unit: What its numbers mean.
        is_rating: Whether it is by eye, the larger the better; others are larger than 0, the smaller the
            better, and shown by their logarithm.
    """

    column: str
    name: str
    unit: str
    is_rating: bool = False

    @property
    def axis(self) -> str:
        """Label of an axis."""
        return f"{self.name} ({self.unit})"


FINAL_LOSS = Outcome(LOSS, "final loss", "style loss, no unit")
RATING = Outcome("rating", "rating", "0 to 5", is_rating=True)
OUTCOMES = (  # that a report can be about, if a study minimizes them
    Outcome("final_distance", "texture distance", "1: the target's pixels shuffled"),
    Outcome("distance_at_1000", "distance at 1,000 CA steps", "1: the target's pixels shuffled"),
    Outcome("final_loss_median", "median loss", "style loss of the last 256 steps, no unit"),
)


def choose_outcome(objective: str, trials: pd.DataFrame) -> Outcome:
    """Return what figures of complete trials show: what their study minimizes, by default the final loss."""
    for outcome in OUTCOMES:
        if outcome.column == objective and outcome.column in trials and (trials[outcome.column] > 0).all():
            return outcome  # NaN is not above 0
    return FINAL_LOSS


def scale_by_logarithm(axes: Axes, name: Literal["x", "y"], values: NDArray[np.float64]) -> None:
    """Make an axis logarithmic, with ticks that can be read where values span less than two decades."""
    axes.set(**{f"{name}scale": "log"})
    ratio = values.max() / values.min() if values.min() > 0 else math.inf
    if ratio < LOG_RATIO**2:
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_major_locator(MaxNLocator(4) if ratio < LOG_RATIO / 2 else LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


@dataclass(frozen=True)
class Plot:
    """A figure with the name of its files, its numbers, the sentences of its caption and a table below it."""

    name: str
    figure: Figure
    data: pd.DataFrame
    text: Sequence[str]
    table: pd.DataFrame | None = None


def require(n: int, found: Sized, more: str = "") -> str:
    """Return the sentence in place of a figure that needs `n` trials, and maybe something more."""
    return f"Needs at least {n} complete trials ({len(found)} so far){more}. {MORE_TRIALS}"


def format_label(name: str) -> str:
    """Return the name of a parameter in words."""
    return name.rpartition(".")[2].replace("_", " ").replace("ca steps", "CA steps")


def format_texture(name: str) -> str:
    """Return the name of a texture in words."""
    return name.replace("_", " ")


def figure_text(text: str) -> str:
    """Return a text for a figure, where $ would begin a formula, and a leading _ hide a legend's entry."""
    return f"{' ' * text.startswith('_')}{text}".replace("$", r"\$")


def make_figure(
    n_rows: int = 1,
    n_columns: int = 1,
    width: float = 7.0,
    height: float = 4.4,
    ratios: Sequence[float] | None = None,
) -> Figure:
    """Return an empty figure with a grid of axes; sizes are in inches, `ratios` those of column widths."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    figure.subplots(n_rows, n_columns, squeeze=False, width_ratios=ratios)
    return figure


def make_colors(names: Sequence[str]) -> dict[str, Any]:
    """Return a color for each name."""
    return dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))


def jitter(n: int, width: float = 0.15) -> NDArray[np.float64]:
    """Return `n` random offsets within +-width, the same in every call."""
    return np.random.default_rng(0).uniform(-width, width, n)


def is_wide(numbers: NDArray[np.float64]) -> bool:
    """Return whether numbers span orders of magnitude and have too many values to be drawn as choices."""
    n_choices, low, high = len(np.unique(numbers)), numbers.min(), numbers.max()
    return bool(n_choices > MAX_CHOICES and low > 0 and high / low > LOG_RATIO)


def as_numbers(values: pd.Series) -> NDArray[np.float64]:
    """Return a column as numbers; text as its position in alphabetical order."""
    return np.asarray(values if is_numeric_dtype(values) else pd.factorize(values, sort=True)[0], float)


def tick_labels(values: pd.Series) -> list[str]:
    """Return the different values of a column, in order, as text."""
    choices = sorted(values.unique())
    return [f"{choice:g}" if is_numeric_dtype(values) else str(choice) for choice in choices]
