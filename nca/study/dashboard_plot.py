"""The Optuna dashboard's plot of the results of a study."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

from nca.study.dashboard_notes import DISTANCE, LOSS
from sweeps.trials import TrialSummary

PLOT = "nca-results"  # its id
DIGITS = 5
GRAY = "#888"  # legible on white and on black


def plot_results(trials: Sequence[TrialSummary], objectives: Sequence[str]) -> str:
    """Return a Plotly figure in JSON: distance, objectives and loss of all trials, one below the other.

    Lines are the best so far. The dashboard's own history has a linear axis, on which losses that span orders
    of magnitude are a flat line. Axes are logarithmic here, unless a value is 0 or less.
    """
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "title": {"text": "Results"},
        "showlegend": False,
        "xaxis": {"title": {"text": "trial"}},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": GRAY},
    }
    metrics = dict.fromkeys([DISTANCE, *objectives, LOSS])
    shown = [m for m in metrics if any(m in trial.attributes for trial in trials)]
    for row, metric in enumerate(shown, 1):
        points = sorted((t.number, float(t.attributes[metric])) for t in trials if metric in t.attributes)
        least = itertools.accumulate(points, lambda best, point: min(best, point, key=lambda p: p[1]))
        steps = list(dict.fromkeys(least))  # each trial that is better than all before it
        steps.append((points[-1][0], steps[-1][1]))
        axis, line = f"y{row}" if row > 1 else "y", {"shape": "hv", "color": GRAY}
        data.append(_trace(points, axis, metric, mode="markers"))
        data.append(_trace(steps, axis, f"least {metric}", mode="lines", line=line))
        scale = "log" if steps[-1][1] > 0 else "linear"
        layout[axis.replace("y", "yaxis")] = {"title": {"text": metric.replace("_", " ")}, "type": scale}
    layout["grid"] = {"rows": len(shown), "columns": 1, "pattern": "coupled"}
    return json.dumps({"data": data, "layout": layout})


def _trace(points: Sequence[tuple[int, float]], axis: str, name: str, **style: Any) -> dict[str, Any]:
    """Return a trace of a figure, its values rounded: a storage takes it in rows of 2,000 characters."""
    values = [float(f"{value:.{DIGITS}g}") for _, value in points]
    return {"x": [number for number, _ in points], "y": values, "yaxis": axis, "name": name, **style}
