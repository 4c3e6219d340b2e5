"""What the Optuna dashboard shows of a study and its trials: notes that begin with pictures, and plots."""

from __future__ import annotations

import functools
import importlib.util
import runpy
from pathlib import Path
from typing import Any

from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import Trial

from sweeps.application import DashboardNotes
from sweeps.study import trial_id


def save_notes(study: Study, storage: RDBStorage, notes: DashboardNotes, artifacts: Path) -> None:
    """Save notes where there are none, as a person may have edited the others; replace pictures and plots.

    Args:
        study: The study.
        storage: The storage that has it.
        notes: To be saved.
        artifacts: Folder of Optuna's artifact store.
    """
    save_note, study_id = _load("_note")["save_note"], study._study_id
    known = storage.get_study_system_attrs(study_id)
    pictures = [_keep_picture(study, storage, file, artifacts) for file in notes.pictures]
    if notes.study and "dashboard:note_ver" not in known:
        save_note(study, "\n\n".join([*pictures, notes.study]))
    for number, body in notes.trials.items():
        id_ = trial_id(storage, study.study_name, number)
        if f"dashboard:{id_}:note_ver" not in known:
            metas = get_all_artifact_meta(storage.get_trial(id_), storage=storage)
            shown = [f"![{m.filename}](/artifacts/{study_id}/{id_}/{m.artifact_id})" for m in metas]
            save_note(Trial(study, id_), "\n\n".join([*shown, body]))
    plots = _load("_custom_plot_data")
    for name, figure in notes.plots.items():
        key = f"{plots['SYSTEM_ATTR_PLOT_DATA']}{name}:"
        plots["save_graph_object_json"](storage, study_id, key, figure)


def _keep_picture(study: Study, storage: RDBStorage, file: Path, artifacts: Path) -> str:
    """Store a picture of a study in place of the one of its name; return it in Markdown."""
    artifacts.mkdir(parents=True, exist_ok=True)
    store = FileSystemArtifactStore(artifacts)
    known = {meta.filename: meta.artifact_id for meta in get_all_artifact_meta(study, storage=storage)}
    if (id_ := known.get(file.name)) is None:
        id_ = upload_artifact(
            artifact_store=store, file_path=str(file), study_or_trial=study, storage=storage
        )
    else:
        with file.open("rb") as picture:
            store.write(id_, picture)
    return f"![{file.name}](/artifacts/{study._study_id}/{id_})"


@functools.cache
def _load(module: str) -> dict[str, Any]:
    """Load a module of the dashboard alone: its package would load scikit-learn and a web server."""
    package = importlib.util.find_spec("optuna_dashboard")
    assert package is not None
    assert package.origin is not None
    return runpy.run_path(str(Path(package.origin).with_name(f"{module}.py")))
