"""The statistics that the report states: intervals, correlations, permutation tests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import linalg, stats

CONFIDENCE = 0.95
Z_95 = float(stats.norm.ppf((1 + CONFIDENCE) / 2))  # standard deviations from the mean to either end
POWER = 0.8
N_RESAMPLES = 2000
MIN_PAIRS = 4  # below it Fisher's transformation has no standard error
SEED = 0

Vector = NDArray[np.float64]
Kind = Literal["pearson", "spearman"]


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its 95% interval; NaN if it is not defined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "not defined (all the same)"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


UNDEFINED = Estimate(math.nan, math.nan, math.nan)


def log10_std(values: Sequence[float] | Vector) -> Estimate:
    """Return the standard deviation of the decimal logarithms: 1 is an order of magnitude.

    The interval is a jackknife interval of its logarithm. With ten values it covers about 95%, bootstrap
    intervals 80% to 83%. If one value alone makes the others differ, it is unbounded.
    """
    logs = np.log10(np.asarray(values, float))
    found, n = float(logs.std(ddof=1)), len(logs)
    if found == 0:
        return Estimate(0.0, 0.0, 0.0)
    without = np.array([np.delete(logs, i).std(ddof=1) for i in range(n)])
    if not without.all():
        return Estimate(found, 0.0, math.inf)
    factor = math.exp(_jackknife_margin(np.log(without)))
    return Estimate(found, found / factor, found * factor)


def _jackknife_margin(without: Vector, confidence: float = CONFIDENCE) -> float:
    """Return the half width of a statistic's interval from its values without each observation."""
    n = len(without)
    return float(stats.t.ppf((1 + confidence) / 2, n - 1) * without.std() * math.sqrt(n - 1))


def correlate(x: Sequence[float] | Vector, y: Sequence[float] | Vector, kind: Kind) -> Estimate:
    """Return a correlation with its interval by Fisher's transformation.

    Spearman's uses the standard error of Bonett and Wright (2000). With fewer than four pairs the interval is
    [-1, 1]. With a constant side all values are NaN.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    n = len(x)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return UNDEFINED
    if kind == "spearman":
        x, y = stats.rankdata(x), stats.rankdata(y)
    found = stats.pearsonr(x, y)
    r = float(found.statistic)
    if n < MIN_PAIRS:
        return Estimate(r, -1.0, 1.0)
    if kind == "pearson":
        low, high = found.confidence_interval(CONFIDENCE)
    else:
        largest = 1 - 6 / (n * (n**2 - 1))  # that of ranks with two neighbors exchanged
        bounded = float(np.clip(r, -largest, largest))
        margin = Z_95 * math.sqrt((1 + bounded**2 / 2) / (n - 3))
        low, high = (np.tanh(np.arctanh(bounded) + reach) for reach in (-margin, margin))
    return Estimate(r, float(low), float(high))


def correlate_within(
    x: Vector, y: Vector, groups: Sequence[Any], clusters: Sequence[Any], kind: Kind
) -> Estimate:
    """Return the correlation within groups; differences between the groups do not count.

    Args:
        x: A value per observation.
        y: Another value per observation.
        groups: Group of each observation.
        clusters: Cluster of each observation. Observations of a cluster are not independent: the interval is
            a jackknife interval over clusters.
        kind: Spearman's takes the ranks within each group.
    """
    if len(set(groups)) == 1 and len(set(clusters)) == len(clusters):
        return correlate(x, y, kind)
    found, *without = _leave_one_out(x, y, groups, clusters, kind)
    if not np.isfinite([found, *without]).all():
        return UNDEFINED
    with np.errstate(invalid="ignore", divide="ignore"):
        z = np.arctanh(np.clip(found, -1 + 1e-12, 1 - 1e-12))
        margin = _jackknife_margin(np.arctanh(np.clip(without, -1 + 1e-12, 1 - 1e-12)))
    if len(without) < MIN_PAIRS or math.isnan(margin):
        return Estimate(float(found), -1.0, 1.0)
    return Estimate(float(found), float(np.tanh(z - margin)), float(np.tanh(z + margin)))


def _leave_one_out(
    x: Vector, y: Vector, groups: Sequence[Any], clusters: Sequence[Any], kind: Kind
) -> Vector:
    """Return the correlation within groups, and those without each cluster; NaN where it is not defined."""
    one, other = (_center(each, groups, kind) for each in (x, y))
    _, cluster = np.unique(np.asarray(clusters, str), return_inverse=True)
    sums = np.array([np.bincount(cluster, product) for product in (one * other, one**2, other**2)])
    sums = np.column_stack([sums.sum(axis=1), sums.sum(axis=1, keepdims=True) - sums])
    products = sums[1] * sums[2]
    return np.asarray(sums[0] / np.sqrt(np.where(products > 0, products, np.nan)))


def compare_within(
    measures: Mapping[str, Vector], y: Vector, groups: Sequence[Any], clusters: Sequence[Any]
) -> dict[str, tuple[Estimate, Estimate]]:
    """Return each measure's rank correlation with y within groups, and its distance from the strongest one.

    The strongest, the most negative one, comes first. A measure whose interval of the distance is above 0
    follows y less closely than the first one. These are jackknife intervals over clusters, and wider than
    95%: adjusted by Bonferroni's rule for all pairs, because the first is chosen after seeing all.

    Args:
        measures: A value per observation, by name.
        y: Values, which fall where the measures rise.
        groups: Group of each observation.
        clusters: Cluster of each observation, see `correlate_within`.
    """
    found = {name: _leave_one_out(x, y, groups, clusters, "spearman") for name, x in measures.items()}
    order = sorted(found, key=lambda name: found[name][0])
    confidence = 1 - (1 - CONFIDENCE) / max(1, math.comb(len(order), 2))
    compared = {}
    for name in order:
        behind, *without = found[name] - found[order[0]]
        margin = _jackknife_margin(np.array(without), confidence)
        own = correlate_within(measures[name], y, groups, clusters, "spearman")
        compared[name] = own, Estimate(float(behind), behind - margin, behind + margin)
    return compared


def estimate_shift(x: Vector, y: Vector, *, paired: bool = False, confidence: float = CONFIDENCE) -> Estimate:
    """Return by how much values of y exceed values of x: the Hodges-Lehmann estimate with its interval.

    Unpaired it is the median of all differences, with the interval of the Mann-Whitney test; paired the
    median of the means of every two differences, with that of Wilcoxon's signed-rank test. Ranks of the ends
    are those of the normal approximation, rounded outwards. With too few values, below four in each group or
    six pairs at 95%, the interval is unbounded.

    Args:
        x: Values of one group.
        y: Values of the other; paired, as many and in the same order.
        paired: Whether x[i] and y[i] belong together.
        confidence: Of the interval.

    Source: Hollander and Wolfe 1999, "Nonparametric Statistical Methods", sections 3.3 and 4.3.
    """
    if paired:
        n, d = len(x), y - x
        values = (d[:, None] + d)[np.triu_indices(n)] / 2
        variance = n * (n + 1) * (2 * n + 1) / 24
    else:
        values = np.subtract.outer(y, x).ravel()
        variance = len(values) * (len(x) + len(y) + 1) / 12
    z = stats.norm.ppf((1 + confidence) / 2)
    rank = math.floor(len(values) / 2 - z * math.sqrt(variance))
    values = np.sort(values)
    ends = (values[rank - 1], values[-rank]) if rank >= 1 else (-math.inf, math.inf)
    return Estimate(float(np.median(values)), float(ends[0]), float(ends[1]))


def _center(values: Vector, groups: Sequence[Any], kind: Kind) -> Vector:
    """Return values, or for Spearman their ranks as shares of the group's size, minus the group's mean."""
    series, group = pd.Series(values), np.asarray(groups, str)
    if kind == "spearman":
        series = series.groupby(group).rank(pct=True)
    return np.asarray(series - series.groupby(group).transform("mean"), float)


def permutation_p(columns: Vector, y: Sequence[float] | Vector, order: Sequence[float] | Vector) -> float:
    """Return the p-value of a permutation test: does `y` follow the columns more closely than by chance?

    A quadratic trend over the order of the trials is removed from both sides first: a sampler that learns
    samples irrelevant parameters near good values while losses fall.

    Args:
        columns: (observation, column); `quadratic_ranks` detect a relation that rises, falls, or turns once.
        y: Values, of which the ranks are tested.
        order: Position of each observation in time.
    """
    time = stats.rankdata(order) / len(columns)
    trend = np.column_stack([np.ones(len(time)), time, time**2])
    basis = linalg.orth(residual(columns, trend), rcond=1e-9)
    ranks = residual(stats.rankdata(np.asarray(y, float)), trend)
    return float(
        stats.permutation_test(
            (ranks,),
            lambda permuted, axis: ((permuted @ basis) ** 2).sum(axis=axis),
            permutation_type="pairings",
            alternative="greater",
            n_resamples=N_RESAMPLES,
            rng=np.random.default_rng(SEED),
        ).pvalue
    )


def quadratic_ranks(values: Sequence[float] | Vector) -> Vector:
    """Return ranks and their squared distances from the middle rank, (value, 2)."""
    ranks = stats.rankdata(np.asarray(values, float))
    return np.column_stack([ranks, (ranks - ranks.mean()) ** 2])


def residual(values: Vector, design: Vector) -> Vector:
    """Return the residuals of a least-squares fit of values on the design's columns."""
    return np.asarray(values - design @ np.linalg.lstsq(design, values, rcond=None)[0], float)


def min_detectable_correlation(n: int, n_tests: int) -> float:
    """Return the correlation that one of `n_tests` tests of `n` trials finds with a power of 80%."""
    reach = stats.norm.ppf((1 + CONFIDENCE ** (1 / n_tests)) / 2) + stats.norm.ppf(POWER)
    return float(np.tanh(reach / np.sqrt(max(1, n - 3))))
