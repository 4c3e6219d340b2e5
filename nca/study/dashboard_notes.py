"""Markdown notes on a study and its trials for the Optuna dashboard."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nca.config.custom_class import custom_overrides
from nca.config.schema import TrialConfig, custom_classes, name_texture
from nca.outputs.verdict import DISTANCES
from nca.records.paths import RecordPaths
from sweeps.application import DashboardNotes
from sweeps.trials import TrialSummary

LOSS = "final_loss"  # shown whatever the objectives are
SHOWN_METRICS = (
    *DISTANCES,
    LOSS,
    "final_loss_median",
    "final_loss_relative",
    "last_distance",
    "last_loss",
    "distance_at_3000",
    "distance_after_damage",
    "seconds_per_step",
)


def make_notes(
    study: str,
    config: TrialConfig,
    paths: RecordPaths,
    links: Mapping[str, str],
    trials: Sequence[TrialSummary],
) -> DashboardNotes:
    """Return notes with params, results, links to MLflow and commands.

    Args:
        study: The study's name.
        config: Config of any trial.
        paths: Where records are.
        links: MLflow ids of the study.
        trials: All finished trials.
    """
    return DashboardNotes(
        describe_study(study, config, paths, links),
        {
            t.number: "\n\n".join(_describe_trial(study, t, paths, links, custom_classes(config)))
            for t in trials
        },
    )


def describe_study(
    study: str,
    config: TrialConfig,
    paths: RecordPaths,
    links: Mapping[str, str],
    space: Mapping[str, str] | None = None,
) -> str:
    """Return what a study is, what it searches, if that is given, and where its results are."""
    searched = {key.rpartition(".")[2]: domain for key, domain in (space or {}).items()}
    what, *where = _describe_study(study, config, paths, links)
    return "\n\n".join(filter(None, [what, _table("parameter", searched, "searched"), *where]))


def _describe_study(
    study: str, config: TrialConfig, paths: RecordPaths, links: Mapping[str, str]
) -> Iterator[str]:
    texture, train = config.texture, config.train
    yield (
        f"**{_plain(name_texture(texture))}** ({texture.source}), {train.size} px, {train.steps} steps, "
        f"model {config.model.name}, loss {config.loss.name}, features {config.features.name}"
    )
    if "mlflow_experiment_id" in links:
        experiment = links["mlflow_experiment_id"]
        table, charts = paths.study_url(experiment), paths.study_url(experiment, charts=True)
        yield f"MLflow, while `make ui` runs: [all trials]({table}), [outputs and losses]({charts})"
    yield f"All outputs: {_code(paths.command('analysis.gallery', f'study={study}'))}"


def _describe_trial(
    study: str, trial: TrialSummary, paths: RecordPaths, links: Mapping[str, str], own: Mapping[str, str]
) -> Iterator[str]:
    error = trial.attributes.get("error")
    if trial.number != trial.first_attempt:
        yield f"A later attempt at trial {trial.first_attempt}, as it is called everywhere else"
    yield f"**{trial.reason}**" if error is None else f"**{trial.reason}**: {_plain(str(error))}"
    yield _table("result", {key: trial.attributes[key] for key in SHOWN_METRICS if key in trial.attributes})
    yield _table("parameter", {key.rpartition(".")[2]: value for key, value in trial.params.items()})
    run = trial.attributes.get("mlflow_run_id")
    if run is None or "mlflow_experiment_id" not in links:
        yield f"Files: {_code(str(paths.study_folders(study)[0] / str(trial.first_attempt)))}"
        return
    experiment = links["mlflow_experiment_id"]
    page, viewer = (paths.mlflow_url(experiment, run, artifact) for artifact in (None, "viewer.html"))
    viewer_link = "" if "model" in own else f", [viewer]({viewer})"  # which runs our rules alone
    yield f"[MLflow run]({page}){viewer_link}, while `make ui` runs"
    yield _code(
        paths.command(
            "nca.render", f"run={run}", *custom_overrides(own, "model"), "size=512", "out=grown.png"
        )
    )
    yield f"{_code(paths.command('nca.train', f'run={run}', *custom_overrides(own)))} repeats it"


def _table(kind: str, values: Mapping[str, Any], what: str = "value") -> str:
    """Return a table of two columns, which a phone has room for; empty without values."""
    rows = [(kind, what), ("---", "---:")]
    for key, value in values.items():
        text = f"{value:.4g}" if isinstance(value, float) else _plain(str(value))
        rows.append((key.replace("_", " "), text))
    return "\n".join(f"| {name} | {text} |" for name, text in rows) if values else ""


def _plain(text: str) -> str:
    """Return a text without meaning in Markdown, HTML or TeX; an underscore within a word has none."""
    return re.sub(r"[\\`*\[\]<>&|~$]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)


def _code(text: str) -> str:
    """Return a text as code, between more backticks than it holds in a row."""
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " * (len(ticks) > 1)
    return f"{ticks}{space}{text}{space}{ticks}"
