"""Studies of one texture beside each other: which comes closer to it, and by how much.

`trials` are complete trials of several studies, with the columns of `analysis.runs.join_studies`.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.figures.drawing import (
    INK,
    LOSS,
    Plot,
    figure_text,
    format_texture,
    jitter,
    make_colors,
    make_figure,
)
from analysis.figures.examples import ORDERS, draw_picture
from analysis.runs import StudyTable
from analysis.statistics import CONFIDENCE, Estimate, estimate_shift
from nca.outputs.verdict import DISTANCES

MAX_TEXTURES, MAX_SHOWN = 6, 4  # rows of the figure; studies with their best output in a row
MAX_CHARS = 22  # in a line of a study's name
MIN_SHARED = 0.5  # share of the smaller study's trials whose configurations both have, to compare these alone


@dataclass(frozen=True)
class Difference:
    """How much larger the values of another study are than those of the first.

    Args:
        shift: Of losses the difference of their decimal logarithms.
        n_pairs: Configurations that were compared; 0 if all trials were.
    """

    shift: Estimate
    n_pairs: int


def plot_studies(trials: pd.DataFrame, tables: Sequence[StudyTable]) -> Plot | str:
    """Plot the trials and the best output of each study, for every texture that several studies have."""
    found = {}
    for texture, each in trials.groupby("texture"):
        measure = choose_measure(each)
        if each["study"].nunique() > 1 and measure is not None:
            found[texture] = each, measure
    if not found:
        return (
            "No two studies of one texture have complete trials with a texture distance, or with losses that "
            "can be compared. A report of two studies: `python -m analysis.report study=A,B`."
        )
    shown = dict(list(found.items())[:MAX_TEXTURES])
    most = min(MAX_SHOWN, max(each["study"].nunique() for each, _ in shown.values()))
    widths = [2.0, *[1.0] * (1 + most)]
    figure = make_figure(len(shown), 2 + most, 1.6 * sum(widths), 2.8 * len(shown), widths)
    grid = np.array(figure.axes).reshape(len(shown), 2 + most)
    studies = {table.name: table for table in tables}
    text, rows = [], []
    for texture, (each, measure) in found.items():
        medians = each.groupby("study")[measure].median().sort_values()
        differences = compare_studies(each, measure, list(medians.index))
        text.append(describe(texture, each, measure, differences))
        rows += list_rows(texture, each, measure, differences)
        if texture in shown:
            line = grid[list(shown).index(texture)]
            draw_trials(line[0], each, measure, list(medians.index))
            draw_best(line[1:], each, measure, [studies[name] for name in medians.index], texture)
    text.append(
        "Lines are medians; the pictures are the target and the best outputs. A difference is that of a "
        "trial of one study from a trial of the other (Hodges-Lehmann) with its interval, over complete "
        "trials: it judges a study as it was searched, sampler and pruner included."
    )
    return Plot("studies", figure, pd.DataFrame(rows), text)


def choose_measure(trials: pd.DataFrame) -> str | None:
    """Return the column by which trials of one texture are compared.

    The texture distance if all trials have it, otherwise the final loss if all losses have equal terms;
    None if neither holds.
    """
    for distance in DISTANCES:
        if distance in trials and trials[distance].notna().all():
            return distance
    return LOSS if trials["terms"].nunique() == 1 else None


def compare_studies(trials: pd.DataFrame, measure: str, names: Sequence[str]) -> dict[str, Difference]:
    """Compare each study with the first by a measure; the first has no difference.

    Intervals are adjusted for all pairs (Bonferroni), because the first is chosen after seeing all.
    Configurations that both studies have are compared in pairs if they are a large share of the smaller one
    and enough for an interval; otherwise all trials are compared.
    """
    confidence = 1 - (1 - CONFIDENCE) / math.comb(len(names), 2)
    values = trials.assign(value=np.log10(trials[measure]) if measure == LOSS else trials[measure])
    of = {name: values[values["study"] == name] for name in names}
    first, *others = names
    differences = {}
    for name in others:
        both = pd.merge(
            *(each.drop_duplicates("configuration") for each in (of[first], of[name])), on="configuration"
        )
        pairs = both["value_x"].to_numpy(float), both["value_y"].to_numpy(float)
        whole = of[first]["value"].to_numpy(float), of[name]["value"].to_numpy(float)
        n_pairs = len(both) if len(both) >= MIN_SHARED * min(map(len, whole)) else 0
        shift = estimate_shift(*pairs, paired=True, confidence=confidence) if n_pairs else None
        if shift is None or math.isinf(shift.low):
            shift, n_pairs = estimate_shift(*whole, confidence=confidence), 0
        differences[name] = Difference(shift, n_pairs)
    return differences


def describe(texture: str, trials: pd.DataFrame, measure: str, differences: Mapping[str, Difference]) -> str:
    """Return the best and the median of each study of a texture, and which of them are better than others."""
    by_study = trials.groupby("study")[measure].agg(["min", "median", "size"]).sort_values("median")
    parts = [
        f"{name} best {row['min']:.3g}, median {row['median']:.3g} of {row['size']:.0f} trials"
        for name, row in by_study.iterrows()
    ]
    first = str(by_study.index[0])
    sentences = [_describe_difference(first, *other, measure) for other in differences.items()]
    return f"{format_texture(texture)}, by {ORDERS[measure]}: {'; '.join(parts)}. {' '.join(sentences)}"


def _describe_difference(first: str, name: str, found: Difference, measure: str) -> str:
    """Return in a sentence whether one of two studies is better."""
    better, worse, shift = first, name, found.shift
    if shift.high < 0:  # of shared configurations, against the medians of all
        better, worse = name, first
        shift = Estimate(-shift.value, -shift.high, -shift.low)
    unit = f"{shift} larger"
    if measure == LOSS:
        unit = "{:.2f} [{:.2f}, {:.2f}] times as large".format(*(10**v for v in _values(shift)))
    pairs = f", on {found.n_pairs} shared configurations" if found.n_pairs else ""
    if math.isinf(shift.low) or math.isinf(shift.high):
        return f"{better} and {worse} have too few trials to be told apart."
    if shift.low > 0:
        return f"{better} is better than {worse}, whose {ORDERS[measure]} is {unit}{pairs}."
    return f"{better} and {worse} cannot be told apart: that of {worse} is {unit}{pairs}."


def _values(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


def list_rows(
    texture: str, trials: pd.DataFrame, measure: str, differences: Mapping[str, Difference]
) -> list[dict[str, object]]:
    """Return the numbers of each study of a texture; of losses the difference is that of the logarithms."""
    rows: list[dict[str, object]] = []
    for name, each in trials.groupby("study"):
        row = {"texture": texture, "study": name, "measure": measure, "trials": len(each)}
        row |= {"best": each[measure].min(), "median": each[measure].median()}
        if name in differences:
            value, low, high = _values(differences[name].shift)
            row |= {"difference": value, "low": low, "high": high, "pairs": differences[name].n_pairs}
        rows.append(row)
    return rows


def draw_trials(axes: Axes, trials: pd.DataFrame, measure: str, names: Sequence[str]) -> None:
    """Draw the values of each study's trials on a line, with their median."""
    colors = make_colors(names)
    for at, name in enumerate(names):
        values = trials.loc[trials["study"] == name, measure]
        axes.scatter(values, at + jitter(len(values)), s=12, alpha=0.7, color=colors[name])
        axes.plot([values.median()] * 2, [at - 0.3, at + 0.3], color=INK, lw=1.4)
    axes.set(xlabel=ORDERS[measure], ylim=(len(names) - 0.5, -0.5))
    if measure == LOSS:
        axes.set_xscale("log")
    axes.set_yticks(range(len(names)), [figure_text(_wrap(name)) for name in names])


def draw_best(
    line: Sequence[Axes], trials: pd.DataFrame, measure: str, tables: Sequence[StudyTable], texture: str
) -> None:
    """Draw the target, and the best output of each study, as many as fit."""
    draw_picture(line[0], tables[0].pictures.target(), f"target: {format_texture(texture)}")
    for axes in line[1:]:
        axes.set_axis_off()
    for axes, table in zip(line[1:], tables, strict=False):
        own = trials[trials["study"] == table.name]
        best = own.loc[own[measure].idxmin()]
        title = f"{_wrap(table.name)}\n{best[measure]:.3g}"
        draw_picture(axes, table.pictures.output(int(best["trial"])), title)


def _wrap(name: str) -> str:
    return textwrap.fill(name, MAX_CHARS, max_lines=3, placeholder="...")
