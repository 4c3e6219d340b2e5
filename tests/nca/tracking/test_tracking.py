"""The door to MLflow, with a real SQLite store: curves without gap or overlap, images once, tags, files."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

import nca.tracking.store
from nca import tracking
from nca.tracking.outbox import Record
from nca.tracking.run_lock import hold
from nca.tracking.store import MlflowStore, _download_folder
from nca.tracking.tracker import MlflowTracker, Tracker
from tests.templates import make_mlflow_database

PIXELS = np.zeros((16, 16, 3), dtype=np.uint8)


@pytest.fixture
def store(mlflow_uri: str) -> MlflowStore:
    return MlflowStore(mlflow_uri)


@pytest.fixture
def client(mlflow_uri: str) -> MlflowClient:
    return MlflowClient(mlflow_uri)


@pytest.fixture
def tracker(store: MlflowStore, tmp_path: Path) -> MlflowTracker:
    experiment = store.experiments.open("study", tmp_path / "artifacts")
    return resume(store, store.create_run(experiment, "trial 0"))


def resume(store: MlflowStore, run_id: str | None) -> MlflowTracker:
    tracker = store.tracker(run_id)
    tracker.resume()
    return tracker


def id_of(tracker: MlflowTracker) -> str:
    assert tracker.run_id is not None
    return tracker.run_id


def curve(client: MlflowClient, tracker: MlflowTracker, key: str = "loss") -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client.get_metric_history(id_of(tracker), key)]


def test_every_loss_is_stored_at_its_step(client: MlflowClient, tracker: MlflowTracker) -> None:
    losses = [10.0 / (step + 1) for step in range(20)]
    for n in range(1, 21):
        tracker.log_losses(losses[:n], now=n % 7 == 0)
    tracker.log_losses(losses, now=True)
    assert curve(client, tracker) == list(enumerate(losses))


def test_losses_wait_for_a_batch(
    client: MlflowClient, tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nca.tracking.tracker.MAX_BATCH", 4)
    losses = [float(step) for step in range(10)]
    tracker.log_losses(losses[:3])
    assert curve(client, tracker) == []
    tracker.log_losses(losses[:4])
    assert curve(client, tracker) == list(enumerate(losses[:4]))
    tracker.log_losses(losses, now=True)
    assert curve(client, tracker) == list(enumerate(losses))


def test_losses_do_not_wait_forever(
    client: MlflowClient, tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nca.tracking.tracker.FLUSH_EVERY_S", 0.0)
    tracker.log_losses([1.0])
    assert curve(client, tracker) == [(0, 1.0)]


@pytest.mark.parametrize("resumed_from", [0, 2, 5])
def test_a_resumed_run_has_neither_gap_nor_overlap(
    store: MlflowStore, client: MlflowClient, tracker: MlflowTracker, resumed_from: int
) -> None:
    losses = [float(step) for step in range(9)]
    tracker.log_losses(losses[:5], now=True)
    tracker.finish("KILLED")
    resumed = resume(store, tracker.run_id)
    # The checkpoint may be older than what was stored: those steps are trained again, to the same losses.
    for n in range(resumed_from + 1, 10):
        resumed.log_losses(losses[:n], now=True)
    assert curve(client, tracker) == list(enumerate(losses))


def test_resuming_and_ending_a_run_change_its_status(
    store: MlflowStore, client: MlflowClient, tracker: MlflowTracker
) -> None:
    def status() -> tuple[str, bool]:
        info = client.get_run(id_of(tracker)).info
        return info.status, info.end_time is not None

    assert status() == ("RUNNING", False)
    tracker.finish("FINISHED")
    assert status() == ("FINISHED", True)
    resume(store, tracker.run_id)
    assert status()[0] == "RUNNING"
    store.tracker(tracker.run_id).finish("KILLED")
    assert status() == ("KILLED", True)


def test_images_are_stored_once_per_step(
    store: MlflowStore, client: MlflowClient, tracker: MlflowTracker
) -> None:
    def steps() -> list[int]:
        names = [image.path for image in client.list_artifacts(id_of(tracker), "images")]
        return sorted(int(re.findall(r"step\D+(\d+)", name)[0]) for name in names if name.endswith("png"))

    for step in (0, 1, 3, 3):
        tracker.log_image(PIXELS, step)
    resumed = resume(store, tracker.run_id)
    for step in (1, 3, 7):
        resumed.log_image(PIXELS, step)
    assert steps() == [0, 1, 3, 7]


def test_metrics_and_tags_are_stored(client: MlflowClient, tracker: MlflowTracker) -> None:
    tracker.log_metrics({"final_loss": 0.5, "seconds_per_step": 0.1}, 11)
    tracker.log_metrics({}, 11)
    tracker.set_tags({"reason": "crashed", "git_commit": "abc"})
    tracker.set_tags({"reason": "complete"})
    data = client.get_run(id_of(tracker)).data
    assert data.metrics == {"final_loss": 0.5, "seconds_per_step": 0.1}
    assert curve(client, tracker, "final_loss") == [(11, 0.5)]
    assert data.tags.items() >= {"reason": "complete", "git_commit": "abc"}.items()


def test_a_metric_has_one_value_per_step(
    store: MlflowStore, client: MlflowClient, tracker: MlflowTracker
) -> None:
    tracker.log_metrics({"final_loss": 2.0}, 9)
    resume(store, tracker.run_id).log_metrics({"final_loss": 2.0, "n_parameters": 5.0}, 9)
    tracker.log_metrics({"final_loss": 1.0}, 19)
    values = {
        key: [(m.step, m.value) for m in client.get_metric_history(str(tracker.run_id), key)]
        for key in ("final_loss", "n_parameters")
    }
    assert values == {"final_loss": [(9, 2.0), (19, 1.0)], "n_parameters": [(9, 5.0)]}


def test_files_become_artifacts_in_the_folder_of_the_experiment(
    client: MlflowClient, tracker: MlflowTracker, tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "output.png").write_bytes(b"picture")
    assert tracker.log_files(folder) is True
    assert [file.path for file in client.list_artifacts(id_of(tracker))] == ["output.png"]
    stored = tmp_path / "artifacts" / id_of(tracker) / "artifacts" / "output.png"
    assert stored.read_bytes() == b"picture"
    assert (folder / "output.png").exists()


def test_a_run_is_made_with_its_params_and_parent(
    store: MlflowStore, client: MlflowClient, tmp_path: Path
) -> None:
    experiment = store.experiments.open("study", tmp_path / "artifacts")
    parent = store.create_run(experiment, "study")
    params = {"model.channels": 9, "train.pool_size": None, "device": "cpu", "x": "y" * 400}
    child = client.get_run(store.create_run(experiment, "trial 3", parent_run_id=parent, params=params))
    assert child.info.run_name == "trial 3"
    assert child.info.status == "RUNNING"
    assert child.data.params == {key: str(value) for key, value in params.items()}
    assert child.data.tags["mlflow.parentRunId"] == parent
    assert "mlflow.parentRunId" not in client.get_run(parent).data.tags


def test_an_experiment_is_opened_again_by_its_name(
    store: MlflowStore, client: MlflowClient, tmp_path: Path
) -> None:
    first = store.experiments.open("study", tmp_path / "a")
    assert store.experiments.open("study", tmp_path / "b") == first
    assert store.experiments.open("other", tmp_path / "b") != first
    assert client.get_experiment(first).artifact_location == (tmp_path / "a").as_uri()


def test_what_was_deleted_in_the_ui_is_made_anew_or_restored(
    store: MlflowStore, client: MlflowClient, tmp_path: Path
) -> None:
    experiment = store.experiments.open("study", tmp_path / "a")
    run, other = (store.create_run(experiment, name) for name in ("one", "two"))
    client.delete_run(run)
    assert (store.has_run(run), store.has_run(other)) == (False, True)
    client.delete_experiment(experiment)
    assert store.experiments.open("study", tmp_path / "b") == experiment
    assert store.has_run(other)
    client.delete_experiment(experiment)
    assert store.experiments.find("study") == experiment
    store.experiments.delete(experiment)
    assert store.experiments.find("study") is None
    assert client.search_runs([store.experiments.open("study", tmp_path / "c")]) == []


@pytest.mark.parametrize("exists", [False, True])
def test_a_database_is_in_wal_mode(exists: bool, tmp_path: Path) -> None:
    file = tmp_path / "runs" / "mlflow.db"
    if exists:
        make_mlflow_database(file.parent)
        with sqlite3.connect(file) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
        connection.close()
    MlflowStore(f"sqlite:///{file}")
    connection = sqlite3.connect(file)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_the_base_tracker_records_nothing(tmp_path: Path) -> None:
    tracker = Tracker()
    tracker.log_losses([1.0], now=True)
    tracker.log_metrics({"a": 1.0}, 0)
    tracker.log_image(PIXELS, 0)
    tracker.set_tags({"a": "b"})
    assert tracker.log_files(tmp_path) is False
    tracker.finish("FINISHED")
    assert list(tmp_path.iterdir()) == []


class _Kinds(Tracker):
    """Keeps the kinds of its records."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.kinds: list[str] = []
        self._fails = fails

    def record(self, record: Record, data: Path | None = None) -> bool:
        if record["kind"] == "text" and self._fails:
            raise OSError(28, "No space left on device")
        self.kinds.append(record["kind"])
        return True


@pytest.mark.parametrize(("fails", "kinds"), [(False, ["text", "status"]), (True, ["status"])])
def test_the_log_comes_before_the_end_of_a_run_which_it_cannot_prevent(
    fails: bool, kinds: list[str], tmp_path: Path
) -> None:
    tracker = _Kinds(fails)
    tracker.log_file = tmp_path / "log.txt"
    tracker.log_file.write_text("line")
    tracker.finish("FAILED")
    assert tracker.kinds == kinds


def test_downloads_are_in_one_folder_which_the_end_of_the_process_deletes(
    store: MlflowStore, tracker: MlflowTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[Callable[[], object]] = []

    def register(function: Callable[..., object], *args: object, **options: object) -> None:
        ends.append(partial(function, *args, **options))

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr("atexit.register", register)
    _download_folder.cache_clear()
    tracker.log_text("text", "note.txt")
    found = {store.fetch(id_of(tracker), "note.txt") for _ in range(3)}
    assert len(list(temporary.iterdir())) == 1
    (path,) = found
    assert path.read_text() == "text"
    (end,) = ends
    end()
    assert list(temporary.iterdir()) == []
    _download_folder.cache_clear()


def test_metrics_of_a_curve_come_in_order(client: MlflowClient, tracker: MlflowTracker) -> None:
    tracker.log_losses([float(step) for step in range(50)], now=True)
    assert all(later[0] == earlier[0] + 1 for earlier, later in pairwise(curve(client, tracker)))


def test_mlflow_has_one_door() -> None:
    door = Path(tracking.__file__).parent
    package = door.parent
    pattern = re.compile(r"^\s*(import|from) mlflow", re.MULTILINE)
    files = [*package.rglob("*.py"), *(package.parent / "sweeps").rglob("*.py")]
    assert {file.parent for file in files if pattern.search(file.read_text())} == {door}


def test_the_base_tracker_loads_no_mlflow() -> None:
    code = "import sys; from nca.tracking.tracker import Tracker; Tracker(); print('mlflow' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_records_of_a_folder_that_another_process_holds_are_left_to_it(
    store: MlflowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nca.tracking.store, "find_outboxes", lambda folder, uri: [folder])
    with hold(tmp_path):
        assert store.deliver(tmp_path) == 0
