"""Rerun an earlier run from its records: exactly, for more steps, or with overrides."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from nca.cli.errors import ConfigError
from nca.cli.options import read_text
from nca.config.custom_class import check_named, is_custom_option
from nca.config.recorded import build_recorded
from nca.config.schema import TrialConfig, custom_classes, training_values
from nca.config.validation import build, set_value
from nca.records.paths import RecordPaths, read_record_paths

RERUN_OPTIONS = ("run", "study", "trial", "sweep.storage")  # keys of a command line that are not overrides
REQUIRED = {item.name for item in fields(TrialConfig) if item.default is MISSING} - {"loss"}  # of older runs
NEW_GROUPS = ("tracking", "outputs", "runs_dir")  # taken from the new command, not from the earlier run


@dataclass(frozen=True)
class Rerun:
    """A run that starts from the records of an earlier one.

    Args:
        config: Config of the new run.
        description: How it relates to the earlier run, in words.
        tags: MLflow tags of the new run.
        checkpoint: Final checkpoint of the earlier run to continue from; None to train from step 0.
        threads: CPU threads of the earlier run; None where unknown.
        inputs: Expected hashes of the texture and the weights, by tag; empty where they may differ.
    """

    config: TrialConfig
    description: str
    tags: Mapping[str, str]
    checkpoint: Path | None
    threads: int | None
    inputs: Mapping[str, str]

    def check_inputs(self, found: Mapping[str, str]) -> None:
        """Compare the hashes of the texture and the weights with those of the earlier run.

        Raises:
            ConfigError: If one differs.
        """
        for key, now in found.items():
            before = self.inputs.get(key, now)
            if before != now:
                raise ConfigError(
                    f"{self.description}: {key} {before} -> {now}, its file has changed since; restore it, "
                    "or train a new run"
                )

    def restore_to(self, folder: Path) -> None:
        """Copy the checkpoint into a folder without one, and use as many threads as the earlier run."""
        import torch

        if self.threads is not None and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(self.threads)
        checkpoints = folder / "checkpoints"
        if self.checkpoint is not None and not checkpoints.exists():
            checkpoints.mkdir(parents=True)
            partial = checkpoints / f"{self.checkpoint.name}.partial"
            shutil.copyfile(self.checkpoint, partial)
            partial.replace(checkpoints / self.checkpoint.name)


def parse_rerun(argv: Sequence[str]) -> Rerun:
    """Parse a command line with `run=ID`, or `study=NAME` and perhaps `trial=N` (default: the best trial).

    All other arguments are overrides. If they only increase `train.steps`, the run continues, and its
    learning rate drops at the step where it dropped before.

    Raises:
        ConfigError: If there is no such run, or an override is wrong.
        SweepError: If there is no such study.
    """
    from nca.config.compose import ANY_TEXTURE, compose_plain
    from nca.config.overrides import keys_of
    from nca.training.trainer import drop_steps

    pairs = (argument.partition("=") for argument in argv)
    options = {key: value for key, _, value in pairs if key in RERUN_OPTIONS}
    overrides = [argument for argument in argv if argument.partition("=")[0] not in RERUN_OPTIONS]
    keys = keys_of(overrides)
    if "experiment" in keys:
        raise ConfigError("experiment=: cannot be given with run= or study=; give the values one by one")
    composed = compose_plain("train", overrides if "texture" in keys else [ANY_TEXTURE, *overrides])
    paths = read_record_paths(
        {"runs_dir": composed["runs_dir"], "tracking.uri": composed["tracking"].get("uri") or "none"}
        | options
    )
    run = _find_run(paths, options)
    earlier = _read_config(paths.fetch(run, "config.yaml"), composed)
    for group, name in custom_classes(earlier).items():  # naming it lets its code run, and changes nothing
        if group not in keys or composed[group]["name"] == name:
            check_named(f"run={run}", group, name, composed[group]["name"])
            keys.remove(group)
    config = _override(earlier, composed, [*NEW_GROUPS, *keys])
    n_before, n_after = earlier.train.steps, config.train.steps
    checkpoint, tags = None, paths.run_tags(run)
    threads = int(tags["threads"]) if tags.get("threads", "").isdecimal() else None
    if n_after < n_before or not _differ_in_steps_only(earlier, config):
        return Rerun(config, f"made from run {run}", {"made_from": run}, None, threads, {})
    if n_after == n_before:
        return Rerun(config, f"repeats run {run}", {"repeats": run}, None, threads, tags)
    config = replace(config, train=replace(config.train, drop_steps=drop_steps(earlier.train)))
    checkpoint = _find_checkpoint(paths, run, n_before)
    description = f"continues run {run} from step {n_before}"
    if checkpoint is None:
        description = f"trains run {run} again for {n_after} steps, from step 0: it kept no checkpoint, as "
        description += "with train.keep_checkpoint=true"
    return Rerun(config, description, {"continues": run}, checkpoint, threads, tags)


def _find_run(paths: RecordPaths, options: Mapping[str, str]) -> str:
    """Return the MLflow id of the run, or the path of its folder.

    Raises:
        ConfigError: If the options contradict each other, or there is no such complete trial.
        SweepError: If there is no such study.
    """
    name, trial = options.get("study"), options.get("trial")
    for key, value in options.items():
        if not value.strip():
            raise ConfigError(f"{key}={value}: has no value")
    if ("run" in options) == (name is not None) or ("run" in options and trial is not None):
        raise ConfigError("give either run=ID, or study=NAME and perhaps trial=N")
    if name is None:
        return options["run"]
    complete = [each for each in paths.open_studies().trials(name) if each.reason == "complete"]
    if trial is not None:
        complete = [each for each in complete if trial in (str(each.first_attempt), str(each.number))]
    if not complete:
        which = "no trial is complete" if trial is None else f"trial {trial} is not complete"
        raise ConfigError(f"study={name}: {which}")
    best = min(complete, key=lambda each: each.values[0])
    run = best.attributes.get("mlflow_run_id")
    return str(run or paths.study_folders(name)[0] / str(best.first_attempt))


def _read_config(file: Path, composed: Mapping[str, Any]) -> TrialConfig:
    """Read the config of the earlier run; keys that it lacks get the composed values.

    Raises:
        ConfigError: If the file holds no config.
    """
    import yaml

    try:
        values = yaml.safe_load(read_text(file))
        missing = sorted(REQUIRED - values.keys())
        config = build_recorded({**composed, **values})
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: is not the config of a run ({error})") from error
    if missing:  # it would be that of another run, of any texture perhaps
        raise ConfigError(f"{file}: is not the config of a run ({missing[0]} is missing, it may be cut off)")
    return config


def _override(earlier: TrialConfig, composed: Mapping[str, Any], keys: Sequence[str]) -> TrialConfig:
    """Return the earlier config with the composed values of the given groups and dotted keys."""
    values = asdict(earlier)
    for key in keys:
        group, _, name = key.partition(".")
        if not name:
            values[group] = composed[group]
        elif is_custom_option(key):
            set_value(values[group], name, composed[group]["options"][name.partition(".")[2]])
        else:
            values[group] = {**values[group], name: composed[group][name]}
    return build(TrialConfig, values)


def _differ_in_steps_only(one: TrialConfig, other: TrialConfig) -> bool:
    """Return whether the values that affect training differ in `train.steps` at most."""
    first, second = (training_values(config) for config in (one, other))
    first["train"]["steps"] = second["train"]["steps"]
    return first == second


def _find_checkpoint(paths: RecordPaths, run: str, n_steps: int) -> Path | None:
    from nca.training.checkpoint import file_name

    try:
        return paths.fetch(run, f"checkpoints/{file_name(n_steps)}")
    except ConfigError:
        return None
