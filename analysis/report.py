"""`python -m analysis.report study=S`: everything the plant study showed, in one HTML file and as figures.

Several studies are separated by commas. Too few data for a figure give a sentence that says what to run.
"""

from __future__ import annotations

import base64
import functools
import html
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nca.options import PLACES, read_options, read_out, read_places, writing
from nca.schema import ConfigError, exit_on_error
from sweeps import SweepError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.figures import Drawn
    from analysis.runs import StudyTable
    from nca.places import Places

__all__ = ["check_extra", "main", "write_report"]

USAGE = (
    "python -m analysis.report study=NAME[,NAME...]|exported=FOLDER [out=FOLDER] [runs_dir=mlruns] "
    "[sweep.storage=ADDRESS] [tracking.uri=ADDRESS|none]"
)
TEMPLATES = Path(__file__).with_name("assets")
PAGE = "report.html"
BEST = 10  # trials of the table
FEWEST_SHARED = 4  # outputs that two raters must have rated to be compared


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
    words = list(sys.argv[1:] if arguments is None else arguments)
    with exit_on_error(SweepError, OSError):
        options = read_options(words, ("study", "exported", "out", *PLACES), USAGE)
        if ("study" in options) == ("exported" in options):
            raise ConfigError(f"say which study, or which exported folder: {USAGE}")
        source = options.get("study", options.get("exported", ""))
        out = read_out(options, "out", f"report-{Path(source.split(',')[0]).name}")
        check_extra()
        from analysis.exported import read_exported
        from analysis.runs import read_study

        places = read_places(options)
        if "study" in options:
            tables = [read_study(places, name) for name in source.split(",")]
        else:
            tables = read_exported(Path(source).expanduser())
        if all(table.trials.empty for table in tables):
            raise ConfigError(f"{source}: no trial has ended yet")
        with writing(out) as partial:
            write_report(tables, places, partial)
        _log(tables, places, out)
        print(out / PAGE)


def check_extra() -> None:
    """Refuse to begin where the packages of the extra are missing.

    Raises:
        ConfigError: If so.
    """
    import importlib.util

    needed = ("jinja2", "plotly", "seaborn", "sklearn", "statsmodels", "umap")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)} not installed: pip install 'nca-sweep[analysis]'")


def write_report(tables: Sequence[StudyTable], places: Places, out: Path) -> Path:
    """Draw everything into a folder and return the page.

    Args:
        tables: The studies.
        places: Where records are.
        out: Created where missing; files of that name are replaced.
    """
    from jinja2 import Environment, FileSystemLoader

    from analysis.figures import styled

    out.mkdir(parents=True, exist_ok=True)
    with styled():
        sections = list(make_sections(tables, places))
        for section in sections:
            section.figures = [_save(each, out) for each in section.drawn]
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
    main_study = max(tables, key=lambda table: len(table.trials)).name
    environment.filters["spoken"] = functools.partial(_mark_commands, study=main_study)
    page = out / PAGE
    page.write_text(
        environment.get_template(PAGE).render(
            title=", ".join(table.name for table in tables),
            facts=list(_describe(tables)),
            sections=sections,
            made=datetime.now().strftime("%Y-%m-%d %H:%M"),
        ),
        encoding="utf-8",
    )
    return page


def make_sections(tables: Sequence[StudyTable], places: Places) -> Iterator[Section]:
    """Yield the parts of the report."""
    import numpy as np

    from analysis import comparisons, figures
    from analysis.clusters import FEWEST, find_clusters, plot_clusters
    from analysis.cube import Cube
    from analysis.importances import importances
    from analysis.interactive import plot_parallel
    from analysis.pictures import best_table, plot_examples, plot_published_sets

    everything = join(tables)
    complete = everything[everything["reason"] == "complete"].dropna(subset=[figures.LOSS])
    distributions = {name: each for table in tables for name, each in table.distributions.items()}
    params = [name for name in sorted(distributions) if name in complete]
    main_study = max(tables, key=lambda table: len(table.trials)).name
    own = complete[complete["study"] == main_study].dropna(subset=params)
    searched = [name for name in params if own[name].nunique() > 1]
    cube = Cube({name: distributions[name] for name in searched})
    points = cube.encode(own[searched].to_dict("records"))

    yield Section("Final losses by texture", [comparisons.plot_losses_by_texture(complete, params)])
    ratings = [comparisons.plot_rating_against_loss(complete), plot_examples(tables)]
    yield Section("Rating against final loss", ratings, notes=list(agreement(tables)))
    yield Section(
        f"Each parameter against final loss: {main_study}",
        [
            figures.plot_parameters(own, searched),
            figures.plot_importances(own, {name: distributions[name] for name in searched}, importances),
            figures.plot_interactions(points, cube.names, own[figures.LOSS].to_numpy(float)),
            figures.plot_history(complete[complete["texture"].isin(set(own["texture"]))]),
        ],
        plot_parallel(own, searched),
    )
    clusters: Drawn | str = (
        f"{figures.count_complete(own)}; clusters take {FEWEST}, and two parameters that vary. {figures.MORE}"
    )
    if len(own) >= FEWEST and len(searched) > 1 and len(np.unique(points, axis=0)) >= FEWEST:
        clusters = plot_clusters(find_clusters(points, cube.names), own)
    yield Section(f"Clusters of parameter sets: {main_study}", [clusters])
    first = "roundleaf" if "roundleaf" in set(complete["texture"]) else str(complete["texture"].min())
    yield Section(
        "One texture against another", [comparisons.plot_texture_against_texture(complete, params, first)]
    )
    yield Section("Published sets on all textures", [plot_published_sets(tables)])
    yield Section(f"Suggestions that were tried: {main_study}", [comparisons.plot_suggestions(own)])
    curves = {(table.name, trial): curve for table in tables for trial, curve in table.curves.items()}
    yield Section(
        "Curves, costs, the best",
        [figures.plot_curves(curves, everything)],
        best_table(tables, places, BEST),
        list(costs(everything)),
    )


def agreement(tables: Sequence[StudyTable]) -> Iterator[str]:
    """Yield how well raters agree with themselves, at a second look, and with each other."""
    from analysis.ratings import group, means_by_trial, self_agreement
    from analysis.statistics import correlate

    for table in tables:
        by_rater = group(table.ratings, "rater")
        for rater, given in by_rater.items():
            pairs = self_agreement(given)
            if pairs:
                apart = sum(abs(first - second) for first, second in pairs) / len(pairs)
                twice = f"{rater} looked at {len(pairs)} outputs twice"
                yield f"{table.name}: {twice}; the two ratings are {apart:.2g} apart on average."
        for one, other in itertools.combinations(by_rater, 2):
            first, second = means_by_trial(by_rater[one]), means_by_trial(by_rater[other])
            both = sorted(first.keys() & second.keys())
            if len(both) >= FEWEST_SHARED:
                x, y = [first[trial] for trial in both], [second[trial] for trial in both]
                apart = sum(abs(a - b) for a, b in zip(x, y, strict=True)) / len(both)
                said = f"{one} and {other} both rated {len(both)} outputs, {apart:.2g} apart on average"
                if len(set(x)) > 1 and len(set(y)) > 1:
                    said += f", rank correlation {correlate(x, y, 'spearman')}"
                yield f"{table.name}: {said}."


def join(tables: Sequence[StudyTable]) -> pd.DataFrame:
    """Return all trials of several studies, with the columns `study` and `texture`."""
    import pandas as pd

    parts = []
    for table in tables:
        part = table.trials.copy()
        part.insert(0, "study", table.name)
        part["texture"] = table.fixed.get("texture.name", table.name)
        parts.append(part)
    filled = [part for part in parts if not part.empty]
    joined = pd.concat(filled, ignore_index=True)
    if "final_loss" not in joined:
        joined["final_loss"] = float("nan")
    return joined


def costs(trials: pd.DataFrame) -> Iterator[str]:
    """Yield what was spent, how trials failed, and how noise compares with the differences between sets."""
    import numpy as np

    from sweeps.progress import format_duration

    n_steps = int(trials["n_steps"].fillna(0).sum()) if "n_steps" in trials else 0
    seconds = float(trials["seconds"].fillna(0).sum())
    yield f"{len(trials)} trials, {n_steps} training steps, {format_duration(seconds)} of computing in all."
    failed = trials[~trials["reason"].isin(["complete", "pruned", "stopped"])]
    reasons = ", ".join(f"{count} {reason}" for reason, count in failed["reason"].value_counts().items())
    yield f"Failed: {reasons or 'none'}."
    complete = trials[trials["reason"] == "complete"]
    if {"final_loss", "final_loss_median"} <= set(complete.columns) and len(complete) > 2:
        logs = np.log10(complete[["final_loss", "final_loss_median"]].dropna())
        draw = float((logs["final_loss"] - logs["final_loss_median"]).std())
        between = float(logs["final_loss_median"].std())
        yield (
            f"Noise: the last step's loss differs from the median of the last 256 by {draw:.2f} orders of "
            f"magnitude (standard deviation), sets differ by {between:.2f}."
        )
    if "final_loss_sd" in complete and complete["final_loss_sd"].notna().any():
        share = float((complete["final_loss_sd"] / complete["final_loss"]).median())
        yield f"Seeds of one set differ by {share:.0%} (standard deviation over mean, median of the sets)."
    else:
        yield "How much seeds differ is not known: `sweep.repeats=3` trains every set with three."


def _describe(tables: Sequence[StudyTable]) -> Iterator[str]:
    for table in tables:
        fixed = table.fixed
        yield (
            f"{table.name}: {fixed.get('texture.name')} ({fixed.get('texture.source', 'own')}), "
            f"{fixed.get('train.size')} px, {fixed.get('train.steps')} steps, model "
            f"{fixed.get('model.name')}, features {fixed.get('features.name')}; {len(table.trials)} trials "
            "have ended"
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


def _log(tables: Sequence[StudyTable], places: Places, out: Path) -> None:
    """Put the report among the artifacts of each study's parent run."""
    from nca.tracking import one_line

    runs = [table.links["mlflow_run_id"] for table in tables if "mlflow_run_id" in table.links]
    store = places.open_tracking() if runs else None
    if store is None:
        return
    with one_line(str(places.tracking)):
        for run in filter(store.has_run, runs):
            store.log_folder(run, out, "report")


if __name__ == "__main__":
    main()
