"""A second command on a study: nothing to do, more trials, another config; and what one command may ask."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sweeps.study import read_records
from tests.integration.commands import SMALL, listing, run_module, run_python, sweep
from tests.integration.conftest import Finished
from tests.integration.records import Records, complete_trials, copy_records, load_study, study_names

HEAVY = ("torch", "torchvision", "mlflow", "optuna")


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    return copy_records(finished.runs, tmp_path / "runs")


def test_the_same_command_again_starts_nothing(finished: Finished, copied: Path, folder: Path) -> None:
    before = Records(copied, finished.name)
    done = sweep(copied, *finished.command, folder=folder)
    assert f"study {finished.name}: 3 complete" in done.stdout
    assert " starts: " not in done.stdout
    after = Records(copied, finished.name)
    assert after.study.get_trials() == before.study.get_trials()
    assert len(after.parents) == 1
    assert sorted(after.children) == [0, 1, 2]
    assert after.parents[0].info.status == "FINISHED"


def test_a_larger_total_goes_on(finished: Finished, copied: Path, folder: Path) -> None:
    before = load_study(copied, finished.name).get_trials()
    done = sweep(copied, "train.steps=12", "sweep.n_trials=4", folder=folder)
    assert done.stdout.count(" starts: ") == 1
    assert "trial 3 starts: " in done.stdout
    after = Records(copied, finished.name)
    assert after.study.get_trials()[:3] == before
    assert len(complete_trials(after.study)) == 4
    assert after.study.get_trials()[3].params not in [trial.params for trial in before]
    assert len(after.parents) == 1
    assert {number: run.info.status for number, run in after.children.items()} == dict.fromkeys(
        range(4), "FINISHED"
    )
    assert after.parents[0].data.metrics["n_trials"] == 4


def test_another_config_is_refused_by_its_key(finished: Finished, folder: Path) -> None:
    before = listing(finished.runs)
    overrides = ["-m", *SMALL, "train.steps=24", "sweep.n_trials=3", f"runs_dir={finished.runs}"]
    done = run_module("nca.sweep", *overrides, folder=folder)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: study '{finished.name}' was begun with another config: train.steps 12 -> 24. "
        "Go back to it, or begin another study with sweep.study=NAME\n"
    )
    assert len(load_study(finished.runs, finished.name).get_trials()) == 3
    assert listing(folder) == []
    assert set(listing(finished.runs)) - set(before) <= {
        f"{name}.db-{kind}" for name in ("optuna", "mlflow") for kind in ("wal", "shm")
    }


def test_dry_run_of_a_begun_study_prints_the_remaining_trials(finished: Finished, folder: Path) -> None:
    overrides = [*SMALL, "train.steps=12", "sweep.n_trials=7", f"runs_dir={finished.runs}"]
    done = run_module("nca.sweep", *overrides, folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "for the 4 trials left" in done.stdout
    assert listing(folder) == []


def test_two_textures_make_two_studies_and_a_plain_value_is_not_searched(
    tmp_path: Path, folder: Path
) -> None:
    runs = tmp_path / "runs"
    done = sweep(
        runs,
        "texture=roundleaf,snake_plant",
        "model.channels=7",
        "model.filters=4,5",
        "train.steps=2",
        "sweep.n_trials=1",
        "tracking=none",
        "outputs.robustness=false",
        folder=folder,
    )
    names = [f"{texture}-srnca-random_filters" for texture in ("roundleaf", "snake_plant")]
    assert study_names(runs) == names
    hashes = set()
    for name in names:
        assert f"study {name}: 1 complete" in done.stdout
        study = load_study(runs, name)
        (trial,) = complete_trials(study)
        assert "model.channels" not in trial.params
        assert trial.params["model.filters"] in {4, 5}
        fingerprint = read_records(study)["fingerprint"]
        assert fingerprint["fixed"]["model.channels"] == 7
        assert fingerprint["space"]["model.filters"] == "choice(4, 5)"
        hashes.add(fingerprint["fixed"]["texture.hash"])
        assignment = json.loads((runs / "trials" / name / "0" / "assignment.json").read_text())
        assert assignment["config"]["model"]["channels"] == 7
    assert len(hashes) == 2
    assert not (runs / "mlflow.db").exists()
    assert not (runs / "mlruns").exists()
    assert listing(folder) == []


def test_the_same_seed_gives_the_same_losses_in_another_study(tmp_path: Path, folder: Path) -> None:
    overrides = [
        "sampler=random",
        "train.steps=6",
        "sweep.n_trials=2",
        "tracking=none",
        "outputs.robustness=false",
    ]
    runs = tmp_path / "runs"
    for name, seed in (("first", 5), ("second", 5), ("other", 6)):
        sweep(runs, *overrides, f"sweep.study={name}", f"sweep.seed={seed}", folder=folder)
    first, second, other = (load_study(runs, name).get_trials() for name in ("first", "second", "other"))
    assert [trial.params for trial in first] == [trial.params for trial in second]
    assert [trial.value for trial in first] == [trial.value for trial in second]
    assert [trial.params for trial in first] != [trial.params for trial in other]
    assert first[0].value != first[1].value


def loaded_by(call: str, folder: Path) -> tuple[str, list[str]]:
    """Return what a call prints in a fresh process, and which heavy packages it has imported."""
    code = (
        "import sys\n"
        f"try:\n    {call}\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('loaded:', *[name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = run_python("-c", code, folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    output, _, loaded = done.stdout.rpartition("loaded:")
    return output, loaded.split()


def test_dry_run_creates_nothing_and_is_light(tmp_path: Path, folder: Path) -> None:
    overrides = [*SMALL, "sweep.n_trials=3", "train.steps=12", f"runs_dir={tmp_path / 'runs'}"]
    output, loaded = loaded_by(f"from nca.sweep import main; main({overrides!r})", folder)
    assert not {"torch", "torchvision", "mlflow"} & set(loaded)
    assert "study     roundleaf-srnca-random_filters" in output
    assert "search    model.channels = choice(6, 9, 12, 15)" in output
    assert "trials    3 of 12 steps" in output
    assert "see also  model=distill loss=sliced: better pictures sooner, texture distance" in output
    assert output.endswith("nothing was started; add -m to start\n")
    assert listing(tmp_path) == [folder.name]


@pytest.mark.parametrize("module", ["sweep", "train"])
def test_help_is_light_and_shows_the_keys(module: str, tmp_path: Path, folder: Path) -> None:
    output, loaded = loaded_by(f"from nca.{module} import main; main(['--help'])", folder)
    assert loaded == []
    assert "texture: alocasia, gray_scott, image" in output
    assert re.search(r"train\.size=128 +height and width in pixels, a multiple of 16, 16 to 1024\n", output)
    assert ("sampler: " in output) == ("sweep.n_trials=50 " in output) == (module == "sweep")
    assert listing(tmp_path) == [folder.name]
