"""Configurations as points of the unit cube: ordered choices by rank, logarithmic ranges by the logarithm.

Every point of the cube decodes to a valid configuration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)


class UnitCube:
    """The unit cube of a search space.

    Args:
        distributions: Distribution of each searched parameter, by name.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        self._axes = {name: _make_axis(each) for name, each in sorted(distributions.items())}

    @property
    def names(self) -> list[str]:
        """The parameter of each axis."""
        return list(self._axes)

    def encode(self, configurations: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        """Return points, (configuration, axis), in [0, 1]; a choice lies in the middle of its interval.

        Raises:
            ValueError: If a value is not among the choices of its parameter.
        """
        points = [[axis.encode(each[name]) for name, axis in self._axes.items()] for each in configurations]
        return np.array(points, float).reshape(len(configurations), len(self._axes))

    def decode(self, points: NDArray[np.float64]) -> list[dict[str, Any]]:
        """Return the configurations of points, (point, axis), clipped to the cube; NaN counts as 0.5."""
        inside = np.clip(np.nan_to_num(points, nan=0.5), 0.0, 1.0)
        return [
            {name: axis.decode(float(u)) for (name, axis), u in zip(self._axes.items(), point, strict=True)}
            for point in inside
        ]


class _Choices:
    """Choices in intervals of equal width, numbers sorted by size."""

    def __init__(self, values: Sequence[Any]) -> None:
        numbers = all(isinstance(value, int | float) for value in values)
        self._values = sorted(values) if numbers else list(values)

    def encode(self, value: Any) -> float:
        return (self._values.index(value) + 0.5) / len(self._values)

    def decode(self, u: float) -> Any:
        return self._values[min(len(self._values) - 1, int(u * len(self._values)))]


@dataclass(frozen=True)
class _Numbers:
    """A range of numbers; with a step, half a step wider at both ends and rounded."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def encode(self, value: Any) -> float:
        low, high = self._range()
        x = math.log(value) if self.log else float(value)
        return 0.5 if high == low else (x - low) / (high - low)

    def decode(self, u: float) -> float:
        low, high = self._range()
        x = low + u * (high - low)
        x = math.exp(x) if self.log else x
        if self.step is not None:
            x = self.low + round((x - self.low) / self.step) * self.step
        return min(self.high, max(self.low, x))

    def _range(self) -> tuple[float, float]:
        margin = (self.step or 0.0) / 2
        low, high = self.low - margin, self.high + margin
        return (math.log(low), math.log(high)) if self.log else (low, high)


def _make_axis(distribution: BaseDistribution) -> _Choices | _Numbers:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return _Choices(choices)
        case IntDistribution() | FloatDistribution():
            return _Numbers(distribution.low, distribution.high, distribution.step, distribution.log)
    raise TypeError(f"{distribution}: must be a categorical, int or float distribution")
