"""`python -m nca.studies list|show|stop|delete|repair|deliver`: manage studies, also while sweeps run."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nca.cli.errors import ConfigError, exit_on_error
from nca.cli.options import Command
from nca.records.paths import (
    RECORD_OPTIONS,
    RecordPaths,
    delete_files,
    disk_usage,
    is_study_name,
    read_record_paths,
)
from nca.records.repair import find_orphans, repair
from nca.tracking.run_lock import LOCK_FILE, is_held
from sweeps import SweepError

if TYPE_CHECKING:
    from sweeps.admin import StudyStatus
    from sweeps.trials import TrialSummary

YES = "--yes"
COMMAND = Command(
    "nca.studies",
    "Manage studies, also while sweeps run.",
    RECORD_OPTIONS,
    subcommands={
        "list": "list all studies",
        "show STUDY": "show the state of a study and its trials",
        "stop STUDY [TRIAL]": "stop the sweeps of a study, or one running trial",
        f"delete STUDY [{YES}]": "delete a study with its runs and files, after a confirmation",
        f"repair [{YES}]": "repair orphaned trials, runs and files, after a confirmation",
        "deliver": "send records that wait on disk to the MLflow server of tracking.uri",
    },
)
MAX_FAILURES = 10  # shown


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the entry point; exit code 0 done, 1 not confirmed, 2 bad input.

    Raises:
        SystemExit: With these.
    """
    with exit_on_error(SweepError, OSError):
        options, subcommand, flags = COMMAND.read(arguments)
        paths = read_record_paths(options)
        match subcommand:
            case ["list"]:
                list_studies(paths)
            case ["show", study]:
                show_study(paths, study)
            case ["stop", study, *trial]:
                stop(paths, study, trial)
            case ["delete", study]:
                delete(paths, study, yes=YES in flags)
            case ["repair"]:
                repair_all(paths, yes=YES in flags)
            case ["deliver"]:
                deliver(paths)


def list_studies(paths: RecordPaths) -> None:
    """Print a line for every study; its name is last and whole, however long."""
    studies = paths.open_studies()
    states = [studies.status(name) for name in studies.names()]
    rows = [("finished", "running", "best", "steps", "disk", "last change", "study")]
    for state in states:
        row = (
            str(sum(state.counts.values())),
            f"{len(state.running)}" + (f", {len(state.orphaned)} orphaned" if state.orphaned else ""),
            "" if state.best is None else f"{state.best.values[0]:.4g}",
            str(state.n_steps),
            disk_usage(*paths.study_folders(state.name)),
            "" if state.changed_at is None else f"{state.changed_at:%m-%d %H:%M}",
            state.name,
        )
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for *cells, name in rows if states else ():
        print("  ".join([*map(str.rjust, cells, widths), name]))
    if not states:
        print("no studies yet: python -m nca.sweep -m texture=roundleaf")
    if any(state.orphaned for state in states):
        print("to queue orphaned trials again: python -m nca.studies repair")


def show_study(paths: RecordPaths, name: str) -> None:
    """Print the state of a study and of its trials."""
    from sweeps.progress import format_params

    state = paths.open_studies().status(name)
    folders = paths.study_folders(name)
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(state.counts.items()))
    print(f"study    {name}: {counts or 'no finished trials'}, {state.n_queued} queued")
    if state.best is not None:
        values = ", ".join(f"{k} {v:.6g}" for k, v in zip(state.objectives, state.best.values, strict=True))
        print(f"best     trial {state.best.first_attempt}, {values}, {format_params(state.best.params)}")
        print(f"         {folders[0] / str(state.best.first_attempt) / 'output.png'}")
    for trial in state.running:
        print(f"running  trial {trial.first_attempt}, {_describe_running(trial, folders[0])}")
    for trial in state.orphaned:
        owner = trial.owner or "its process"
        print(f"orphaned trial {trial.first_attempt}, {owner} is gone: python -m nca.studies repair")
    for trial in state.failed[:MAX_FAILURES]:
        reason = f"{trial.reason}: {trial.error}" if trial.error else trial.reason
        first = trial.first_attempt
        print(f"failed   trial {first} {reason}, see {folders[0] / str(first) / 'log.txt'}")
    if len(state.failed) > MAX_FAILURES:
        print(f"failed   and {len(state.failed) - MAX_FAILURES} more")
    print(f"steps    {state.n_steps} trained, not counting running trials")
    for folder in folders:
        print(f"disk     {disk_usage(folder)} in {folder}")
    if state.links:
        print("records  " + ", ".join(f"{key} {value}" for key, value in state.links.items()))


def _describe_running(trial: TrialSummary, trials: Path) -> str:
    from sweeps.assignment import ASSIGNMENT_FILE, read_progress
    from sweeps.progress import format_duration, format_params

    folder = trials / str(trial.first_attempt)
    progress, assigned = read_progress(folder), folder / ASSIGNMENT_FILE
    step = "starting"
    if progress:
        step = f"step {progress['n_steps']:.0f}/{progress['total_steps']:.0f} loss {progress['loss']:.4g}"
    # Not by the times in the storage, which are those of the coordinator's time zone.
    seconds = time.time() - assigned.stat().st_mtime if assigned.exists() else 0.0
    return (
        f"{step}, for {format_duration(max(0.0, seconds))}, by {trial.owner}, {format_params(trial.params)}"
    )


def stop(paths: RecordPaths, name: str, trial: Sequence[str]) -> None:
    """Stop a study's sweeps, or the one trial whose number is given.

    Raises:
        ConfigError: If the trial is not a number.
    """
    studies = paths.open_studies()
    if trial:
        if not trial[0].isdecimal():
            raise ConfigError(f"stop {name} {trial[0]}: must be a trial's number")
        studies.stop(name, int(trial[0]))
        print(f"trial {trial[0]} will end within half a minute and keep its picture and its last loss")
        return
    owners = sorted({running.owner for running in studies.status(name).running})
    studies.stop(name)
    print(f"asked to stop: {'; '.join(owners)}; trials save checkpoints, and the same command continues")


def delete(paths: RecordPaths, name: str, *, yes: bool) -> None:
    """Delete a study with its runs and files, or the remaining files of one, after a confirmation.

    Its entry in the Optuna storage goes last: if anything cannot be deleted, the command can be repeated.

    Raises:
        ConfigError: If one of its trials is running, it does not exist, or something cannot be deleted.
        SystemExit: 1 if it was not confirmed.
    """
    if not is_study_name(name):
        raise ConfigError(f"delete '{name}': not a study's name")
    studies = paths.open_studies()
    folders = [folder for folder in paths.study_folders(name) if folder.exists()]
    state = studies.status(name) if name in studies.names() or not folders else None
    _check_idle(paths, name, state)
    if state is not None:
        print(f"study {name}: {sum(state.counts.values())} finished trials in {paths.storage}")
    delete_experiment = _find_experiment(paths, name, state)
    for folder in folders:
        print(f"{folder}: {disk_usage(folder)}")
    _confirm("deletion", yes=yes)
    delete_experiment()
    for folder in folders:
        delete_files(folder)
    if state is not None:
        studies.delete(name, paths.runs / "artifacts" / "optuna")
    print(f"deleted {name}")


def _find_experiment(paths: RecordPaths, name: str, state: StudyStatus | None) -> Callable[[], None]:
    """Print how many runs a study's MLflow experiment has; return a function that deletes it.

    Raises:
        ConfigError: If the MLflow store cannot be opened or read.
    """
    from nca.tracking.client import mlflow_errors

    tracking = paths.open_tracking()
    if tracking is None or not (state or paths.local_mlflow_db()):  # whose experiment it is is unknown
        return lambda: None
    with mlflow_errors(str(paths.tracking)):
        experiment = tracking.experiments.find(name, (state.uid or "") if state else None)
        if experiment is None:
            return lambda: None
        n_runs = len(tracking.experiments.run_tags(experiment))
        print(f"MLflow experiment {name}: {n_runs} runs in {paths.tracking}")
    return partial(tracking.experiments.delete, experiment)


def _check_idle(paths: RecordPaths, name: str, state: StudyStatus | None) -> None:
    """Check that no trial of a study is running, as the storage and the locks of its folders have it.

    Args:
        paths: Of the records.
        name: Of the study.
        state: None if the storage does not have the study; then the storage of its files must not either.

    Raises:
        ConfigError: If a trial is running, or the files belong to a study in another storage.
    """
    if state is not None and state.running:
        numbers = ", ".join(str(trial.first_attempt) for trial in state.running)
        raise ConfigError(f"study '{name}': running trials: {numbers}; python -m nca.studies stop {name}")
    trials = paths.study_folders(name)[0]
    for lock in trials.rglob(LOCK_FILE):
        if is_held(lock.parent):
            raise ConfigError(
                f"{lock.parent}: process {lock.read_text(encoding='utf-8')} trains in it; stop it first"
            )
    if state is None and (storage := _find_storage(trials, name)) is not None:
        raise ConfigError(f"study '{name}': is in another storage; give sweep.storage={storage}")


def _find_storage(trials: Path, name: str) -> str | None:
    """Return the storage that has a study, by the assignments of its trials; None if it is gone.

    Raises:
        SweepError: If it does not answer.
    """
    from sweeps.admin import Studies
    from sweeps.assignment import ASSIGNMENT_FILE, read_assignment
    from sweeps.storage.optuna_storage import NoStudiesError

    storages = set()
    for file in trials.glob(f"*/{ASSIGNMENT_FILE}"):
        with contextlib.suppress(ValueError, TypeError):  # a damaged file
            storages.add(read_assignment(file.parent).storage)
    for storage in storages:
        with contextlib.suppress(NoStudiesError):
            if name in Studies(storage).names():
                return storage
    return None


def repair_all(paths: RecordPaths, *, yes: bool) -> None:
    """List orphaned records, and repair them after a confirmation.

    Raises:
        SystemExit: 1 if it was not confirmed.
    """
    found = list(find_orphans(paths))
    print("\n".join(found) or "nothing to repair on this host")
    _confirm("repair", yes=yes or not found)
    print(f"repaired: {repair(paths)}")  # even if nothing was found: a stopped heartbeat shows only here


def deliver(paths: RecordPaths) -> None:
    """Send the records that wait on disk to their MLflow server.

    Raises:
        ConfigError: If no server is given, or it is still unavailable.
    """
    from nca.tracking.client import mlflow_errors
    from nca.tracking.outbox import find_outboxes
    from nca.tracking.store import MlflowStore

    trials, uri = paths.runs / "trials", paths.tracking
    if uri is None or uri == RecordPaths.in_folder(paths.runs).tracking:
        raise COMMAND.error("no server is given: give tracking.uri=ADDRESS")
    pending = find_outboxes(trials, uri)
    if not pending:
        print(f"no records in {trials} wait for {uri}")
        return
    with mlflow_errors(uri):
        n_left = MlflowStore(uri).deliver(trials)
    if n_left:
        raise ConfigError(f"tracking.uri={uri}: still unavailable; {n_left} records wait in {trials}")
    print(f"delivered the records of {len(pending)} runs to {uri}")


def _confirm(action: str, *, yes: bool) -> None:
    """Ask for a confirmation, unless it was given.

    Raises:
        ConfigError: If there is no terminal to ask on.
        SystemExit: 1 if the answer is not yes.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"not a terminal: pass {YES} to confirm {action}")
    if input(f"confirm {action}? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
