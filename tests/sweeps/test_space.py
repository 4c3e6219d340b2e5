"""Domains hold what they say, both ends included, for every sampler."""

from __future__ import annotations

import math
import warnings
from typing import Any

import optuna
import pytest

from sweeps import SweepError
from sweeps.samplers import SamplerSpec, make_sampler
from sweeps.space import (
    Choice,
    Interval,
    Space,
    check_sampler,
    describe,
    grid_values,
    n_configurations,
    to_distributions,
)

RANGES: dict[str, tuple[Interval, list[float]]] = {
    "whole": (Interval(6, 15, step=3, integer=True), [6, 9, 12, 15]),
    "decimal": (Interval(0.1, 0.3, step=0.1), [0.1, 0.2, 0.3]),
    "short of its end": (Interval(0.5, 1.0, step=0.2), [0.5, 0.7, 0.9]),
    "whole, without a step": (Interval(2, 4, integer=True), [2, 3, 4]),
    "one value": (Interval(5, 5, step=1), [5]),
    "small": (Interval(1e-5, 4e-5, step=1e-5), [1e-5, 2e-5, 3e-5, 4e-5]),
}


def draw(sampler: str, space: Space, n: int, seed: int) -> list[dict[str, Any]]:
    """Return configurations as a coordinator would ask for them, every trial finished."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(sampler=make_sampler(SamplerSpec(sampler, seed), space))
    drawn = []
    for number in range(n):
        trial = study.ask(to_distributions(space))
        drawn.append(trial.params)
        if sampler != "grid":  # it stops the study that is told of its last trial
            study.tell(trial, float(number))
    return drawn


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "grid"])
def test_every_value_of_a_range_is_drawn_and_no_other(sampler: str, name: str) -> None:
    domain, values = RANGES[name]
    n = len(values) if sampler == "grid" else 40
    drawn = {params["a"] for seed in range(3) for params in draw(sampler, {"a": domain}, n, seed)}
    assert sorted(drawn) == pytest.approx(values, rel=1e-12)
    assert (min(drawn), max(drawn)) == (values[0], values[-1])
    assert {type(value) for value in drawn} == {int if domain.integer else float}


@pytest.mark.parametrize("sampler", ["gp", "cmaes"])
def test_the_ends_of_a_range_belong_to_it_for_a_model_based_sampler(sampler: str) -> None:
    space: Space = {"a": Interval(1, 2, step=1, integer=True), "b": Interval(0.1, 0.3, step=0.2)}
    drawn = [params for seed in range(2) for params in draw(sampler, space, 12, seed)]
    assert {params["a"] for params in drawn} == {1, 2}
    assert {params["b"] for params in drawn} == {0.1, 0.3}


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
@pytest.mark.parametrize("seed", range(8))
def test_draws_from_an_interval_lie_in_it_and_reach_both_quarters_at_its_ends(
    sampler: str, seed: int
) -> None:
    space: Space = {"a": Interval(0.5, 1.0), "b": Interval(1e-5, 1e-1, log=True)}
    drawn = draw(sampler, space, 24, seed)
    assert all(0.5 <= params["a"] <= 1.0 and 1e-5 <= params["b"] <= 1e-1 for params in drawn)
    assert min(params["a"] for params in drawn) < 0.625
    assert max(params["a"] for params in drawn) > 0.875
    assert min(params["b"] for params in drawn) < 1e-4
    assert max(params["b"] for params in drawn) > 1e-2


def test_a_log_interval_makes_orders_of_magnitude_equally_likely() -> None:
    drawn = [params["a"] for params in draw("random", {"a": Interval(1e-4, 1.0, log=True)}, 200, 0)]
    assert 0.4 < sum(value < 1e-2 for value in drawn) / len(drawn) < 0.6


def test_an_interval_of_one_number_always_gives_it() -> None:
    assert draw("random", {"a": Interval(0.5, 0.5)}, 2, 0) == [{"a": 0.5}] * 2


@pytest.mark.parametrize("name", RANGES)
def test_the_nth_value_counts_from_the_low_end_without_rounding_errors(name: str) -> None:
    domain, values = RANGES[name]
    assert domain.n_values == len(values)
    assert [domain.value(index) for index in range(len(values))] == values


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Choice(()), r"choice\(\) is empty: give at least one value"),
        (lambda: Choice((4, 5, 4)), r"choice\(4, 5, 4\) names a value twice"),
        (lambda: Choice((1, 1.0)), r"choice\(1, 1\.0\) names a value twice"),
        (lambda: Interval(2, 1), r"interval\(2, 1\) is empty: its low end must not lie above its high end"),
        (lambda: Interval(0, math.inf), r"interval\(0, inf\) is empty"),
        (lambda: Interval(math.nan, 1), r"interval\(nan, 1\) is empty"),
        (lambda: Interval(0, 1, log=True), r"tag\(log, interval\(0, 1\)\).*must start above 0"),
        (lambda: Interval(-1, 1, log=True), r"must start above 0"),
        (lambda: Interval(0, 1, step=0), r"range\(0, 1, 0\): a step must be above 0"),
        (lambda: Interval(0, 1, step=-1), r"a step must be above 0"),
        (lambda: Interval(1, 9, log=True, step=1), r"a logarithmic interval has none"),
    ],
)
def test_domain_is_refused(make: Any, message: str) -> None:
    with pytest.raises(SweepError, match=message):
        make()


CHOICES: Space = {"a": Choice((1, 2)), "b": Choice((True, None, "x"))}
CONTINUOUS: Space = {"a": Interval(0, 1), "c": Interval(1, 9, log=True)}


@pytest.mark.parametrize("sampler", ["cmaes", "qmc"])
def test_samplers_of_numbers_refuse_choices_and_name_them(sampler: str) -> None:
    with pytest.raises(SweepError, match=f"sampler={sampler} draws from intervals.*choices of a, b;"):
        check_sampler(sampler, CHOICES)
    check_sampler(sampler, CONTINUOUS)


def test_cmaes_refuses_a_single_parameter() -> None:
    with pytest.raises(SweepError, match="cmaes needs at least two parameters"):
        check_sampler("cmaes", {"a": Interval(0, 1)})


def test_grid_refuses_an_interval_and_names_it() -> None:
    with pytest.raises(SweepError, match="grid needs choices or ranges, and a, c is an interval"):
        check_sampler("grid", {**CONTINUOUS, "b": Choice((1, 2))})
    check_sampler("grid", {"a": Interval(1, 3, integer=True), "b": Choice((1, 2))})


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
@pytest.mark.parametrize("space", [CHOICES, CONTINUOUS])
def test_other_samplers_take_any_space(sampler: str, space: Space) -> None:
    check_sampler(sampler, space)


def test_the_number_of_configurations_is_the_product_of_the_domains() -> None:
    whole = Interval(6, 15, step=3, integer=True)
    assert n_configurations({"a": whole, "b": Choice((1, 2, 3))}) == 12
    assert n_configurations({"a": whole, "b": Interval(0, 1)}) == math.inf
    assert n_configurations({"a": Interval(1, 4, integer=True)}) == 4


def test_a_grid_holds_every_combination_once() -> None:
    space: Space = {"a": Interval(6, 9, step=3, integer=True), "b": Choice((True, None, "x"))}
    drawn = draw("grid", space, 6, seed=3)
    assert grid_values(space) == {"a": [6, 9], "b": [True, None, "x"]}
    assert sorted((str(p["a"]), str(p["b"])) for p in drawn) == sorted(
        (str(a), str(b)) for a in (6, 9) for b in (True, None, "x")
    )


def test_domains_read_as_the_command_line_writes_them() -> None:
    space: Space = {
        "a": Choice((1, "x")),
        "b": Interval(0.5, 1.0),
        "c": Interval(1e-5, 1e-3, log=True),
        "d": Interval(6, 15, step=3, integer=True),
    }
    assert describe(space) == {
        "a": "choice(1, x)",
        "b": "interval(0.5, 1)",
        "c": "tag(log, interval(1e-05, 0.001))",
        "d": "range(6, 15, 3)",
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Interval(1_000_001, 2_000_000), Interval(1_000_002, 2_000_000)),
        (Interval(0, 1.0000001), Interval(0, 1.0000002)),
        (Interval(0, 4e7, step=1_048_576), Interval(0, 4e7, step=1_048_577)),
    ],
)
def test_domains_that_differ_read_differently(one: Interval, other: Interval) -> None:
    assert str(one) != str(other)
