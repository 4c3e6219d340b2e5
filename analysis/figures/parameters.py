"""Figures of one study's parameters and of the course of studies."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype
from scipy import stats
from statsmodels.nonparametric.smoothers_lowess import lowess
from statsmodels.stats.multitest import multipletests

from analysis.figures.drawing import (
    ALL_THE_SAME,
    FINAL_LOSS,
    INK,
    MARK,
    MAX_CHOICES,
    MIN_TRIALS,
    Outcome,
    Plot,
    as_numbers,
    figure_text,
    format_label,
    is_wide,
    jitter,
    make_colors,
    make_figure,
    require,
    scale_by_logarithm,
    tick_labels,
)
from analysis.statistics import (
    UNDEFINED,
    correlate,
    min_detectable_correlation,
    permutation_p,
    quadratic_ranks,
    residual,
)

MIN_FOR_INTERACTIONS = 12
MAX_STUDIES = 6  # in one figure, so that their colors can be told apart
SMOOTHING = 0.7  # share of the trials that lowess uses at a point
N_SHUFFLED = 500


def plot_parameters(
    trials: pd.DataFrame, params: Sequence[str], notes: Sequence[str] = (), outcome: Outcome = FINAL_LOSS
) -> Plot | str:
    """Plot each parameter against the outcome, with a smoother, an effect size and an adjusted p-value."""
    trials = trials.dropna(subset=[outcome.column])
    if len(trials) < MIN_TRIALS or not params:
        return require(MIN_TRIALS, trials, " and a searched parameter")
    raw = [permutation_p(design_of(trials[name]), trials[outcome.column], trials["trial"]) for name in params]
    n_columns = min(3, len(params))
    n_rows = -(-len(params) // n_columns)
    figure = make_figure(n_rows, n_columns, 2.6 * n_columns + 0.6, 2.4 * n_rows)
    rows: list[dict[str, Any]] = []
    for axes, name, p in zip(figure.axes, params, multipletests(raw, method="holm")[1], strict=False):
        draw_parameter(axes, trials, name, outcome)
        numeric = is_numeric_dtype(trials[name])
        rho = correlate(trials[name], trials[outcome.column], "spearman") if numeric else UNDEFINED
        effect = "" if math.isnan(rho.value) else f"rank correlation {rho.value:+.2f}, "
        axes.set_title(f"{effect}adjusted p = {p:.2g}", fontsize=8)
        rows.append({"parameter": name, "spearman": rho.value, "low": rho.low, "high": rho.high, "p": p})
    for axes in figure.axes[len(params) :]:
        axes.set_visible(False)
    for axes in figure.axes[::n_columns]:
        axes.set_ylabel(outcome.name)
    text = describe_parameters(rows, len(trials), outcome)
    file = "ratings_by_parameter" if outcome.is_rating else "parameters"
    return Plot(file, figure, pd.DataFrame(rows), [*text, *notes])


def describe_parameters(
    rows: Sequence[Mapping[str, Any]], n_trials: int, outcome: Outcome = FINAL_LOSS
) -> list[str]:
    """Return how the parameters were tested, and which are related to the outcome."""
    counted = "rated" if outcome.is_rating else "complete"
    method = (
        f"{n_trials} {counted} trials. Lines: local regression (lowess), or means of choices. Titles: "
        "Spearman's rank correlation, and the p-value of a permutation test for a relation that rises, "
        "falls, or turns once, beyond a trend over the order of the trials, adjusted for "
        f"{len(rows)} parameters by Holm's method."
    )
    found = ", ".join(
        format_label(row["parameter"])
        + ("" if math.isnan(row["spearman"]) else " ({spearman:+.2f} [{low:.2f}, {high:.2f}])".format(**row))
        for row in rows
        if row["p"] < 0.05
    )
    if found:
        return [method, f"Significantly related to the {outcome.name}: {found}."]
    smallest = min_detectable_correlation(n_trials, len(rows))
    return [
        method,
        f"No parameter alone is significantly related to the {outcome.name}. With this number of trials, a "
        f"rank correlation of {smallest:.2f} would be found with a probability of 80%.",
    ]


def design_of(values: pd.Series) -> NDArray[np.float64]:
    """Return columns that an outcome may depend on: ranks of numbers and their squares, text as dummies."""
    return quadratic_ranks(values) if is_numeric_dtype(values) else np.asarray(pd.get_dummies(values), float)


def draw_parameter(axes: Axes, trials: pd.DataFrame, name: str, outcome: Outcome) -> None:
    """Draw one parameter against the outcome: choices side by side with jitter, numbers at their value."""
    values, outcomes = as_numbers(trials[name]), trials[outcome.column].to_numpy(float)
    choices, log = np.unique(values), is_wide(values)
    discrete = len(choices) <= MAX_CHOICES
    x = np.searchsorted(choices, values).astype(float) if discrete else values
    shown = x + jitter(len(x)) if discrete else x
    axes.scatter(shown, outcomes, s=12, color=MARK, alpha=0.6, edgecolor="white", lw=0.3)
    axes.set(xlabel=format_label(name), xscale="log" if log else "linear")
    if not outcome.is_rating:
        scale_by_logarithm(axes, "y", outcomes)
    y = outcomes if outcome.is_rating else np.log10(outcomes)
    if log:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    if discrete:
        axes.set_xticks(range(len(choices)), tick_labels(trials[name]))
        line = np.array([(each, y[x == each].mean()) for each in np.unique(x)])
    else:
        line = lowess(y, np.log10(x) if log else x, frac=SMOOTHING, it=0)
    at = 10 ** line[:, 0] if log and not discrete else line[:, 0]
    axes.plot(at, line[:, 1] if outcome.is_rating else 10 ** line[:, 1], color=INK, lw=1.2)


PARALLEL = (
    "Each line is a configuration, with its values on the axes; the brighter, the smaller its {name}. "
    "Drag along an axis to show only the lines that pass there, drag a name to move its axis."
)


def plot_parallel(trials: pd.DataFrame, params: Sequence[str], outcome: Outcome = FINAL_LOSS) -> str:
    """Return parallel coordinates of parameters and outcomes with plotly.js; empty for too few trials."""
    if len(trials) < MIN_TRIALS or not params:
        return ""
    import plotly.graph_objects as go

    losses = np.log10(trials[outcome.column].to_numpy(float))
    dimensions = [_dimension(trials[name], format_label(name)) for name in params]
    dimensions.append({"label": f"log10 {outcome.name}", "values": losses})
    lines = {"color": losses, "colorscale": "Viridis", "reversescale": True, "showscale": True}
    figure = go.Figure(go.Parcoords(line=lines, dimensions=dimensions))
    figure.update_layout(height=420, margin={"l": 60, "r": 30, "t": 60, "b": 30}, font={"size": 12})
    html: str = figure.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})
    return f"{html}<p>{PARALLEL.format(name=outcome.name)}</p>"


def _dimension(values: pd.Series, label: str) -> dict[str, object]:
    """Return an axis: logarithmic over orders of magnitude, choices with their values as ticks."""
    numbers = as_numbers(values)
    choices = np.unique(numbers)
    if len(choices) <= MAX_CHOICES:
        ticks = {"tickvals": list(range(len(choices))), "ticktext": tick_labels(values)}
        return {"label": label, "values": np.searchsorted(choices, numbers), **ticks}
    if is_wide(numbers):
        return {"label": f"log10 {label}", "values": np.log10(numbers)}
    return {"label": label, "values": numbers}


def plot_interactions(
    points: NDArray[np.float64],
    names: Sequence[str],
    losses: NDArray[np.float64],
    outcome: Outcome = FINAL_LOSS,
) -> Plot | str:
    """Plot the share of the outcome's rank variance that products of two parameters explain beyond both.

    Args:
        points: Configurations in the unit cube, (configuration, parameter).
        names: Names of the parameters.
        losses: The outcome of each configuration.
        outcome: What that is.
    """
    if len(losses) < MIN_FOR_INTERACTIONS or len(names) < 2:
        return require(MIN_FOR_INTERACTIONS, losses, " and two parameters that vary")
    if np.ptp(losses) == 0:
        return ALL_THE_SAME
    ranks, gain = stats.rankdata(losses), np.full((len(names),) * 2, np.nan)
    ranks = (ranks - ranks.mean()) / np.linalg.norm(ranks - ranks.mean())
    pairs = list(itertools.combinations(range(len(names)), 2))
    products = np.column_stack([interaction(points[:, i], points[:, j]) for i, j in pairs])
    gain[[j for _, j in pairs], [i for i, _ in pairs]] = (ranks @ products) ** 2
    shuffled = np.random.default_rng(0).permuted(np.tile(ranks, (N_SHUFFLED, 1)), axis=1) @ products
    threshold = float(np.quantile((shuffled**2).max(axis=1), 0.95))
    figure = make_figure(height=0.45 * len(names) + 1.2)
    (axes,) = figure.axes
    labels = [format_label(name) for name in names]
    limits = {"vmin": 0, "vmax": max(0.1, float(np.nanmax(gain)))}
    style = {"annot": True, "fmt": ".2f", "annot_kws": {"fontsize": 8}, "cmap": "cividis"}
    bar = {"label": "share of variance"}
    frame = pd.DataFrame(gain, index=labels, columns=labels)
    sns.heatmap(frame.iloc[1:, :-1], ax=axes, cbar_kws=bar, **limits, **style)
    i, j = divmod(int(np.nanargmax(gain)), len(names))
    text = (
        f"Share of the variance of the ranks of the {outcome.name} that the product of two parameters "
        f"explains beyond both alone. Largest: {labels[j]} with {labels[i]}, {gain[i, j]:.2f}, which is "
        f"{'' if gain[i, j] > threshold else 'not '}significant: with shuffled ranks the largest share "
        f"exceeds {threshold:.2f} in 5% of cases."
    )
    frame = pd.DataFrame(gain, index=list(names), columns=list(names)).reset_index(names="parameter")
    return Plot("interactions", figure, frame, [text])


def interaction(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the residual, with length 1, of a product of two columns after both; 0 if there is none."""
    product = (one - one.mean()) * (other - other.mean())
    rest = residual(product, np.column_stack([np.ones(len(one)), one, other]))
    length = np.linalg.norm(rest)
    return np.asarray(rest / length if length > 1e-9 else 0 * rest, float)


def plot_history(trials: pd.DataFrame, outcome: Outcome = FINAL_LOSS) -> Plot | str:
    """Plot the outcomes in the order of the trials with the best so far, and their empirical distribution."""
    if len(trials) < MIN_TRIALS:
        return require(MIN_TRIALS, trials)
    sizes = trials["study"].value_counts()
    trials = trials[trials["study"].isin(sizes.index[:MAX_STUDIES])]
    figure = make_figure(1, 2, 8, 3.2)
    history, distribution = figure.axes
    colors = make_colors(sorted(set(trials["study"])))
    for name, color in colors.items():
        ordered = trials[trials["study"] == name].sort_values("trial")
        label = figure_text(name)
        history.scatter(ordered["trial"], ordered[outcome.column], s=12, color=color, alpha=0.6, label=label)
        history.step(ordered["trial"], ordered[outcome.column].cummin(), where="post", color=color)
        distribution.ecdf(ordered[outcome.column], color=color)
    history.set(xlabel="trial", ylabel=outcome.name)
    distribution.set(xlabel=outcome.axis, ylabel="share of trials at or below")
    values = trials[outcome.column].to_numpy(float)
    scale_by_logarithm(history, "y", values)
    scale_by_logarithm(distribution, "x", values)
    if len(colors) > 1:
        history.legend(fontsize=6, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)  # above the points
    best = trials.loc[trials[outcome.column].idxmin()]
    least = f"{outcome.name}, {best[outcome.column]:.3g}"
    text = [f"The smallest {least}, is that of trial {best['trial']} of {best['study']}."]
    if len(sizes) > MAX_STUDIES:
        text.append(f"Shown are the {MAX_STUDIES} of {len(sizes)} studies with the most trials.")
    return Plot("history", figure, trials[["study", "trial", outcome.column]], text)


def plot_curves(curves: pd.DataFrame, trials: pd.DataFrame) -> Plot | str:
    """Plot the smoothed losses of all trials over their training steps."""
    if curves.empty:
        return "No trial has reported a loss yet."
    figure = make_figure(height=3.6)
    (axes,) = figure.axes
    reasons = trials.set_index(["study", "trial"])["reason"]
    shown = dict(iter(curves.groupby(["study", "trial"], sort=False)))
    counts = reasons[list(shown)].value_counts().sort_index()
    colors = make_colors(list(counts.index))
    for key, curve in shown.items():
        axes.plot(curve["step"], curve["loss"], color=colors[reasons[key]], lw=0.7, alpha=0.6)
    axes.set(xlabel="training step", ylabel="loss, median of 256 steps (no unit)")
    scale_by_logarithm(axes, "y", curves["loss"].to_numpy(float))
    axes.legend([Line2D([], [], color=color) for color in colors.values()], colors)
    text = f"{len(shown)} trials: {', '.join(f'{n} {reason}' for reason, n in counts.items())}."
    return Plot("curves", figure, curves, [text])
