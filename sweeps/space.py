"""Search spaces: domains by dotted config key, converted to Optuna's distributions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from sweeps import SweepError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Scalar = bool | int | float | str | None

INTERVALS_ONLY = ("cmaes", "qmc")  # samplers for numbers; Optuna would silently draw their choices at random
MIN_CMAES_DIMENSIONS = 2


@dataclass(frozen=True)
class Choice:
    """A finite list of values.

    Raises:
        SweepError: If it is empty or has a value twice.
    """

    options: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise SweepError("choice() is empty: give at least one value")
        if len(set(self.options)) < len(self.options):
            raise SweepError(f"{self} names a value twice")

    def __str__(self) -> str:
        return f"choice({', '.join(map(str, self.options))})"

    @property
    def n_values(self) -> float:
        """Number of values."""
        return len(self.options)

    def value(self, index: int) -> Scalar:
        """Return a value by its index."""
        return self.options[index]


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included.

    Args:
        log: Whether orders of magnitude are equally likely.
        step: Distance between values; None for all numbers in between.
        integer: Whether values are integers.

    Raises:
        SweepError: If it is empty, or logarithmic with a `low` that is not positive.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None
    integer: bool = False

    def __post_init__(self) -> None:
        if not (self.low <= self.high and math.isfinite(self.low) and math.isfinite(self.high)):
            raise SweepError(f"{self} is empty: its low end must not lie above its high end")
        if self.log and self.low <= 0:
            raise SweepError(f"{self}: a logarithmic interval must start above 0")
        if self.step is not None and not (self.step > 0 and not self.log):
            raise SweepError(f"{self}: a step must be above 0, and a logarithmic interval has none")

    def __str__(self) -> str:
        ends = f"{self.low:.15g}, {self.high:.15g}"
        if self.step is not None:
            return f"range({ends}, {self.step:.15g})"
        return f"tag(log, interval({ends}))" if self.log else f"interval({ends})"

    @property
    def n_values(self) -> float:
        """Number of values, infinite for real numbers without a step."""
        step = self.step or (1 if self.integer else None)
        return math.inf if step is None else math.floor((self.high - self.low) / step + 1e-9) + 1

    def value(self, index: int) -> float:
        """Return a value of a finite interval by its index.

        It is computed in decimals: 0.1, 0.2, 0.3, where floats would make it 0.30000000000000004.
        """
        value = float(Decimal(repr(self.low)) + index * Decimal(repr(self.step or 1)))
        return int(value) if self.integer else value


Domain = Choice | Interval
Space = Mapping[str, Domain]


def describe(space: Space) -> dict[str, str]:
    """Return each domain as on a command line."""
    return {key: str(domain) for key, domain in space.items()}


def n_configurations(space: Space) -> float:
    """Return the number of different configurations in a space, infinite if a domain is."""
    return math.prod(domain.n_values for domain in space.values())


def check_sampler(sampler: str, space: Space, n_objectives: int = 1) -> None:
    """Check that a sampler supports a space and a number of objectives.

    Raises:
        SweepError: If it does not.
    """
    choices = [key for key, domain in space.items() if isinstance(domain, Choice)]
    infinite = [key for key, domain in space.items() if domain.n_values == math.inf]
    if sampler in INTERVALS_ONLY and choices:
        raise SweepError(
            f"sampler={sampler} draws from intervals and ranges only, not from the choices of "
            f"{', '.join(choices)}; give intervals, or sampler=tpe"
        )
    if sampler == "cmaes" and len(space) < MIN_CMAES_DIMENSIONS:
        raise SweepError("sampler=cmaes needs at least two parameters to search; use sampler=tpe")
    if sampler == "cmaes" and n_objectives > 1:
        raise SweepError(f"sampler=cmaes minimizes one objective, not {n_objectives}; use sampler=tpe")
    if sampler == "grid" and infinite:
        raise SweepError(
            f"sampler=grid needs choices or ranges, and {', '.join(infinite)} is an interval; "
            "give values such as 'choice(0.5, 0.75, 1.0)', or sampler=tpe"
        )


def grid_values(space: Space) -> dict[str, list[Scalar]]:
    """Return all values of each domain of a finite space."""
    return {key: [d.value(i) for i in range(int(d.n_values))] for key, d in space.items()}


def to_distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return the space as Optuna's distributions."""
    return {key: _to_distribution(domain) for key, domain in space.items()}


def _to_distribution(domain: Domain) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.options)
    step = domain.step
    high = domain.high if step is None else domain.value(int(domain.n_values) - 1)
    if domain.integer:
        return IntDistribution(int(domain.low), int(high), log=domain.log, step=int(step or 1))
    return FloatDistribution(domain.low, high, log=domain.log, step=step)
