"""Intervals have their nominal coverage, p-values are uniform without an effect."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis import statistics
from analysis.statistics import (
    Estimate,
    Kind,
    compare_within,
    correlate,
    correlate_within,
    estimate_shift,
    log10_std,
    min_detectable_correlation,
    permutation_p,
    quadratic_ranks,
)


@pytest.mark.parametrize("n", [10, 40])
@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_intervals_of_correlations_cover_the_truth(kind: Kind, n: int) -> None:
    draw, covered = np.random.default_rng(0), 0
    truth = 0.6 if kind == "pearson" else 6 / np.pi * np.arcsin(0.3)
    for _ in range(400):
        x = draw.normal(size=n)
        y = 0.6 * x + 0.8 * draw.normal(size=n)
        found = correlate(x, y, kind)
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_pearsons_interval_is_scipys() -> None:
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(2, 25))
    ours, theirs = correlate(x, y, "pearson"), stats.pearsonr(x, y).confidence_interval()
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_few_pairs_have_wide_intervals_and_constants_none(kind: Kind) -> None:
    three, four = (correlate(range(n), range(n), kind) for n in (3, 4))
    assert (three.value, three.low, three.high) == pytest.approx((1.0, -1.0, 1.0))
    assert four.value == pytest.approx(1.0)
    assert str(correlate([1, 2, 3, 4], [5, 5, 5, 5], kind)) == "not defined (all the same)"
    draw, covered = np.random.default_rng(4), 0
    for _ in range(300):
        found = correlate(draw.normal(size=5), draw.normal(size=5), kind)
        covered += found.low <= 0 <= found.high
    assert covered / 300 >= 0.92


def test_differences_between_groups_do_not_count_as_correlation() -> None:
    """Groups far apart in both; ten clusters with an effect of their own, one observation in each group."""
    draw, pooled, within = np.random.default_rng(5), 0, 0
    groups, clusters = np.repeat(np.arange(4), 10), np.tile(np.arange(10), 4)
    for _ in range(200):
        easy = 2 * draw.normal(size=4)[groups]
        own = draw.normal(size=10)
        x = easy + draw.normal(size=40) + own[clusters]
        y = -easy + draw.normal(size=40) + draw.permutation(own)[clusters]
        alone = correlate(x, y, "spearman")
        ours = correlate_within(x, y, list(groups), list(clusters), "spearman")
        pooled += not alone.low <= 0 <= alone.high
        within += not ours.low <= 0 <= ours.high
    assert pooled / 200 > 0.5
    assert within / 200 < 0.12
    x = draw.normal(size=40)
    found = correlate_within(x, np.exp(x), list(groups), list(clusters), "spearman")
    assert found.value == pytest.approx(1.0)


def test_measures_are_told_apart_as_rarely_as_they_should() -> None:
    """Of three equal measures one is behind in one of twenty samples; one with more noise mostly."""
    draw, apart, found = np.random.default_rng(6), 0, 0
    groups, clusters = [0] * 20 + [1] * 20, list(range(40))
    for _ in range(200):
        y = draw.normal(size=40)
        measures = {str(n): -y + draw.normal(size=40) for n in range(3)}
        apart += any(behind.low > 0 for _, behind in compare_within(measures, y, groups, clusters).values())
        compared = compare_within({"worse": -y + 6 * draw.normal(size=40), **measures}, y, groups, clusters)
        found += compared["worse"][1].low > 0
    assert apart / 200 < 0.08
    assert found / 200 > 0.7
    own, behind = compare_within({"same": -y, "again": -y}, y, groups, clusters)["again"]
    assert (own.value, behind.value, behind.low, behind.high) == pytest.approx((-1, 0, 0, 0))


@pytest.mark.parametrize("sizes", [(4, 4), (5, 12), (10, 10), (50, 20)])
@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_the_interval_of_a_shift_covers_the_truth(sizes: tuple[int, int], kind: str) -> None:
    draw, covered = np.random.default_rng(8), 0
    for _ in range(600):
        x, y = ((draw.normal(size=n) if kind == "normal" else draw.gumbel(size=n)) for n in sizes)
        found = estimate_shift(x, y + 0.7)
        covered += found.low <= 0.7 <= found.high
    assert 0.93 <= covered / 600 <= 0.99


@pytest.mark.parametrize("n", [6, 10, 40])
def test_the_interval_of_a_paired_shift_covers_the_truth_and_is_narrower(n: int) -> None:
    draw, covered, narrower = np.random.default_rng(9), 0, 0
    for _ in range(600):
        x = 3 * draw.normal(size=n)
        y = x + 0.7 + draw.normal(size=n)
        found, unpaired = estimate_shift(x, y, paired=True), estimate_shift(x, y)
        covered += found.low <= 0.7 <= found.high
        narrower += found.high - found.low < unpaired.high - unpaired.low
    assert 0.93 <= covered / 600 <= 0.99
    assert narrower / 600 > 0.8


def test_intervals_of_shifts_agree_with_the_tests_of_scipy() -> None:
    """An interval leaves out 0 where the test rejects at 5%, except on its edge."""
    draw = np.random.default_rng(10)
    for _ in range(100):
        x, y = draw.normal(size=12), draw.normal(size=12) + 0.8
        for paired, p in (
            (False, stats.mannwhitneyu(x, y).pvalue),
            (True, stats.wilcoxon(x, y).pvalue),
        ):
            found = estimate_shift(x, y, paired=paired)
            if not 0.03 < p < 0.07:
                assert (found.low > 0 or found.high < 0) == (p < 0.05)
    assert estimate_shift(np.array([1.0, 2.0]), np.array([4.0, 6.0])).value == 3.5
    assert estimate_shift(np.array([1.0, 9.0]), np.array([4.0, 6.0]), paired=True).value == 0.0


def test_too_few_values_have_an_unbounded_shift() -> None:
    zeros = np.zeros(60)
    for n_x, n_y in ((3, 3), (2, 4), (1, 38)):
        assert estimate_shift(zeros[:n_x], zeros[:n_y] + 1) == Estimate(1.0, -np.inf, np.inf)
    assert estimate_shift(zeros[:4], zeros[:4] + 1) == Estimate(1.0, 1.0, 1.0)
    assert estimate_shift(zeros[:5], zeros[:5] + 1, paired=True) == Estimate(1.0, -np.inf, np.inf)
    assert estimate_shift(zeros[:6], zeros[:6] + 1, paired=True) == Estimate(1.0, 1.0, 1.0)


def test_the_interval_of_a_standard_deviation_covers_the_truth() -> None:
    draw, covered = np.random.default_rng(2), 0
    for _ in range(300):
        found = log10_std(10 ** draw.normal(scale=0.5, size=10))
        covered += found.low <= 0.5 <= found.high
    assert 0.92 <= covered / 300 <= 0.98
    assert str(log10_std([2.0, 2.0, 2.0])) == "0.00 [0.00, 0.00]"
    assert log10_std([1.0, 1.0, 1.0, 1.0, 10.0]).high == np.inf


def test_p_values_without_an_effect_are_uniform_and_with_one_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "N_RESAMPLES", 400)
    draw, order = np.random.default_rng(3), np.arange(30.0)
    null = [
        permutation_p(quadratic_ranks(draw.normal(size=30)), draw.normal(size=30), order) for _ in range(200)
    ]
    assert stats.kstest(null, "uniform").pvalue > 0.01
    x = draw.normal(size=30)
    for y in (-x, np.exp(x), (x - np.median(x)) ** 2 + 0.1 * draw.normal(size=30)):
        assert permutation_p(quadratic_ranks(x), y, order) < 0.01
    indicators = np.eye(3)[draw.integers(0, 3, 30)]
    assert permutation_p(indicators, indicators @ [1.0, 5.0, 2.0] + draw.normal(size=30), order) < 0.01


def test_a_sampler_that_narrows_while_losses_fall_is_not_an_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "N_RESAMPLES", 400)
    draw, order, found = np.random.default_rng(6), np.arange(60.0), []
    for _ in range(100):
        narrows = draw.normal(size=60) * (60 - order) / 60 + order / 60
        losses = -order / 20 + draw.normal(size=60)
        found.append(permutation_p(quadratic_ranks(narrows), losses, order))
    assert np.mean(np.array(found) < 0.05) < 0.15


def test_the_detectable_correlation_is_found_four_times_in_five() -> None:
    rho = min_detectable_correlation(50, 1)
    draw, found = np.random.default_rng(7), 0
    for _ in range(200):
        x = draw.normal(size=50)
        y = rho * x + np.sqrt(1 - rho**2) * draw.normal(size=50)
        found += stats.spearmanr(x, y).pvalue < 0.05
    assert 0.65 < found / 200 < 0.9
