"""The worker: a process that runs one trial. `python -m sweeps.worker FOLDER` runs one by hand."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from pathlib import Path

from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import TrialState

from sweeps.application import Result, load_application
from sweeps.assignment import read_assignment
from sweeps.pruning import Pruning
from sweeps.running_trial import RunningTrial, abandon
from sweeps.storage.optuna_storage import open_storage, warm_up
from sweeps.study import PrunerSpec, find_study
from sweeps.trials import ERROR, REASON, STOP

__all__ = ["run_worker", "warm_up"]  # called by the fork server


def beat(storage: RDBStorage, trial: RunningTrial, done: threading.Event) -> None:
    """Record heartbeats until a trial is done; abandon it if others ended it, cancel it on request.

    A failed heartbeat is no error, as the next one makes up for it.
    """
    while not done.wait(float(storage.heartbeat_interval or 1)):
        try:
            storage.record_heartbeat(trial.id)
            known = storage.get_trial(trial.id)
        except Exception as error:
            print(f"heartbeat failed: {error}", flush=True)
            continue
        if known.state.is_finished() and not done.is_set():
            abandon()
        if STOP in known.user_attrs:
            trial.cancel()


def tell(trial: RunningTrial, study: Study, storage: RDBStorage, result: Result, artifacts: str) -> None:
    """Record the result of a trial, its state last: nothing can be added to a finished trial."""
    for key, value in {**result.attributes, REASON: result.reason}.items():
        storage.set_trial_user_attr(trial.id, key, value)
    Path(artifacts).mkdir(parents=True, exist_ok=True)
    store, recorded = FileSystemArtifactStore(artifacts), storage.get_trial(trial.id)
    for picture in result.pictures:
        upload_artifact(
            artifact_store=store, file_path=str(picture), study_or_trial=recorded, storage=storage
        )
    if result.reason == "complete":
        study.tell(trial.number, list(result.values))
    else:
        state = TrialState.PRUNED if result.reason in {"pruned", "stopped"} else TrialState.FAIL
        study.tell(trial.number, state=state)


def run_worker(folder: Path) -> None:
    """Run the trial whose assignment is in a folder.

    Raises:
        SystemExit: If the study no longer exists.
    """
    assignment = read_assignment(folder)
    storage = open_storage(assignment.storage, create=False, timeout_s=assignment.storage_timeout_s)
    study = find_study(storage, assignment.study)
    if study is None:
        raise SystemExit(f"study '{assignment.study}' is gone from {assignment.storage}")
    pruning = Pruning(PrunerSpec(**assignment.pruner), study)
    trial = RunningTrial(assignment, folder, pruning, storage)
    signal.signal(signal.SIGTERM, trial.interrupt)
    done = threading.Event()
    threading.Thread(target=beat, args=(storage, trial, done), daemon=True).start()
    try:
        result = load_application(assignment.application).run(trial)
    except Exception as error:
        traceback.print_exc()
        line = str(error).strip().partition("\n")[0]
        result = Result("crashed", attributes={ERROR: f"{type(error).__name__}: {line}"})
    finally:
        done.set()
    try:
        tell(trial, study, storage, result, assignment.artifacts)
    except UpdateFinishedTrialError:
        abandon()


if __name__ == "__main__":
    run_worker(Path(sys.argv[1]))
