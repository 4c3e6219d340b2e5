"""Intervals cover as often as they say, p-values are uniform without an effect, corrections are Holm's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis import statistics
from analysis.statistics import corrected, correlate, interval, permutation_p, spread


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_intervals_of_correlations_cover_the_truth(kind: str) -> None:
    draw, covered = np.random.default_rng(0), 0
    truth = 0.6 if kind == "pearson" else 6 / np.pi * np.arcsin(0.3)
    for _ in range(400):
        x = draw.normal(size=40)
        y = 0.6 * x + 0.8 * draw.normal(size=40)
        found = correlate(x, y, kind)
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_pearsons_interval_is_scipys() -> None:
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(2, 25))
    ours, theirs = correlate(x, y, "pearson"), stats.pearsonr(x, y).confidence_interval()
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_the_bootstrap_covers_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "N_RESAMPLES", 400)
    draw, covered = np.random.default_rng(2), 0
    for _ in range(200):
        found = interval(10 ** draw.normal(scale=0.5, size=60), spread)
        covered += found.low <= 0.5 <= found.high
    assert 0.86 <= covered / 200 <= 0.99


def test_p_values_without_an_effect_are_uniform_and_with_one_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "N_RESAMPLES", 400)
    draw = np.random.default_rng(3)
    null = [permutation_p(draw.normal(size=20), draw.normal(size=20)) for _ in range(200)]
    assert stats.kstest(null, "uniform").pvalue > 0.01
    x = draw.normal(size=20)
    assert permutation_p(x, -x) < 0.01
    assert permutation_p(x, np.exp(x)) < 0.01


def test_the_correction_is_holms() -> None:
    p = [0.01, 0.04, 0.03, 0.8, 0.005]
    assert corrected(p) == pytest.approx(multipletests(p, method="holm")[1].tolist())
    assert corrected([]) == []
