"""Clusters of configurations: PCA, UMAP and k-means in the unit cube of the search space."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from analysis.figures.drawing import (
    FINAL_LOSS,
    GRAY,
    RATING_AXIS,
    Outcome,
    Plot,
    format_label,
    make_colors,
    make_figure,
    require,
)
from analysis.ratings.ratings import MAX_RATING
from analysis.unit_cube import UnitCube

Points = NDArray[np.float64]

MIN_CLUSTERED = 10  # trials
MAX_CLUSTERS = 8
N_NEIGHBORS = 15
N_DRAWN = 19  # random samples; their maximum is exceeded by chance in 5% of cases
MAX_DRAWN = 300  # configurations of a random sample
N_LOADINGS = 3
SEED = 0


def k_means(points: Points, n_init: int = 10) -> tuple[KMeans, float]:
    """Return k-means clusters of at least three different points, and their silhouette, the largest found."""
    largest = min(MAX_CLUSTERS, len(np.unique(points, axis=0)) - 1)
    tried = [KMeans(k, n_init=n_init, random_state=SEED).fit(points) for k in range(2, largest + 1)]
    silhouettes = [float(silhouette_score(points, each.labels_)) for each in tried]
    return tried[int(np.argmax(silhouettes))], max(silhouettes)


def random_silhouette(cube: UnitCube, n: int) -> float:
    """Return the largest silhouette of random samples of `n` configurations."""
    draw, n = np.random.default_rng(SEED), min(n, MAX_DRAWN)
    samples = (cube.encode(cube.decode(draw.random((n, len(cube.names))))) for _ in range(N_DRAWN))
    return max(k_means(points, n_init=1)[1] for points in samples)


def fit_umap(points: Points) -> Any:
    """Return a fitted two-dimensional UMAP, the same for the same points."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP

        return UMAP(n_neighbors=min(N_NEIGHBORS, len(points) - 1), random_state=SEED, n_jobs=1).fit(points)


def plot_clusters(
    points: Points, cube: UnitCube, trials: pd.DataFrame, outcome: Outcome = FINAL_LOSS
) -> Plot | str:
    """Plot the configurations of trials by PCA and by UMAP, colored by cluster, by outcome and by rating."""
    if len(cube.names) < 2 or len(np.unique(points, axis=0)) < MIN_CLUSTERED:
        return require(MIN_CLUSTERED, trials, " with different configurations and two parameters that vary")
    clusters, silhouette = k_means(points)
    pca = PCA(2).fit(points)
    names = [f"component {i + 1}" for i in range(2)]
    shares = [f"({share:.0%} of the variance)" for share in pca.explained_variance_ratio_]
    maps = {
        "PCA": (pca.transform(points), [f"{names[i]} {shares[i]}" for i in range(2)]),
        "UMAP": (np.asarray(fit_umap(points).embedding_, float), ["UMAP 1", "UMAP 2"]),
    }
    views: dict[str, Callable[..., None]] = {
        "cluster": draw_clusters,
        outcome.name: functools.partial(draw_outcomes, outcome),
    }
    if trials["rating"].notna().any():
        views["rating"] = draw_ratings
    figure = make_figure(2, len(views), 2.9 * len(views) + 0.6, 5.2)
    data = trials[["study", "trial", outcome.column, "rating"]].assign(cluster=clusters.labels_)
    for row, (name, (positions, labels)) in zip(
        np.split(np.array(figure.axes), 2), maps.items(), strict=True
    ):
        for axes, (key, draw) in zip(row, views.items(), strict=True):
            draw(axes, positions[:, 0], positions[:, 1], data)
            axes.set(title=f"{name}, by {key}", xticklabels=[], yticklabels=[], xlabel=labels[0])
        row[0].set(ylabel=labels[1])
        data[[f"{name.lower()}_1", f"{name.lower()}_2"]] = positions
    chance = random_silhouette(cube, len(points))
    loadings = [f"{names[i]}: {describe_loadings(pca.components_[i], cube.names)}" for i in range(2)]
    text = [
        f"{len(trials)} configurations as points of the unit cube of the search space, ordered choices by "
        f"rank. {len(clusters.cluster_centers_)} clusters of k-means have the largest silhouette, "
        f"{silhouette:.2f}. Random configurations exceed {chance:.2f} in 5% of cases: these are "
        f"{'clusters' if silhouette > chance else 'neighborhoods, not clusters'}.",
        f"Largest loadings of {'; '.join(loadings)}.",
    ]
    return Plot("clusters", figure, data, text, summarize_clusters(data, outcome))


def describe_loadings(weights: NDArray[np.float64], names: Sequence[str]) -> str:
    """Return the parameters with the largest loadings of a component."""
    order = np.argsort(-np.abs(weights))[:N_LOADINGS]
    return ", ".join(f"{format_label(names[i])} {weights[i]:+.2f}" for i in order)


def summarize_clusters(trials: pd.DataFrame, outcome: Outcome) -> pd.DataFrame:
    """Return a row on each cluster: number of trials, geometric mean of the outcome, mean rating."""
    clusters = trials.groupby("cluster")
    ratings = clusters["rating"].agg(["mean", "count"])
    return pd.DataFrame(
        {
            "cluster": list(clusters.groups),
            "configurations": clusters.size().tolist(),
            f"mean {outcome.name} (geometric)": [
                f"{stats.gmean(inside[outcome.column]):.2g}" for _, inside in clusters
            ],
            "mean rating": ["" if math.isnan(mean) else f"{mean:.2g}" for mean in ratings["mean"]],
            "rated": ratings["count"].tolist(),
        }
    )


def draw_clusters(axes: Axes, x: Points, y: Points, trials: pd.DataFrame) -> None:
    """Draw points colored by cluster."""
    for number, color in make_colors(sorted(set(trials["cluster"]))).items():
        inside = (trials["cluster"] == number).to_numpy()
        axes.scatter(x[inside], y[inside], s=16, color=color, label=str(number))
    axes.legend(
        title="cluster", fontsize=5, title_fontsize=6, frameon=True, framealpha=0.6, handletextpad=0.1
    )


def draw_outcomes(outcome: Outcome, axes: Axes, x: Points, y: Points, trials: pd.DataFrame) -> None:
    """Draw points colored by outcome."""
    shown = axes.scatter(x, y, s=16, c=np.log10(trials[outcome.column]), cmap="viridis_r")
    axes.figure.colorbar(shown, ax=axes, label=f"log10 of the {outcome.name}")


def draw_ratings(axes: Axes, x: Points, y: Points, trials: pd.DataFrame) -> None:
    """Draw points colored by rating; unrated ones are hollow."""
    rated = trials["rating"].notna().to_numpy()
    axes.scatter(x[~rated], y[~rated], s=12, facecolor="none", edgecolor=GRAY, lw=0.6)
    ratings = trials["rating"][rated]
    shown = axes.scatter(x[rated], y[rated], s=16, c=ratings, cmap="viridis", vmin=0, vmax=MAX_RATING)
    axes.figure.colorbar(shown, ax=axes, label=RATING_AXIS)
