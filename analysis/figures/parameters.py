"""Figures of studies: a table in, a drawing with its data and a sentence out. Reads and writes nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter
from numpy.typing import NDArray
from scipy import stats
from statsmodels.nonparametric.smoothers_lowess import lowess
from statsmodels.stats.multitest import multipletests

from analysis.figures.drawing import (
    ALL_THE_SAME,
    FEW,
    INK,
    LOG_RANGE,
    LOSS,
    LOSS_AXIS,
    MARK,
    MORE,
    Drawn,
    as_columns,
    as_numbers,
    count_complete,
    is_ordered,
    label_of,
    make_figure,
    ticks_of,
)
from analysis.statistics import correlate, min_detectable_correlation, permutation_p

__all__ = [
    "plot_curves",
    "plot_history",
    "plot_interactions",
    "plot_parameters",
]

MOST_STUDIES = 6  # of which one figure can tell the colors apart
SMOOTH = 0.7  # share of the trials that a point of the smoother sees
BY_CHANCE = ", which chance alone gives as easily"
N_SHUFFLED = 500


def plot_parameters(trials: pd.DataFrame, params: Sequence[str], left_out: str = "") -> Drawn | str:
    """Draw each parameter against the final loss, with a smoother, an effect size and a corrected p-value.

    Args:
        trials: Complete ones.
        params: What was searched.
        left_out: A sentence on those that are not among them.
    """
    if len(trials) < FEW or not params:
        return f"{count_complete(trials)}; this figure takes {FEW}, and something that is searched. {MORE}"
    varied = [name for name in params if trials[name].nunique() > 1]
    raw = [permutation_p(as_columns(trials[name]), trials[LOSS], trials["trial"]) for name in varied]
    p_values = multipletests(raw, method="holm")[1]
    n_columns = min(3, len(varied))
    n_rows = -(-len(varied) // n_columns)
    figure = make_figure(n_rows, n_columns, 2.6 * n_columns + 0.6, 2.4 * n_rows)
    rows = []
    for axes, name, p in itertools.zip_longest(figure.axes, varied, p_values):
        if name is None:
            axes.set_visible(False)
            continue
        draw_parameter(axes, trials, name)
        row: dict[str, Any] = {
            "parameter": name,
            "spearman": math.nan,
            "low": math.nan,
            "high": math.nan,
            "p": p,
        }
        if is_ordered(trials[name]):
            rho = correlate(as_numbers(trials[name]), trials[LOSS], "spearman")
            row |= {"spearman": rho.value, "low": rho.low, "high": rho.high}
        effect = f"rank correlation {row['spearman']:+.2f}, " if is_ordered(trials[name]) else ""
        axes.set_title(f"{effect}p = {p:.2g}", fontsize=8)
        rows.append(row)
    for index, axes in enumerate(figure.axes):
        if index % n_columns == 0:
            axes.set_ylabel("final loss")
    found = pd.DataFrame(rows)
    sure = found[found["p"] < 0.05]
    named = ", ".join(
        f"{label_of(row.parameter)} ({row.spearman:+.2f} [{row.low:.2f}, {row.high:.2f}])"
        for row in sure.itertuples()
    ).replace(" (+nan [nan, nan])", "")
    text = [
        f"{len(trials)} complete trials; the line is a local regression (lowess) or joins means, the title "
        "Spearman's rank correlation and the permutation p-value of a relation that rises, falls, or turns "
        f"once, beyond what follows from the order of the trials, corrected for {len(varied)} parameters by "
        "Holm's method.",
        f"Related to the loss beyond chance: {named}."
        if named
        else "No parameter alone is related to the loss beyond chance; so many trials would show a rank "
        f"correlation of {min_detectable_correlation(len(trials), len(varied)):.2f} four times in five.",
    ]
    if left_out:
        text.append(left_out)
    return Drawn("parameters", figure, found, text)


def draw_parameter(axes: Axes, trials: pd.DataFrame, name: str) -> None:
    """Draw one parameter against the loss: choices side by side, a little apart, numbers at their place."""
    values, losses = as_numbers(trials[name]), trials[LOSS].to_numpy(float)
    choices = np.unique(values)
    few = len(choices) <= 6
    x = np.searchsorted(choices, values).astype(float) if few else values
    log = not few and values.min() > 0 and values.max() / values.min() > LOG_RANGE
    apart = np.random.default_rng(0).uniform(-0.15, 0.15, len(x)) if few else 0.0
    axes.scatter(x + apart, losses, s=12, color=MARK, alpha=0.6, edgecolor="white", lw=0.3)
    axes.set(yscale="log", xlabel=label_of(name), xscale="log" if log else "linear")
    if log:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    if few:
        axes.set_xticks(range(len(choices)), ticks_of(trials[name]))
        at = np.unique(x)
        axes.plot(at, [10 ** np.log10(losses[x == each]).mean() for each in at], color=INK, lw=1.2)
    elif len(x) > 4:
        place = np.log10(x) if log else x
        smooth = lowess(np.log10(losses), place, frac=SMOOTH, it=0)
        axes.plot(10 ** smooth[:, 0] if log else smooth[:, 0], 10 ** smooth[:, 1], color=INK, lw=1.2)


def plot_interactions(
    points: NDArray[np.float64], names: Sequence[str], losses: NDArray[np.float64]
) -> Drawn | str:
    """Draw how much more of the ranks of the loss a product of two parameters explains than the two do.

    Args:
        points: Sets in the unit cube, (set, axis).
        names: Of the axes.
        losses: One per set.
    """
    if len(losses) < 12 or len(names) < 2:
        return f"{count_complete(losses)}; interactions take 12, and two parameters. {MORE}"
    if np.ptp(losses) == 0:
        return ALL_THE_SAME
    ranks, gain = stats.rankdata(losses), np.full((len(names),) * 2, np.nan)
    ranks = (ranks - ranks.mean()) / np.linalg.norm(ranks - ranks.mean())
    pairs = list(itertools.combinations(range(len(names)), 2))
    beyond = np.column_stack([beyond_both(points[:, i], points[:, j]) for i, j in pairs])
    gain[[j for _, j in pairs], [i for i, _ in pairs]] = (ranks @ beyond) ** 2
    shuffled = np.random.default_rng(0).permuted(np.tile(ranks, (N_SHUFFLED, 1)), axis=1) @ beyond
    chance = float(np.quantile((shuffled**2).max(axis=1), 0.95))
    figure = make_figure(height=0.45 * len(names) + 1.2)
    (axes,) = figure.axes
    labels = [label_of(name) for name in names]
    sns.heatmap(
        gain[1:, :-1],
        xticklabels=labels[:-1],
        yticklabels=labels[1:],
        cmap="cividis",
        vmin=0,
        vmax=max(0.1, float(np.nanmax(gain))),
        annot=True,
        fmt=".2f",
        ax=axes,
        cbar_kws={"label": "share of variance"},
        annot_kws={"fontsize": 8},
    )
    i, j = divmod(int(np.nanargmax(gain)), len(names))
    text = [
        "What the product of two parameters explains of the ranks of the loss beyond the two alone. Most: "
        f"{labels[j]} with {labels[i]}, {gain[i, j]:.2f}{'' if gain[i, j] > chance else BY_CHANCE}: where "
        f"losses are shuffled, the largest is above {chance:.2f} in one of 20 cases."
    ]
    frame = pd.DataFrame(gain, index=list(names), columns=list(names)).reset_index(names="parameter")
    return Drawn("interactions", figure, frame, text)


def beyond_both(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, of length 1, what the product of two columns has beyond a plane; nothing where it has none."""
    plane = np.column_stack([np.ones(len(one)), one, other])
    product = (one - one.mean()) * (other - other.mean())
    rest = product - plane @ np.linalg.lstsq(plane, product, rcond=None)[0]
    length = np.linalg.norm(rest)
    return np.asarray(rest / length if length > 1e-9 else 0 * rest, float)


def plot_history(trials: pd.DataFrame) -> Drawn | str:
    """Draw losses in the order of the trials with the best so far, and their empirical distribution."""
    if len(trials) < FEW:
        return f"{count_complete(trials)}; this figure takes {FEW}. {MORE}"
    sizes = trials["study"].value_counts()
    trials = trials[trials["study"].isin(sizes.index[:MOST_STUDIES])]
    figure = make_figure(1, 2, 8, 3.2)
    history, distribution = figure.axes
    colors = sns.color_palette("colorblind", trials["study"].nunique())
    for color, (name, each) in zip(colors, trials.groupby("study"), strict=True):
        ordered = each.sort_values("trial")
        history.scatter(ordered["trial"], ordered[LOSS], s=12, color=color, alpha=0.6, label=name)
        history.step(ordered["trial"], ordered[LOSS].cummin(), where="post", color=color)
        losses = np.sort(ordered[LOSS].to_numpy(float))
        distribution.step(losses, np.arange(1, len(losses) + 1) / len(losses), where="post", color=color)
    history.set(yscale="log", xlabel="trial", ylabel=LOSS_AXIS)
    distribution.set(xscale="log", xlabel=LOSS_AXIS, ylabel="share of trials at or below")
    if trials["study"].nunique() > 1:
        history.legend(fontsize=6, frameon=False)
    best = trials.loc[trials[LOSS].idxmin()]
    text = [f"The best loss, {best[LOSS]:.3g}, is trial {best['trial']} of {best['study']}."]
    if len(sizes) > MOST_STUDIES:
        text.append(f"The {MOST_STUDIES} studies of this texture with most trials; it has {len(sizes)}.")
    return Drawn("history", figure, trials[["study", "trial", LOSS]], text)


def plot_curves(curves: Mapping[tuple[str, int], Mapping[int, float]], trials: pd.DataFrame) -> Drawn | str:
    """Draw the smoothed losses of all trials over their training steps.

    Args:
        curves: By study and trial.
        trials: All that have ended.
    """
    shown = {key: curve for key, curve in curves.items() if curve}
    if not shown:
        return "No trial has reported a loss yet."
    figure = make_figure(height=3.6)
    (axes,) = figure.axes
    reasons = {(row.study, row.trial): row.reason for row in trials.itertuples()}
    names = sorted({reasons.get(key, "") for key in shown})
    colors = dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))
    for key, curve in shown.items():
        axes.plot(list(curve), list(curve.values()), color=colors[reasons.get(key, "")], lw=0.7, alpha=0.6)
    axes.set(yscale="log", xlabel="training step", ylabel="loss, median of 256 steps (no unit)")
    for name, color in colors.items():
        axes.plot([], [], color=color, label=name)
    axes.legend(fontsize=7, frameon=False)
    rows = [
        (study, trial, step, loss) for (study, trial), curve in shown.items() for step, loss in curve.items()
    ]
    drawn = [reasons.get(key, "") for key in shown]
    text = [f"{len(shown)} trials: " + ", ".join(f"{drawn.count(name)} {name}" for name in names) + "."]
    return Drawn("curves", figure, pd.DataFrame(rows, columns=["study", "trial", "step", "loss"]), text)
