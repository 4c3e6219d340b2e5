"""Outputs of trials beside their targets, as figures and as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from PIL import Image

from analysis.figures.drawing import (
    LOSS,
    MIN_TRIALS,
    Plot,
    figure_text,
    format_label,
    format_texture,
    make_figure,
    scale_by_logarithm,
)
from analysis.ratings.ratings import MAX_RATING
from analysis.runs import StudyTable, join_studies
from nca.config.custom_class import is_custom
from nca.outputs.html_page import data_url
from nca.outputs.verdict import DISTANCES, describe_distance, judged_distance
from nca.records.paths import RecordPaths

ORDERS = {  # what the best trials are best by: the first that all of them have
    **DISTANCES,
    "final_loss_relative": "loss relative to the target's energy",
    LOSS: "final loss",
}
N_BEST = 10  # rows of the table of the best trials
N_OPENING = 3  # outputs beside the target
MAX_OPENINGS = 6  # textures
PUBLISHED = {
    "set 5": {"model.channels": 15, "model.hidden_channels": 96, "model.filters": 4},
    "set 8": {"model.channels": 6, "model.hidden_channels": 32, "model.filters": 6},
}


def draw_picture(axes: Axes, picture: Image.Image | None, title: str) -> None:
    """Draw a picture without interpolation; nothing if it is missing."""
    axes.set_axis_off()
    axes.set_title(figure_text(title), fontsize=8)
    if picture is not None:
        axes.imshow(np.asarray(picture), interpolation="nearest")


def plot_examples(tables: Sequence[StudyTable]) -> Plot | str:
    """Plot the target and an output for each rating, for the study of each texture with the most ratings."""
    rated: dict[str, tuple[StudyTable, pd.DataFrame]] = {}
    for table in tables:
        own = table.trials.dropna(subset=["rating"])
        if len(own) >= MIN_TRIALS and len(own) > len(rated.get(table.texture, (table, []))[1]):
            rated[table.texture] = table, own
    if not rated:
        return "Examples of each rating need ratings: `python -m analysis.rate study=STUDY`."
    figure = make_figure(len(rated), MAX_RATING + 2, 9, 1.45 * len(rated))
    grid = np.array(figure.axes).reshape(len(rated), MAX_RATING + 2)
    rows = []
    for line, (texture, (table, own)) in zip(grid, rated.items(), strict=True):
        draw_picture(line[0], table.pictures.target(), format_texture(texture))
        for axes, rating in zip(line[1:], range(MAX_RATING, -1, -1), strict=True):
            near = own[own["rating"].between(rating - 0.5, rating + 0.5, inclusive="left")]
            if near.empty:
                draw_picture(axes, None, f"{rating}: none")
                continue
            off = (near["rating"] - rating).abs()
            nearest = near[off == off.min()].sort_values(LOSS)
            median = nearest.iloc[len(nearest) // 2]
            draw_picture(axes, table.pictures.output(int(median["trial"])), f"rated {median['rating']:.3g}")
            rows.append({"rating": rating, "study": table.name, "trial": median["trial"], LOSS: median[LOSS]})
    names = ", ".join(table.name for table, _ in rated.values())
    text = f"For each rating the output nearest to it, of several the one with the median loss, in {names}."
    return Plot("examples", figure, pd.DataFrame(rows), [text])


def plot_published(tables: Sequence[StudyTable]) -> Plot | str:
    """Plot outputs and curves of the published configurations on every texture that they were trained on."""
    found = find_published(tables)
    if not found:
        return (
            "The published configurations were not trained here: `python -m nca.sweep -m experiment=set5 "
            "search=fixed texture=roundleaf,orchid_petal,alocasia,snake_plant "
            "'sweep.study=${texture.name}-set5'`, the same with set8, and a report of those studies."
        )
    textures = list(dict.fromkeys(texture for _, texture in found))
    names = sorted({name for name, _ in found})
    n_rows = len(names) + 2
    figure = make_figure(n_rows, len(textures), 1.7 * len(textures) + 0.5, 1.8 * n_rows)
    grid = np.array(figure.axes).reshape(n_rows, len(textures))
    rows = []
    for column, texture in zip(grid.T, textures, strict=True):
        for axes, name in zip(column[1:-1], names, strict=True):
            if (name, texture) not in found:
                axes.set_axis_off()
                continue
            table, row = found[name, texture]
            draw_picture(column[0], table.pictures.target(), format_texture(texture))
            rated = "" if pd.isna(row["rating"]) else f", rated {row['rating']:.3g}"
            draw_picture(axes, table.pictures.output(int(row["trial"])), f"{name}{rated}")
            curve = table.curves[table.curves["trial"] == row["trial"]]
            column[-1].plot(curve["step"], curve["loss"], lw=0.9, label=name)
            rows.append({"configuration": name, "texture": texture, LOSS: row[LOSS]})
        column[-1].set(xlabel="training step")
        losses = np.concatenate([line.get_ydata() for line in column[-1].lines])
        scale_by_logarithm(column[-1], "y", losses)
    grid[-1, 0].set_ylabel("loss, smoothed")
    grid[-1, 0].legend(fontsize=6)
    text = (
        "Targets, outputs, and losses while they trained. In the original study set 5 was best, set 8 worst."
    )
    return Plot("published_sets", figure, pd.DataFrame(rows), [text])


def find_published(tables: Sequence[StudyTable]) -> dict[tuple[str, str], tuple[StudyTable, pd.Series]]:
    """Return the last complete trial of each published configuration on each texture, without a search."""
    found = {}
    for table in tables:
        names = [name for name, values in PUBLISHED.items() if values.items() <= table.fixed.items()]
        complete = table.trials[table.trials["reason"] == "complete"]
        for name in names if not table.distributions else ():
            for _, row in complete.iterrows():
                found[name, table.texture] = (table, row)
    return found


def choose_order(trials: pd.DataFrame) -> str:
    """Return the first column of `ORDERS` that all complete trials have."""
    return next((name for name in ORDERS if name in trials and trials[name].notna().all()), LOSS)


def list_openings(tables: Sequence[StudyTable]) -> list[list[tuple[str, str]]]:
    """Return pictures with captions for each texture: the target and the best outputs of all studies."""
    by_texture: dict[str, list[StudyTable]] = {}
    for table in tables:
        by_texture.setdefault(table.texture, []).append(table)
    openings = []
    for texture, own in list(by_texture.items())[:MAX_OPENINGS]:
        target, trials = own[0].pictures.target(), join_studies(own)
        complete = trials[trials["reason"] == "complete"].dropna(subset=[LOSS])
        if target is None or complete.empty:
            continue
        found = [(data_url(target), f"{format_texture(texture)}: the target")]
        studies = {table.name: table for table in own}
        for row in complete.nsmallest(N_OPENING, choose_order(complete)).to_dict("records"):
            output = studies[row["study"]].pictures.output(row["trial"])
            if output is not None:
                found.append((data_url(output), _describe(row)))
        openings.append(found)
    return openings


def _describe(row: Mapping[Any, Any]) -> str:
    """Return what a trial came to, in words."""
    parts = [f"final loss {row[LOSS]:.3g}"]
    if (distance := judged_distance(row)) is not None:
        parts.insert(0, f"texture distance {distance:.2f}: {describe_distance(distance)}")
    if not pd.isna(row["rating"]):
        parts.append(f"rated {row['rating']:.2g} of {MAX_RATING}")
    return f"trial {row['trial']} of {row['study']}, {', '.join(parts)}"


def list_best(
    trials: pd.DataFrame, tables: Sequence[StudyTable], paths: RecordPaths, by: str
) -> list[dict[str, Any]]:
    """Return rows of a table: the trials with the smallest values of a column, with picture and links."""
    studies, rows = {table.name: table for table in tables}, []
    for row in trials.dropna(subset=[by]).nsmallest(N_BEST, by).to_dict("records"):
        table = studies[row["study"]]
        experiment, run = table.links.get("mlflow_experiment_id"), row.get("mlflow_run_id")
        links = {}
        if experiment is not None and isinstance(run, str):
            links = {"run": paths.mlflow_url(experiment, run)}
            if not is_custom(str(table.fixed.get("model.name"))):  # which no viewer runs
                links["viewer"] = paths.mlflow_url(experiment, run, "viewer.html")
        output = table.pictures.output(row["trial"])
        rows.append(
            {
                "output": None if output is None else data_url(output),
                "loss": f"{row[LOSS]:.3g}",
                "distance": "" if (distance := judged_distance(row)) is None else f"{distance:.3g}",
                "rating": "" if pd.isna(row["rating"]) else f"{row['rating']:.2g}",
                "params": [f"{format_label(name)} {_short(row[name])}" for name in table.params]
                or ["all fixed"],
                "links": links,
                **{key: row[key] for key in ("study", "trial")},
            }
        )
    return rows


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
