"""A run made once more from the records of an earlier one: repeated, gone on with, or of another texture."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nca.cli.errors import ConfigError
from nca.config.schema import TrialConfig, build_recorded, training_values
from nca.config.validation import build
from nca.records.paths import RecordPaths, read_record_paths

__all__ = ["WORDS", "Again", "check_same_inputs", "read_again", "take_up"]

WORDS = ("run", "study", "trial", "sweep.storage")  # of a command line, beside overrides
OURS = ("tracking", "outputs", "runs_dir")  # of this command, wherever the earlier run was recorded
ANY_TEXTURE = ["texture=roundleaf"]  # a config needs one, though the earlier run's is taken


@dataclass(frozen=True)
class Again:
    """What a run takes from an earlier one.

    Args:
        config: Its own.
        what: How it comes from the earlier one, in words.
        tags: Of the new run.
        checkpoint: The earlier run's state at its end, to go on from; None to begin anew.
        threads: The earlier run had so many; None where that is not known.
        inputs: Its tags, the hashes of its texture and weights among them; none where those may differ.
    """

    config: TrialConfig
    what: str
    tags: Mapping[str, str]
    checkpoint: Path | None
    threads: int | None
    inputs: Mapping[str, str]


def read_again(words: Sequence[str]) -> Again:
    """Read a command line with `run=`, or with `study=` and perhaps `trial=`, for the study's best.

    Further words are overrides. Only a larger `train.steps` goes on: the learning rate drops where it did.

    Raises:
        ConfigError: If there is no such run, or an override is wrong.
        SweepError: If there is no such study.
    """
    from nca.config.compose import compose_plain, keys_of

    options = {key: value for key, _, value in (w.partition("=") for w in words) if key in WORDS}
    overrides = [word for word in words if word.partition("=")[0] not in WORDS]
    texture = [] if "texture" in keys_of(overrides) else ANY_TEXTURE
    composed = compose_plain("train", [*texture, *overrides])
    paths = _find_paths(composed, options)
    run = _find_run(paths, options)
    base = _read_config(paths.fetch(run, "config.yaml"), composed)
    config = build(TrialConfig, _override(base, composed, overrides))
    before = build_recorded(base)
    n_before, n_after = before.train.steps, config.train.steps
    goes_on = n_after > n_before and _same_training(before, config)
    if goes_on:
        config = replace(config, train=replace(config.train, drop_step=_drop_step(before)))
    checkpoint = _find_checkpoint(paths, run, n_before) if goes_on else None
    same = _same_training(before, config) and n_after == n_before
    how = "repeats" if same else "goes_on_from" if goes_on else "made_from"
    what = f"{how.replace('_', ' ')} run {run}"
    if goes_on and checkpoint is None:
        what += f"; it kept no checkpoint (train.keep_checkpoint), so its {n_before} steps are trained again"
    elif goes_on:
        what += f", step {n_before}"
    tags = paths.run_tags(run)
    threads = int(tags["threads"]) if tags.get("threads", "").isdecimal() else None
    return Again(config, what, {how: run}, checkpoint, threads, {} if how == "made_from" else tags)


def check_same_inputs(again: Again, found: Mapping[str, str]) -> None:
    """Refuse to go on with an earlier run, or to repeat it, on another texture or weights.

    Args:
        again: Of the earlier run.
        found: Hashes of what is there now.

    Raises:
        ConfigError: If they differ.
    """
    for key, now in found.items():
        before = again.inputs.get(key, now)
        if before != now:
            raise ConfigError(
                f"{again.what}: {key} {before} -> {now}, its file has changed since; put it back, "
                "or train a new run"
            )


def take_up(again: Again, folder: Path) -> None:
    """Begin where the earlier run ended, with as many threads; one that has begun goes on as it is."""
    import torch

    if again.threads is not None and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(again.threads)
    checkpoints = folder / "checkpoints"
    if again.checkpoint is not None and not checkpoints.exists():
        checkpoints.mkdir(parents=True)
        partial = checkpoints / f"{again.checkpoint.name}.partial"
        shutil.copyfile(again.checkpoint, partial)
        partial.replace(checkpoints / again.checkpoint.name)


def _find_paths(composed: Mapping[str, Any], options: Mapping[str, str]) -> RecordPaths:
    storage = {key: value for key, value in options.items() if key == "sweep.storage"}
    tracking = composed["tracking"].get("uri") or "none"
    return read_record_paths({"runs_dir": composed["runs_dir"], "tracking.uri": tracking, **storage})


def _find_run(paths: RecordPaths, options: Mapping[str, str]) -> str:
    """Return the run that is asked for: an MLflow id, or the path of its folder.

    Raises:
        ConfigError: If none can be meant.
        SweepError: If there is no such study.
    """
    if "run" in options:
        if "study" in options or "trial" in options:
            raise ConfigError("give run=, or study= and perhaps trial=, not both")
        return options["run"]
    if "study" not in options:
        raise ConfigError(f"trial={options.get('trial')}: say of which study, with study=NAME")
    name, trial = options["study"], options.get("trial")
    notes = [note for note in paths.open_studies().trials(name) if note.reason == "complete"]
    if trial is not None:
        notes = [note for note in notes if str(note.number) == trial]
    if not notes:
        which = "no trial is complete" if trial is None else f"trial {trial} is not complete"
        raise ConfigError(f"study={name}: {which}")
    best = min(notes, key=lambda note: note.values[0])
    run = best.attributes.get("mlflow_run_id")
    return str(run or paths.study_folders(name)[0] / str(best.first_attempt))


def _read_config(file: Path, composed: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's config; what is newer than it has the value of today.

    Raises:
        ConfigError: If the file holds none.
    """
    import yaml

    try:
        base = yaml.safe_load(file.read_text(encoding="utf-8"))
        return {**composed, **base, "train": {**composed["train"], **base["train"]}}
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: is no config of a run ({error})") from error


def _override(
    base: Mapping[str, Any], composed: Mapping[str, Any], overrides: Sequence[str]
) -> dict[str, Any]:
    """Return a config with the groups and values that a command line names, and what is ours of any.

    Raises:
        ConfigError: If an experiment is named.
    """
    from nca.config.compose import keys_of

    values: dict[str, Any] = {**base, **{key: composed[key] for key in OURS}}
    for key in keys_of(overrides):
        if key == "experiment":
            raise ConfigError("experiment=: sets several values at once; name the ones that shall differ")
        group, _, name = key.partition(".")
        if name:
            values[group] = {**values[group], name: composed[group][name]}
        else:
            values[group] = composed[group]
    return values


def _drop_step(config: TrialConfig) -> int:
    from nca.training.trainer import drop_step

    return drop_step(config.train)


def _same_training(one: TrialConfig, other: TrialConfig) -> bool:
    """Say whether two runs differ in nothing but their length and what no result depends on."""
    first, second = (training_values(config) for config in (one, other))
    first["train"]["steps"] = second["train"]["steps"]
    return first == second


def _find_checkpoint(paths: RecordPaths, run: str, n_steps: int) -> Path | None:
    from nca.training.checkpoint import file_name

    try:
        return paths.fetch(run, f"checkpoints/{file_name(n_steps)}")
    except ConfigError:
        return None
