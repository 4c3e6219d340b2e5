"""The statistics that the report states: intervals, correlations, permutation tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["Estimate", "corrected", "correlate", "interval", "permutation_p", "spread"]

CONFIDENCE = 0.95
N_RESAMPLES = 2000
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
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def interval(values: Sequence[float] | Vector, statistic: Callable[[Vector], float]) -> Estimate:
    """Return a statistic of a sample with its percentile bootstrap interval."""
    sample, draw = np.asarray(values, float), np.random.default_rng(SEED)
    resampled = [statistic(draw.choice(sample, len(sample))) for _ in range(N_RESAMPLES)]
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(statistic(sample)), float(low), float(high), len(sample))


def spread(values: Vector) -> float:
    """Return the standard deviation of the decimal logarithms: 1 is an order of magnitude."""
    return float(np.log10(values).std())


def correlate(x: Sequence[float] | Vector, y: Sequence[float] | Vector, kind: str) -> Estimate:
    """Return a correlation, `pearson` or `spearman`, with its interval by Fisher's transformation.

    For Spearman's with the standard error of Bonett and Wright (2000).
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    r = float((stats.pearsonr if kind == "pearson" else stats.spearmanr)(x, y).statistic)
    error = np.sqrt((1 if kind == "pearson" else 1 + r**2 / 2) / max(1, len(x) - 3))
    bounded = np.clip(r, -1 + 1e-12, 1 - 1e-12)
    reach = stats.norm.ppf((1 + CONFIDENCE) / 2) * error
    low, high = np.tanh(np.arctanh(bounded) - reach), np.tanh(np.arctanh(bounded) + reach)
    return Estimate(r, float(low), float(high), len(x))


def permutation_p(x: Sequence[float] | Vector, y: Sequence[float] | Vector) -> float:
    """Return how often a permuted `y` correlates with `x` as strongly by rank, or more, two-sided."""
    ranks = [stats.rankdata(np.asarray(each, float)) for each in (x, y)]
    one, other = (each - each.mean() for each in ranks)
    draw, found = np.random.default_rng(SEED), abs(one @ other)
    permuted = np.array([abs(one @ draw.permutation(other)) for _ in range(N_RESAMPLES)])
    return float((1 + (permuted >= found * (1 - 1e-12)).sum()) / (1 + N_RESAMPLES))


def corrected(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's method."""
    order = np.argsort(p_values)
    steps = [min(1.0, (len(p_values) - rank) * p_values[index]) for rank, index in enumerate(order)]
    found = np.empty(len(p_values))
    found[order] = np.maximum.accumulate(steps) if steps else []
    return [float(p) for p in found]
