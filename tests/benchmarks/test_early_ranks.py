"""What a pruner could compare at a rung is measured while a trial trains."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.early_ranks import COMMON, MEASURES, RULES, SHARES, correlate, run
from nca.study.plan import make_plans, resolve


@pytest.mark.parametrize("rule", RULES)
def test_a_trial_has_each_measure_at_each_rung(rule: str) -> None:
    drop = {"srnca": "null", "distill": "[20,28]"}[rule]
    short = ("train.size=16", "train.steps=32", f"train.drop_steps={drop}")
    plan, _ = resolve(make_plans([*COMMON, *RULES[rule], *short])[0])
    found = run(plan.config.trial)
    assert found is not None
    for name in MEASURES:
        assert np.isfinite(found[name]).all()
        assert len(found[name]) == len(SHARES)
    assert (
        found["loss"][:5] == found["recent"][:5] != found["distance"][:5]
    )  # the first 12 steps, of fewer than 16
    assert found["loss"][-1] != found["recent"][-1]
    assert np.isfinite(found["final"])


def test_ranks_are_correlated_to_the_final_ones() -> None:
    finals = np.random.default_rng(0).permutation(12).astype(float)
    trials = [{"loss": [x**3, 0.0], "distance": [-x, 0.0], "final": x} for x in finals]
    draw = np.random.default_rng(0)
    assert correlate(draw, trials, 0, "loss") == "1.00 (1.00 to 1.00)"
    assert correlate(draw, trials, 0, "distance") == "-1.00 (-1.00 to -1.00)"
    assert correlate(draw, trials, 0, "distance", less="loss") == "-2.00 (-2.00 to -2.00)"
