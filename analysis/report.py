"""`python -m analysis.report study=S`: the figures of studies, with statistics, in one HTML file.

It opens with the best outputs beside their targets. A figure that has too few trials is replaced by a
sentence that tells what to run; a section of such sentences alone stands at the end.
"""

from __future__ import annotations

import base64
import functools
import html
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis import WEIGHTS, WEIGHTS_OPTION, check_extra
from nca.cli.errors import ConfigError, exit_on_error, nearest
from nca.cli.options import Command, atomic_output, read_out_path
from nca.cli.progress import watch
from nca.records.paths import RECORD_OPTIONS, read_record_paths
from sweeps import SweepError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.figures.drawing import Outcome, Plot
    from analysis.runs import StudyTable
    from nca.records.paths import RecordPaths

COMMAND = Command(
    "analysis.report",
    "Write a report of studies, with every figure; give study= or exported=.",
    {
        "study": "name of the study, or names as A,B",
        "exported": "folder that analysis.export has written; study= chooses from it, default all",
        "by": "metric that figures show, such as distance_at_1000; default what is minimized",
        **WEIGHTS_OPTION,
        "out": "folder to write; default report-STUDY",
        **RECORD_OPTIONS,
    },
)
TEMPLATES = Path(__file__).with_name("assets")
PAGE = "report.html"
N_SECTIONS = 10


@dataclass(frozen=True)
class Section:
    """A section of the report, in the order of its parts.

    Args:
        title: Heading.
        plots: Figures, or sentences in their place.
        html: HTML of an interactive figure.
        best: End of the heading of the table of the best trials, and its rows.
        notes: Sentences.
    """

    title: str
    plots: Sequence[Plot | str]
    html: str = ""
    best: tuple[str, Sequence[dict[str, Any]]] = ("", ())
    notes: Sequence[str] = ()

    @property
    def wanting(self) -> bool:
        """Whether it has only sentences in place of figures."""
        return all(isinstance(plot, str) for plot in self.plots) and not (self.html or self.best[1])


@exit_on_error(SweepError, OSError)
def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report and print its name; exit code 2 on bad input."""  # noqa: DOC501 - it ends the process
    options = COMMAND.read(arguments).options
    if not options.keys() & {"study", "exported"}:
        raise COMMAND.error("give study=NAME or exported=FOLDER")
    source = options.get("study", options.get("exported", ""))
    out = read_out_path(options, "out", f"report-{Path(source.split(',')[0]).name}")
    check_extra()
    from analysis.export_folder import read_exported
    from analysis.figures.drawing import FINAL_LOSS, OUTCOMES
    from analysis.measures import measure_outputs
    from analysis.runs import read_study

    by, shown = options.get("by"), [FINAL_LOSS.column, *(outcome.column for outcome in OUTCOMES)]
    if by is not None and by not in shown:
        raise ConfigError(f"by={by}: must be one of {', '.join(shown)}{nearest(by, shown)}")
    paths = read_record_paths(options)
    names = options["study"].split(",") if "study" in options else []
    if "exported" in options:
        tables = select(read_exported(Path(options["exported"]).expanduser()), names)
    else:
        tables = [read_study(paths, name) for name in names]
    if all(table.trials.empty for table in tables):
        raise ConfigError(f"{source}: no trial has ended yet")
    tables = [measure_outputs(table, options.get(WEIGHTS)) for table in tables]
    with atomic_output(out) as partial:
        write_report(tables, paths, partial, by)
        files = sorted(file.name for file in partial.iterdir())
    _log(tables, paths, [out / name for name in files])
    print(out / PAGE)


def select(tables: Sequence[StudyTable], names: Sequence[str]) -> list[StudyTable]:
    """Return the exported studies with these names, in their order; all if there are no names.

    Raises:
        ConfigError: If one was not exported.
    """
    known = {table.name: table for table in tables}
    for name in names:
        if name not in known:
            raise ConfigError(f"study={name}: is not among the exported ones: {', '.join(known)}")
    return [known[name] for name in names or known]


def write_report(tables: Sequence[StudyTable], paths: RecordPaths, out: Path, by: str | None = None) -> Path:
    """Write the report and its figures into a folder, replacing older files; return the page.

    Args:
        tables: The studies.
        paths: Where records are.
        out: The folder.
        by: Column that the figures show; None: what the main study minimizes.

    Raises:
        ConfigError: If a complete trial has no such value, or one that is not above 0.
    """
    from jinja2 import Environment, FileSystemLoader
    from matplotlib import rc_context

    from analysis.figures.drawing import STYLE
    from analysis.figures.examples import list_openings
    from analysis.runs import mark_textures

    tables = mark_textures(tables)

    out.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE):
        sections = list(watch(make_sections(tables, paths, by), N_SECTIONS, "drawing"))
        shown = [(each, [_save(plot, out) for plot in each.plots]) for each in sections if not each.wanting]
    main_study = max(tables, key=lambda table: len(table.trials)).name
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
    environment.filters["code"] = functools.partial(_format_code, study=main_study)
    page = out / PAGE
    page.write_text(
        environment.get_template(PAGE).render(
            title=main_study if len(tables) == 1 else f"{main_study} and {len(tables) - 1} more",
            facts=list(map(_describe, tables)),
            openings=list_openings(tables),
            sections=shown,
            wanting=[(each.title, [*each.plots, *each.notes]) for each in sections if each.wanting],
            made=datetime.now().strftime("%Y-%m-%d %H:%M"),
        ),
        encoding="utf-8",
    )
    return page


def make_sections(
    tables: Sequence[StudyTable], paths: RecordPaths, by: str | None = None
) -> Iterator[Section]:
    """Yield the sections of the report. The study with the most trials is the main one.

    Args:
        tables: The studies.
        paths: Where records are.
        by: As in `write_report`.

    Raises:
        ConfigError: As in `write_report`.
    """
    import pandas as pd

    from analysis.figures import comparisons, examples, parameters
    from analysis.figures.drawing import LOSS, choose_outcome
    from analysis.figures.measures import plot_measures
    from analysis.figures.studies import plot_studies
    from analysis.ratings.agreement import describe_agreement
    from analysis.runs import join_studies

    trials = join_studies(tables)
    main = max(tables, key=lambda table: len(table.trials))
    complete = trials[trials["reason"] == "complete"].dropna(subset=[LOSS])
    unsuggested = complete[complete["suggested_by"].isna()]
    outcome = choose_outcome(by or main.objectives[0], complete)
    if by is not None and outcome.column != by:
        raise ConfigError(f"by={by}: not every complete trial has it, above 0; give another one, or none")
    name = outcome.name
    comparable = unsuggested["terms"] == trials.loc[trials["study"] == main.name, "terms"].iloc[0]
    compared, not_compared = unsuggested[comparable], sorted(set(unsuggested.loc[~comparable, "study"]))
    notes = [f"Not compared with {main.name} because of other fixed values: {', '.join(not_compared)}."]
    plots = [comparisons.plot_losses_by_texture(compared, outcome)]
    yield Section(f"{name[0].upper()}{name[1:]} by texture", plots, notes=notes if not_compared else [])
    yield Section("Studies of one texture beside each other", [plot_studies(complete, tables)])
    rated = compared if outcome.column == LOSS else unsuggested  # distances compare any two losses
    plots = [comparisons.plot_rating_against_loss(rated, outcome), examples.plot_examples(tables)]
    notes = list(describe_agreement([table.ratings for table in tables]))
    yield Section(f"Rating against {name}", plots, notes=notes)
    yield Section("Which measure sees what a viewer sees", [plot_measures(unsuggested)])
    tried = complete[complete["study"] == main.name].dropna(subset=main.params)
    yield from _analyze_parameters(main, tried, compared[compared["texture"] == main.texture], outcome)
    first = "roundleaf" if "roundleaf" in set(compared["texture"]) else str(compared["texture"].min())
    plots = [comparisons.plot_texture_against_texture(compared, first, outcome)]
    yield Section("One texture against another", plots)
    yield Section("Published configurations on all textures", [examples.plot_published(tables)])
    yield Section(f"Suggestions that were tried: {main.name}", [comparisons.plot_suggestions(tried, outcome)])
    curves = pd.concat([table.curves.assign(study=table.name) for table in tables])
    plots = [parameters.plot_curves(curves[["study", "trial", "step", "loss"]], trials)]
    order = examples.choose_order(complete)
    best = f", by {examples.ORDERS[order]}", examples.list_best(complete, tables, paths, order)
    notes = [*describe_costs(trials), *describe_noise(compared, outcome)]
    yield Section("Curves, costs, the best", plots, best=best, notes=notes)


def _analyze_parameters(
    main: StudyTable, tried: pd.DataFrame, history: pd.DataFrame, outcome: Outcome
) -> Iterator[Section]:
    from analysis.figures import parameters
    from analysis.figures.clusters import plot_clusters
    from analysis.figures.drawing import MIN_TRIALS, RATING
    from analysis.figures.importances import plot_importances
    from analysis.unit_cube import UnitCube

    own = tried[tried["suggested_by"].isna()]
    searched = [name for name in main.params if own[name].nunique() > 1]
    distributions = {name: main.distributions[name] for name in searched}
    cube = UnitCube(distributions)
    points = cube.encode(own[searched].to_dict("records"))
    n_pruned = int((main.trials["reason"] == "pruned").sum())
    counts = {"pruned (no final loss)": n_pruned, "suggested (below)": len(tried) - len(own)}
    left_out = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    is_rated = own["rating"].nunique() > 1 and own["rating"].count() >= MIN_TRIALS
    plots = [
        parameters.plot_parameters(own, searched, [f"Left out: {left_out}."] if left_out else [], outcome),
        *([parameters.plot_parameters(own, searched, outcome=RATING)] if is_rated else []),
        plot_importances(own, points, distributions, outcome),
        parameters.plot_interactions(points, searched, own[outcome.column].to_numpy(float), outcome),
        parameters.plot_history(history, outcome),
    ]
    parallel = parameters.plot_parallel(own, searched, outcome)
    yield Section(f"Each parameter against {outcome.name}: {main.name}", plots, html=parallel)
    yield Section(f"Clusters of configurations: {main.name}", [plot_clusters(points, cube, own, outcome)])


def describe_costs(trials: pd.DataFrame) -> Iterator[str]:
    """Yield the number of trials, training steps and hours, and why trials failed."""
    from sweeps.progress import format_duration

    n_steps = int(trials["n_steps"].fillna(0).sum()) if "n_steps" in trials else 0
    seconds = float(trials["seconds"].fillna(0).sum())
    yield f"{len(trials)} trials, {n_steps} training steps, {format_duration(seconds)} of computing time."
    failed = trials[~trials["reason"].isin(["complete", "pruned", "stopped"])]
    reasons = ", ".join(f"{count} {reason}" for reason, count in failed["reason"].value_counts().items())
    yield f"Failed: {reasons or 'none'}."


def describe_noise(trials: pd.DataFrame, outcome: Outcome) -> Iterator[str]:
    """Yield the standard deviations between configurations, seeds and last steps, for each texture."""
    import numpy as np

    from analysis.figures.comparisons import MIN_SHARED
    from analysis.figures.drawing import LOSS, format_texture

    found, of_seeds = [], f"{outcome.column}_of_seeds"
    for texture, each in trials.groupby("texture"):
        if each["configuration"].nunique() < MIN_SHARED:
            continue
        parts = [f"{np.log10(each[outcome.column]).std():.2f} between configurations"]
        if of_seeds in each and each[of_seeds].notna().any():
            seeds = [np.log10(json.loads(text)) for text in each[of_seeds].dropna()]
            of_one = np.sqrt(np.mean([logs.var(ddof=1) for logs in seeds]))
            part = f"{of_one:.2f} between {len(seeds[0])} seeds of {len(seeds)} configurations"
            if len(seeds) > 1:
                part += f", whose means differ by {np.std([logs.mean() for logs in seeds], ddof=1):.2f}"
            parts.append(part)
        if outcome.column == LOSS and "final_loss_median" in each:
            ratio = np.log10(each["final_loss"] / each["final_loss_median"]).dropna()
            last = f"{ratio.std():.2f} between the last step and the median of the last 256 steps"
            parts.append(f"{last} (mean {ratio.mean():+.2f})")
        found.append(f"{format_texture(texture)}: {', '.join(parts)}")
    if found:
        yield f"Standard deviations of the {outcome.name} in orders of magnitude. {'; '.join(found)}."
    if of_seeds not in trials or trials[of_seeds].isna().all():
        yield "The variation between seeds is unknown: train each configuration with `sweep.repeats=3`."


def _describe(table: StudyTable) -> str:
    fixed = table.fixed
    return (
        f"{table.name}: {table.texture} ({fixed.get('texture.source', 'own')}), "
        f"{fixed.get('train.size')} px, {fixed.get('train.steps')} steps, model {fixed.get('model.name')}, "
        f"loss {fixed.get('loss.name', 'gram')}, features {fixed.get('features.name')}; "
        f"{len(table.trials)} finished trials"
    )


def _format_code(text: str, study: str) -> str:
    """Return a sentence as HTML: text in backticks is code, `study=STUDY` names the study."""
    from markupsafe import Markup

    marked = re.sub("`(.*?)`", r"<code>\1</code>", html.escape(text, quote=False))
    return Markup(marked.replace("study=STUDY", html.escape(shlex.quote(f"study={study}"), quote=False)))


def _save(plot: Plot | str, out: Path) -> dict[str, Any]:
    """Write a figure as PNG, SVG and CSV; return its caption, data URL and table, or a sentence alone."""
    if isinstance(plot, str):
        return {"text": plot}
    plot.figure.savefig(out / f"{plot.name}.png")
    plot.figure.savefig(out / f"{plot.name}.svg")
    plot.data.to_csv(out / f"{plot.name}.csv", index=False)
    png = base64.b64encode((out / f"{plot.name}.png").read_bytes()).decode()
    shown = {"text": " ".join(plot.text), "file": f"{plot.name}.png", "url": f"data:image/png;base64,{png}"}
    return shown | ({} if plot.table is None else {"table": plot.table.to_dict("split")})


def _log(tables: Sequence[StudyTable], paths: RecordPaths, files: Sequence[Path]) -> None:
    """Store the files as artifacts of each study's parent run."""
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
