"""The last lines of a sweep: how its trials ended, the best ones, and commands to go on with."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from nca.config.custom_class import custom_overrides
from nca.config.schema import TrainConfig, custom_classes
from nca.outputs.verdict import DISTANCES, GOOD, describe_distance, judged_distance
from nca.records.paths import DASHBOARD, MODEL, RecordPaths
from nca.study.plan import Plan
from nca.tracking.outbox import find_outboxes
from sweeps.assignment import TARGET_FILE
from sweeps.pictures import Picture
from sweeps.progress import format_params
from sweeps.spec import Summary
from sweeps.trials import TrialSummary, first_attempt, summarize

RANKS = ("best:", "2nd:", "3rd:")
LARGER = ("size=512", "out=grown.png")
SHOWN_FRONT = 10  # trials of a Pareto front


def describe_end(plan: Plan, summary: Summary) -> Iterator[str]:
    """Yield the last lines of a sweep of a study."""
    ended = ", ".join(f"{count} {reason}" for reason, count in sorted(summary.counts.items()))
    yield f"study {plan.name}: {ended or 'no finished trials'}"
    if summary.pruned_after:
        yield _describe_pruning(plan, summary)
    for rank, trial in zip(RANKS, summary.ranking, strict=False):
        yield f"{rank} {_describe(plan, summarize(trial))}"
    if summary.best is not None and (distance := judged_distance(summary.best.user_attrs)) is not None:
        yield f"result: {_judge(plan, distance)}"
    if len(plan.config.sweep.objectives) > 1:
        yield from _describe_front(plan, summary)
    yield from _describe_paths(plan, summary)
    if summary.at_limit:
        yield "stopped at its limit: run the same command with a larger one to continue"
    elif summary.interrupted:
        yield "stopped before its total: run the same command to continue"
    else:
        yield "more trials: run the same command with a larger sweep.n_trials" if plan.space else "done"


def _describe_front(plan: Plan, summary: Summary) -> Iterator[str]:
    yield f"Pareto front: {len(summary.front)} trials that no other trial beats in every objective"
    for trial in summary.front[:SHOWN_FRONT]:
        yield f"  {_describe(plan, summarize(trial))}"
    if len(summary.front) > SHOWN_FRONT:
        yield f"  and {len(summary.front) - SHOWN_FRONT} more, in the dashboard"


def _judge(plan: Plan, distance: float) -> str:
    """Return whether the best texture is good, and how to get a better one."""
    text, trial = f"{describe_distance(distance)} (texture distance {distance:.2g})", plan.config.trial
    if distance <= GOOD:
        return text
    if trial.model.name == "srnca":
        return f"{text}; experiment=distill grows better textures sooner"
    return f"{text}; for a better one, train more trials, or longer ones: {' '.join(_longer(trial.train))}"


def _longer(train: TrainConfig) -> list[str]:
    """Return the overrides for twice the steps, with drops of the learning rate in proportion."""
    drops = ",".join(str(2 * step) for step in train.drop_steps or ())
    return [f"train.steps={2 * train.steps}", *([f"train.drop_steps=[{drops}]"] if drops else ())]


def find_pictures(plan: Plan, summary: Summary) -> list[Picture]:
    """Return the pictures of the target and of the best outputs; their files may be missing."""
    trials, _ = _record_paths(plan).study_folders(plan.name)
    folders = [trials / str(first_attempt(trial)) for trial in summary.ranking[: len(RANKS)]]
    outputs = [
        Picture(f"{rank} trial {first_attempt(trial)}", folder / "output.png")
        for rank, trial, folder in zip(RANKS, summary.ranking, folders, strict=False)
    ]
    return [Picture("target", folder / TARGET_FILE) for folder in folders[:1]] + outputs


def _record_paths(plan: Plan) -> RecordPaths:
    trial = plan.config.trial
    return RecordPaths(Path(trial.runs_dir).absolute(), plan.config.sweep.storage, trial.tracking.uri)


def _describe_pruning(plan: Plan, summary: Summary) -> str:
    whole = plan.config.trial.train.steps * plan.config.sweep.repeats
    n_saved = sum(whole - n_steps for n_steps in summary.pruned_after)
    n_all = whole * sum(summary.counts.get(reason, 0) for reason in ("complete", "pruned"))
    return f"pruning saved {n_saved} of {n_all} training steps ({n_saved / n_all:.0%})"


def _describe_paths(plan: Plan, summary: Summary) -> Iterator[str]:
    """Yield files, commands, and addresses of the servers that `make` starts."""
    best, trial = summary.best, plan.config.trial
    paths = _record_paths(plan)
    trials, artifacts = paths.study_folders(plan.name)
    overrides = [word for word in paths.cli_overrides() if not word.startswith("tracking.uri")]
    uri, experiment = trial.tracking.uri, summary.links.get("mlflow_experiment_id")
    at_server = uri is not None and uri.startswith("http")
    if best is not None:
        yield f"best output: {trials / str(first_attempt(best)) / 'output.png'}"
        run = str(best.user_attrs.get("mlflow_run_id"))
        files, own = artifacts / run / "artifacts", custom_classes(trial)
        if (files / MODEL).exists() or (at_server and "mlflow_run_id" in best.user_attrs):
            if "model" not in own:
                url = paths.mlflow_url(str(experiment), run, "viewer.html")
                yield f"viewer: {url if at_server else files / 'viewer.html'}"
            larger = [f"run={run}", *custom_overrides(own, "model"), *LARGER]
            yield f"render: {paths.command('nca.render', *larger)}"
            words = [f"run={run}", *custom_overrides(own)]
            if trial.train.keep_checkpoint:
                yield f"continue: {paths.command('nca.train', *words, _longer(trial.train)[0])}"
            else:
                again = paths.command("nca.train", *words, *_longer(trial.train))
                yield f"train again from step 0, twice as long: {again}"
    if uri is not None and experiment is not None:
        start = "" if at_server else f"make ui{_serve(overrides[:1])}, "
        yield f"MLflow: {start}{paths.study_url(experiment)}"
    if uri is not None and (waiting := find_outboxes(trials, uri)):
        deliver = shlex.join(["deliver", f"tracking.uri={uri}", f"runs_dir={paths.runs}"])
        yield f"{len(waiting)} runs have records that wait for MLflow: python -m nca.studies {deliver}"
    yield f"Optuna: make dashboard{_serve(overrides)}, {DASHBOARD}"
    if best is not None:
        yield f"gallery: {paths.command('analysis.gallery', f'study={plan.name}')}"
        yield f"report: {paths.command('analysis.report', f'study={plan.name}')}"
        yield f"rate: {paths.command('analysis.rate', f'study={plan.name}')}"


def _serve(overrides: Sequence[str]) -> str:
    return f" SERVE={shlex.quote(shlex.join(overrides))}" if overrides else ""


def _describe(plan: Plan, trial: TrialSummary) -> str:
    """Return a trial's number, its objectives, its texture distances, and its parameters."""
    shown: dict[str, float] = dict(zip(plan.config.sweep.objectives, trial.values, strict=True))
    for name in DISTANCES:
        if name in trial.attributes:
            shown.setdefault(name, trial.attributes[name])
    names = [DISTANCES.get(name, name.replace("_", " ")) for name in shown]
    texts = [f"{name} {value:.6g}" for name, value in zip(names, shown.values(), strict=True)]
    return ", ".join([f"trial {trial.first_attempt}", *texts, format_params(trial.params)])
