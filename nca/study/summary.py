"""The last words of a sweep: what ended how, the best sets, where to look, what to run next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from nca.records.paths import DASHBOARD, RecordPaths
from nca.study.plan import Plan
from nca.tracking.outbox import find_outboxes
from sweeps.progress import format_params
from sweeps.spec import Summary
from sweeps.trials import first_attempt

__all__ = ["describe_end"]

SHOWN_SETS = 3  # of the best
SHOWN_FRONT = 10  # trials of a Pareto front


def describe_end(plan: Plan, summary: Summary) -> Iterator[str]:
    """Yield the last lines of a sweep of a study."""
    ended = ", ".join(f"{count} {reason}" for reason, count in sorted(summary.counts.items()))
    yield f"study {plan.name}: {ended or 'no trial ended'}"
    if summary.pruned_after:
        yield _describe_pruning(plan, summary)
    for rank, trial in enumerate(summary.ranking[:SHOWN_SETS]):
        label, values = "best:" if rank == 0 else "then:", _format_values(plan, trial.values)
        yield f"{label} trial {trial.number}, {values}, {format_params(trial.params)}"
    if len(plan.config.sweep.objectives) > 1:
        yield f"Pareto front, what no other trial beats in every objective: {len(summary.front)}"
        for trial in summary.front[:SHOWN_FRONT]:
            values = _format_values(plan, trial.values)
            yield f"  trial {trial.number}: {values}, {format_params(trial.params)}"
        if len(summary.front) > SHOWN_FRONT:
            yield f"  and {len(summary.front) - SHOWN_FRONT} more, in the dashboard"
    yield from _describe_paths(plan, summary)
    if summary.at_limit:
        yield "stopped at its limit; with a larger one the same command goes on"
    elif summary.interrupted:
        yield "stopped before its total; the same command goes on"
    else:
        yield "more trials: the same command with a larger sweep.n_trials" if plan.space else "done"


def _describe_pruning(plan: Plan, summary: Summary) -> str:
    whole = plan.config.trial.train.steps * plan.config.sweep.repeats
    n_saved = sum(whole - n_steps for n_steps in summary.pruned_after)
    n_all = whole * sum(summary.counts.get(reason, 0) for reason in ("complete", "pruned"))
    return f"pruning saved {n_saved} of {n_all} training steps ({n_saved / n_all:.0%})"


def _describe_paths(plan: Plan, summary: Summary) -> Iterator[str]:
    """Yield where to look, with addresses as the servers that `make` starts have them."""
    config, best, trial = plan.config, summary.best, plan.config.trial
    longer = f"train.steps={2 * trial.train.steps}"
    paths = RecordPaths(Path(trial.runs_dir).absolute(), config.sweep.storage, trial.tracking.uri)
    trials, artifacts = paths.study_folders(plan.name)
    words = [word for word in paths.cli_overrides() if not word.startswith("tracking.uri")]
    uri, experiment = trial.tracking.uri, summary.links.get("mlflow_experiment_id")
    at_server = uri is not None and uri.startswith("http")
    if best is not None:
        yield f"its output: {trials / str(first_attempt(best)) / 'output.png'}"
        run = str(best.user_attrs.get("mlflow_run_id"))
        viewer = artifacts / run / "artifacts" / "viewer.html"
        if viewer.exists() or (at_server and "mlflow_run_id" in best.user_attrs):
            url = paths.mlflow_url(str(experiment), run, viewer.name)
            yield f"it lives on: {url if at_server else viewer}"
            yield f"it grows: {paths.command('nca.render', f'run={run}', 'size=512', 'out=grown.png')}"
            yield f"it goes on: {paths.command('nca.train', f'run={run}', longer)}"
    if uri is not None and experiment is not None:
        start = "" if at_server else f"make ui{_serve(words[:1])}, "
        yield f"MLflow: {start}{paths.mlflow_url(experiment)}"
    if uri is not None and (waiting := find_outboxes(trials, uri)):
        deliver = f"deliver tracking.uri={uri} runs_dir={shlex.quote(str(paths.runs))}"
        yield f"{len(waiting)} runs have records for the MLflow server; python -m nca.studies {deliver}"
    yield f"Optuna: make dashboard{_serve(words)}, {DASHBOARD}"
    if best is not None:
        yield f"all outputs: {paths.command('analysis.gallery', f'study={plan.name}')}"
        yield f"every figure: {paths.command('analysis.report', f'study={plan.name}')}"
        yield f"rate them: {paths.command('analysis.rate', f'study={plan.name}')}"


def _serve(words: Sequence[str]) -> str:
    return f" SERVE={shlex.quote(shlex.join(words))}" if words else ""


def _format_values(plan: Plan, values: Sequence[float]) -> str:
    names = [name.replace("_", " ") for name in plan.config.sweep.objectives]
    return ", ".join(f"{name} {value:.6g}" for name, value in zip(names, values, strict=True))
