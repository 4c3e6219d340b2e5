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

# Samplers that model numbers only; Optuna would silently draw their choices at random.
INTERVALS_ONLY = ("cmaes", "qmc")
MIN_CMAES_DIMENSIONS = 2


@dataclass(frozen=True)
class Choice:
    """A finite set of values, in the order given.

    Raises:
        SweepError: If it is empty or names a value twice.
    """

    options: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise SweepError("choice() is empty: give at least one value")
        if len(set(self.options)) < len(self.options):
            raise SweepError(f"{self} names a value twice")

    def __str__(self) -> str:
        return f"choice({', '.join(str(option) for option in self.options)})"


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included.

    Args:
        low: Smallest value.
        high: Largest value.
        log: Whether orders of magnitude are equally likely.
        step: Distance between values; None for all numbers between.
        integer: Whether values are whole numbers.

    Raises:
        SweepError: If it is empty, or logarithmic with a low end that is not positive.
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
        """How many values there are, infinite without a step."""
        step = self.step or (1 if self.integer else None)
        return math.inf if step is None else math.floor((self.high - self.low) / step + 1e-9) + 1

    def value(self, index: int) -> float:
        """Return a value by its index from the low end; the interval has a step or is of whole numbers.

        Counted in decimals: 0.1, 0.2, 0.3, where floats would make it 0.30000000000000004.
        """
        step = self.step or 1
        value = float(Decimal(repr(self.low)) + index * Decimal(repr(step)))
        return int(value) if self.integer else value


Domain = Choice | Interval
Space = Mapping[str, Domain]


def describe(space: Space) -> dict[str, str]:
    """Return each domain as the text that a command line would give."""
    return {key: str(domain) for key, domain in space.items()}


def n_configurations(space: Space) -> float:
    """Return how many different sets the space holds, infinite where an interval is continuous."""
    sizes = [len(d.options) if isinstance(d, Choice) else d.n_values for d in space.values()]
    return math.prod(sizes)


def check_sampler(sampler: str, space: Space, n_objectives: int = 1) -> None:
    """Refuse a space that a sampler cannot draw from as it is meant to, or several objectives.

    Raises:
        SweepError: If so, with the keys that stand in the way.
    """
    choices = [key for key, domain in space.items() if isinstance(domain, Choice)]
    endless = [
        key for key, domain in space.items() if isinstance(domain, Interval) and domain.n_values == math.inf
    ]
    if sampler in INTERVALS_ONLY and choices:
        raise SweepError(
            f"sampler={sampler} draws from intervals and ranges only, not from the choices of "
            f"{', '.join(choices)}; give intervals, or sampler=tpe"
        )
    if sampler == "cmaes" and len(space) < MIN_CMAES_DIMENSIONS:
        raise SweepError("sampler=cmaes needs at least two parameters to search; use sampler=tpe")
    if sampler == "cmaes" and n_objectives > 1:
        raise SweepError(f"sampler=cmaes minimizes one objective, not {n_objectives}; use sampler=tpe")
    if sampler == "grid" and endless:
        raise SweepError(
            f"sampler=grid needs choices or ranges, and {', '.join(endless)} is an interval; "
            "give values such as 'choice(0.5, 0.75, 1.0)', or sampler=tpe"
        )


def to_distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return the space as Optuna's distributions."""
    return {key: _to_distribution(domain) for key, domain in space.items()}


def grid_values(space: Space) -> dict[str, list[Scalar]]:
    """Return every value of every domain, for a grid; the space has no continuous interval."""
    values: dict[str, list[Scalar]] = {}
    for key, domain in space.items():
        if isinstance(domain, Choice):
            values[key] = list(domain.options)
        else:
            values[key] = [domain.value(i) for i in range(int(domain.n_values))]
    return values


def _to_distribution(domain: Domain) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(domain, Choice):
        return CategoricalDistribution(domain.options)
    step = domain.step
    high = domain.high if step is None else domain.value(int(domain.n_values) - 1)
    if domain.integer:
        return IntDistribution(int(domain.low), int(high), log=domain.log, step=int(step or 1))
    return FloatDistribution(domain.low, high, log=domain.log, step=step)
