"""How well raters agree with themselves and with each other, in sentences."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from analysis.ratings.ratings import Rating, group, means_by_trial, self_agreement
from analysis.statistics import correlate

__all__ = ["describe_agreement"]

FEWEST_PAIRS = 5  # ratings of the same outputs, below which nothing is said of their differences


def describe_agreement(studies: Iterable[Sequence[Rating]]) -> Iterator[str]:
    """Yield how well raters agree with themselves, at a second look, and with each other.

    Args:
        studies: The ratings of each.
    """
    twice: dict[str, list[tuple[float, float]]] = {}
    shared: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for ratings in studies:
        by_rater = group(ratings, "rater")
        means = {rater: means_by_trial(given) for rater, given in by_rater.items()}
        for rater, given in by_rater.items():
            twice.setdefault(rater, []).extend(self_agreement(given))
        for one, other in itertools.combinations(sorted(means), 2):
            both = sorted(means[one].keys() & means[other].keys())
            shared.setdefault((one, other), []).extend((means[one][n], means[other][n]) for n in both)
    for rater, pairs in twice.items():
        yield from describe_twice(rater, pairs)
    for (one, other), pairs in shared.items():
        yield from describe_shared(one, other, pairs)


def describe_twice(rater: str, pairs: Sequence[tuple[float, float]]) -> Iterator[str]:
    """Yield how far two ratings of an output by the same rater lie apart, beside those of different ones."""
    looked = f"{rater} looked at {len(pairs)} outputs twice"
    if len(pairs) >= FEWEST_PAIRS:
        different = list(itertools.product(*zip(*pairs, strict=True)))
        yield (
            f"{looked}: the two ratings are {apart(pairs):.2g} apart on average, those of any two of these "
            f"outputs {apart(different):.2g}."
        )
    elif pairs:
        yield f"{looked}; to say how well the ratings agree takes {FEWEST_PAIRS}."


def describe_shared(one: str, other: str, pairs: Sequence[tuple[float, float]]) -> Iterator[str]:
    """Yield how well two raters agree, where they rated enough of the same outputs."""
    if len(pairs) >= FEWEST_PAIRS:
        x, y = ([pair[index] for pair in pairs] for index in (0, 1))
        rho = correlate(x, y, "spearman")
        yield (
            f"{one} and {other} both rated {len(pairs)} outputs, {apart(pairs):.2g} apart on average, rank "
            f"correlation {rho}."
        )


def apart(pairs: Iterable[tuple[float, float]]) -> float:
    """Return the mean distance of pairs."""
    distances = [abs(one - other) for one, other in pairs]
    return sum(distances) / len(distances)
