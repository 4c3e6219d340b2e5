"""Outputs are measured as they are seen; the measure that ranks them as the ratings do is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from analysis.figures.measures import plot_measures
from analysis.measures import LABELS, PREFIX, VGG16, measure_outputs
from analysis.ratings.ratings import Rating, Ratings, now
from analysis.runs import StudyTable, read_study
from analysis.trial_pictures import Pictures
from nca.cli.errors import ConfigError
from tests.analysis.builders import STUDY, make_study
from tests.builders import vgg_weights

ALONE = {name for name in LABELS if name.startswith(PREFIX)} - {VGG16}  # that need no weights


@pytest.fixture
def table(tmp_path: Path) -> StudyTable:
    """Return a study of which trials 0 to 3 are rated; the higher, the more of its output is noise."""
    paths = make_study(tmp_path, 6)
    for trial in range(4):
        Ratings(paths, STUDY).add(Rating(trial, "ada", 0, 5 - trial, now()))
    random = np.random.default_rng(0)
    target = random.integers(0, 256, (32, 32, 3)).repeat(2, 0).repeat(2, 1)
    noise = random.integers(0, 256, (64, 64, 3))

    def output(trial: int) -> Image.Image | None:
        if trial == 3:
            return None
        noisy = random.permutation(64 * 64).reshape(64, 64) < 1000 * trial
        return Image.fromarray(np.where(noisy[..., None], noise, target).astype(np.uint8))

    pictures = Pictures(lambda: Image.fromarray(target.astype(np.uint8)), output)
    return replace(read_study(paths, STUDY), pictures=pictures)


def test_every_measure_rises_with_noise_and_skips_what_nobody_rated(table: StudyTable) -> None:
    found = measure_outputs(table).trials
    for name in ALONE:
        zero, one, two, *others = found[name]
        assert zero < one - 0.01 < two
        if name != "measure_texture_distance":  # below 0 for a target that does not tile
            assert zero == pytest.approx(0, abs=2e-3)
        assert np.isnan(others).all(), "no picture, not rated, failed"
    assert VGG16 not in found


def test_a_column_that_exists_stays(table: StudyTable) -> None:
    known = replace(table, trials=table.trials.assign(measure_sliced_patches=7.0))
    found = measure_outputs(known).trials
    assert set(found["measure_sliced_patches"]) == {7.0}
    assert set(found) >= ALONE
    unrated = replace(table, trials=table.trials.assign(rating=np.nan))
    assert measure_outputs(unrated) is unrated


def test_weights_add_the_measure_through_vgg16(table: StudyTable, tmp_path: Path) -> None:
    torch.save(vgg_weights(), tmp_path / "vgg.pth")
    found = measure_outputs(table, str(tmp_path / "vgg.pth")).trials[VGG16]
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert 0 < found[1] < found[2]
    with pytest.raises(ConfigError, match=r"features\.weights=.*none\.pth: "):
        measure_outputs(table, str(tmp_path / "none.pth"))


def rated_trials(noise: Sequence[float]) -> pd.DataFrame:
    """Return 60 trials on two textures, whose measures follow the ratings but for some noise."""
    draw = np.random.default_rng(0)
    rating = np.tile(np.arange(6.0), 10)
    names = [name for name in LABELS if name != VGG16]
    columns = {name: -rating + s * draw.normal(size=60) for name, s in zip(names, noise, strict=True)}
    texture = np.repeat(["alocasia", "roundleaf"], 30)
    return pd.DataFrame({"rating": rating, "texture": texture, "configuration": range(60), **columns})


def test_the_measure_that_agrees_is_named_and_what_is_behind_it() -> None:
    plot = plot_measures(rated_trials([4.0, 0.02, 0.3, 0.3, 0.3]))
    assert not isinstance(plot, str)
    caption = " ".join(plot.text)
    assert "Closest to the viewers is sliced, patches, 0.99 [" in caption
    assert "Behind it, by more than chance: " in caption
    assert caption.index("Behind it") < caption.index("Gram matrices, random filters (by 0.")
    assert "Gray marks: each texture alone (alocasia, roundleaf)." in caption
    first = plot.data[plot.data["texture"] == "all"].iloc[0]
    assert (first["measure"], first["behind"]) == ("measure_sliced_patches", 0)


def test_equal_measures_are_not_told_apart() -> None:
    plot = plot_measures(rated_trials([1.0] * 5))
    assert not isinstance(plot, str)
    assert "Behind it" not in " ".join(plot.text)
    assert "Not distinguished from it: " in " ".join(plot.text)


def test_few_or_equal_ratings_give_a_sentence() -> None:
    trials = rated_trials([1.0] * 5)
    assert "Needs at least 10 rated" in str(plot_measures(trials[:9]))
    assert "Needs at least 10 rated" in str(plot_measures(trials.assign(rating=3.0)))


def test_a_measure_that_most_outputs_lack_is_left_out() -> None:
    trials = rated_trials([0.3] * 5)
    trials.loc[5:, "distance_at_1000"] = np.nan
    trials.loc[:5, "final_distance"] = np.nan
    plot = plot_measures(trials)
    assert not isinstance(plot, str)
    assert plot.text[0].startswith("54 rated outputs. ")
    assert "distance_at_1000" not in set(plot.data["measure"])
