"""Figures that hold studies against each other, against ratings, and against what was predicted of them."""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy import optimize, stats

from analysis.figures.drawing import FEW, INK, LOSS, LOSS_AXIS, MARK, RATING_AXIS, Drawn, make_figure
from analysis.statistics import N_RESAMPLES, Z_95, correlate, correlate_within, log10_std

__all__ = [
    "plot_losses_by_texture",
    "plot_rating_against_loss",
    "plot_suggestions",
    "plot_texture_against_texture",
]

MARKS = "os^vDPX*<>"  # that tell lines apart where their colors do not
SPREAD = 0.12  # of ratings that are the same, up and down
FEWEST_SETS = 5  # that textures have in common, below which they are not compared
N_FITS = 200
MARGIN = 3.0  # factor around the losses of suggestions
MOST_LEVERAGE = 0.9  # of a set, above which a curve passes where it lies


def plot_losses_by_texture(trials: pd.DataFrame) -> Drawn | str:
    """Draw the final losses of the same sets on several textures, a color for each set.

    Args:
        trials: Complete trials with the columns `texture` and `set`.
    """
    shared = same_sets(trials)
    if shared is None:
        return (
            f"No {FEWEST_SETS} sets were trained on several textures each. To see which spreads widest: "
            "`python -m nca.sweep -m experiment=ten_sets texture=roundleaf,orchid_petal,alocasia,snake_plant "
            "'sweep.study=${texture.name}-ten'`, and a report of all four studies."
        )
    figure = make_figure()
    (axes,) = figure.axes
    palette = sns.color_palette("husl", len(shared))
    for index, (color, (name, losses)) in enumerate(zip(palette, shared.iterrows(), strict=True)):
        mark = f"{MARKS[index % len(MARKS)]}-"
        axes.plot(range(losses.size), losses, mark, color=color, alpha=0.85, lw=0.8, ms=6, label=name)
    if len(palette) <= len(MARKS):
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set(yscale="log", ylabel=LOSS_AXIS, xticks=range(shared.shape[1]), xlabel="texture")
    axes.set_xticklabels([spoken(texture) for texture in shared])
    text = [
        f"{len(shared)} sets on {shared.shape[1]} textures, a line for each. Spread, as the standard "
        "deviation of the losses in orders of magnitude with its 95% jackknife interval: "
        + "; ".join(f"{spoken(texture)} {log10_std(shared[texture])}" for texture in shared)
        + ".",
        describe_widest(np.log10(shared)),
    ]
    data = shared.rename_axis(columns="texture").stack().rename(LOSS).reset_index()
    return Drawn("losses_by_texture", figure, data, text)


def describe_widest(logs: pd.DataFrame) -> str:
    """Say on which texture the losses spread widest, and how sure that is.

    Args:
        logs: Logarithms of the losses, a row a set and a column a texture.
    """
    if not np.ptp(logs.to_numpy(), axis=0).any():
        return "On no texture do the losses differ."
    widest = logs.std().idxmax()
    values = logs.to_numpy()
    drawn = np.random.default_rng(0).integers(0, len(values), (N_RESAMPLES, len(values)))
    share = (values[drawn].std(axis=1).argmax(axis=1) == list(logs).index(widest)).mean()
    said = f"It is widest on {spoken(widest)}, as in {share:.0%} of resampled groups of sets"
    others = {name: logs.drop(index=name).std().idxmax() for name in logs.index}
    changes = [f"without {name} on {spoken(other)}" for name, other in others.items() if other != widest]
    if len(changes) > FEW:
        changes = [f"on another without any one of {len(changes)} of the sets"]
    return f"{'; '.join([said, *changes])}."


def spoken(texture: str) -> str:
    """Return a texture's name in words."""
    return texture.replace("_", " ")


def same_sets(trials: pd.DataFrame) -> pd.DataFrame | None:
    """Return the final losses of sets that several textures have in common; None for too few.

    Args:
        trials: Complete trials with the columns `texture` and `set`; of a set that was trained twice on a
            texture the first counts.

    Returns:
        A row a set, named by letters, and a column a texture, without gaps.
    """
    first = trials.drop_duplicates(["set", "texture"])
    wide = first.pivot_table(index="set", columns="texture", values=LOSS)
    shared = wide[wide.notna().sum(axis=1) > 1]
    wide = shared.loc[:, shared.notna().sum() >= FEWEST_SETS].dropna()
    if len(wide) < FEWEST_SETS or wide.shape[1] < 2:
        return None
    letters = string.ascii_uppercase if len(wide) <= len(string.ascii_uppercase) else range(len(wide))
    return wide.set_axis([f"set {letter}" for letter, _ in zip(letters, wide.index, strict=False)], axis=0)


def plot_rating_against_loss(trials: pd.DataFrame) -> Drawn | str:
    """Draw ratings by eye against the final loss, with a regression on the loss's logarithm."""
    rated = trials.dropna(subset=["rating", LOSS])
    if len(rated) < FEW:
        return (
            f"{len(rated)} of the complete trials are rated; this figure takes {FEW}. To rate them: "
            "`python -m analysis.rate study=STUDY`."
        )
    x, y = np.log10(rated[LOSS].to_numpy(float)), rated["rating"].to_numpy(float)
    figure = make_figure()
    (axes,) = figure.axes
    shift = np.random.default_rng(0).uniform(-SPREAD, SPREAD, len(y))
    textures = sorted(set(rated["texture"]))
    by_texture = []
    for color, texture in zip(sns.color_palette("colorblind", len(textures)), textures, strict=True):
        ours = (rated["texture"] == texture).to_numpy()
        name = spoken(texture)
        axes.scatter(
            10 ** x[ours], (y + shift)[ours], color=color, s=22, edgecolor="white", lw=0.4, label=name
        )
        if ours.sum() >= FEWEST_SETS and np.ptp(x[ours]) > 0:
            draw_regression(axes, x[ours], y[ours], color, band=len(textures) == 1)
            by_texture.append(f"{name} {correlate(x[ours], y[ours], 'spearman')} (n = {ours.sum()})")
    text = [f"{len(rated)} rated outputs, spread a little up and down where ratings are the same."]
    pearson, spearman = (
        correlate_within(x, y, list(rated["texture"]), list(rated["set"]), kind)
        for kind in ("pearson", "spearman")
    )
    where = "Within textures the rating" if len(textures) > 1 else "The rating"
    text.append(
        f"{where} correlates with the logarithm of the loss at Pearson {pearson}, by rank at Spearman "
        f"{spearman} (95% intervals)."
    )
    if len(textures) > 1:
        axes.legend(fontsize=7, frameon=False)
        text.append(f"By rank for each: {'; '.join(by_texture) or 'too few of any'}.")
    axes.set(xscale="log", xlabel=LOSS_AXIS, ylabel=RATING_AXIS, ylim=(-0.3, 5.3))
    return Drawn("rating_against_loss", figure, rated[["study", "texture", "trial", LOSS, "rating"]], text)


def draw_regression(
    axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], color: Any, *, band: bool
) -> None:
    """Draw a straight line through points whose x are logarithms, with its 95% confidence band."""
    fit, at = stats.linregress(x, y), np.linspace(x.min(), x.max(), 100)
    line = fit.intercept + fit.slope * at
    axes.plot(10**at, line, color=color, lw=1.2)
    if band:
        residual = np.sqrt(((y - fit.intercept - fit.slope * x) ** 2).sum() / (len(x) - 2))
        reach = stats.t.ppf(0.975, len(x) - 2) * residual
        reach = reach * np.sqrt(1 / len(x) + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
        axes.fill_between(10**at, line - reach, line + reach, color=color, alpha=0.12, lw=0)


def plot_texture_against_texture(trials: pd.DataFrame, first: str) -> Drawn | str:
    """Draw one texture's final losses against the others' for the same sets, with two fits.

    Args:
        trials: Complete trials with the columns `texture` and `set`.
        first: The texture.
    """
    wide = same_sets(trials)
    if wide is None or first not in wide:
        return (
            f"No {FEWEST_SETS} sets were trained on {spoken(first)} and on another texture. "
            "`experiment=ten_sets` with several textures produces them."
        )
    others = [texture for texture in wide if texture != first]
    figure = make_figure(1, len(others), 3.0 * len(others) + 0.4, 3.2)
    x = wide[first].to_numpy(float)
    rests = leverage(x) > MOST_LEVERAGE
    text, rows = [], []
    for axes, other in zip(figure.axes, others, strict=True):
        y = wide[other].to_numpy(float)
        axes.scatter(x, y, color=MARK, s=22, edgecolor="white", lw=0.4, zorder=3)
        rho = correlate(x, y, "spearman")
        words = [f"{spoken(other)}: rank correlation {rho}"]
        fits = (("linear", fit_line, "-"), ("exponential", fit_exponential, "--"))
        for kind, fit, style in fits if np.ptp(y) > 0 and np.ptp(x[~rests]) > 0 else ():
            ours, theirs = x[~rests], y[~rests]
            at = np.geomspace(ours.min(), ours.max(), 100)
            predict, r2 = fit(ours, theirs)
            low, high, band = resample(fit, ours, theirs, at)
            axes.plot(at, predict(at), style, color=INK, lw=1, label=kind)
            if kind == "exponential":
                axes.fill_between(at, *band, color=INK, alpha=0.1, lw=0)
            words.append(f"{kind} fit R² {r2:.2f} [{low:.2f}, {high:.2f}]")
            row = {"texture": other, "fit": kind, "r2": r2, "low": low, "high": high}
            rows.append({**row, "spearman": rho.value})
        axes.set(xscale="log", yscale="log", xlabel=f"{spoken(first)}: final loss", title=spoken(other))
        text.append(", ".join(words) + ".")
    text.append(
        f"{len(wide)} sets. Both fits are by least squares of the logarithms, for losses scatter by factors; "
        "shaded: 95% of exponential fits to resampled sets."
    )
    if rests.any():
        named = ", ".join(str(name) for name in wide.index[rests])
        text.append(
            f"The fits leave out {named}, so far from the others that the curves would only pass there."
        )
    figure.axes[0].set_ylabel("the other texture's final loss")
    if rows:
        figure.axes[0].legend(fontsize=7, frameon=False)
    return Drawn("texture_against_texture", figure, pd.DataFrame(rows), text)


def leverage(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much of its own fitted value each point decides in a straight line, 0 to 1."""
    apart = (x - x.mean()) ** 2
    return np.asarray(1 / len(x) + apart / max(apart.sum(), np.finfo(float).tiny), float)


Fit = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def fit_line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[Fit, float]:
    """Return a straight line between two positive ends, by logarithms, and its share of their variance."""
    ends, logs = [x.min(), x.max()], np.log(y)

    def predict(log_ends: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.log(np.interp(at, ends, np.exp(log_ends)))

    slope, intercept = np.polyfit(x, logs, 1)
    found = optimize.least_squares(lambda p: predict(p, x) - logs, intercept + slope * np.array(ends))
    return lambda at: np.exp(predict(found.x, at)), float(
        1 - 2 * found.cost / ((logs - logs.mean()) ** 2).sum()
    )


def fit_exponential(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[Fit, float]:
    """Return a * exp(b x), by least squares of the logarithms, and its share of their variance."""
    fit = stats.linregress(x, np.log(y))
    return lambda at: np.exp(fit.intercept + fit.slope * at), float(fit.rvalue**2)


def resample(
    fit: Any, x: NDArray[np.float64], y: NDArray[np.float64], at: NDArray[np.float64]
) -> tuple[float, float, NDArray[np.float64]]:
    """Return 95% bootstrap intervals over sets: of a fit's share of the variance, and of it, (2, place)."""
    draw = np.random.default_rng(0)
    shares: list[float] = []
    lines: list[NDArray[np.float64]] = []
    while len(shares) < N_FITS:
        index = draw.integers(0, len(x), len(x))
        if np.ptp(x[index]) > 0 and np.ptp(y[index]) > 0:
            predict, r2 = fit(x[index], y[index])
            shares.append(r2)
            lines.append(predict(at))
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high), np.quantile(lines, [0.025, 0.975], axis=0)


def plot_suggestions(trials: pd.DataFrame) -> Drawn | str:
    """Draw predicted against obtained losses of suggested sets, and each method's beside all others."""
    if "suggested_by" not in trials or trials["suggested_by"].notna().sum() == 0:
        return (
            "Nothing that was suggested is complete: `python -m analysis.suggest study=STUDY enqueue=true`, "
            "and the sweep's command once more."
        )
    suggested, others = trials.dropna(subset=["suggested_by"]), trials[trials["suggested_by"].isna()]
    figure = make_figure(1, 2, 8, 3.4)
    left, right = figure.axes
    methods = sorted(suggested["suggested_by"].unique())
    colors = dict(zip(methods, sns.color_palette("colorblind", len(methods)), strict=True))
    groups, text = {"not suggested": others[LOSS]}, []
    for method, each in suggested.groupby("suggested_by"):
        mean, sd = each["predicted_log10_loss"], each["predicted_log10_loss_sd"]
        reach = [10**mean - 10 ** (mean - Z_95 * sd), 10 ** (mean + Z_95 * sd) - 10**mean]
        style = {"fmt": "o", "ms": 4, "lw": 0.8, "color": colors[method], "label": method}
        left.errorbar(10**mean, each[LOSS], xerr=reach, **style)
        groups[method] = each[LOSS]
        inside = float(((np.log10(each[LOSS]) - mean).abs() <= Z_95 * sd).mean())
        median = f"{len(each)} sets, median loss {each[LOSS].median():.2g}"
        text.append(
            f"{method}: {median}; {inside:.0%} within the predicted 95% range (bars){describe_rated(each)}."
        )
    both = [*(10 ** suggested["predicted_log10_loss"]), *suggested[LOSS]]
    ends = (min(both) / MARGIN, max(both) * MARGIN)
    left.plot(ends, ends, color=INK, lw=0.8, ls="--")
    left.set(xscale="log", yscale="log", xlabel="predicted final loss", ylabel="obtained final loss")
    left.set(xlim=ends, ylim=ends)
    left.legend(fontsize=7, frameon=False)
    for at, (name, losses) in enumerate(groups.items()):
        apart = np.random.default_rng(0).uniform(-0.15, 0.15, len(losses))
        right.scatter(at + apart, losses, s=14, alpha=0.7, color=colors.get(name, "#9aa7b6"))
        right.plot([at - 0.3, at + 0.3], [losses.median()] * 2, color=INK, lw=1.2)
    right.set(yscale="log", ylabel=LOSS_AXIS)
    right.set_xticks(range(len(groups)), list(groups))
    median = f"{len(others)} sets, median loss {others[LOSS].median():.2g}"
    text.append(f"Not suggested: {median}{describe_rated(others)}; lines are medians.")
    columns = ["study", "trial", "suggested_by", "predicted_log10_loss", "predicted_log10_loss_sd", LOSS]
    return Drawn("suggestions", figure, suggested[columns], text)


def describe_rated(trials: pd.DataFrame) -> str:
    """Return the mean rating of trials, beside what was predicted of it, as the end of a sentence."""
    rated = trials.dropna(subset=["rating"])
    if rated.empty:
        return ""
    said = f", mean rating {rated['rating'].mean():.2g} of {len(rated)}"
    predicted = rated["predicted_rating"].mean() if "predicted_rating" in rated else math.nan
    return said if math.isnan(predicted) else f"{said}, predicted {predicted:.2g}"
