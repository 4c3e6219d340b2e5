"""Clusters of parameter sets: PCA, UMAP and k-means in the unit cube of the search space."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

from analysis.figures.drawing import LOSS, RATING_AXIS, Drawn, label_of, make_figure
from analysis.ratings.ratings import MAX_RATING
from analysis.unit_cube import UnitCube

__all__ = ["FEWEST", "Clusters", "find_clusters", "fit_umap", "plot_clusters", "silhouette_by_chance"]

FEWEST = 10  # sets, below which clusters say nothing
MOST_CLUSTERS = 8
NEIGHBORS = 15
N_DRAWN = 19  # draws, the largest of which chance exceeds in one of 20 cases
MOST_DRAWN = 300  # sets of a draw
SEED = 0


@dataclass(frozen=True)
class Clusters:
    """Sets in two dimensions and their clusters.

    Args:
        names: Of the cube's axes.
        labels: Cluster of each set, from 0.
        centers: In the cube, (cluster, axis).
        silhouette: Of the clusters, -1 to 1.
        pca: Places of the sets, (set, 2).
        pca_shares: Share of the variance that each of the two components has.
        loadings: Of the two components, (2, axis).
        umap: Places of the sets, (set, 2).
    """

    names: Sequence[str]
    labels: NDArray[np.int64]
    centers: NDArray[np.float64]
    silhouette: float
    pca: NDArray[np.float64]
    pca_shares: NDArray[np.float64]
    loadings: NDArray[np.float64]
    umap: NDArray[np.float64]

    @property
    def n_clusters(self) -> int:
        """How many there are."""
        return len(self.centers)


def find_clusters(points: NDArray[np.float64], names: Sequence[str]) -> Clusters:
    """Find clusters among sets, as many as the silhouette likes best.

    Args:
        points: In the unit cube, (set, axis); at least `FEWEST`, and two different ones.
        names: Of the axes.
    """
    best, silhouette = _best_means(points, n_init=10)
    pca = PCA(min(2, points.shape[1])).fit(points)
    return Clusters(
        names,
        best.labels_.astype(np.int64),
        best.cluster_centers_,
        silhouette,
        pca.transform(points),
        pca.explained_variance_ratio_,
        pca.components_,
        np.asarray(fit_umap(points).embedding_, float),
    )


def _best_means(points: NDArray[np.float64], n_init: int) -> tuple[KMeans, float]:
    n_different = len(np.unique(points, axis=0))
    most = min(MOST_CLUSTERS, n_different - 1, len(points) - 1)
    tried = [KMeans(k, n_init=n_init, random_state=SEED).fit(points) for k in range(2, most + 1)]
    found = [float(silhouette_score(points, means.labels_)) for means in tried]
    return tried[int(np.argmax(found))], max(found)


def silhouette_by_chance(cube: UnitCube, n: int) -> float:
    """Return the best silhouette that random sets of a search space reach or exceed in one of 20 cases."""
    draw, n = np.random.default_rng(SEED), min(n, MOST_DRAWN)
    drawn = (cube.encode(cube.decode(draw.random((n, len(cube.names))))) for _ in range(N_DRAWN))
    return max(_best_means(points, n_init=1)[1] for points in drawn)


def fit_umap(points: NDArray[np.float64]) -> Any:
    """Return a fitted UMAP of sets in two dimensions; the same points give the same places."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP

        return UMAP(n_neighbors=min(NEIGHBORS, len(points) - 1), random_state=SEED, n_jobs=1).fit(points)


def plot_clusters(clusters: Clusters, trials: pd.DataFrame, chance: float) -> Drawn:
    """Draw the sets in two dimensions, by PCA and by UMAP, colored by cluster, by loss and by rating.

    Args:
        clusters: Of the sets.
        trials: One a set.
        chance: The silhouette that random sets have.
    """
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
        f"{clusters.n_clusters} clusters by k-means, chosen by silhouette, {clusters.silhouette:.2f}. Sets "
        f"drawn at random reach {chance:.2f} in one of 20 cases: these "
        + ("lie in clusters." if clusters.silhouette > chance else "are neighborhoods, no clusters."),
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
        axes.legend(title="cluster", fontsize=5, title_fontsize=6, framealpha=0.6, handletextpad=0.1)
        return
    values = np.log10(trials[LOSS].to_numpy(float)) if key == "loss" else trials["rating"].to_numpy(float)
    known = np.isfinite(values)
    axes.scatter(places[~known, 0], places[~known, 1], s=12, facecolor="none", edgecolor="#9aa7b6", lw=0.6)
    colors = "viridis_r" if key == "loss" else "viridis"
    ends: dict[str, Any] = {"vmin": 0, "vmax": MAX_RATING} if key == "rating" else {}
    shown = axes.scatter(places[known, 0], places[known, 1], s=16, c=values[known], cmap=colors, **ends)
    label = "log10 of the final loss" if key == "loss" else RATING_AXIS
    axes.figure.colorbar(shown, ax=axes, label=label)


def strongest(clusters: Clusters, component: int, n: int = 3) -> list[tuple[str, float]]:
    """Return the parameters with the largest loadings of a component."""
    loadings = clusters.loadings[component]
    order = np.argsort(-np.abs(loadings))[:n]
    return [(clusters.names[i], float(loadings[i])) for i in order]
