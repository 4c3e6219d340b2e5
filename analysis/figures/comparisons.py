"""Figures that compare studies with each other, with ratings, and with predictions.

`trials` are complete trials of several studies, with the columns of `analysis.runs.join_studies`.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy import optimize, stats
from statsmodels.regression.linear_model import OLS
from statsmodels.tools import add_constant

from analysis.figures.drawing import (
    FINAL_LOSS,
    GRAY,
    INK,
    MARK,
    MIN_TRIALS,
    RATING_AXIS,
    Outcome,
    Plot,
    figure_text,
    format_texture,
    jitter,
    make_colors,
    make_figure,
    scale_by_logarithm,
)
from analysis.statistics import N_RESAMPLES, Z_95, correlate, correlate_within, log10_std

Vector = NDArray[np.float64]
Curve = Callable[[Vector], Vector]

MARKERS = "os^vDPX*<>"  # for lines with similar colors
RATING_JITTER = 0.12
MIN_SHARED = 5  # configurations that textures must share to be compared
MAX_NAMED = 3
N_FITS = 200
MARGIN = 3.0  # factor around the losses of suggestions
MAX_LEVERAGE = 0.9  # a point with more leverage almost determines the fit
WIDE = 10.0  # times the lower end of an interval
VAGUE = "One or two configurations make most of the spread on {textures}: its interval tells little."


def plot_losses_by_texture(trials: pd.DataFrame, outcome: Outcome = FINAL_LOSS) -> Plot | str:
    """Plot the outcomes of the same configurations on several textures."""
    shared = find_shared(trials, outcome)
    if shared is None:
        return (
            f"Fewer than {MIN_SHARED} configurations were trained on more than one texture. To train some: "
            "`python -m nca.sweep -m experiment=ten_sets texture=roundleaf,orchid_petal,alocasia,snake_plant "
            "'sweep.study=${texture.name}-ten'`, then a report of all four studies."
        )
    figure = make_figure()
    (axes,) = figure.axes
    for index, (name, losses) in enumerate(shared.iterrows()):
        color, marker = sns.color_palette("husl", len(shared))[index], MARKERS[index % len(MARKERS)]
        axes.plot(range(losses.size), losses, f"{marker}-", color=color, alpha=0.85, lw=0.8, ms=6, label=name)
    if len(shared) <= len(MARKERS):
        axes.legend(title="configuration", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    scale_by_logarithm(axes, "y", shared.to_numpy(float))
    axes.set(ylabel=outcome.axis, xticks=range(shared.shape[1]), xlabel="texture")
    axes.set_xticklabels([figure_text(format_texture(texture)) for texture in shared])
    estimates = {format_texture(texture): log10_std(shared[texture]) for texture in shared}
    spreads = "; ".join(f"{texture} {spread}" for texture, spread in estimates.items())
    vague = [texture for texture, each in estimates.items() if each.high > WIDE * each.low]
    text = [
        f"{len(shared)} configurations on {shared.shape[1]} textures, one line each. Standard deviation of "
        f"the {outcome.name} in orders of magnitude, with its 95% jackknife interval: {spreads}.",
        *([VAGUE.format(textures=", ".join(vague))] if vague else ()),
        describe_widest(np.log10(shared)),
    ]
    data = shared.rename_axis(columns="texture").stack().rename(outcome.column).reset_index()
    return Plot("losses_by_texture", figure, data, text)


def describe_widest(logs: pd.DataFrame) -> str:
    """Return on which texture, a column of `logs`, outcomes vary most, and without which trials not."""
    values = logs.to_numpy()
    if not np.ptp(values, axis=0).any():
        return "They do not vary on any texture."
    widest = logs.std().idxmax()
    drawn = np.random.default_rng(0).integers(0, len(values), (N_RESAMPLES, len(values)))
    share = (values[drawn].std(axis=1).argmax(axis=1) == list(logs).index(widest)).mean()
    parts = [f"It is largest on {format_texture(widest)}, as in {share:.0%} of bootstrap samples"]
    without = {name: logs.drop(index=name).std().idxmax() for name in logs.index}
    changed = {name: other for name, other in without.items() if other != widest}
    if len(changed) > MAX_NAMED:
        parts.append(f"on another texture without any one of {len(changed)} configurations")
        changed = {}
    parts += [f"without configuration {name} on {format_texture(other)}" for name, other in changed.items()]
    return f"{'; '.join(parts)}."


def find_shared(trials: pd.DataFrame, outcome: Outcome) -> pd.DataFrame | None:
    """Return the outcomes of configurations that were trained on several textures; None for too few.

    Returns:
        (configuration, texture) without gaps, configurations named by letters; of several trials of one on a
        texture the first counts.
    """
    first = trials.drop_duplicates(["configuration", "texture"])
    wide = first.pivot_table(index="configuration", columns="texture", values=outcome.column)
    shared = wide[wide.notna().sum(axis=1) > 1]
    wide = shared.loc[:, shared.notna().sum() >= MIN_SHARED].dropna()
    if len(wide) < MIN_SHARED or wide.shape[1] < 2:
        return None
    letters = string.ascii_uppercase if len(wide) <= len(string.ascii_uppercase) else range(len(wide))
    return wide.set_axis(list(map(str, letters))[: len(wide)], axis=0)


def plot_rating_against_loss(trials: pd.DataFrame, outcome: Outcome = FINAL_LOSS) -> Plot | str:
    """Plot ratings against the outcome, with a regression on its logarithm for each texture."""
    rated = trials.dropna(subset=["rating", outcome.column])
    if len(rated) < MIN_TRIALS:
        return (
            f"Needs at least {MIN_TRIALS} rated complete trials ({len(rated)} so far). To rate them: "
            "`python -m analysis.rate study=STUDY`."
        )
    x, y = np.log10(rated[outcome.column].to_numpy(float)), rated["rating"].to_numpy(float)
    figure = make_figure()
    (axes,) = figure.axes
    shifted = y + jitter(len(y), RATING_JITTER)
    by_texture, colors = [], make_colors(sorted(set(rated["texture"])))
    for texture, color in colors.items():
        own, label = (rated["texture"] == texture).to_numpy(), format_texture(texture)
        points = axes.scatter(10 ** x[own], shifted[own], color=color, s=22, edgecolor="white", lw=0.4)
        points.set_label(figure_text(label))
        if own.sum() >= MIN_SHARED and np.ptp(x[own]) > 0:
            draw_regression(axes, x[own], y[own], color, band=len(colors) == 1)
            by_texture.append(f"{label} {correlate(x[own], y[own], 'spearman')} (n = {own.sum()})")
    groups, clusters = list(rated["texture"]), list(rated["configuration"])
    text = [
        f"{len(rated)} rated outputs; equal ratings are moved apart a little. "
        f"{'Within textures the' if len(colors) > 1 else 'The'} correlation of the rating with the logarithm "
        f"of the {outcome.name} is {correlate_within(x, y, groups, clusters, 'pearson')} (Pearson), and "
        f"{correlate_within(x, y, groups, clusters, 'spearman')} (Spearman, by rank), with 95% intervals."
    ]
    if len(colors) > 1:
        axes.legend()
        text.append(f"Spearman for each texture: {'; '.join(by_texture) or 'too few of each'}.")
    scale_by_logarithm(axes, "x", rated[outcome.column].to_numpy(float))
    axes.set(xlabel=outcome.axis, ylabel=RATING_AXIS, ylim=(-0.3, 5.3))
    data = rated[["study", "texture", "trial", outcome.column, "rating"]]
    return Plot("rating_against_loss", figure, data, text)


def draw_regression(axes: Axes, x: Vector, y: Vector, color: Any, *, band: bool) -> None:
    """Draw a least-squares line over logarithms x, with its 95% confidence band."""
    at = np.linspace(x.min(), x.max(), 100)
    prediction = OLS(y, add_constant(x)).fit().get_prediction(add_constant(at))
    axes.plot(10**at, prediction.predicted_mean, color=color, lw=1.2)
    if band:
        axes.fill_between(10**at, *prediction.conf_int().T, color=color, alpha=0.12, lw=0)


def plot_texture_against_texture(
    trials: pd.DataFrame, first: str, outcome: Outcome = FINAL_LOSS
) -> Plot | str:
    """Plot the outcomes on other textures against those of the same configurations on the first."""
    wide = find_shared(trials, outcome)
    if wide is None or first not in wide:
        return (
            f"Fewer than {MIN_SHARED} configurations were trained on {format_texture(first)} and on another "
            "texture. Train them with `experiment=ten_sets` and several textures."
        )
    others = [texture for texture in wide if texture != first]
    figure = make_figure(1, len(others), 3.0 * len(others) + 0.4, 3.2)
    x = wide[first].to_numpy(float)
    squares = (x - x.mean()) ** 2
    outlying = 1 / len(x) + squares / max(squares.sum(), np.finfo(float).tiny) > MAX_LEVERAGE
    text, rows = [], []
    for axes, other in zip(figure.axes, others, strict=True):
        y = wide[other].to_numpy(float)
        axes.scatter(x, y, color=MARK, s=22, edgecolor="white", lw=0.4, zorder=3)
        rho = correlate(x, y, "spearman")
        parts = [f"{format_texture(other)}: rank correlation {rho}"]
        if np.ptp(y) > 0 and np.ptp(x[~outlying]) > 0:
            for kind in ("linear", "exponential"):
                row = draw_fit(axes, kind, x[~outlying], y[~outlying])
                parts.append("{fit} fit R² {r2:.2f} [{low:.2f}, {high:.2f}]".format(**row))
                rows.append({"texture": other, **row, "spearman": rho.value})
        axes.set(title=figure_text(format_texture(other)))
        scale_by_logarithm(axes, "x", x)
        scale_by_logarithm(axes, "y", y)
        pad = max(1.1, (y.max() / y.min()) ** 0.2)
        axes.set_ylim(y.min() / pad, y.max() * pad)  # the band may leave the picture
        axes.set_xlabel(figure_text(f"{format_texture(first)}: {outcome.name}"))
        text.append(", ".join(parts) + ".")
    text.append(
        f"{len(wide)} configurations. Both fits are least squares of the logarithms, because outcomes vary "
        "by factors; shaded: 95% bootstrap band of the exponential fit."
    )
    if outlying.any():
        named = ", ".join(str(name) for name in wide.index[outlying])
        text.append(f"The fits leave out configuration {named}, whose leverage is above {MAX_LEVERAGE}.")
    figure.axes[0].set_ylabel(f"{outcome.name}, other texture")
    if rows:
        figure.axes[0].legend()
    return Plot("texture_against_texture", figure, pd.DataFrame(rows), text)


def fit_curve(kind: str, x: Vector, y: Vector) -> tuple[Curve, float]:
    """Return y = a exp(b x), or a line with positive ends, fitted to the logarithms of y, and their R²."""
    logs = np.log(y)
    if kind == "exponential":
        fit = stats.linregress(x, logs)
        return lambda at: np.exp(fit.intercept + fit.slope * at), float(fit.rvalue**2)
    ends = [x.min(), x.max()]

    def line(log_ends: Vector, at: Vector) -> Vector:
        return np.asarray(np.interp(at, ends, np.exp(log_ends)), float)

    start = np.polyval(np.polyfit(x, logs, 1), ends)
    found = optimize.least_squares(lambda log_ends: np.log(line(log_ends, x)) - logs, start)
    return lambda at: line(found.x, at), float(1 - 2 * found.cost / ((logs - logs.mean()) ** 2).sum())


def draw_fit(axes: Axes, kind: str, x: Vector, y: Vector) -> dict[str, Any]:
    """Draw a fitted curve, an exponential one with its 95% bootstrap band; return R² and its interval."""
    at, draw = np.geomspace(x.min(), x.max(), 100), np.random.default_rng(0)
    fits: list[tuple[Curve, float]] = []
    while len(fits) < N_FITS:
        index = draw.integers(0, len(x), len(x))
        if np.ptp(x[index]) > 0 and np.ptp(y[index]) > 0:
            fits.append(fit_curve(kind, x[index], y[index]))
    low, high = np.quantile([r2 for _, r2 in fits], [0.025, 0.975])
    curve, r2 = fit_curve(kind, x, y)
    axes.plot(at, curve(at), "-" if kind == "linear" else "--", color=INK, lw=1, label=kind)
    if kind == "exponential":
        band = np.quantile([each(at) for each, _ in fits], [0.025, 0.975], axis=0)
        axes.fill_between(at, *band, color=INK, alpha=0.1, lw=0)
    return {"fit": kind, "r2": r2, "low": float(low), "high": float(high)}


def plot_suggestions(trials: pd.DataFrame, outcome: Outcome = FINAL_LOSS) -> Plot | str:
    """Plot obtained against predicted outcomes of suggestions, the outcomes and the ratings by method."""
    suggested, others = trials.dropna(subset=["suggested_by"]), trials[trials["suggested_by"].isna()]
    if suggested.empty:
        return (
            "No suggested trial is complete. Queue some with `python -m analysis.suggest study=STUDY "
            "enqueue=true`, then repeat the sweep's command."
        )
    is_rated, predicted = suggested["rating"].notna().any(), f"predicted_log10_{outcome.column}"
    is_predicted = predicted in suggested and suggested[predicted].notna().all()  # suggested by this outcome
    figure = make_figure(1, 1 + is_predicted + is_rated, 4.4 + 3.6 * (is_predicted + is_rated), 3.4)
    panels = iter(figure.axes)
    colors = make_colors(sorted(suggested["suggested_by"].unique()))
    groups = {"not suggested": others} | {str(name): each for name, each in suggested.groupby("suggested_by")}
    text = [f"{name}: {summarize(each, outcome)}." for name, each in groups.items() if each is not others]
    columns = ["study", "trial", "suggested_by", outcome.column, "rating"]
    if is_predicted:
        text = draw_predictions(next(panels), suggested, outcome, predicted, colors)
        columns += [predicted, f"{predicted}_sd"]
    axes = next(panels)
    draw_groups(axes, groups, outcome.column, colors)
    scale_by_logarithm(axes, "y", trials[outcome.column].to_numpy(float))
    axes.set_ylabel(outcome.name)
    for axes in panels:
        draw_groups(axes, groups, "rating", colors)
        axes.set(ylabel=RATING_AXIS, ylim=(-0.3, 5.3))
    text.append(f"Not suggested: {summarize(others, outcome)}. Lines are medians, of ratings means.")
    if "predicted_rating" in suggested and is_rated:
        text.append("Diamonds are the means of the predicted ratings.")
        columns.append("predicted_rating")
    return Plot("suggestions", figure, suggested[columns], text)


def draw_predictions(
    axes: Axes, suggested: pd.DataFrame, outcome: Outcome, predicted: str, colors: Mapping[str, Any]
) -> list[str]:
    """Draw obtained against predicted outcomes; return a sentence for each method.

    Args:
        axes: Where to draw.
        suggested: Complete suggested trials.
        outcome: What was predicted.
        predicted: Column of its predicted logarithms to base 10; that of their deviations ends in `_sd`.
        colors: By method.
    """
    text = []
    for method, each in suggested.groupby("suggested_by"):
        mean, sd = each[predicted], each[f"{predicted}_sd"]
        reach = [10**mean - 10 ** (mean - Z_95 * sd), 10 ** (mean + Z_95 * sd) - 10**mean]
        style = {"fmt": "o", "ms": 4, "lw": 0.8, "color": colors[str(method)], "label": method}
        axes.errorbar(10**mean, each[outcome.column], xerr=reach, **style)
        inside = float(((np.log10(each[outcome.column]) - mean).abs() <= Z_95 * sd).mean())
        share = f"{inside:.0%} within the predicted 95% range (bars)"
        text.append(f"{method}: {summarize(each, outcome)}; {share}.")
    both = [*(10 ** suggested[predicted]), *suggested[outcome.column]]
    ends = (min(both) / MARGIN, max(both) * MARGIN)
    axes.plot(ends, ends, color=INK, lw=0.8, ls="--")
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    axes.set(xlabel=f"predicted {outcome.name}", ylabel=f"obtained {outcome.name}")
    axes.legend()
    return text


def draw_groups(
    axes: Axes, groups: Mapping[str, pd.DataFrame], column: str, colors: Mapping[str, Any]
) -> None:
    """Draw a column of several groups of trials beside each other, with medians, or the means of ratings.

    Diamonds are the means of what was predicted.
    """
    for at, (name, each) in enumerate(groups.items()):
        values = each[column].dropna()
        axes.scatter(at + jitter(len(values)), values, s=14, alpha=0.7, color=colors.get(name, GRAY))
        middle = values.mean() if column == "rating" else values.median()
        axes.plot([at - 0.3, at + 0.3], [middle] * 2, color=INK, lw=1.2)
        if f"predicted_{column}" in each:
            mean = each[f"predicted_{column}"].mean()
            axes.plot(at, mean, "D", color=INK, ms=6, fillstyle="none")
    axes.set_xticks(range(len(groups)), list(groups))


def summarize(trials: pd.DataFrame, outcome: Outcome) -> str:
    """Return the number of trials, their median outcome, and their mean rating beside the predicted one."""
    text = f"{len(trials)} configurations, median {outcome.name} {trials[outcome.column].median():.2g}"
    rated = trials.dropna(subset=["rating"])
    if rated.empty:
        return text
    text += f", mean rating {rated['rating'].mean():.2g} of {len(rated)}"
    predicted = rated["predicted_rating"].mean() if "predicted_rating" in rated else math.nan
    return text if math.isnan(predicted) else f"{text}, predicted {predicted:.2g}"
