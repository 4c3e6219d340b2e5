"""The saved views of a study in MLflow: what their tags hold. What a browser shows is tested as a whole."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from nca.outputs.verdict import DISTANCES
from nca.tracking.saved_views import encode_views
from nca.tracking.store import MlflowStore

MAX_TAG_CHARS = 5000  # of an experiment in the servers of MLflow 3.0; later ones take 20,000


def page_of(tag: str) -> dict[str, Any]:
    view = json.loads(tag)
    assert view["createdAt"] == view["updatedAt"] == 7
    prefix, _, data = view["state"].partition(";")
    assert prefix == "deflate"
    return dict(json.loads(zlib.decompress(base64.b64decode(data))))


def test_trials_are_sorted_by_distance_beside_objectives_and_params() -> None:
    metrics, params = ["distance_at_1000", "final_distance", "final_loss"], ["model.channels", "train.size"]
    views = encode_views(metrics, params, 11, 7)
    assert list(views) == ["mlflow.sharedViewState.trials", "mlflow.sharedViewState.charts"]
    page, with_outputs = map(page_of, views.values())
    trials = page.pop("searchFilter")
    assert trials == "tags.`mlflow.parentRunId` != ''"
    assert with_outputs.pop("searchFilter") == f"{trials} and attributes.status != 'KILLED'"
    assert page == with_outputs
    assert (page["orderByKey"], page["orderByAsc"]) == ("metrics.`distance_at_1000`", True)
    assert page["selectedColumns"] == [
        "metrics.`distance_at_1000`",
        "metrics.`final_distance`",
        "metrics.`final_loss`",
        "params.`model.channels`",
        "params.`train.size`",
        "tags.`reason`",
        "attributes.`Duration`",
    ]
    charts = {chart["type"]: chart for chart in page["compareRunCharts"]}
    assert (charts["IMAGE"]["imageKeys"], charts["IMAGE"]["step"]) == (["output"], 11)
    assert (charts["LINE"]["metricKey"], charts["LINE"]["scaleType"]) == ("loss", "log")
    assert charts["PARALLEL"]["selectedParams"] == ["model.channels", "train.size"]
    assert charts["PARALLEL"]["selectedMetrics"] == ["distance_at_1000", "final_distance", "final_loss"]
    sections = {section["uuid"] for section in page["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in charts.values()} < sections


def test_a_large_space_fits_into_a_tag() -> None:
    metrics = [*DISTANCES, "final_loss", "final_loss_median", "final_loss_relative", "n_parameters"]
    params = [f"train.a_rather_long_parameter_{number}" for number in range(40)]
    assert max(map(len, encode_views(metrics, params, 10**6, 7).values())) < MAX_TAG_CHARS


def test_views_are_brought_up_to_date_beside_a_persons_own(
    mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, experiments = MlflowClient(mlflow_uri), MlflowStore(mlflow_uri).experiments
    id_ = experiments.open("leaf", tmp_path / "artifacts")
    own = "mlflow.sharedViewState.1795988615735s5vl7f22"
    client.set_experiment_tag(id_, own, "by hand")
    experiments.save_views(id_, ["final_loss"], ["model.channels"], 11)
    first = client.get_experiment(id_)
    assert first.creation_time is not None
    views = encode_views(["final_loss"], ["model.channels"], 11, first.creation_time)
    assert views.items() <= first.tags.items()
    experiments.save_views(id_, ["final_loss"], ["model.channels", "model.filters"], 11)
    second = client.get_experiment(id_)
    assert not views.items() & second.tags.items()
    assert second.tags[own] == "by hand"
    monkeypatch.setattr(MlflowClient, "set_experiment_tag", lambda *_: pytest.fail("written again"))
    experiments.save_views(id_, ["final_loss"], ["model.channels", "model.filters"], 11)
