"""Outputs of trials beside their targets, as figures and in tables."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from PIL import Image

from analysis.figures.drawing import FEW, LOSS, Drawn, label_of, make_figure
from analysis.ratings.ratings import MAX_RATING
from analysis.runs import StudyTable
from analysis.trial_pictures import data_url
from nca.records.paths import RecordPaths

__all__ = ["best_table", "plot_examples", "plot_published_sets"]

RELATIVE = "final_loss_relative"
PUBLISHED = {
    "set 5": {"model.channels": 15, "model.hidden_channels": 96, "model.filters": 4},
    "set 8": {"model.channels": 6, "model.hidden_channels": 32, "model.filters": 6},
}


def show(axes: Axes, picture: Image.Image | None, title: str) -> None:
    """Show a picture pixel by pixel, or nothing."""
    axes.set_axis_off()
    axes.set_title(title, fontsize=8)
    if picture is not None:
        axes.imshow(np.asarray(picture), interpolation="nearest")


def plot_examples(tables: Sequence[StudyTable]) -> Drawn | str:
    """Draw an output for each rating from 5 to 0 beside the target: of each texture the study rated most."""
    rated: dict[str, tuple[StudyTable, pd.DataFrame]] = {}
    for table in tables:
        ours = table.trials.dropna(subset=["rating"])
        if len(ours) >= FEW and len(ours) > len(rated.get(table.texture, (table, []))[1]):
            rated[table.texture] = table, ours
    if not rated:
        return "Examples for each rating need ratings: `python -m analysis.rate study=STUDY`."
    figure = make_figure(len(rated), MAX_RATING + 2, 9, 1.45 * len(rated))
    grid = np.array(figure.axes).reshape(len(rated), MAX_RATING + 2)
    rows = []
    for line, (texture, (table, ours)) in zip(grid, rated.items(), strict=True):
        show(line[0], table.pictures.target(), texture.replace("_", " "))
        for place, rating in zip(line[1:], range(MAX_RATING, -1, -1), strict=True):
            near = ours[(ours["rating"] - rating).abs() <= 0.5].sort_values(LOSS)
            if near.empty:
                show(place, None, f"{rating}: none")
                continue
            middle = near.iloc[len(near) // 2]
            show(place, table.pictures.output(int(middle["trial"])), f"rated {middle['rating']:.3g}")
            rows.append({"rating": rating, "study": table.name, "trial": middle["trial"], LOSS: middle[LOSS]})
    names = ", ".join(table.name for table, _ in rated.values())
    text = [f"For each rating the output with the median loss among those rated so; {names}."]
    return Drawn("examples", figure, pd.DataFrame(rows), text)


def plot_published_sets(tables: Sequence[StudyTable]) -> Drawn | str:
    """Draw the study's best and worst published sets on every texture that they were trained on."""
    found = find_published(tables)
    if not found:
        return (
            "The published sets were not trained here: `python -m nca.sweep -m experiment=set5 search=fixed "
            "texture=roundleaf,orchid_petal,alocasia,snake_plant 'sweep.study=${texture.name}-set5'`, the "
            "same with set8, and a report of those studies."
        )
    textures = sorted({texture for _, texture in found})
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
            show(column[0], table.pictures.target(), texture.replace("_", " "))
            show(axes, table.pictures.output(int(row["trial"])), f"{name}: {row[LOSS]:.2g}")
            curve = table.curves.get(int(row["trial"]), {})
            column[-1].plot(list(curve), list(curve.values()), lw=0.9, label=name)
            rows.append({"set": name, "texture": texture, LOSS: row[LOSS]})
        column[-1].set(yscale="log", xlabel="training step")
    grid[-1, 0].set_ylabel("loss, smoothed")
    grid[-1, 0].legend(fontsize=6, frameon=False)
    text = [
        "Targets, outputs with their final losses, and curves; set 5 was the study's best, set 8 its worst."
    ]
    return Drawn("published_sets", figure, pd.DataFrame(rows), text)


def find_published(tables: Sequence[StudyTable]) -> dict[tuple[str, str], tuple[StudyTable, pd.Series]]:
    """Return the last complete trial of each published set on each texture, of studies of nothing else."""
    found = {}
    for table in tables:
        names = [name for name, values in PUBLISHED.items() if values.items() <= table.fixed.items()]
        complete = table.trials[table.trials["reason"] == "complete"]
        for name in names if not table.distributions else ():
            for _, row in complete.iterrows():
                found[name, table.texture] = (table, row)
    return found


def best_table(tables: Sequence[StudyTable], paths: RecordPaths, n: int) -> str:
    """Return the best trials as an HTML table with pictures and links to their viewers."""
    relative = len({table.texture for table in tables}) > 1 and all(RELATIVE in t.trials for t in tables)
    by = RELATIVE if relative else LOSS
    rows = [
        (row[by], table, row)
        for table in tables
        if by in table.trials
        for _, row in table.trials[table.trials["reason"] == "complete"].dropna(subset=[by, LOSS]).iterrows()
    ]
    lines = []
    for _, table, row in sorted(rows, key=lambda each: each[0])[:n]:
        named = "<br>".join(f"{html.escape(label_of(name))} {_short(row[name])}" for name in table.params)
        experiment, run = table.links.get("mlflow_experiment_id"), row.get("mlflow_run_id")
        links = ""
        if experiment is not None and isinstance(run, str):
            pages = {
                "run": paths.mlflow_url(experiment, run),
                "viewer": paths.mlflow_url(experiment, run, "viewer.html"),
            }
            links = " ".join(f'<a href="{html.escape(page)}">{name}</a>' for name, page in pages.items())
        output = table.pictures.output(int(row["trial"]))
        picture = "" if output is None else f'<img class="thumb" alt="" src="{data_url(output)}">'
        rating = "" if pd.isna(row["rating"]) else f"{row['rating']:.2g}"
        cells = (
            picture,
            html.escape(table.name),
            str(row["trial"]),
            f"{row[LOSS]:.3g}",
            rating,
            named,
            links,
        )
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    if not lines:
        return ""
    head = "".join(
        f"<th>{name}</th>" for name in ("output", "study", "trial", "final loss", "rating", "set", "")
    )
    order = ", by their loss as a share of the target's own energy" if relative else ""
    return (
        f"<h3>The best {len(lines)}{order}</h3><table><thead><tr>{head}</tr></thead>{''.join(lines)}</table>"
    )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else html.escape(str(value))
