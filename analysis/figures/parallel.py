"""Parallel coordinates, as interactive HTML for a page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.figures.drawing import (
    LOSS,
    MAX_CHOICES,
    MIN_TRIALS,
    as_numbers,
    format_label,
    is_wide,
    tick_labels,
)


def plot_parallel(trials: pd.DataFrame, params: Sequence[str]) -> str:
    """Return parallel coordinates of parameters and losses, plotly.js included; empty for too few trials."""
    if len(trials) < MIN_TRIALS or not params:
        return ""
    import plotly.graph_objects as go

    losses = np.log10(trials[LOSS].to_numpy(float))
    dimensions = [_dimension(trials[name], format_label(name)) for name in params]
    dimensions.append({"label": "log10 final loss", "values": losses})
    lines = {"color": losses, "colorscale": "Viridis", "reversescale": True, "showscale": True}
    figure = go.Figure(go.Parcoords(line=lines, dimensions=dimensions))
    figure.update_layout(height=420, margin={"l": 60, "r": 30, "t": 60, "b": 30}, font={"size": 12})
    html: str = figure.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})
    return html


def _dimension(values: pd.Series, label: str) -> dict[str, object]:
    """Return an axis: logarithmic over orders of magnitude, choices with their values as ticks."""
    numbers = as_numbers(values)
    choices = np.unique(numbers)
    if len(choices) <= MAX_CHOICES:
        ticks = {"tickvals": list(range(len(choices))), "ticktext": tick_labels(values)}
        return {"label": label, "values": np.searchsorted(choices, numbers), **ticks}
    if is_wide(numbers):
        return {"label": f"log10 {label}", "values": np.log10(numbers)}
    return {"label": label, "values": numbers}
