"""The plot of the results of a study in the Optuna dashboard."""

from __future__ import annotations

import json
from typing import Any

from nca.study.dashboard_plot import plot_results
from sweeps.trials import TrialSummary


def trial(number: int, **attributes: float) -> TrialSummary:
    return TrialSummary(number, number, {}, "complete", [], attributes, {}, None, None)


def test_every_metric_has_a_row_with_its_least_value_so_far() -> None:
    trials = [
        trial(2, distance_at_1000=0.5, final_loss=3.14159e-6, n_parameters=9.0),
        trial(0, distance_at_1000=0.25, final_loss=1e-3, n_parameters=7.0),
        trial(1, last_loss=0.5),  # pruned
        trial(4, distance_at_1000=-0.125, final_loss=2e-3, n_parameters=7.0),
    ]
    figure: dict[str, Any] = json.loads(plot_results(trials, ["final_loss", "n_parameters"]))
    layout = figure["layout"]
    rows: dict[str, list[list[tuple[int, float]]]] = {}
    for each in figure["data"]:
        rows.setdefault(each["yaxis"], []).append(list(zip(each["x"], each["y"], strict=True)))
    assert rows == {
        "y": [[(0, 0.25), (2, 0.5), (4, -0.125)], [(0, 0.25), (4, -0.125), (4, -0.125)]],
        "y2": [[(0, 1e-3), (2, 3.1416e-6), (4, 2e-3)], [(0, 1e-3), (2, 3.1416e-6), (4, 3.1416e-6)]],
        "y3": [[(0, 7.0), (2, 9.0), (4, 7.0)], [(0, 7.0), (4, 7.0)]],
    }
    axes = [(layout[axis]["title"]["text"], layout[axis]["type"]) for axis in ("yaxis", "yaxis2", "yaxis3")]
    assert axes == [("distance at 1000", "linear"), ("final loss", "log"), ("n parameters", "log")]
    assert layout["grid"]["rows"] == 3


def test_a_study_without_results_has_an_empty_plot() -> None:
    assert json.loads(plot_results([trial(0, last_loss=0.5)], ["final_loss"]))["data"] == []
