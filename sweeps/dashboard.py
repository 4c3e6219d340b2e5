"""Notes on a study and its trials in the Optuna dashboard."""

from __future__ import annotations

from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import Trial

from sweeps.application import DashboardNotes
from sweeps.study import trial_id


def load_dashboard() -> None:
    """Import the dashboard, which takes a second or two."""
    import optuna_dashboard  # noqa: F401


def save_notes(study: Study, storage: RDBStorage, notes: DashboardNotes) -> None:
    """Save notes where there are none; a person may have edited the others."""
    from optuna_dashboard import save_note

    known = storage.get_study_system_attrs(study._study_id)
    if notes.study and "dashboard:note_ver" not in known:
        save_note(study, notes.study)
    for number, body in notes.trials.items():
        id_ = trial_id(storage, study.study_name, number)
        if f"dashboard:{id_}:note_ver" not in known:
            save_note(Trial(study, id_), body)
