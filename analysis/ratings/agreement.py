"""How well raters agree with their own repeats and with each other, in sentences."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

from analysis.ratings.ratings import Rating, mean_by_rater, repeats
from analysis.statistics import correlate

MIN_PAIRS = 5  # of ratings, for a comparison

Pairs = list[tuple[float, float]]


def describe_agreement(studies: Iterable[Sequence[Rating]]) -> Iterator[str]:
    """Yield how well each rater agrees with their own repeats, and each two raters with each other."""
    of_one: dict[str, Pairs] = defaultdict(list)
    of_two: dict[tuple[str, str], Pairs] = defaultdict(list)
    for ratings in studies:
        for rater, pairs in repeats(ratings).items():
            of_one[rater] += pairs
        for means in mean_by_rater(ratings).values():
            for one, other in itertools.combinations(sorted(means), 2):
                of_two[one, other].append((means[one], means[other]))
    yield from (describe_repeats(rater, pairs) for rater, pairs in of_one.items())
    for (one, other), pairs in of_two.items():
        if len(pairs) >= MIN_PAIRS:
            x, y = zip(*pairs, strict=True)
            yield (
                f"Raters '{one}' and '{other}' both rated {len(pairs)} outputs: mean difference "
                f"{difference(pairs)}, rank correlation {correlate(x, y, 'spearman')}."
            )


def describe_repeats(rater: str, pairs: Pairs) -> str:
    """Return how much a rater's first and second ratings differ, compared with those of different outputs."""
    text = f"Rater '{rater}' re-rated {len(pairs)} output{'s' * (len(pairs) > 1)}: mean difference "
    if len(pairs) < MIN_PAIRS:
        return f"{text}{difference(pairs)}."
    others = list(itertools.product(*zip(*pairs, strict=True)))
    return f"{text}{difference(pairs)} ({difference(others)} between different outputs)."


def difference(pairs: Pairs) -> str:
    """Return the mean absolute difference of pairs, with two significant digits."""
    return f"{fmean(abs(one - other) for one, other in pairs):.2g}"
