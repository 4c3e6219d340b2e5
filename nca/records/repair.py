"""Repair of records after crashes: orphaned trials, runs and files, and relocated experiments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nca.records.paths import SINGLE_RUNS, RecordPaths, delete_files, disk_usage
from nca.tracking.relocation import find_relocated, relocate
from nca.tracking.run_lock import is_held
from nca.tracking.store import RUN_ID, MlflowStore
from nca.tracking.tracker import FOLDER_TAG, describe_folder

if TYPE_CHECKING:
    from sweeps.admin import Studies, StudyStatus


def find_orphans(paths: RecordPaths) -> Iterator[str]:
    """Yield a line for each relocated experiment and each orphaned trial, run and file known to this host."""
    store = paths.local_mlflow_db()
    relocated = find_relocated(store) if store else {}
    for uri, folder in relocated.items():
        yield f"{folder}: was moved or copied, MLflow has it as {uri}"
    states = _read_states(_open_studies(paths))
    tracking = None if relocated else paths.open_tracking()
    for state in states:
        for trial in state.orphaned:
            owner = trial.owner or "its process"
            yield f"study {state.name}: trial {trial.first_attempt} is RUNNING, {owner} is gone"
    for experiment, run_id, reason in _orphaned_runs(paths, states, tracking):
        yield f"MLflow experiment {experiment}: run {run_id} is RUNNING, its trial is {reason}"
    for path in _orphaned_files(paths, states):
        yield f"{path}: {disk_usage(path)}, no longer needed"


def repair(paths: RecordPaths) -> str:
    """Queue orphaned trials again, end orphaned runs, delete orphaned files; return a line that counts them.

    Trials of other hosts are among them where their heartbeat has stopped.
    """
    store = paths.local_mlflow_db()
    n_relocated = relocate(store) if store else 0
    studies, tracking = _open_studies(paths), paths.open_tracking()
    n_trials = sum(studies.repair(name) for name in studies.names()) if studies else 0
    states = _read_states(studies)
    runs = list(_orphaned_runs(paths, states, tracking))
    for _, run_id, reason in runs:
        assert tracking is not None
        tracker = tracking.tracker(run_id)
        tracker.set_tags({"reason": reason})
        tracker.finish("FINISHED" if reason == "complete" else "KILLED")
    files = list(_orphaned_files(paths, states))
    for path in files:
        delete_files(path)
    done = f"{n_trials} trials queued again, {len(runs)} MLflow runs ended, {len(files)} files deleted"
    return done + (f", artifact URIs of {n_relocated} MLflow experiments updated" if n_relocated else "")


def _open_studies(paths: RecordPaths) -> Studies | None:
    """Open the Optuna storage; return None if only single runs were recorded.

    Raises:
        SweepError: If there are no records at all.
    """
    default = paths.storage == RecordPaths.in_folder(paths.runs).storage
    only_single_runs = default and not (paths.runs / "optuna.db").exists() and paths.local_mlflow_db()
    return None if only_single_runs else paths.open_studies()


def _read_states(studies: Studies | None) -> list[StudyStatus]:
    return [studies.status(name) for name in studies.names()] if studies else []


def _orphaned_runs(
    paths: RecordPaths, states: Sequence[StudyStatus], tracking: MlflowStore | None
) -> Iterator[tuple[str, str, str]]:
    """Yield experiment, id and reason of MLflow runs that are RUNNING although no process writes to them."""
    if tracking is None:
        return
    for state in states:
        alive = {str(trial.number) for trial in state.running}
        for run_id, tags in tracking.experiments.running_runs(state.name, state.uid).items():
            number = tags.get("optuna_trial")
            if number is None and alive:
                continue  # the parent run, or a run without its tags yet
            if number not in alive:
                yield state.name, run_id, state.reasons.get(number or "", "killed")
    folder = paths.runs / "trials" / SINGLE_RUNS
    held = {note.read_text(encoding="utf-8") for note in folder.glob(f"*/{RUN_ID}") if is_held(note.parent)}
    for run_id, tags in tracking.experiments.running_runs(SINGLE_RUNS).items():
        ours = paths.local_mlflow_db() or tags.get(FOLDER_TAG, "").startswith(describe_folder(folder))
        if ours and run_id not in held:
            yield SINGLE_RUNS, run_id, "killed"


def _orphaned_files(paths: RecordPaths, states: Sequence[StudyStatus]) -> Iterator[Path]:
    """Yield checkpoints of finished trials, and the partial files of processes that died while writing.

    A failed trial keeps its checkpoint: a sweep may be about to retry it.
    """
    for state in states:
        trials, _ = paths.study_folders(state.name)
        for number in set(state.finished) - {trial.first_attempt for trial in state.failed}:
            found = trials.glob(f"{number}/**/checkpoints")
            yield from (folder for folder in found if folder.parent.name != "artifacts")  # one is kept there
        if not state.running:
            yield from trials.glob("**/*.partial")
