"""`python -m nca.sweep`: an Optuna study of training runs; without -m a dry run that trains nothing."""

from __future__ import annotations

import importlib.util
import math
import os
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nca.cli.completion import answer_shell
from nca.cli.errors import EXIT_INTERRUPTED, ConfigError, exit_on_error
from nca.cli.options import PLAIN_FLAG, SWEEP_FLAGS, split_overrides
from nca.config.completion import complete_overrides
from nca.config.schema import ImageTexture, name_texture
from nca.loss.vgg_weights import check_weights, resolve_features
from nca.study.plan import Plan, has_study, make_plans, resolve
from sweeps import SweepError
from sweeps.space import describe, n_configurations

if TYPE_CHECKING:
    from sweeps.executors.base import Executor
    from sweeps.executors.slots import Slot
    from sweeps.spec import Summary

# Measured on roundleaf at 64 px, after 1,000 CA steps: docs/textures.md.
BETTER = "model=distill loss=sliced: better pictures sooner, texture distance 0.11 and not 0.42 after 3 min"


def run_studies(overrides: Sequence[str]) -> list[Summary]:
    """Run the studies of a command line one after the other.

    Raises:
        ConfigError: If the input is wrong; nothing is created then.
        SweepError: If a study cannot be opened, or too many trials fail for one reason.
    """
    from nca.study.checks import check_custom_parts, check_environment, check_inputs, separate_process
    from nca.study.spec import sweep_spec
    from nca.study.summary import describe_end, find_pictures
    from sweeps.coordinator import Coordinator
    from sweeps.progress import Progress

    asked = make_plans(overrides)
    with separate_process() as call:
        for plan in asked:
            for trial in plan.largest_trials:
                call(check_environment, trial, plan.config.executor.name == "ray")
            _check_device(plan)
        resolved = [resolve(plan) for plan in asked]
        for note in sorted(({plan.note for plan in asked} | {note for _, note in resolved}) - {""}):
            print(note)
        plans = [plan for plan, _ in resolved]
        inputs = [call(check_inputs, plan.config.trial) for plan in plans]
        for trial in (trial for plan in plans for trial in plan.custom_trials()):
            call(check_custom_parts, trial)
    specs = [sweep_spec(plan, _application(plan), found) for plan, found in zip(plans, inputs, strict=True)]
    executors = [_make_executor(plan) for plan in plans]
    summaries = []
    progress = Progress()
    for plan, spec, executor in zip(plans, specs, executors, strict=True):
        size = f"{_n_trials(plan)} trials, {executor.n_slots} at once"
        progress.print(f"study {plan.name}: {size}, {plan.config.sampler.name}")
        summaries.append(Coordinator(spec, executor, progress).run())
        for line in describe_end(plan, summaries[-1]):
            progress.print(line)
        progress.print_pictures(find_pictures(plan, summaries[-1]))
        if summaries[-1].interrupted and not summaries[-1].at_limit:
            break
    return summaries


def run_and_exit(overrides: Sequence[str]) -> None:
    """Run the studies of a command line and end the process.

    Raises:
        SystemExit: Always: 0 done, 1 no trial of a study is complete, 2 bad input, 130 stopped early.
    """
    with exit_on_error(SweepError, OSError):  # of a full or unwritable disk, for instance
        summaries = run_studies(overrides)
    if summaries[-1].interrupted and not summaries[-1].at_limit:
        raise SystemExit(EXIT_INTERRUPTED)
    raise SystemExit(0 if all(summary.best or summary.at_limit for summary in summaries) else 1)


def _application(plan: Plan) -> str:
    return f"nca.study.application:{'TextureSweep' if plan.config.trial.tracking.uri else 'UntrackedSweep'}"


def _make_executor(plan: Plan) -> Executor:
    """Return the executor of a plan; no trial is started.

    Raises:
        ConfigError: If its options do not go together.
        SweepError: If there is no cluster, or no room for a trial.
    """
    config = plan.config.executor
    if config.name == "local":
        from sweeps.executors.local import LocalExecutor

        return LocalExecutor(_make_slots(plan), _application(plan))
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("executor=ray: ray is not installed: pip install 'nca-sweep[ray]'")
    if config.threads == "auto":
        raise ConfigError("executor.threads=auto: the nodes of a cluster may differ; give a number")
    for key, address in (
        ("sweep.storage", plan.config.sweep.storage),
        ("tracking.uri", plan.config.trial.tracking.uri or ""),
    ):
        if config.storage_path is not None and address.startswith("sqlite"):
            raise ConfigError(
                f"{key}={address}: a file, which nodes that use executor.storage_path do not share; give the "
                "address of a server"
            )
    from sweeps.executors.ray import RayExecutor

    return RayExecutor(
        _application(plan),
        Path(plan.config.trial.runs_dir),
        str(config.address),
        config.workers,
        threads=config.threads,
        trials_per_gpu=0 if plan.config.trial.device == "cpu" else config.trials_per_gpu,
        needs_gpu=plan.config.trial.device.startswith("cuda"),
        storage_path=config.storage_path,
    )


def _check_device(plan: Plan) -> None:
    """Check that trials see the device of a plan: each sees one GPU, or none.

    Raises:
        ConfigError: If they do not.
    """
    device = plan.config.trial.device
    if device.startswith("cuda") and plan.config.executor.gpus == 0:
        raise ConfigError(f"device={device}: executor.gpus=0 hides all GPUs; give auto, or device=cpu")
    if device.startswith("cuda:") and device != "cuda:0":
        raise ConfigError(
            f"device={device}: each trial of a sweep sees one GPU; choose GPUs by CUDA_VISIBLE_DEVICES and "
            "give device=cuda"
        )


def _make_slots(plan: Plan) -> list[Slot]:
    """Return the slots of this machine."""
    from sweeps.executors.slots import make_slots

    executor = plan.config.executor
    assert executor.gpus is not None
    gpus = 0 if plan.config.trial.device == "cpu" else executor.gpus
    return make_slots(executor.workers, executor.threads, gpus, executor.trials_per_gpu)


def _n_trials(plan: Plan) -> int:
    return plan.config.sweep.n_trials if plan.space else 1


def dry_run(overrides: Sequence[str]) -> None:
    """Print what a sweep would do: space, totals, estimated time. Trains nothing, creates the preview alone.

    Raises:
        ConfigError: If a key is unknown, a value out of range, or the texture or the weights cannot be read.
        SweepError: If the sampler cannot draw from the space.
    """
    from nca.textures.load import check_name

    plans = make_plans(overrides)
    for plan in plans:
        _check_device(plan)
        check_name(plan.config.trial.texture)
        check_weights(plan.config.trial.features)
    squares = _view_targets(plans)
    for plan, square in zip(plans, squares, strict=True):
        config, trial = plan.config, plan.config.trial
        features = resolve_features(trial.features, trial.loss, use_network=False)
        undecided = trial.features.name == "auto" and features.name == "random_filters"
        named, n = plan.with_features(features), n_configurations(plan.space)
        seeds = f", {config.sweep.repeats} seeds each" if config.sweep.repeats > 1 else ""
        search = [("search", f"{key} = {domain}") for key, domain in describe(plan.space).items()]
        for label, text in (
            ("study", named.name),
            ("texture", f"{name_texture(trial.texture)} ({trial.texture.source}), {trial.train.size} px"),
            *([("target", square)] if square else []),
            ("model", trial.model.name),
            ("loss", trial.loss.name),
            ("features", features.name + " (vgg16 if its weights can be downloaded)" * undecided),
            *(search or [("search", "nothing: one trial with the fixed values")]),
            ("sampler", f"{config.sampler.name}, {'unlimited' if n == math.inf else int(n)} combinations"),
            ("pruner", config.pruner.name),
            ("trials", f"{_n_trials(plan)} of {trial.train.steps} steps{seeds}"),
            ("time", _estimate(named)),
        ):
            print(f"{label:10}{text}")
        if trial.model.name == "srnca" and trial.loss.name == "gram":
            print(f"{'see also':10}{BETTER}")
    for note in sorted({plan.note for plan in plans if plan.note}):
        print(f"{'images':10}{note}")
    if any(squares):
        print(f"{'preview':10}{plans[0].config.sweep.preview or 'sweep.preview=FILE.png shows the targets'}")
    print("nothing was started; add -m to start")


def _view_targets(plans: Sequence[Plan]) -> list[str]:
    """Read the images of plans, and write their preview if one is asked for.

    Returns:
        For each plan which square of its image is the target; empty for other textures without a preview.

    Raises:
        ConfigError: If an image cannot be read or has no such square, or the preview cannot be written.
    """
    from nca.cli.options import atomic_output
    from nca.textures import preview

    out = plans[0].config.sweep.preview
    texts: dict[tuple[str, int], str] = {}
    rows = []
    for plan in plans:
        texture, size = plan.config.trial.texture, plan.config.trial.train.size
        if (repr(texture), size) in texts or not (out or isinstance(texture, ImageTexture)):
            continue
        view = preview.view_target(texture, size)
        texts[repr(texture), size] = preview.describe_view(view)
        rows += [preview.draw_row(name_texture(texture), view)] if out else []
    if out:
        with atomic_output(Path(out).expanduser()) as partial:
            preview.join_rows(rows).save(partial)
    trials = [plan.config.trial for plan in plans]
    return [texts.get((repr(trial.texture), trial.train.size), "") for trial in trials]


def _estimate(plan: Plan) -> str:
    """Return the time left, estimated from the seconds per step of finished trials."""
    config = plan.config
    if not has_study(plan):
        return "not known before the first trial has run"
    from sweeps.admin import Studies
    from sweeps.progress import format_duration

    finished = Studies(config.sweep.storage).trials(plan.name)
    paces = [pace for trial in finished if (pace := trial.attributes.get("seconds_per_step")) is not None]
    left = max(0, _n_trials(plan) - len(finished))
    if not paces:
        return f"{left} trials left, not known before the first trial has run"
    workers = config.executor.workers
    if config.executor.name == "ray" and workers == "auto":
        return f"{left} trials left, as many at once as the cluster has room for"
    slots = len(_make_slots(plan)) if workers == "auto" else workers
    pace = statistics.fmean(paces)
    seconds = pace * config.trial.train.steps * config.sweep.repeats * -(-left // slots)
    return (
        f"about {format_duration(seconds)} for the {left} trials left, {pace:.3g} s a step, {slots} at once"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the entry point; exit code 0 done, 2 bad input, 130 stopped before its total."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if PLAIN_FLAG in argv:
        os.environ["TERM"] = "dumb"
        argv = [word for word in argv if word != PLAIN_FLAG]
    with exit_on_error(SweepError):
        if answer_shell(argv, partial(complete_overrides, "sweep")):
            return
        flags, overrides = split_overrides(argv)
        if not flags:
            dry_run(overrides)
            return
        from nca.config.compose import run_hydra

        if SWEEP_FLAGS.intersection(flags):
            make_plans(overrides)  # refuses mistakes in one line; Hydra's messages are longer
        run_hydra("sweep", flags, overrides)


if __name__ == "__main__":
    main()
