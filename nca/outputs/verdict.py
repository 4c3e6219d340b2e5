"""What a texture distance means to a person."""

from __future__ import annotations

GOOD, FAIR = 0.15, 0.25  # largest texture distances; docs/measure.md has ratings beside them


def describe_distance(distance: float) -> str:
    """Return whether outputs at a texture distance from their target are good, in a few words."""
    if distance <= GOOD:
        return "good, like the target in colors and structure"
    return (
        "fair, some of the target's structure" if distance <= FAIR else "poor, little but the target's colors"
    )
