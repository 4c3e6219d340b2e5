"""Parameter sets in the unit cube of a search space: ordered choices by rank, rates by their logarithm.

Every point of the cube decodes to a valid set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

__all__ = ["Cube"]


class Cube:
    """The unit cube of a search space.

    Args:
        distributions: What is searched, by name.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        self._axes = {name: _axis(each) for name, each in sorted(distributions.items())}

    @property
    def names(self) -> list[str]:
        """What the axes stand for."""
        return list(self._axes)

    def encode(self, sets: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        """Return points, (set, axis), each value in [0, 1]; a choice lies in the middle of its share.

        Raises:
            ValueError: If a value is no choice of its axis.
        """
        points = [[axis.encode(each[name]) for name, axis in self._axes.items()] for each in sets]
        return np.array(points, float).reshape(len(sets), len(self._axes))

    def decode(self, points: NDArray[np.float64]) -> list[dict[str, Any]]:
        """Return the sets of points, (set, axis); what lies outside the cube is moved to its nearest face."""
        inside = np.clip(np.nan_to_num(points, nan=0.5), 0.0, 1.0)
        return [
            {name: axis.decode(float(u)) for (name, axis), u in zip(self._axes.items(), point, strict=True)}
            for point in inside
        ]


class _Choices:
    """Values one after the other, numbers by size."""

    def __init__(self, values: Sequence[Any]) -> None:
        numbers = all(isinstance(value, int | float) for value in values)
        self._values = sorted(values) if numbers else list(values)

    def encode(self, value: Any) -> float:
        return (self._values.index(value) + 0.5) / len(self._values)

    def decode(self, u: float) -> Any:
        return self._values[min(len(self._values) - 1, int(u * len(self._values)))]


class _Numbers:
    """All numbers between two."""

    def __init__(self, low: float, high: float, *, log: bool) -> None:
        self._low, self._high, self._log = low, high, log

    def encode(self, value: Any) -> float:
        low, high, x = (math.log(v) if self._log else float(v) for v in (self._low, self._high, value))
        return 0.5 if high == low else float((x - low) / (high - low))

    def decode(self, u: float) -> float:
        low, high = ((math.log(v) if self._log else v) for v in (self._low, self._high))
        x = low + u * (high - low)
        return min(self._high, max(self._low, math.exp(x) if self._log else x))


class _Steps:
    """Numbers at a distance from each other, each with the same share of the axis."""

    def __init__(self, low: float, high: float, step: float) -> None:
        self._low, self._step = low, step
        self._n = round((high - low) / step) + 1

    def encode(self, value: Any) -> float:
        return float((round((value - self._low) / self._step) + 0.5) / self._n)

    def decode(self, u: float) -> float:
        return self._low + min(self._n - 1, int(u * self._n)) * self._step


class _Whole(_Numbers):
    """Whole numbers by orders of magnitude."""

    def decode(self, u: float) -> int:
        return round(super().decode(u))


def _axis(distribution: BaseDistribution) -> _Choices | _Numbers | _Steps:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return _Choices(choices)
        case IntDistribution(low=low, high=high, log=True):
            return _Whole(low, high, log=True)
        case IntDistribution(low=low, high=high, step=step):
            return _Steps(low, high, step)
        case FloatDistribution(low=low, high=high, step=None, log=log):
            return _Numbers(low, high, log=log)
        case FloatDistribution(low=low, high=high, step=float(step)):
            return _Steps(low, high, step)
    raise TypeError(f"{distribution} is not one of Optuna's")
