"""Figures that hold studies against each other, against ratings, and against what was predicted of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy import optimize, stats

from analysis.figures import FEW, INK, LOSS, LOSS_AXIS, MARK, RATING_AXIS, Drawn, make_figure
from analysis.statistics import Estimate, correlate, interval, spread

__all__ = [
    "plot_losses_by_texture",
    "plot_rating_against_loss",
    "plot_suggestions",
    "plot_texture_against_texture",
]

MARKS = "os^vDPX*<>"  # that tell lines apart where their colors do not
SPREAD = 0.12  # of ratings that are the same, up and down


def plot_losses_by_texture(trials: pd.DataFrame, params: Sequence[str]) -> Drawn | str:
    """Draw the final losses of the same sets on several textures, a color for each set.

    Args:
        trials: Complete trials with the column `texture`.
        params: What makes a set.
    """
    shared = same_sets(trials, params)
    if shared is None:
        return (
            "The same sets were not trained on several textures. To see which has the widest spread: `python "
            "-m nca.sweep -m experiment=ten_sets texture=roundleaf,orchid_petal,alocasia,snake_plant "
            "'sweep.study=${texture.name}-ten'`, and a report of all four studies."
        )
    textures = sorted(shared["texture"].unique())
    figure = make_figure()
    (axes,) = figure.axes
    palette = sns.color_palette("husl", shared["set"].nunique())
    for index, (color, (_, each)) in enumerate(zip(palette, shared.groupby("set"), strict=True)):
        at, mark = [textures.index(texture) for texture in each["texture"]], MARKS[index % len(MARKS)]
        letter = chr(ord("A") + index)  # numbers are those of the published sets
        axes.plot(at, each[LOSS], f"{mark}-", color=color, alpha=0.85, lw=0.8, ms=6, label=f"set {letter}")
    if len(palette) <= len(MARKS):
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set(yscale="log", ylabel=LOSS_AXIS, xticks=range(len(textures)), xlabel="texture")
    axes.set_xticklabels([texture.replace("_", " ") for texture in textures])
    spreads = {t: interval(shared.loc[shared["texture"] == t, LOSS], spread) for t in textures}
    widest = max(spreads, key=lambda texture: spreads[texture].value)
    each_spread = "; ".join(f"{texture.replace('_', ' ')} {found}" for texture, found in spreads.items())
    text = [
        f"{shared['set'].nunique()} sets on {len(textures)} textures, a line for each. Spread, "
        "as the standard deviation of the losses in orders of magnitude with its 95% bootstrap interval: "
        f"{each_spread}. It is widest on {widest.replace('_', ' ')}"
        + (", but the intervals overlap." if overlaps(spreads, widest) else ".")
    ]
    return Drawn("losses_by_texture", figure, shared, text)


def overlaps(estimates: Mapping[str, Estimate], largest: str) -> bool:
    """Say whether another estimate's interval reaches into that of the largest."""
    return any(e.high >= estimates[largest].low for name, e in estimates.items() if name != largest)


def same_sets(trials: pd.DataFrame, params: Sequence[str]) -> pd.DataFrame | None:
    """Return trials of sets that several textures have in common, with the column `set`; None for none."""
    keys = list(params)
    if not keys or trials["texture"].nunique() < 2:
        return None
    named = trials.dropna(subset=[*keys, LOSS]).copy()
    named["set"] = named.groupby(keys, sort=True).ngroup()
    counts = named.groupby("set")["texture"].transform("nunique")
    shared = named[counts >= 2].groupby(["set", "texture", *keys], as_index=False)[LOSS].median()
    return shared if shared["set"].nunique() >= FEW else None


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
    for color, texture in zip(sns.color_palette("colorblind", len(textures)), textures, strict=True):
        ours = (rated["texture"] == texture).to_numpy()
        losses, ratings = rated[LOSS].to_numpy(float)[ours], (y + shift)[ours]
        name = texture.replace("_", " ")
        axes.scatter(losses, ratings, color=color, alpha=0.8, s=22, edgecolor="white", lw=0.4, label=name)
    if len(textures) > 1:
        axes.legend(fontsize=7, frameon=False)
    text = [f"{len(rated)} rated outputs, spread a little up and down where ratings are the same."]
    if np.ptp(x) > 0 and np.ptp(y) > 0:
        draw_regression(axes, x, y)
        pearson, spearman = correlate(x, y, "pearson"), correlate(x, y, "spearman")
        text.append(
            f"With the logarithm of the loss the rating correlates at Pearson {pearson}, by rank at Spearman "
            f"{spearman} (95% intervals)."
        )
    else:
        text.append("All have the same rating or the same loss: nothing can correlate.")
    axes.set(xscale="log", xlabel=LOSS_AXIS, ylabel=RATING_AXIS, ylim=(-0.3, 5.3))
    return Drawn("rating_against_loss", figure, rated[["study", "trial", LOSS, "rating"]], text)


def draw_regression(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    """Draw a straight line through points whose x are logarithms, with its 95% confidence band."""
    fit, at = stats.linregress(x, y), np.linspace(x.min(), x.max(), 100)
    line = fit.intercept + fit.slope * at
    residual = np.sqrt(((y - fit.intercept - fit.slope * x) ** 2).sum() / max(1, len(x) - 2))
    reach = stats.t.ppf(0.975, max(1, len(x) - 2)) * residual
    reach = reach * np.sqrt(1 / len(x) + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    axes.plot(10**at, line, color=INK, lw=1.2)
    axes.fill_between(10**at, line - reach, line + reach, color=INK, alpha=0.12, lw=0)


def plot_texture_against_texture(trials: pd.DataFrame, params: Sequence[str], first: str) -> Drawn | str:
    """Draw one texture's final losses against the others' for the same sets, with two fits."""
    shared = same_sets(trials, params)
    if shared is None or first not in set(shared["texture"]):
        return (
            f"No sets were trained on {first} and on another texture. `experiment=ten_sets` with several "
            "textures produces them."
        )
    wide = shared.pivot_table(index="set", columns="texture", values=LOSS)
    others = [
        texture
        for texture in wide.columns
        if texture != first and wide[[first, texture]].dropna().shape[0] >= FEW
    ]
    if not others:
        return f"Fewer than {FEW} sets were trained on {first} and on another texture."
    figure = make_figure(1, len(others), 3.0 * len(others) + 0.4, 3.2)
    text, rows = [], []
    for axes, other in zip(figure.axes, others, strict=True):
        pair = wide[[first, other]].dropna()
        x, y = pair[first].to_numpy(float), pair[other].to_numpy(float)
        axes.scatter(x, y, color=MARK, s=22, edgecolor="white", lw=0.4, zorder=3)
        rho = correlate(x, y, "spearman")
        words = [f"{other.replace('_', ' ')}: rank correlation {rho}"]
        for kind, fit, style in (("linear", fit_line, "-"), ("exponential", fit_exponential, "--")):
            at = np.geomspace(x.min(), x.max(), 100)
            predict, r2 = fit(x, y)
            axes.plot(at, predict(at), style, color=INK, lw=1, label=kind)
            low, high = interval_of_r2(fit, x, y)
            words.append(f"{kind} fit R² {r2:.2f} [{low:.2f}, {high:.2f}]")
            rows.append(
                {"texture": other, "fit": kind, "r2": r2, "low": low, "high": high, "spearman": rho.value}
            )
        axes.set(
            xscale="log",
            yscale="log",
            xlabel=f"{first.replace('_', ' ')}: final loss",
            title=other.replace("_", " "),
        )
        text.append(", ".join(words) + ".")
    text.append("Both fits are by least squares of the logarithms: losses scatter by factors.")
    figure.axes[0].set_ylabel("the other texture's final loss")
    figure.axes[0].legend(fontsize=7, frameon=False)
    return Drawn("texture_against_texture", figure, pd.DataFrame(rows), text)


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


def interval_of_r2(fit: Any, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95% bootstrap interval of a fit's share of the variance, over resampled sets."""
    draw, found = np.random.default_rng(0), []
    for _ in range(200):
        index = draw.integers(0, len(x), len(x))
        if np.ptp(x[index]) > 0 and np.ptp(y[index]) > 0:
            found.append(fit(x[index], y[index])[1])
    return tuple(np.quantile(found, [0.025, 0.975])) if found else (float("nan"), float("nan"))


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
        reach = [10**mean - 10 ** (mean - sd), 10 ** (mean + sd) - 10**mean]
        style = {"fmt": "o", "ms": 4, "lw": 0.8, "color": colors[method], "label": method}
        left.errorbar(10**mean, each[LOSS], xerr=reach, **style)
        groups[method] = each[LOSS]
        inside = float(((np.log10(each[LOSS]) - mean).abs() <= 1.96 * sd).mean())
        median = f"{len(each)} sets, median loss {each[LOSS].median():.2g}"
        text.append(f"{method}: {median}; {inside:.0%} within the predicted 95% range.")
    ends = [10 ** suggested["predicted_log10_loss"].min(), 10 ** suggested["predicted_log10_loss"].max()]
    left.plot(ends, ends, color=INK, lw=0.8, ls="--")
    left.set(xscale="log", yscale="log", xlabel="predicted final loss", ylabel="obtained final loss")
    left.legend(fontsize=7, frameon=False)
    for at, (name, losses) in enumerate(groups.items()):
        apart = np.random.default_rng(0).uniform(-0.15, 0.15, len(losses))
        right.scatter(at + apart, losses, s=14, alpha=0.7, color=colors.get(name, "#9aa7b6"))
        right.plot([at - 0.3, at + 0.3], [losses.median()] * 2, color=INK, lw=1.2)
    right.set(yscale="log", ylabel=LOSS_AXIS)
    right.set_xticks(range(len(groups)), list(groups))
    text.append(
        f"Not suggested: {len(others)} sets, median loss {others[LOSS].median():.2g}; bars are medians."
    )
    columns = ["study", "trial", "suggested_by", "predicted_log10_loss", "predicted_log10_loss_sd", LOSS]
    return Drawn("suggestions", figure, suggested[columns], text)
