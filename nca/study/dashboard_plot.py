"""The Optuna dashboard's plot of the results of a study."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from nca.outputs.verdict import DISTANCES
from nca.study.dashboard_notes import LOSS
from sweeps.trials import TrialSummary

PLOT = "nca-results"  # its id
DIGITS = 5
GRAY, FAINT, CLEAR = "#888", "rgba(136,136,136,0.25)", "rgba(0,0,0,0)"  # on white and on black


def plot_results(trials: Sequence[TrialSummary], objectives: Sequence[str]) -> str:
    """Return a Plotly figure in JSON: distances, objectives and loss of all trials, one below the other.

    Lines are the best so far. The dashboard's own history has a linear axis, on which losses that span orders
    of magnitude are a flat line. Axes are logarithmic here, unless a value is 0 or less.
    """
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "title": {"text": "Results", "x": 0.02},
        "showlegend": False,
        "xaxis": {"title": {"text": "trial"}, "gridcolor": FAINT, "zeroline": False},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "modebar": {"bgcolor": CLEAR, "color": GRAY},
        "font": {"color": GRAY},
    }
    metrics = dict.fromkeys([*DISTANCES, *objectives, LOSS])
    shown = [m for m in metrics if any(m in trial.attributes for trial in trials)]
    for row, metric in enumerate(shown, 1):
        points = sorted((t.number, float(t.attributes[metric])) for t in trials if metric in t.attributes)
        steps = points[:1]  # each trial that is better than all before it
        for point in points:
            if point[1] < steps[-1][1]:
                steps.append(point)
        steps.append((points[-1][0], steps[-1][1]))
        axis, line = f"y{row}" if row > 1 else "y", {"shape": "hv", "color": GRAY}
        data.append(_trace(points, axis, metric, mode="markers"))
        data.append(_trace(steps, axis, f"least {metric}", mode="lines", line=line))
        scale = "log" if steps[-1][1] > 0 else "linear"
        title = {"text": metric.replace("_", " ")}
        layout[axis.replace("y", "yaxis")] = {"title": title, "type": scale, "gridcolor": FAINT}
    layout["grid"] = {"rows": len(shown), "columns": 1, "pattern": "coupled"}
    return json.dumps({"data": data, "layout": layout})


def _trace(points: Sequence[tuple[int, float]], axis: str, name: str, **style: Any) -> dict[str, Any]:
    """Return a trace of a figure, its values rounded: a storage takes it in rows of 2,000 characters."""
    values = [float(f"{value:.{DIGITS}g}") for _, value in points]
    return {"x": [number for number, _ in points], "y": values, "yaxis": axis, "name": name, **style}
