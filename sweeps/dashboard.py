"""Notes on a study and its trials in the Optuna dashboard."""

from __future__ import annotations

import functools
import importlib.util
import runpy
from collections.abc import Callable
from pathlib import Path

from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import Trial

from sweeps.application import DashboardNotes
from sweeps.study import trial_id


def save_notes(study: Study, storage: RDBStorage, notes: DashboardNotes) -> None:
    """Save notes where there are none; a person may have edited the others."""
    save_note = _load_save_note()
    known = storage.get_study_system_attrs(study._study_id)
    if notes.study and "dashboard:note_ver" not in known:
        save_note(study, notes.study)
    for number, body in notes.trials.items():
        id_ = trial_id(storage, study.study_name, number)
        if f"dashboard:{id_}:note_ver" not in known:
            save_note(Trial(study, id_), body)


@functools.cache
def _load_save_note() -> Callable[[Study | Trial, str], None]:
    """Load the dashboard's function alone: its package would load scikit-learn and a web server."""
    package = importlib.util.find_spec("optuna_dashboard")
    assert package is not None
    assert package.origin is not None
    function: Callable[[Study | Trial, str], None] = runpy.run_path(
        str(Path(package.origin).with_name("_note.py"))
    )["save_note"]
    return function
