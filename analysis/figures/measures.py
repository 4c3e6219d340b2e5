"""Which measure of an output sees what a viewer sees."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from analysis.figures.drawing import GRAY, INK, MARK, Plot, format_texture, make_figure
from analysis.measures import LABELS
from analysis.statistics import Estimate, compare_within, correlate

MIN_RATED = 10  # outputs
MOST = 0.5  # of them have a measure that is shown; older runs lack some


def plot_measures(trials: pd.DataFrame) -> Plot | str:
    """Plot how well each measure ranks the outputs of a texture as the ratings do.

    Args:
        trials: Complete trials, with the columns of `analysis.runs.join_studies` and `measure_outputs`.
    """
    rated = trials.dropna(subset=["rating"])
    known = [name for name in LABELS if name in rated and rated[name].notna().mean() > MOST]
    rated = rated.dropna(subset=known)
    known = [name for name in known if rated[name].nunique() > 1]
    if len(rated) < MIN_RATED or rated["rating"].nunique() == 1 or len(known) < 2:
        return (
            f"Needs at least {MIN_RATED} rated complete trials with different ratings ({len(rated)} so far). "
            "To rate them: `python -m analysis.rate study=STUDY`."
        )
    found = compare_within(
        {name: rated[name].to_numpy(float) for name in known},
        rated["rating"].to_numpy(float),
        list(rated["texture"]),
        list(rated["configuration"]),
    )
    textures = {name: each for name, each in rated.groupby("texture") if len(each) >= MIN_RATED}
    figure = make_figure(width=7.0, height=1.0 + 0.45 * len(found))
    (axes,) = figure.axes
    rows = []
    for at, (name, (own, behind)) in enumerate(found.items()):
        axes.plot([-own.low, -own.high], [at, at], color=INK, lw=1.4, zorder=2)
        axes.plot(-own.value, at, "o", color=MARK, ms=8, zorder=3)
        for texture, each in textures.items() if len(textures) > 1 else ():
            one = correlate(each[name].to_numpy(float), each["rating"].to_numpy(float), "spearman")
            axes.plot(-one.value, at, "|", color=GRAY, ms=13, mew=1.6, zorder=1)
            rows.append({"measure": name, "texture": texture, "spearman": one.value})
        rows.append({"measure": name, "texture": "all", "spearman": own.value, "behind": behind.value})
    axes.axvline(0, color=INK, lw=0.8)
    axes.set(
        ylim=(len(found) - 0.5, -0.5), xlabel="agreement with the ratings: 0 by chance, 1 the same order"
    )
    axes.set_yticks(range(len(found)), [LABELS[name] for name in found])
    text = [
        f"{len(rated)} rated outputs. {_describe(found)} Agreement is the rank correlation within textures, "
        "its sign reversed, with its 95% interval; the intervals of differences are adjusted for all pairs.",
    ]
    if len(textures) > 1:
        names = ", ".join(map(format_texture, textures))
        text.append(f"Gray marks: each texture alone ({names}).")
    return Plot("measures", figure, pd.DataFrame(rows), text)


def _describe(found: Mapping[str, tuple[Estimate, Estimate]]) -> str:
    """Return which measure agrees best, and which of the others are behind it by more than chance."""
    (best, (own, _)), *others = found.items()
    behind = [f"{LABELS[name]} (by {each})" for name, (_, each) in others if each.low > 0]
    equal = [LABELS[name] for name, (_, each) in others if not each.low > 0]
    parts = [f"Closest to the viewers is {LABELS[best]}, {Estimate(-own.value, -own.high, -own.low)}."]
    if behind:
        parts.append(f"Behind it, by more than chance: {'; '.join(behind)}.")
    if equal:
        parts.append(f"Not distinguished from it: {'; '.join(equal)}.")
    return " ".join(parts)
