"""`python -m analysis.report study=S`: everything the plant study showed, in one HTML file and as figures.

Several studies are separated by commas. Too few data for a figure give a sentence that says what to run.
"""

from __future__ import annotations

import base64
import functools
import html
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import check_extra
from nca.cli.errors import ConfigError, exit_on_error
from nca.cli.options import Command, read_out, writing
from nca.records.paths import RECORD_OPTIONS, read_record_paths
from sweeps import SweepError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.figures.drawing import Drawn
    from analysis.runs import StudyTable
    from nca.records.paths import RecordPaths

__all__ = ["main", "write_report"]

COMMAND = Command(
    "analysis.report",
    "Write a report of studies, with every figure; give study= or exported=.",
    {
        "study": "name of the study, or names as A,B",
        "exported": "folder that analysis.export has written, in place of a study",
        "out": "folder to write; default report-STUDY",
        **RECORD_OPTIONS,
    },
)
TEMPLATES = Path(__file__).with_name("assets")
PAGE = "report.html"
BEST = 10  # trials of the table
TERMS = ("model.", "train.", "features.")  # begin the keys of what losses depend on beside texture and set


@dataclass
class Section:
    """One part of the report.

    Args:
        title: Its heading.
        drawn: Figures, or sentences in their place.
        extra: HTML after them.
        notes: Sentences after that.
        figures: What the page shows of what is drawn.
    """

    title: str
    drawn: Sequence[Drawn | str]
    extra: str = ""
    notes: Sequence[str] = ()
    figures: list[dict[str, Any]] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report and print its name; exit code 2 on bad input.

    Raises:
        ConfigError: Never: it becomes one line and exit code 2.
    """
    with exit_on_error(SweepError, OSError):
        options = COMMAND.read(arguments).options
        if ("study" in options) == ("exported" in options):
            raise COMMAND.error("give either study=NAME or exported=FOLDER")
        source = options.get("study", options.get("exported", ""))
        out = read_out(options, "out", f"report-{Path(source.split(',')[0]).name}")
        check_extra()
        from analysis.export_folder import read_exported
        from analysis.runs import read_study

        paths = read_record_paths(options)
        if "study" in options:
            tables = [read_study(paths, name) for name in source.split(",")]
        else:
            tables = read_exported(Path(source).expanduser())
        if all(table.trials.empty for table in tables):
            raise ConfigError(f"{source}: no trial has ended yet")
        with writing(out) as partial:
            write_report(tables, paths, partial)
            names = sorted(file.name for file in partial.iterdir())
        _log(tables, paths, [out / name for name in names])
        print(out / PAGE)


def write_report(tables: Sequence[StudyTable], paths: RecordPaths, out: Path) -> Path:
    """Draw everything into a folder and return the page.

    Args:
        tables: The studies.
        paths: Where records are.
        out: Created where missing; files of that name are replaced.
    """
    from jinja2 import Environment, FileSystemLoader

    from analysis.figures.drawing import styled

    out.mkdir(parents=True, exist_ok=True)
    with styled():
        sections = list(make_sections(tables, paths))
        for section in sections:
            section.figures = [_save(each, out) for each in section.drawn]
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
    main_study = max(tables, key=lambda table: len(table.trials)).name
    environment.filters["spoken"] = functools.partial(_mark_commands, study=main_study)
    page = out / PAGE
    page.write_text(
        environment.get_template(PAGE).render(
            title=main_study if len(tables) == 1 else f"{main_study} and {len(tables) - 1} more",
            facts=list(_describe(tables)),
            sections=sections,
            made=datetime.now().strftime("%Y-%m-%d %H:%M"),
        ),
        encoding="utf-8",
    )
    return page


def make_sections(tables: Sequence[StudyTable], paths: RecordPaths) -> Iterator[Section]:
    """Yield the parts of the report."""
    import numpy as np

    from analysis.figures import comparisons, parameters
    from analysis.figures.clusters import FEWEST, find_clusters, plot_clusters, silhouette_by_chance
    from analysis.figures.drawing import LOSS, MORE, count_complete
    from analysis.figures.examples import best_table, plot_examples, plot_published_sets
    from analysis.figures.importances import plot_importances
    from analysis.figures.parallel import plot_parallel
    from analysis.ratings.agreement import describe_agreement
    from analysis.unit_cube import UnitCube

    everything = join(tables)
    complete = everything[everything["reason"] == "complete"].dropna(subset=[LOSS])
    table = max(tables, key=lambda each: len(each.trials))
    tried = complete[complete["study"] == table.name].dropna(subset=list(table.params))
    complete = complete[~is_suggested(complete)]
    own = tried[~is_suggested(tried)]
    searched = [name for name in table.params if own[name].nunique() > 1]
    distributions = {name: table.distributions[name] for name in searched}
    cube = UnitCube(distributions)
    points = cube.encode(own[searched].to_dict("records"))
    alike = complete["terms"] == everything.loc[everything["study"] == table.name, "terms"].iloc[0]
    comparable, others = complete[alike], sorted(set(complete.loc[~alike, "study"]))
    n_pruned = int((table.trials["reason"] == "pruned").sum())
    counts = {"pruned (no final loss)": n_pruned, "suggested (below)": len(tried) - len(own)}
    beside = ", ".join(f"{count} {name}" for name, count in counts.items() if count)

    yield Section(
        "Final losses by texture",
        [comparisons.plot_losses_by_texture(comparable)],
        notes=[f"Not compared with {table.name}, for trained on other terms: {', '.join(others)}."]
        if others
        else [],
    )
    ratings = [comparisons.plot_rating_against_loss(comparable), plot_examples(tables)]
    yield Section(
        "Rating against final loss",
        ratings,
        notes=list(describe_agreement([each.ratings for each in tables])),
    )
    losses = own[LOSS].to_numpy(float)
    yield Section(
        f"Each parameter against final loss: {table.name}",
        [
            parameters.plot_parameters(own, searched, f"Left out: {beside}." if beside else ""),
            plot_importances(own, points, distributions),
            parameters.plot_interactions(points, cube.names, losses),
            parameters.plot_history(comparable[comparable["texture"] == table.texture]),
        ],
        plot_parallel(own, searched),
    )
    clusters: Drawn | str = (
        f"{count_complete(own)}; clusters take {FEWEST}, and two parameters that vary. {MORE}"
    )
    if len(own) >= FEWEST and len(searched) > 1 and len(np.unique(points, axis=0)) >= FEWEST:
        clusters = plot_clusters(
            find_clusters(points, cube.names), own, silhouette_by_chance(cube, len(points))
        )
    yield Section(f"Clusters of parameter sets: {table.name}", [clusters])
    first = "roundleaf" if "roundleaf" in set(comparable["texture"]) else str(comparable["texture"].min())
    yield Section(
        "One texture against another", [comparisons.plot_texture_against_texture(comparable, first)]
    )
    yield Section("Published sets on all textures", [plot_published_sets(tables)])
    yield Section(f"Suggestions that were tried: {table.name}", [comparisons.plot_suggestions(tried)])
    curves = {(each.name, trial): curve for each in tables for trial, curve in each.curves.items()}
    yield Section(
        "Curves, costs, the best",
        [parameters.plot_curves(curves, everything)],
        best_table(tables, paths, BEST),
        [*costs(everything), *noise(comparable)],
    )


def is_suggested(trials: pd.DataFrame) -> pd.Series:
    """Say which trials somebody chose by what others had come to: no random sets, and shown apart."""
    return trials["suggested_by"].notna() if "suggested_by" in trials else trials["trial"].isna()


def join(tables: Sequence[StudyTable]) -> pd.DataFrame:
    """Return all trials of several studies.

    Columns beyond the tables' own: `study`; `texture`; `set`, the same for the same values of all that any of
    the studies searches, and of its own where a study searches nothing; `terms`, the same where losses may be
    compared. What a study does not search has its fixed value.
    """
    import pandas as pd

    params = sorted({name for table in tables for name in table.params})
    parts = []
    for table in tables:
        part = table.trials.copy()
        part.insert(0, "study", table.name)
        part["texture"] = table.texture
        for name in set(params) - set(table.params):
            part[name] = table.fixed.get(name)
        own = part[params] if table.params else part[["study", "trial"]]
        part["set"] = list(map(_name_set, own.astype(object).to_numpy().tolist()))
        terms = {key: str(table.fixed[key]) for key in sorted(table.fixed) if key.startswith(TERMS)}
        part["terms"] = json.dumps({key: value for key, value in terms.items() if key not in params})
        parts.append(part)
    filled = [part for part in parts if not part.empty]
    joined = pd.concat(filled, ignore_index=True)
    if "final_loss" not in joined:
        joined["final_loss"] = float("nan")
    return joined


def _name_set(values: Sequence[object]) -> str:
    """Return the same text for the same values, whether 9 or 9.0."""
    return json.dumps([float(v) if isinstance(v, int | float) else str(v) for v in values])


def costs(trials: pd.DataFrame) -> Iterator[str]:
    """Yield what was spent, and how trials failed."""
    from sweeps.progress import format_duration

    n_steps = int(trials["n_steps"].fillna(0).sum()) if "n_steps" in trials else 0
    seconds = float(trials["seconds"].fillna(0).sum())
    yield f"{len(trials)} trials, {n_steps} training steps, {format_duration(seconds)} of computing in all."
    failed = trials[~trials["reason"].isin(["complete", "pruned", "stopped"])]
    reasons = ", ".join(f"{count} {reason}" for reason, count in failed["reason"].value_counts().items())
    yield f"Failed: {reasons or 'none'}."


def noise(trials: pd.DataFrame) -> Iterator[str]:
    """Yield for each texture how far sets, seeds and draws lie apart, all in orders of magnitude.

    Args:
        trials: Complete ones that may be compared.
    """
    import numpy as np

    from analysis.figures.comparisons import FEWEST_SETS

    said = []
    for texture, each in trials.groupby("texture"):
        if each["set"].nunique() < FEWEST_SETS:
            continue
        parts = [f"sets {np.log10(each['final_loss']).std():.2f}"]
        if "final_loss_of_seeds" in each and each["final_loss_of_seeds"].notna().any():
            seeds = [np.log10(json.loads(text)) for text in each["final_loss_of_seeds"].dropna()]
            of_one = np.sqrt(np.mean([logs.var(ddof=1) for logs in seeds]))
            parts.append(f"seeds of one set {of_one:.2f} ({len(seeds)} sets of {len(seeds[0])})")
        if "final_loss_median" in each:
            beside = np.log10(each["final_loss"] / each["final_loss_median"]).dropna()
            said_of = f"the last step beside the median of the last 256 {beside.std():.2f}"
            parts.append(f"{said_of} (mean {beside.mean():+.2f})")
        said.append(f"{texture.replace('_', ' ')}: {', '.join(parts)}")
    if said:
        yield f"Standard deviations of the final loss in orders of magnitude. {'; '.join(said)}."
    if "final_loss_of_seeds" not in trials or trials["final_loss_of_seeds"].isna().all():
        yield "How much seeds differ is not known: `sweep.repeats=3` trains every set with three."


def _describe(tables: Sequence[StudyTable]) -> Iterator[str]:
    for table in tables:
        fixed = table.fixed
        yield (
            f"{table.name}: {fixed.get('texture.name')} ({fixed.get('texture.source', 'own')}), "
            f"{fixed.get('train.size')} px, {fixed.get('train.steps')} steps, model "
            f"{fixed.get('model.name')}, features {fixed.get('features.name')}; "
            f"{len(table.trials)} ended for good"
        )


def _mark_commands(text: str, study: str) -> str:
    """Return a sentence as HTML, what stands between backticks as code, with the study's name in it."""
    from markupsafe import Markup

    named = html.escape(text.replace("study=STUDY", f"study={study}"), quote=False)
    return Markup(re.sub(r"`(.*?)`", r"<code>\1</code>", named))


def _save(drawn: Drawn | str, out: Path) -> dict[str, Any]:
    """Write a figure as PNG, SVG and CSV; return what the page shows of it, or of a sentence in its place."""
    if isinstance(drawn, str):
        return {"text": [drawn]}
    drawn.figure.savefig(out / f"{drawn.name}.png")
    drawn.figure.savefig(out / f"{drawn.name}.svg")
    drawn.data.to_csv(out / f"{drawn.name}.csv", index=False)
    png = base64.b64encode((out / f"{drawn.name}.png").read_bytes()).decode()
    return {"name": drawn.name, "text": drawn.text, "url": f"data:image/png;base64,{png}"}


def _log(tables: Sequence[StudyTable], paths: RecordPaths, files: Sequence[Path]) -> None:
    """Put the report's files among the artifacts of each study's parent run."""
    from nca.tracking.client import mlflow_errors

    runs = [table.links["mlflow_run_id"] for table in tables if "mlflow_run_id" in table.links]
    store = paths.open_tracking() if runs else None
    if store is None:
        return
    with mlflow_errors(str(paths.tracking)):
        for run in filter(store.has_run, runs):
            for file in files:
                store.log_file(run, file, "report")


if __name__ == "__main__":
    main()
