"""Every point of the unit cube decodes to a valid configuration, and encoding is inverse to decoding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from analysis.unit_cube import UnitCube

SPACE: dict[str, BaseDistribution] = {
    "model.channels": CategoricalDistribution((15, 6, 12, 9)),
    "model.update_rate": FloatDistribution(0.5, 1.0),
    "train.learning_rate": FloatDistribution(1e-5, 1e-3, log=True),
    "train.batch_size": IntDistribution(2, 8, step=2),
    "train.pool_size": IntDistribution(1, 1000, log=True),
    "train.quarter": FloatDistribution(0.0, 1.0, step=0.25),
    "model.mask": CategoricalDistribution(("cell", "channel")),
    "model.fixed": FloatDistribution(0.3, 0.3),
}
CUBE = UnitCube(SPACE)
ANYWHERE = st.floats(allow_nan=True, allow_infinity=True, width=64)


@settings(max_examples=300, deadline=None)
@given(arrays(float, (3, len(SPACE)), elements=ANYWHERE))
def test_every_point_decodes_to_a_valid_configuration(points: np.ndarray) -> None:
    for each in CUBE.decode(points):
        for name, value in each.items():
            distribution = SPACE[name]
            assert distribution._contains(distribution.to_internal_repr(value)), (name, value)


@settings(max_examples=200, deadline=None)
@given(arrays(float, (2, len(SPACE)), elements=st.floats(0, 1)))
def test_encoding_is_inverse_to_decoding(points: np.ndarray) -> None:
    configurations = CUBE.decode(points)
    decoded = CUBE.decode(CUBE.encode(configurations))
    for one, other in zip(configurations, decoded, strict=True):
        for name, value in one.items():
            assert other[name] == (pytest.approx(value) if isinstance(value, float) else value)


def test_choices_are_ordered_by_rank_and_numbers_by_their_scale() -> None:
    configurations = [
        {**CUBE.decode(np.full((1, len(SPACE)), 0.5))[0], "model.channels": c} for c in (6, 9, 12, 15)
    ]
    axis = CUBE.names.index("model.channels")
    assert CUBE.encode(configurations)[:, axis].tolist() == [0.125, 0.375, 0.625, 0.875]
    middle = CUBE.decode(np.full((1, len(SPACE)), 0.5))[0]
    assert middle["train.learning_rate"] == pytest.approx(1e-4)
    assert middle["model.update_rate"] == 0.75


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="7"):
        CUBE.encode([{**CUBE.decode(np.zeros((1, len(SPACE))))[0], "model.channels": 7}])
