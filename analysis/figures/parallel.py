"""Interactive figures, as HTML to put into a page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.figures.drawing import LOG_RANGE, LOSS, as_numbers, label_of, ticks_of

__all__ = ["plot_parallel"]

FEW = 3


def plot_parallel(trials: pd.DataFrame, params: Sequence[str]) -> str:
    """Return parallel coordinates of sets and their losses, with plotly.js inside; empty for too few."""
    if len(trials) < FEW or not params:
        return ""
    import plotly.graph_objects as go

    losses = np.log10(trials[LOSS].to_numpy(float))
    dimensions = [_dimension(trials[name], label_of(name)) for name in params]
    dimensions.append({"label": "log10 final loss", "values": losses})
    lines = {"color": losses, "colorscale": "Viridis", "reversescale": True, "showscale": True}
    figure = go.Figure(go.Parcoords(line=lines, dimensions=dimensions))
    figure.update_layout(height=420, margin={"l": 60, "r": 30, "t": 60, "b": 30}, font={"size": 12})
    html: str = figure.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})
    return html


def _dimension(values: pd.Series, label: str) -> dict[str, object]:
    """Return an axis; one that spans orders of magnitude by its logarithm, choices with their values."""
    numbers = as_numbers(values)
    choices = np.unique(numbers)
    if len(choices) > 6 and numbers.min() > 0 and numbers.max() / numbers.min() > LOG_RANGE:
        return {"label": f"log10 {label}", "values": np.log10(numbers)}
    if len(choices) <= 6:
        ranks = np.searchsorted(choices, numbers)
        ticks = {"tickvals": list(range(len(choices))), "ticktext": ticks_of(values)}
        return {"label": label, "values": ranks, **ticks}
    return {"label": label, "values": numbers}
