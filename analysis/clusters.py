"""Clusters of parameter sets: PCA, UMAP and k-means in the unit cube of the search space."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

__all__ = ["FEWEST", "Clusters", "find_clusters", "fit_umap"]

FEWEST = 10  # sets, below which clusters say nothing
MOST_CLUSTERS = 8
NEIGHBORS = 15
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
    n_different = len(np.unique(points, axis=0))
    tried = [
        KMeans(k, n_init=10, random_state=SEED).fit(points)
        for k in range(2, min(MOST_CLUSTERS, n_different - 1, len(points) - 1) + 1)
    ]
    best = max(tried, key=lambda means: silhouette_score(points, means.labels_))
    pca = PCA(2).fit(points)
    return Clusters(
        names,
        best.labels_.astype(np.int64),
        best.cluster_centers_,
        float(silhouette_score(points, best.labels_)),
        pca.transform(points),
        pca.explained_variance_ratio_,
        pca.components_,
        np.asarray(fit_umap(points).embedding_, float),
    )


def fit_umap(points: NDArray[np.float64]) -> Any:
    """Return a fitted UMAP of sets in two dimensions; the same points give the same places."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP

        return UMAP(n_neighbors=min(NEIGHBORS, len(points) - 1), random_state=SEED, n_jobs=1).fit(points)
