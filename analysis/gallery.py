"""`python -m analysis.gallery study=S`: all outputs of a study on one page, to sort, filter and enlarge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from nca.cli.errors import ConfigError, exit_on_error
from nca.cli.options import Command, atomic_output, read_out_path
from nca.outputs.html_page import data_url, fill_template
from nca.outputs.verdict import DISTANCES, GOOD
from nca.records.paths import RECORD_OPTIONS, read_record_paths
from sweeps import SweepError

if TYPE_CHECKING:
    from analysis.runs import StudyTable
    from nca.records.paths import RecordPaths

COMMAND = Command(
    "analysis.gallery",
    "Write all outputs of a study as one HTML page.",
    {"study": "name of the study", "out": "file to write; default STUDY.html", **RECORD_OPTIONS},
    required=["study"],
)
TEMPLATE = Path(__file__).with_name("assets") / "gallery.html"
THUMBNAIL_PX = 128
WEBP_QUALITY = 85
HIDDEN = ("folder", "began", "mlflow_run_id", "warm_start", "training_seed")


@exit_on_error(SweepError, OSError)
def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and print its name; exit code 2 on bad input."""  # noqa: DOC501 - it ends the process
    options = COMMAND.read(arguments).options
    out = read_out_path(options, "out", f"{options['study'].replace('/', '-')}.html")
    from analysis.runs import read_study

    paths = read_record_paths(options)
    table = read_study(paths, options["study"])
    if table.trials.empty:
        raise ConfigError(f"study={options['study']}: no trial has ended yet")
    page = make_gallery(table, paths, out.absolute().parent)
    with atomic_output(out) as partial:
        partial.write_text(page, encoding="utf-8")
    print(out)


def make_gallery(table: StudyTable, paths: RecordPaths, folder: Path) -> str:
    """Return the page, the best first; its links to viewers below `folder`, its own folder, are relative."""
    filled = table.trials.dropna(axis="columns", how="all")
    complete = filled[filled["reason"] == "complete"]
    judging = next(iter(DISTANCES))
    is_measured = judging in filled and complete[judging].notna().all()
    order = judging if is_measured else table.objectives[0]  # older trials lack it
    first = list(dict.fromkeys([order, table.objectives[0], "rating", "reason", *table.params]))
    columns = [key for key in first if key in filled]
    columns += [key for key in filled if key not in {*first, *HIDDEN}]
    trials = json.loads(filled[columns].to_json(orient="records", double_precision=15))
    for trial, row in zip(trials, filled.to_dict("records"), strict=True):
        trial["picture"] = _thumbnail(table.pictures.output(row["trial"]))
        trial["links"] = _links(table, paths, row, folder)
    data = {
        "columns": columns,
        "params": table.params,
        "sort": order,
        "example": f"{order}<{GOOD if is_measured else 0.001}  reason=complete",
        "target": _thumbnail(table.pictures.target()),
        "trials": trials,
    }
    return fill_template(TEMPLATE, table.name, data)


def _links(table: StudyTable, paths: RecordPaths, row: dict[str, Any], folder: Path) -> dict[str, str]:
    run_id, experiment = row.get("mlflow_run_id"), table.links.get("mlflow_experiment_id")
    if not isinstance(run_id, str) or experiment is None:
        return {}
    links = {"MLflow run": paths.mlflow_url(experiment, run_id)}
    viewer = paths.study_folders(table.name)[1] / run_id / "artifacts" / "viewer.html"
    if viewer.exists():
        below = viewer.is_relative_to(folder)
        links["viewer"] = str(viewer.relative_to(folder)) if below else viewer.as_uri()
    return links


def _thumbnail(picture: Image.Image | None) -> str | None:
    if picture is None:
        return None
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    return data_url(picture, "WEBP", quality=WEBP_QUALITY)


if __name__ == "__main__":
    main()
