"""What a texture distance means to a person."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

DISTANCES = {  # metrics shown whatever the objectives are, in words; the first judges
    "distance_at_1000": "texture distance at 1,000 CA steps",
    "final_distance": "final distance",
}
GOOD, FAIR = 0.14, 0.2  # largest texture distances; docs/measure.md has ratings beside them


def judged_distance(metrics: Mapping[Any, Any]) -> float | None:
    """Return the texture distance by which a run is judged: after 1,000 CA steps; None if it has none.

    Older runs have `final_distance` alone, which is not less.
    """
    found = (float(metrics.get(key, math.nan)) for key in DISTANCES)
    return next((value for value in found if not math.isnan(value)), None)


def describe_distance(distance: float) -> str:
    """Return whether outputs at a texture distance from their target are good, in a few words."""
    if distance <= GOOD:
        return "good, like the target in colors and structure"
    return (
        "fair, some of the target's structure" if distance <= FAIR else "poor, little but the target's colors"
    )
