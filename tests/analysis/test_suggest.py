"""Suggestions are valid, new, near the known optimum, and queued in addition to the total."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor

from analysis.ratings.ratings import MAX_RATING, Rating, Ratings, now
from analysis.runs import read_study
from analysis.suggest import Model, main, suggest
from nca.records.paths import RecordPaths
from sweeps.storage.optuna_storage import open_storage
from sweeps.study import find_study
from tests.analysis.builders import DISTRIBUTIONS, STUDY, make_study
from tests.analysis.mistakes import expect_refusal

N = 4
SLOW_UMAP = pytest.param("umap", marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> RecordPaths:
    return make_study(tmp_path_factory.mktemp("suggest"), 40)


@pytest.mark.parametrize("method", ["model", "pca", SLOW_UMAP])
def test_suggestions_are_valid_new_and_different(paths: RecordPaths, method: str) -> None:
    table = read_study(paths, STUDY)
    found, _ = suggest(table, method, N, 5.0)
    tried = {tuple(row[name] for name in DISTRIBUTIONS) for row in table.trials.to_dict("records")}
    configurations = {tuple(each.params[name] for name in DISTRIBUTIONS) for each in found}
    assert len(configurations) == N
    assert not configurations & tried
    for each in found:
        for name, value in each.params.items():
            distribution = DISTRIBUTIONS[name]
            assert distribution._contains(distribution.to_internal_repr(value))
        assert 0 < each.attributes["predicted_log10_final_loss_sd"] < 2
        distances = [distance for _, distance, _ in each.neighbors]
        assert distances == sorted(distances)


def test_the_model_finds_where_the_loss_is_small(paths: RecordPaths) -> None:
    """Losses are about 1e-6 over the learning rate: the model must propose large rates, and predict them."""
    found, why = suggest(read_study(paths, STUDY), "model", N, 5.0)
    assert "logarithm of the final loss" in why
    for each in found:
        rate = each.params["train.learning_rate"]
        assert rate > 5e-4
        assert each.attributes["predicted_log10_final_loss"] == pytest.approx(-6 - np.log10(rate), abs=0.3)


def test_the_model_is_of_what_the_study_minimizes(paths: RecordPaths) -> None:
    """Here distances grow with the learning rate, against the losses."""
    table = read_study(paths, STUDY)
    trials = table.trials.assign(final_distance=1e3 * table.trials["train.learning_rate"])
    by_distance = replace(table, objectives=["final_distance"], trials=trials)
    found, why = suggest(by_distance, "model", N, 5.0)
    assert "logarithm of the texture distance" in why
    for each in found:
        rate = each.params["train.learning_rate"]
        assert rate < 1e-4
        assert each.attributes["predicted_log10_final_distance"] == pytest.approx(3 + np.log10(rate), abs=0.3)


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> RecordPaths:
    """Return a study whose trials with small learning rates are rated best, whatever their loss."""
    paths = make_study(tmp_path_factory.mktemp("rated"), 40)
    ratings = Ratings(paths, STUDY)
    for row in read_study(paths, STUDY).trials.dropna(subset=["final_loss"]).itertuples():
        liked = read_rate(paths, row.trial) < 1e-4
        ratings.add(Rating(row.trial, "ada", 0, 5 if liked else 0, now()))
    return paths


@pytest.mark.parametrize("method", ["pca", SLOW_UMAP, "model"])
def test_ratings_are_used_if_there_are_some(rated: RecordPaths, method: str) -> None:
    found, why = suggest(read_study(rated, STUDY), method, N, 5.0)
    assert "rating" in why
    assert all(0 <= each.attributes["predicted_rating"] <= MAX_RATING for each in found)
    assert np.median([each.params["train.learning_rate"] for each in found]) < 2e-4


def test_predictions_from_few_trials_cover_unseen_values() -> None:
    """Of six axes two matter; unseen values lie within the predicted 95% range in about 95% of cases."""
    draw, inside = np.random.default_rng(0), []
    for n in (10, 20, 40):
        for _ in range(6):
            points = draw.random((n + 40, 6))
            values = 2 * points[:, 0] - (points[:, 1] - 0.5) ** 2 * 6 + 0.3 * draw.normal(size=n + 40)
            mean, sd = Model(points[:n], values[:n]).predict(points[n:])
            inside.append((np.abs(values[n:] - mean) <= 1.96 * sd).mean())
    assert 0.85 < np.mean(inside) <= 1.0


def test_the_coverage_equals_that_of_refitted_models() -> None:
    draw, inside = np.random.default_rng(1), []
    points, values = draw.random((15, 2)), draw.normal(size=15)
    model = Model(points, values)
    scaled = (values - values.mean()) / values.std()
    for index in range(15):
        others = GaussianProcessRegressor(model.process.kernel_, optimizer=None)
        others.fit(np.delete(points, index, axis=0), np.delete(scaled, index))
        mean, sd = others.predict(points[[index]], return_std=True)
        inside.append(abs(scaled[index] - mean[0]) <= 1.96 * sd[0])
    assert model.coverage() == pytest.approx(np.mean(inside))


def test_the_noise_of_a_trial_does_not_count_as_uncertainty_of_the_mean() -> None:
    model = Model(np.linspace(0, 1, 40)[:, None], np.random.default_rng(2).normal(size=40))
    (_, with_noise), (_, of_mean) = model.predict(model.points), model.predict(model.points, noise=False)
    assert (of_mean < 0.5 * with_noise).all()


def read_rate(paths: RecordPaths, trial: int) -> float:
    study = find_study(open_storage(paths.storage, create=False), STUDY)
    assert study is not None
    return float(study.get_trials(deepcopy=False)[trial].params["train.learning_rate"])


def test_queued_suggestions_are_marked_and_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = make_study(tmp_path, 20)
    main([f"study={STUDY}", "method=pca", "n=3", "enqueue=true", f"runs_dir={tmp_path}"])
    message = capsys.readouterr().out
    assert "queued 3" in message
    assert message.count("nearest: trial ") == 3
    study = find_study(open_storage(paths.storage, create=False), STUDY)
    assert study is not None
    waiting = [trial for trial in study.get_trials() if trial.state.name == "WAITING"]
    assert [trial.user_attrs["suggested_by"] for trial in waiting] == ["pca"] * 3
    for trial in waiting:
        assert trial.user_attrs["predicted_log10_final_loss_sd"] > 0
    main([f"study={STUDY}", "method=pca", "n=3", f"runs_dir={tmp_path}"])  # without: nothing is queued
    assert len([t for t in study.get_trials() if t.state.name == "WAITING"]) == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "'study' is missing: give study=VALUE; see python -m analysis.suggest --help"),
        (["study=leaf", "method=pcaa"], "method=pcaa: must be one of model, pca, umap, did you mean 'pca'?"),
        (["study=leaf", "n=0"], "n=0: must be a whole number from 1 to 100"),
        (["study=leaf", "target_rating=6"], "target_rating=6: must be a number from 0 to 5"),
        (["study=leaf", "enqueue=maybe"], "enqueue=maybe: must be true or false"),
        (["study=leaf"], "study=leaf: needs at least 10 complete trials (3 so far)"),
        (["study=nothing"], "study 'nothing': no such study"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    make_study(tmp_path, 4)
    expect_refusal(main, [*argv, f"runs_dir={tmp_path}"], message, capsys)
