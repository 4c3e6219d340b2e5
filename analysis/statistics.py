"""The statistics that the report states: intervals, correlations, permutation tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = [
    "N_RESAMPLES",
    "Z_95",
    "Estimate",
    "correlate",
    "correlate_within",
    "holm_adjust",
    "log10_std",
    "min_detectable_correlation",
    "permutation_p",
    "quadratic_ranks",
]

CONFIDENCE = 0.95
Z_95 = 1.96  # standard deviations to each side that hold it
N_RESAMPLES = 2000
FEWEST_CORRELATED = 4  # below which an interval would be made up
SEED = 0

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95% interval.

    Args:
        value: The value.
        low: Lower end of the interval.
        high: Upper end.
        n: Observations behind it.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "not defined (all the same)"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def log10_std(values: Sequence[float] | Vector) -> Estimate:
    """Return the standard deviation of the decimal logarithms: 1 is an order of magnitude.

    Its interval is a jackknife's, of the deviation's logarithm: percentiles of a bootstrap cover two in three
    times where there are ten values. One that hangs on a single value is open.
    """
    logs = np.log10(np.asarray(values, float))
    found, n = float(logs.std(ddof=1)), len(logs)
    without = np.array([np.delete(logs, i).std(ddof=1) for i in range(n)])
    if found == 0:
        return Estimate(0.0, 0.0, 0.0, n)
    if not without.all():
        return Estimate(found, 0.0, math.inf, n)
    error = np.log(without).std() * np.sqrt(n - 1)
    reach = float(np.exp(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * error))
    return Estimate(found, found / reach, found * reach, n)


def correlate(x: Sequence[float] | Vector, y: Sequence[float] | Vector, kind: str) -> Estimate:
    """Return a correlation, `pearson` or `spearman`, with its interval by Fisher's transformation.

    For Spearman's with the standard error of Bonett and Wright (2000). Three pairs have the interval of all
    correlations, and where one side is constant there is none.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    n = len(x)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return Estimate(math.nan, math.nan, math.nan, n)
    r = float((stats.pearsonr if kind == "pearson" else stats.spearmanr)(x, y).statistic)
    if n < FEWEST_CORRELATED:
        return Estimate(r, -1.0, 1.0, n)
    most = 1 - (1e-12 if kind == "pearson" else 6 / (n * (n**2 - 1)))  # of ranks: one exchange from order
    bounded = np.clip(r, -most, most)
    error = np.sqrt((1 if kind == "pearson" else 1 + bounded**2 / 2) / (n - 3))
    reach = stats.norm.ppf((1 + CONFIDENCE) / 2) * error
    low, high = np.tanh(np.arctanh(bounded) - reach), np.tanh(np.arctanh(bounded) + reach)
    return Estimate(r, float(low), float(high), n)


def correlate_within(
    x: Vector, y: Vector, groups: Sequence[Any], clusters: Sequence[Any], kind: str
) -> Estimate:
    """Return the correlation inside of groups: how much they differ from each other plays no part.

    Args:
        x: One value per observation.
        y: The other.
        groups: What each belongs to.
        clusters: What is drawn as a whole for the bootstrap interval: observations in one are no two.
        kind: `pearson` or `spearman`, whose ranks are those in the group.
    """
    if len(set(groups)) == 1 and len(set(clusters)) == len(clusters):
        return correlate(x, y, kind)
    one, other = (_center(each, groups, kind) for each in (x, y))
    _, of_cluster = np.unique(np.asarray(clusters, str), return_inverse=True)
    sums = np.zeros((of_cluster.max() + 1, 3))
    np.add.at(sums, of_cluster, np.column_stack([one * other, one**2, other**2]))
    drawn = np.random.default_rng(SEED).integers(0, len(sums), (N_RESAMPLES, len(sums)))
    if not (sums.sum(axis=0)[1:] > 0).all():
        return Estimate(math.nan, math.nan, math.nan, len(x))
    with np.errstate(invalid="ignore", divide="ignore"):
        found, resampled = (
            each[..., 0] / np.sqrt(each[..., 1] * each[..., 2]) for each in (sums.sum(0), sums[drawn].sum(1))
        )
    low, high = np.nanquantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(found), float(low), float(high), len(x))


def _center(values: Vector, groups: Sequence[Any], kind: str) -> Vector:
    """Return values, or their ranks as shares, less the mean of their group."""
    centered, of = np.empty(len(values)), np.asarray(groups, str)
    for group in np.unique(of):
        inside = values[of == group]
        ours = stats.rankdata(inside) / len(inside) if kind == "spearman" else inside
        centered[of == group] = ours - ours.mean()
    return centered


def permutation_p(columns: Vector, y: Sequence[float] | Vector, order: Sequence[float] | Vector) -> float:
    """Return how often a permuted `y` follows columns as closely as `y` does, or more closely.

    What follows from the order of the trials is taken out of both before: a sampler that learns keeps what
    does not matter near good values while losses fall.

    Args:
        columns: (observation, column); their ranks and the squares of these find what rises, falls, or has a
            best value in the middle.
        y: Of which the ranks are taken.
        order: Of the observations in time.
    """
    time = stats.rankdata(order) / len(columns)
    trend = np.column_stack([np.ones(len(time)), time, time**2])
    basis = _basis(_residual(columns, trend))
    ranks = _residual(stats.rankdata(np.asarray(y, float)), trend)
    draw = np.random.default_rng(SEED)
    permuted = draw.permuted(np.tile(ranks, (N_RESAMPLES, 1)), axis=1) @ basis
    found = ((ranks @ basis) ** 2).sum()
    return float((1 + ((permuted**2).sum(axis=1) >= found * (1 - 1e-12)).sum()) / (1 + N_RESAMPLES))


def quadratic_ranks(values: Sequence[float] | Vector) -> Vector:
    """Return ranks and their squares about the middle, (value, 2)."""
    ranks = stats.rankdata(np.asarray(values, float))
    return np.column_stack([ranks, (ranks - ranks.mean()) ** 2])


def _residual(values: Vector, design: Vector) -> Vector:
    return np.asarray(values - design @ np.linalg.lstsq(design, values, rcond=None)[0], float)


def _basis(columns: Vector) -> Vector:
    """Return orthonormal columns that span the same."""
    left, lengths, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(left[:, lengths > 1e-9 * max(1.0, lengths.max(initial=0.0))], float)


def min_detectable_correlation(n: int, n_tests: int) -> float:
    """Return the rank correlation that `n` trials would most likely show (80%) in one of so many tests."""
    reach = stats.norm.ppf((1 + CONFIDENCE ** (1 / n_tests)) / 2) + stats.norm.ppf(0.8)
    return float(np.tanh(reach / np.sqrt(max(1, n - 3))))


def holm_adjust(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's method."""
    order = np.argsort(p_values)
    steps = [min(1.0, (len(p_values) - rank) * p_values[index]) for rank, index in enumerate(order)]
    found = np.empty(len(p_values))
    found[order] = np.maximum.accumulate(steps) if steps else []
    return [float(p) for p in found]
