"""`python -m nca.studies list|show|stop|delete|repair|deliver`: look after studies, also while sweeps run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from nca.cli.errors import ConfigError, exit_on_error
from nca.cli.options import Command
from nca.records.paths import (
    RECORD_OPTIONS,
    RecordPaths,
    format_size,
    is_study_name,
    read_record_paths,
    size_of,
)
from nca.records.repair import find_orphans, repair
from sweeps import SweepError

if TYPE_CHECKING:
    from sweeps.admin import StudyState, TrialNote

__all__ = ["main"]

YES = "--yes"
COMMAND = Command(
    "nca.studies",
    "Look after studies, also while sweeps run.",
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
SHOWN_FAILURES = 10


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
    """Print a line for every study."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    studies = paths.open_studies()
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("study", overflow="fold")
    for name in ("ended", "running", "best", "steps", "disk", "last"):
        table.add_column(name, justify="right", no_wrap=True)
    states = [studies.look(name) for name in studies.names()]
    for state in states:
        best = "" if state.best is None else f"{state.best.values[0]:.4g}"
        running = f"{len(state.running)}" + (f", {len(state.left)} orphaned" if state.left else "")
        table.add_row(
            state.name,
            str(sum(state.counts.values())),
            running,
            best,
            str(state.n_steps),
            format_size(sum(map(size_of, paths.study_folders(state.name)))),
            "" if state.last_at is None else f"{state.last_at:%m-%d %H:%M}",
        )
    Console().print(table if states else "no studies yet: python -m nca.sweep -m texture=roundleaf")
    if any(state.left for state in states):
        print("the process of some trials is gone: python -m nca.studies repair")


def show_study(paths: RecordPaths, name: str) -> None:
    """Print what is known of one study."""
    from sweeps.progress import format_set

    state = paths.open_studies().look(name)
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(state.counts.items()))
    print(f"study    {name}: {counts or 'no trial has ended'}, {state.n_queued} queued")
    if state.best is not None:
        values = ", ".join(f"{k} {v:.6g}" for k, v in zip(state.objectives, state.best.values, strict=True))
        print(f"best     trial {state.best.number}, {values}, {format_set(state.best.params)}")
        print(f"         {paths.study_folders(name)[0] / str(state.best.origin) / 'output.png'}")
    for trial in state.running:
        print(f"running  trial {trial.number}, {_describe(paths, name, trial)}")
    for trial in state.left:
        owner = trial.owner or "its process"
        print(f"orphaned trial {trial.number}, {owner} is gone: python -m nca.studies repair")
    for trial in state.failed[:SHOWN_FAILURES]:
        log = paths.study_folders(name)[0] / str(trial.origin) / "log.txt"
        print(
            f"failed   trial {trial.number} {trial.reason}{': ' * bool(trial.error)}{trial.error}, see {log}"
        )
    if len(state.failed) > SHOWN_FAILURES:
        print(f"failed   and {len(state.failed) - SHOWN_FAILURES} more")
    print(f"steps    {state.n_steps} trained, without those of running trials")
    for folder in paths.study_folders(name):
        print(f"disk     {format_size(size_of(folder))} in {folder}")
    if state.links:
        print("records  " + ", ".join(f"{key} {value}" for key, value in state.links.items()))


def _describe(paths: RecordPaths, study: str, trial: TrialNote) -> str:
    from sweeps.assignment import read_progress
    from sweeps.progress import format_duration, format_set

    note = read_progress(paths.study_folders(study)[0] / str(trial.origin))
    where = f"step {note['n_steps']:.0f}/{note['of']:.0f} loss {note['loss']:.4g}" if note else "starting"
    seconds = (datetime.now() - trial.since).total_seconds() if trial.since else 0.0
    return f"{where}, for {format_duration(max(0.0, seconds))}, by {trial.owner}, {format_set(trial.params)}"


def stop(paths: RecordPaths, name: str, trial: Sequence[str]) -> None:
    """Ask a study's sweeps, or one of its trials, to end.

    Raises:
        ConfigError: If the trial is no number.
    """
    studies = paths.open_studies()
    if trial:
        if not trial[0].isdecimal():
            raise ConfigError(f"stop {name} {trial[0]}: must be a trial's number")
        studies.stop(name, int(trial[0]))
        print(f"trial {trial[0]} will end within half a minute, with its picture and its last loss")
        return
    owners = sorted({note.owner for note in studies.look(name).running})
    studies.stop(name)
    print(f"asked to stop: {'; '.join(owners)}. Trials save what they have; the same command goes on")


def delete(paths: RecordPaths, name: str, *, yes: bool) -> None:
    """Delete a study, its runs and its files, after a yes; or the files of one that has gone.

    Raises:
        ConfigError: If a trial of it runs, or it does not exist.
        SystemExit: 1 if it was not confirmed.
    """
    if not is_study_name(name):
        raise ConfigError(f"delete {name}: is no study")
    studies, tracking = paths.open_studies(), paths.open_tracking()
    folders = [folder for folder in paths.study_folders(name) if folder.exists()]
    known = name in studies.names()
    state = studies.look(name) if known or not folders else None
    if state is not None:
        print(f"study {name}: {_count_idle(state)} trials, their MLflow runs")
    for folder in folders:
        print(f"{folder}: {format_size(size_of(folder))}")
    if not (yes or _confirmed("delete all of this for ever")):
        raise SystemExit(1)
    if tracking is not None and (state or paths.local_mlflow_db()):  # else nobody knows whose it is
        tracking.experiments.delete(name, (state.uid or "") if state else None)
    if known:
        studies.delete(name, paths.runs / "artifacts" / "optuna")
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"deleted {name}")


def _count_idle(state: StudyState) -> int:
    """Return how many trials a study has of which none runs.

    Raises:
        ConfigError: If one does.
    """
    if state.running:
        numbers = ", ".join(str(note.number) for note in state.running)
        raise ConfigError(
            f"study '{state.name}': running trials: {numbers}; python -m nca.studies stop {state.name}"
        )
    return sum(state.counts.values())


def repair_all(paths: RecordPaths, *, yes: bool) -> None:
    """List orphaned records, and repair them after a confirmation.

    Raises:
        SystemExit: 1 if it was not confirmed.
    """
    found = list(find_orphans(paths))
    print("\n".join(found) or "nothing to repair on this host")
    if found and not (yes or _confirmed("repair these")):
        raise SystemExit(1)
    print(f"repaired: {repair(paths)}")  # even if nothing was found: a stopped heartbeat shows only here


def deliver(paths: RecordPaths) -> None:
    """Send what waits on disk for an MLflow server that was away.

    Raises:
        ConfigError: If no store is given, or it still does not take it.
    """
    from nca.tracking.client import mlflow_errors
    from nca.tracking.outbox import find_outboxes
    from nca.tracking.store import MlflowStore

    trials, uri = paths.runs / "trials", paths.tracking
    if uri is None or uri == RecordPaths.in_folder(paths.runs).tracking:
        raise COMMAND.error("no server is given: give tracking.uri=ADDRESS")
    waiting = find_outboxes(trials, uri)
    if not waiting:
        print(f"nothing in {trials} waits for {uri}")
        return
    with mlflow_errors(uri):
        n_left = MlflowStore(uri).deliver(trials)
    if n_left:
        raise ConfigError(f"tracking.uri={uri}: still away; {n_left} records wait in {trials}")
    print(f"delivered what {len(waiting)} runs had kept for {uri}")


def _confirmed(what: str) -> bool:
    """Ask for a yes; without a terminal there is none.

    Raises:
        ConfigError: If nobody can be asked.
    """
    if not sys.stdin.isatty():
        raise ConfigError(f"{what}? nobody can be asked here; give {YES}")
    return input(f"{what}? [y/N] ").strip().lower() in {"y", "yes"}


if __name__ == "__main__":
    main()
