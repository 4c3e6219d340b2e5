"""What the Optuna dashboard is given to show: notes that begin with pictures, and plots."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.trial import Trial
from optuna_dashboard import get_note
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

from sweeps.application import DashboardNotes
from sweeps.dashboard import save_notes
from sweeps.storage.optuna_storage import open_storage


@pytest.mark.filterwarnings("ignore:Heartbeat of storage:UserWarning")
def test_notes_begin_with_pictures_and_plots_are_replaced(tmp_path: Path) -> None:
    storage, artifacts = open_storage(f"sqlite:///{tmp_path / 'optuna.db'}"), tmp_path / "artifacts"
    optuna.create_study(study_name="another", storage=storage)
    study = optuna.create_study(study_name="leaf", storage=storage)
    store = FileSystemArtifactStore(artifacts)
    sheet, output = tmp_path / "sheet.png", tmp_path / "output.png"
    sheet.write_bytes(b"old sheet")
    output.write_bytes(b"output")
    artifacts.mkdir()
    trials = [study.ask(), study.ask()]
    upload_artifact(artifact_store=store, file_path=str(output), study_or_trial=trials[1], storage=storage)
    for number in range(2):
        study.tell(number, 0.5)
    bodies = {0: "no picture", 1: "a trial"}
    save_notes(study, storage, DashboardNotes("a study", bodies, [sheet], {"plot": "[1]"}), artifacts)
    (of_study,) = get_all_artifact_meta(study, storage=storage)
    (of_trial,) = get_all_artifact_meta(storage.get_trial(2), storage=storage)
    assert get_note(study) == f"![sheet.png](/artifacts/2/{of_study.artifact_id})\n\na study"
    notes = [get_note(Trial(study, trial._trial_id)) for trial in study.get_trials()]
    assert notes == ["no picture", f"![output.png](/artifacts/2/2/{of_trial.artifact_id})\n\na trial"]

    sheet.write_bytes(b"new sheet")
    figure = "[" + 3000 * " " + "2]"  # longer than what one attribute holds
    for plot in (figure, "[3]"):
        save_notes(study, storage, DashboardNotes("other", bodies, [sheet], {"plot": plot}), artifacts)
        shown = get_plotly_graph_objects(storage.get_study_system_attrs(study._study_id))
        assert {name: text.strip() for name, text in shown.items()} == {"plot": plot}
    assert get_all_artifact_meta(study, storage=storage) == [of_study]
    with store.open_reader(of_study.artifact_id) as stored:
        assert stored.read() == b"new sheet"
    assert get_note(study).endswith("\n\na study")
    assert sorted(file.name for file in artifacts.iterdir()) == sorted(
        [of_study.artifact_id, of_trial.artifact_id]
    )
