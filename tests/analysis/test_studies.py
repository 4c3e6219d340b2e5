"""Studies of one texture beside each other: numbers, sentences, and what is compared with what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from analysis.figures.drawing import Plot
from analysis.figures.studies import compare_studies, plot_studies
from analysis.runs import StudyTable, join_studies, read_study
from analysis.statistics import estimate_shift
from tests.analysis.builders import make_study
from tests.analysis.test_report import with_changes

PARAM = "train.learning_rate"


@pytest.fixture(scope="module")
def leaf(tmp_path_factory: pytest.TempPathFactory) -> StudyTable:
    """Return a study of 20 complete trials on roundleaf."""
    return read_study(make_study(tmp_path_factory.mktemp("runs"), 21), "leaf")


def other(
    leaf: StudyTable, name: str, shift: float, *, n: int = 20, noise: float = 0.0, seed: int = 0
) -> StudyTable:
    """Return a study whose distances are those of leaf's configurations, shifted by orders of magnitude."""
    trials = leaf.trials[leaf.trials["reason"] == "complete"].head(n).copy()
    factor = 10 ** (shift + noise * np.random.default_rng(seed).normal(size=n))
    for key in ("final_distance", "final_loss"):
        trials[key] *= factor
    return with_changes(leaf, name, trials)


def with_own_configurations(table: StudyTable) -> StudyTable:
    return with_changes(table, table.name, table.trials.assign(**{PARAM: table.trials[PARAM] * 1.001}))


def plot(*tables: StudyTable) -> Plot | str:
    trials = join_studies(tables)
    return plot_studies(trials[trials["reason"] == "complete"].dropna(subset=["final_loss"]), tables)


def text_of(*tables: StudyTable) -> str:
    found = plot(*tables)
    assert isinstance(found, Plot)
    return " ".join(found.text)


def rows_of(*tables: StudyTable) -> pd.DataFrame:
    found = plot(*tables)
    assert isinstance(found, Plot)
    return found.data.set_index("study")


def distances(table: StudyTable) -> NDArray[np.float64]:
    complete = table.trials[table.trials["reason"] == "complete"]
    return np.asarray(complete["final_distance"], float)


def test_shared_configurations_are_compared_in_pairs(leaf: StudyTable) -> None:
    worse = other(leaf, "worse", 0.1, noise=0.02)
    rows = rows_of(worse, leaf)
    shift = estimate_shift(distances(leaf), distances(worse), paired=True)
    assert rows.loc["worse", "pairs"] == 20
    assert tuple(rows.loc["worse", ["difference", "low", "high"]]) == pytest.approx(
        (shift.value, shift.low, shift.high)
    )
    assert shift.low > 0 > estimate_shift(distances(leaf), distances(worse)).low  # pairs tell them apart
    assert (
        f"leaf is better than worse, whose final distance is {shift} larger, on 20 shared configurations."
        in text_of(leaf, worse)
    )
    best = rows.loc["leaf", ["best", "median", "trials"]]
    assert tuple(best) == pytest.approx((distances(leaf).min(), np.median(distances(leaf)), 20))


def test_other_configurations_are_compared_as_a_whole(leaf: StudyTable) -> None:
    alike = with_own_configurations(other(leaf, "alike", 0.0, noise=0.1))
    rows = rows_of(leaf, alike)
    (name,) = rows.index[rows["difference"].notna()]
    assert rows.loc[name, "pairs"] == 0
    assert "leaf and alike cannot be told apart: that of" in text_of(leaf, alike) or (
        "alike and leaf cannot be told apart: that of" in text_of(leaf, alike)
    )
    far = with_own_configurations(other(leaf, "far", 3.0))
    shift = estimate_shift(distances(leaf), distances(far))
    assert f"leaf is better than far, whose final distance is {shift} larger. " in text_of(far, leaf)


def test_a_few_shared_configurations_do_not_stand_for_the_study(leaf: StudyTable) -> None:
    mixed = with_own_configurations(other(leaf, "mixed", 2.0))
    shared = mixed.trials[PARAM].where(np.arange(20) >= 8, mixed.trials[PARAM] / 1.001)
    mixed = with_changes(mixed, "mixed", mixed.trials.assign(**{PARAM: shared}))
    assert rows_of(leaf, mixed).loc["mixed", "pairs"] == 0
    few = other(leaf, "few", 1.0, n=5)  # five pairs have no interval, five against twenty trials do
    row = rows_of(leaf, few).loc["few"]
    assert row["pairs"] == 0
    assert np.isfinite(row["low"])


def test_too_few_trials_are_not_told_apart(leaf: StudyTable) -> None:
    pair = [other(leaf, name, shift, n=3) for name, shift in (("a", 0.0), ("b", 5.0))]
    assert "a and b have too few trials to be told apart." in text_of(*pair)


def test_losses_are_compared_by_factors_where_they_have_equal_terms(leaf: StudyTable) -> None:
    tables = [leaf, other(leaf, "worse", np.log10(2))]
    without = [with_changes(each, each.name, each.trials.drop(columns="final_distance")) for each in tables]
    text = text_of(*without)
    assert "roundleaf, by final loss: leaf best" in text
    better = "leaf is better than worse, whose final loss is 2.00 [2.00, 2.00] times as large"
    assert f"{better}, on 20 shared configurations." in text
    sliced = with_changes(without[1], "worse", **{"model.name": "distill"})
    assert str(plot(without[0], sliced)).startswith("No two studies of one texture")
    assert "leaf is better than worse, whose final distance" in text_of(
        leaf, with_changes(tables[1], "worse", **{"model.name": "distill"})
    )


def test_each_texture_has_a_row_and_studies_alone_have_none(leaf: StudyTable) -> None:
    petal = {"texture.name": "orchid_petal"}
    petals = [with_changes(other(leaf, f"petal-{n}", float(n)), f"petal-{n}", **petal) for n in range(3)]
    alone = with_changes(leaf, "alone", **{"texture.name": "alocasia"})
    assert str(plot(leaf, alone)).startswith("No two studies of one texture")
    found = plot(leaf, other(leaf, "worse", 1.0), alone, *petals)
    assert isinstance(found, Plot)
    assert list(found.data["texture"]) == ["orchid_petal"] * 3 + ["roundleaf"] * 2
    assert len(found.figure.axes) == 2 * (2 + 3)
    images = [[len(axes.images) for axes in found.figure.axes[row : row + 5]] for row in (0, 5)]
    assert images == [[0, 1, 1, 1, 1], [0, 1, 1, 1, 0]]


@pytest.mark.parametrize("paired", [False, True])
def test_the_best_of_several_studies_is_rarely_better_by_chance(paired: bool) -> None:
    """Of four equal studies one is better than another by its interval in about one report of twenty."""
    draw, said = np.random.default_rng(0), 0
    names = np.repeat(["a", "b", "c", "d"], 20)
    configuration = np.tile(np.arange(20), 4) if paired else np.arange(80)
    for _ in range(150):
        shared = np.tile(draw.normal(size=20), 4) if paired else 0.0
        trials = pd.DataFrame({"study": names, "configuration": configuration})
        trials["final_distance"] = shared + draw.normal(size=80)
        order = trials.groupby("study")["final_distance"].median().sort_values().index
        found = compare_studies(trials, "final_distance", list(order))
        assert {each.n_pairs for each in found.values()} == {20 if paired else 0}
        said += any(each.shift.low > 0 for each in found.values())
    assert said / 150 < 0.09


def test_the_section_of_a_report(tmp_path: Path) -> None:
    from analysis.report import make_sections

    for name in ("leaf", "leaf-two"):
        paths = make_study(tmp_path, 8, name=name)
    tables = [read_study(paths, name) for name in ("leaf", "leaf-two")]
    sections = make_sections(tables, paths)
    titles = [next(sections).title, (section := next(sections)).title]
    assert titles == ["Final loss by texture", "Studies of one texture beside each other"]
    assert not section.wanting
