"""Figures of studies: a table in, a drawing with its data and a sentence out. Reads and writes nothing."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from scipy import optimize, stats
from statsmodels.nonparametric.smoothers_lowess import lowess

from analysis.clusters import Clusters
from analysis.statistics import Estimate, corrected, correlate, interval, permutation_p, spread

__all__ = [
    "LOSS",
    "Drawn",
    "label_of",
    "plot_clusters",
    "plot_curves",
    "plot_history",
    "plot_importances",
    "plot_interactions",
    "plot_losses_by_texture",
    "plot_parameters",
    "plot_rating_against_loss",
    "plot_suggestions",
    "plot_texture_against_texture",
    "styled",
]

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
SMOOTH = 0.7  # share of the trials that a point of the smoother sees
LOG_RANGE = 30  # a parameter that spans more is drawn by orders of magnitude
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
            "-m nca.sweep -m experiment=ten_sets texture=roundleaf,orchid_petal,alocasia,snake_plant`, and a "
            "report of all four studies."
        )
    textures = sorted(shared["texture"].unique())
    figure = make_figure()
    (axes,) = figure.axes
    palette = sns.color_palette("husl", shared["set"].nunique())
    for color, (_, each) in zip(palette, shared.groupby("set"), strict=True):
        at = [textures.index(texture) for texture in each["texture"]]
        axes.plot(at, each[LOSS], "o-", color=color, alpha=0.85, lw=0.8, ms=5)
    axes.set(yscale="log", ylabel=LOSS_AXIS, xticks=range(len(textures)), xlabel="texture")
    axes.set_xticklabels([texture.replace("_", " ") for texture in textures])
    spreads = {t: interval(shared.loc[shared["texture"] == t, LOSS], spread) for t in textures}
    widest = max(spreads, key=lambda texture: spreads[texture].value)
    each_spread = "; ".join(f"{texture.replace('_', ' ')} {found}" for texture, found in spreads.items())
    text = [
        f"{shared['set'].nunique()} sets on {len(textures)} textures, a color and a line for each. Spread, "
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
            f"{len(rated)} of the complete trials are rated; it takes {FEW}. To rate them: "
            "`python -m analysis.rate study=STUDY`."
        )
    x, y = np.log10(rated[LOSS].to_numpy(float)), rated["rating"].to_numpy(float)
    figure = make_figure()
    (axes,) = figure.axes
    axes.scatter(rated[LOSS], y, color=MARK, alpha=0.7, s=22, edgecolor="white", lw=0.4)
    text = [f"{len(rated)} rated outputs."]
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


def plot_parameters(trials: pd.DataFrame, params: Sequence[str]) -> Drawn | str:
    """Draw each parameter against the final loss, with a smoother, an effect size and a corrected p-value."""
    if len(trials) < FEW or not params:
        return f"{len(trials)} trials are complete; it takes {FEW} and something that is searched."
    varied = [name for name in params if trials[name].nunique() > 1]
    p_values = corrected([permutation_p(as_numbers(trials[name]), trials[LOSS]) for name in varied])
    n_columns = min(3, len(varied))
    n_rows = -(-len(varied) // n_columns)
    figure = make_figure(n_rows, n_columns, 2.6 * n_columns + 0.6, 2.4 * n_rows)
    rows = []
    for axes, name, p in itertools.zip_longest(figure.axes, varied, p_values):
        if name is None:
            axes.set_visible(False)
            continue
        rho = correlate(as_numbers(trials[name]), trials[LOSS], "spearman")
        draw_parameter(axes, trials, name)
        axes.set_title(f"rank correlation {rho.value:+.2f}, p = {p:.2g}", fontsize=8)
        rows.append({"parameter": name, "spearman": rho.value, "low": rho.low, "high": rho.high, "p": p})
    for index, axes in enumerate(figure.axes):
        if index % n_columns == 0:
            axes.set_ylabel("final loss")
    found = pd.DataFrame(rows)
    sure = found[found["p"] < 0.05]
    named = ", ".join(f"{label_of(row.parameter)} ({row.spearman:+.2f})" for row in sure.itertuples())
    text = [
        f"{len(trials)} complete trials; the line is a local regression (lowess), the title Spearman's rank "
        f"correlation and its permutation p-value, corrected for {len(varied)} parameters by Holm's method.",
        f"Related to the loss beyond chance: {named}."
        if named
        else "No parameter alone is related to the loss beyond chance.",
    ]
    return Drawn("parameters", figure, found, text)


def as_numbers(values: pd.Series) -> NDArray[np.float64]:
    """Return a column as numbers: ranks in the order of appearance where it holds words."""
    if pd.api.types.is_numeric_dtype(values):
        return np.asarray(values, float)
    return np.asarray(pd.factorize(values)[0], float)


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
    if few:
        axes.set_xticks(range(len(choices)), [f"{choice:g}" for choice in choices])
        at = np.unique(x)
        axes.plot(at, [10 ** np.log10(losses[x == each]).mean() for each in at], color=INK, lw=1.2)
    elif len(x) > 4:
        place = np.log10(x) if log else x
        smooth = lowess(np.log10(losses), place, frac=SMOOTH)
        axes.plot(10 ** smooth[:, 0] if log else smooth[:, 0], 10 ** smooth[:, 1], color=INK, lw=1.2)


def plot_importances(
    trials: pd.DataFrame,
    distributions: Mapping[str, BaseDistribution],
    importances: Callable[[pd.DataFrame, Mapping[str, BaseDistribution]], pd.DataFrame],
) -> Drawn | str:
    """Draw how much of the loss's variance each parameter explains, by fANOVA, with its spread."""
    if len(trials) < 10 or not distributions:
        return f"{len(trials)} trials are complete; an importance takes 10."
    found = importances(trials, distributions).sort_values("importance")
    figure = make_figure(height=0.4 * len(found) + 1)
    (axes,) = figure.axes
    axes.barh([label_of(n) for n in found["parameter"]], found["importance"], xerr=found["sd"], color=MARK)
    axes.set(xlabel="share of the variance of the loss's logarithm (fANOVA)", xlim=(0, None))
    first = found.iloc[-1]
    text = [
        f"Importance by fANOVA; the bars' ends move by one standard deviation over resampled trials. Most "
        f"of it has {label_of(first['parameter'])}: {first['importance']:.2f} ± {first['sd']:.2f}."
    ]
    return Drawn("importances", figure, found, text)


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
        return f"{len(losses)} trials are complete; interactions take 12 and two parameters."
    ranks, gain = stats.rankdata(losses), np.full((len(names),) * 2, np.nan)
    for i, j in itertools.combinations(range(len(names)), 2):
        alone = np.column_stack([np.ones(len(ranks)), points[:, i], points[:, j]])
        product = (points[:, i] - points[:, i].mean()) * (points[:, j] - points[:, j].mean())
        gain[j, i] = explained(np.column_stack([alone, product]), ranks) - explained(alone, ranks)
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
        f"{labels[j]} with {labels[i]}, {gain[i, j]:.2f}."
    ]
    frame = pd.DataFrame(gain, index=list(names), columns=list(names)).reset_index(names="parameter")
    return Drawn("interactions", figure, frame, text)


def explained(design: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the share of the variance that a least squares fit explains."""
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum())


def plot_history(trials: pd.DataFrame) -> Drawn | str:
    """Draw losses in the order of the trials with the best so far, and their empirical distribution."""
    if len(trials) < FEW:
        return f"{len(trials)} trials are complete; it takes {FEW}."
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
    return Drawn("history", figure, trials[["study", "trial", LOSS]], text)


def plot_clusters(clusters: Clusters, trials: pd.DataFrame) -> Drawn:
    """Draw the sets in two dimensions, by PCA and by UMAP, colored by cluster, by loss and by rating."""
    rated = trials["rating"].notna().to_numpy()
    by = ["cluster", "loss", *(["rating"] if rated.any() else [])]
    figure = make_figure(2, len(by), 2.9 * len(by) + 0.6, 5.2)
    grid = np.array(figure.axes).reshape(2, len(by))
    for row, (name, places) in zip(grid, {"PCA": clusters.pca, "UMAP": clusters.umap}.items(), strict=True):
        for axes, key in zip(row, by, strict=True):
            draw_places(axes, places, key, clusters, trials)
            axes.set(title=f"{name}, by {key}", xticklabels=[], yticklabels=[])
        shares = clusters.pca_shares
        what = [f"{name} 1", f"{name} 2"]
        if name == "PCA":
            what = [f"component {i + 1} ({share:.0%} of the variance)" for i, share in enumerate(shares)]
        for axes in row:
            axes.set(xlabel=what[0])
        row[0].set(ylabel=what[1])
    data = trials[["study", "trial", LOSS, "rating"]].copy()
    data["cluster"] = clusters.labels
    data[["pca_1", "pca_2"]], data[["umap_1", "umap_2"]] = clusters.pca, clusters.umap
    loadings = "; ".join(
        f"component {i + 1}: " + ", ".join(f"{label_of(n)} {v:+.2f}" for n, v in strongest(clusters, i))
        for i in range(2)
    )
    text = [
        f"{len(trials)} sets as points of the unit cube of the search space, ordered choices by rank. "
        f"{clusters.n_clusters} clusters by k-means, chosen by silhouette ({clusters.silhouette:.2f}; near 0 "
        "means that there are no real clusters).",
        f"Strongest loadings of {loadings}.",
        *describe_each(clusters, trials),
    ]
    return Drawn("clusters", figure, data, text)


def describe_each(clusters: Clusters, trials: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence for each cluster: how many sets, their geometric mean loss, their mean rating."""
    for number in range(clusters.n_clusters):
        inside = trials[clusters.labels == number]
        loss = 10 ** np.log10(inside[LOSS].to_numpy(float)).mean()
        rated = inside["rating"].dropna()
        rating = f", mean rating {rated.mean():.2g} of {len(rated)}" if len(rated) else ""
        yield f"Cluster {number}: {len(inside)} sets, mean loss {loss:.2g}{rating}."


def draw_places(
    axes: Axes, places: NDArray[np.float64], key: str, clusters: Clusters, trials: pd.DataFrame
) -> None:
    """Draw points colored by cluster, by loss or by rating; unrated ones hollow."""
    if key == "cluster":
        colors = sns.color_palette("colorblind", clusters.n_clusters)
        for number, color in enumerate(colors):
            inside = clusters.labels == number
            axes.scatter(places[inside, 0], places[inside, 1], s=16, color=color, label=str(number))
        axes.legend(title="cluster", fontsize=6, title_fontsize=6, frameon=False)
        return
    values = np.log10(trials[LOSS].to_numpy(float)) if key == "loss" else trials["rating"].to_numpy(float)
    known = np.isfinite(values)
    axes.scatter(places[~known, 0], places[~known, 1], s=12, facecolor="none", edgecolor="#9aa7b6", lw=0.6)
    colors = "viridis_r" if key == "loss" else "viridis"
    shown = axes.scatter(places[known, 0], places[known, 1], s=16, c=values[known], cmap=colors)
    label = "log10 of the final loss" if key == "loss" else RATING_AXIS
    axes.figure.colorbar(shown, ax=axes, label=label)


def strongest(clusters: Clusters, component: int, n: int = 3) -> list[tuple[str, float]]:
    """Return the parameters with the largest loadings of a component."""
    loadings = clusters.loadings[component]
    order = np.argsort(-np.abs(loadings))[:n]
    return [(clusters.names[i], float(loadings[i])) for i in order]


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
            axes.plot(at, np.clip(predict(at), y.min() / 3, y.max() * 3), style, color=INK, lw=1, label=kind)
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
    figure.axes[0].set_ylabel("the other texture's final loss")
    figure.axes[0].legend(fontsize=7, frameon=False)
    return Drawn("texture_against_texture", figure, pd.DataFrame(rows), text)


Fit = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def fit_line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[Fit, float]:
    """Return a straight line through points and its share of the variance."""
    slope, intercept = np.polyfit(x, y, 1)
    return lambda at: intercept + slope * at, explained(np.column_stack([np.ones(len(x)), x]), y)


def fit_exponential(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[Fit, float]:
    """Return a * exp(b x) by least squares and its share of the variance."""
    scale = x.max()
    slope, intercept = np.polyfit(x / scale, np.log(y), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            (a, b), _ = optimize.curve_fit(
                lambda at, a, b: a * np.exp(np.clip(b * at, -50, 50)),
                x / scale,
                y,
                (np.exp(intercept), slope),
                maxfev=5000,
            )
        except RuntimeError:
            a, b = np.exp(intercept), slope
    residual = y - a * np.exp(b * x / scale)
    r2 = float(1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum())
    return lambda at: a * np.exp(b * at / scale), r2


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
    text = [
        f"{len(shown)} trials: " + ", ".join(f"{(list(reasons.values())).count(n)} {n}" for n in names) + "."
    ]
    return Drawn("curves", figure, pd.DataFrame(rows, columns=["study", "trial", "step", "loss"]), text)
