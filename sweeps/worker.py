"""One process, one trial: heartbeat, run, report, tell. Also what an application must offer."""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.study import Study

    from sweeps.pruning import Pruning

__all__ = [
    "Application",
    "Assignment",
    "EndedTrial",
    "Result",
    "RunningTrial",
    "StudyNotes",
    "load_application",
    "read_progress",
]

PROGRESS_EVERY_S = 0.5
LEFT = 3  # exit code of a worker whose trial others have ended
ASSIGNMENT_FILE = "assignment.json"
PROGRESS_FILE = "progress.json"
LOG_FILE = "log.txt"  # what a trial's process prints, in its folder


@dataclass(frozen=True)
class Assignment:
    """Everything a worker needs to know of its trial; JSON in the trial's folder.

    Args:
        application: Dotted path of a class, `package.module:Class`.
        storage: SQLAlchemy address of the Optuna storage.
        study: Its name.
        number: The trial's.
        origin: Number of the trial's first attempt.
        config: The trial's own, plain nested values.
        links: What the application returned when the study was opened.
        pruner: Name, max_resource and options, as `PrunerSpec` takes them.
        artifacts: Folder of Optuna's artifact store.
        lean: Whether an earlier attempt ran out of memory.
        storage_timeout_s: How long to wait for the storage's server where it is away.
    """

    application: str
    storage: str
    study: str
    number: int
    origin: int
    config: Mapping[str, Any]
    links: Mapping[str, str]
    pruner: Mapping[str, Any]
    artifacts: str
    lean: bool = False
    storage_timeout_s: float = 0.0


@dataclass(frozen=True)
class Result:
    """How a trial ended.

    Args:
        reason: `complete`, `pruned`, `stopped`, or why it failed: `diverged`, `interrupted`,
            `out_of_memory`, `crashed`.
        values: One per objective; used where complete.
        attributes: JSON values recorded with the trial.
        pictures: Image files shown with the trial.

    Raises:
        ValueError: If it is complete without a value, or with one that is not a number.
    """

    reason: str
    values: Sequence[float] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    pictures: Sequence[Path] = ()

    def __post_init__(self) -> None:
        # Optuna fails such a trial without a word, and it would count as complete.
        if self.reason == "complete" and (not self.values or any(map(math.isnan, self.values))):
            raise ValueError(f"a complete trial needs values that are numbers, not {self.values}")


@dataclass(frozen=True)
class EndedTrial:
    """A trial that has ended for good, as an application is told of it.

    Args:
        number: Of its last attempt.
        folder: Its own.
        reason: Why it ended.
        value: Its first objective; None unless complete.
        params: Its set.
        attributes: What was recorded with it.
    """

    number: int
    folder: Path
    reason: str
    value: float | None
    params: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyNotes:
    """What the Optuna dashboard shows beside the values, in Markdown.

    Args:
        study: With the study; empty for nothing.
        trials: With trials, by number.
    """

    study: str = ""
    trials: Mapping[int, str] = field(default_factory=dict)


class Application(Protocol):
    """What a sweep runs. Made without arguments, in the coordinator and anew in every worker."""

    def open_study(self, study: str, config: Mapping[str, Any]) -> dict[str, str]:
        """Prepare records before any worker starts; return links to keep with the study.

        Called in the coordinator each time the study is begun or continued, with a trial's config. Links
        returned before are in `config["links"]`.
        """

    def warm_up(self) -> None:
        """Load what a trial needs; called in a worker before it has one."""

    def run(self, trial: RunningTrial) -> Result:
        """Run one trial in a worker; what it raises is recorded as `crashed`."""

    def close_trial(self, folder: Path, config: Mapping[str, Any], reason: str) -> None:
        """End the records of a trial whose worker died; called in the coordinator."""

    def show_study(
        self, config: Mapping[str, Any], links: Mapping[str, str], ended: Sequence[EndedTrial]
    ) -> StudyNotes:
        """Show the study so far; called in the coordinator as trials end, now and then, and at the end.

        Of the notes on one thing the first is kept. What it raises is said and ends nothing.
        """

    def close_study(
        self, config: Mapping[str, Any], links: Mapping[str, str], summary: Mapping[str, float]
    ) -> None:
        """End the records of a sweep; called in the coordinator."""


class RunningTrial:
    """The trial that this worker runs, as its application sees it; used from the main thread.

    Args:
        assignment: The trial.
        folder: Its own; shared by a trial and its retries.
        pruning: The study's pruner.
        storage: Its storage.
    """

    def __init__(self, assignment: Assignment, folder: Path, pruning: Pruning, storage: RDBStorage) -> None:
        self.folder = folder
        self.config = assignment.config
        self.links = assignment.links
        self.study_name = assignment.study
        self.number = assignment.number
        self.origin = assignment.origin
        self.lean = assignment.lean  # an earlier attempt ran out of memory
        self._storage = storage
        self._id = trial_id(storage, assignment.study, assignment.number)
        self._pruning = pruning
        self._stop = threading.Event()
        self._unwanted = threading.Event()
        self._noted_at = 0.0

    def stop(self, *_: object) -> None:
        """Ask the application to stop; a signal handler."""
        self._stop.set()

    def stopping(self) -> bool:
        """Say whether the trial should end where it can be taken up again."""
        return self._stop.is_set()

    def give_up(self) -> None:
        """Ask the application to end the trial for good."""
        self._unwanted.set()

    def unwanted(self) -> bool:
        """Say whether somebody wants the trial ended for good, with what it has."""
        return self._unwanted.is_set()

    def progress(self, n_steps: int, of: int, loss: float) -> None:
        """Let the coordinator show where the trial is; at most twice a second."""
        now = time.monotonic()
        if now - self._noted_at >= PROGRESS_EVERY_S or n_steps == of:
            note = {"n_steps": n_steps, "of": of, "loss": loss, "at": now}
            write_atomically(self.folder / PROGRESS_FILE, json.dumps(note))
            self._noted_at = now

    def report(self, n_steps: int, value: float) -> bool:
        """Record an intermediate value; return False where the pruner ends the trial.

        A NaN counts as the worst value to every pruner.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            self._storage.set_trial_intermediate_value(self._id, n_steps, value)
        except UpdateFinishedTrialError:
            leave()
        return not self._pruning.ends(self.origin)


def load_application(path: str) -> Application:
    """Import `package.module:Class` and make one."""
    module, _, name = path.partition(":")
    application: Application = getattr(importlib.import_module(module), name)()
    return application


def trial_id(storage: RDBStorage, study: str, number: int) -> int:
    """Return the storage's id of a study's trial."""
    return storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(study), number)


def write_assignment(folder: Path, assignment: Assignment) -> None:
    """Put an assignment where its worker looks for it."""
    write_atomically(folder / ASSIGNMENT_FILE, json.dumps(asdict(assignment)))


def read_assignment(folder: Path) -> Assignment:
    """Return the last assignment of a trial's folder."""
    return Assignment(**json.loads((folder / ASSIGNMENT_FILE).read_text()))


def read_progress(folder: Path) -> dict[str, float]:
    """Return the last note of `RunningTrial.progress`, empty where there is none."""
    try:
        note: dict[str, float] = json.loads((folder / PROGRESS_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return note


def write_atomically(path: Path, text: str) -> None:
    """Replace a file so that a reader sees the old or the new text, never half of one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def beat(storage: RDBStorage, id_: int, trial: RunningTrial, done: threading.Event) -> None:
    """Record heartbeats of a trial until it is done, and see whether others ended it or want it to end.

    A heartbeat that failed is made up for by the next.
    """
    from sweeps.study import STOP

    while not done.wait(float(storage.heartbeat_interval or 1)):
        try:
            storage.record_heartbeat(id_)
            known = storage.get_trial(id_)
        except Exception as error:
            print(f"heartbeat failed: {error}", flush=True)
            continue
        if known.state.is_finished() and not done.is_set():
            leave()
        if STOP in known.user_attrs:
            trial.give_up()


def leave() -> NoReturn:
    """End this process at once: others took its trial for dead, and may be running it again.

    Whatever it still wrote would get in their way.
    """
    print("others have ended this trial; leaving it to them", flush=True)
    os._exit(LEFT)


def tell(trial: RunningTrial, study: Study, storage: RDBStorage, result: Result, artifacts: str) -> None:
    """Record how the trial ended: attributes and pictures first, for a finished trial takes no more."""
    from optuna.artifacts import FileSystemArtifactStore, upload_artifact
    from optuna.trial import TrialState

    from sweeps.study import REASON

    id_ = trial_id(storage, trial.study_name, trial.number)
    for key, value in {**result.attributes, REASON: result.reason}.items():
        storage.set_trial_user_attr(id_, key, value)
    Path(artifacts).mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(artifacts)
    for picture in result.pictures:
        upload_artifact(
            artifact_store=store,
            file_path=str(picture),
            study_or_trial=storage.get_trial(id_),
            storage=storage,
        )
    if result.reason == "complete":
        study.tell(trial.number, list(result.values))
    else:
        state = TrialState.PRUNED if result.reason in {"pruned", "stopped"} else TrialState.FAIL
        study.tell(trial.number, state=state)


def run_worker(folder: Path) -> None:
    """Run the trial that the folder's assignment names.

    Raises:
        SystemExit: If the study has gone.
    """
    from optuna.exceptions import UpdateFinishedTrialError

    from sweeps.pruning import Pruning
    from sweeps.storage.optuna_storage import open_storage
    from sweeps.study import PrunerSpec, find_study

    assignment = read_assignment(folder)
    storage = open_storage(assignment.storage, create=False, patience_s=assignment.storage_timeout_s)
    study = find_study(storage, assignment.study)
    if study is None:
        raise SystemExit(f"study '{assignment.study}' is gone from {assignment.storage}")
    pruning = Pruning(PrunerSpec(**assignment.pruner), study)
    trial = RunningTrial(assignment, folder, pruning, storage)
    signal.signal(signal.SIGTERM, trial.stop)
    done = threading.Event()
    id_ = trial_id(storage, assignment.study, assignment.number)
    threading.Thread(target=beat, args=(storage, id_, trial, done), daemon=True).start()
    try:
        result = load_application(assignment.application).run(trial)
    except Exception as error:
        traceback.print_exc()
        line = str(error).strip().partition("\n")[0]
        result = Result("crashed", attributes={"error": f"{type(error).__name__}: {line}"})
    done.set()
    try:
        tell(trial, study, storage, result, assignment.artifacts)
    except UpdateFinishedTrialError:
        leave()


def _warm_up() -> None:
    from sweeps.storage.optuna_storage import warm_up

    warm_up()


if __name__ == "__main__":
    from sweeps.executors.forkserver import wait_for_trial

    run_worker(wait_for_trial(sys.argv[1:], _warm_up))
