"""Configs from outside the package: a folder beside conf/, and a search space in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nca import sweep
from nca.cli.errors import ConfigError
from nca.config.compose import compose_plain
from nca.study.plan import make_plans
from nca.study.spec import study_spec
from nca.training.preflight import check_inputs
from sweeps import SweepError
from sweeps.space import Choice
from sweeps.study import check_fingerprint

TEXTURE = "texture=roundleaf"
EXPERIMENT = """# @package _global_
# a few channels
defaults:
  - override /model: distill
  - override /search: few
  - override /sampler: seeded
train:
  size: 32
"""
SPACE = "# few\nmodel.channels: choice(8, 12)\ntrain.batch_size: 1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    own = tmp_path / "my configs, (1)"
    for name, text in (
        ("experiment/few.yaml", EXPERIMENT),
        ("search/few.yaml", SPACE),
        ("sampler/seeded.yaml", "# ten at random, then a model\nname: tpe\nn_startup_trials: 3 # first\n"),
    ):
        (own / name).parent.mkdir(parents=True)
        (own / name).write_text(text)
    return own


def given(folder: Path, *more: str) -> list[str]:
    return [f"--config-dir={folder}", TEXTURE, "experiment=few", *more]


def test_options_of_a_folder_are_options_of_ours(folder: Path) -> None:
    (plan,) = make_plans(given(folder))
    assert plan.space == {"model.channels": Choice((8, 12))}
    assert (plan.config.trial.model.name, plan.config.trial.train.size) == ("distill", 32)
    assert plan.config.trial.train.batch_size == 1
    assert (plan.config.sampler.name, plan.config.sampler.n_startup_trials) == ("tpe", 3)


def test_the_folder_may_be_given_from_the_working_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.parent)
    sweep.main([TEXTURE, "--config-dir", folder.name, "experiment=few", "features=patches"])
    assert "search    model.channels = choice(8, 12)\n" in capsys.readouterr().out
    sweep.main(["--help", "--config-dir", folder.name])
    assert "  experiment: distill, few, " in capsys.readouterr().out


def test_the_help_has_the_folders_options_with_their_comments(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.main([f"--config-dir={folder}", "sampler=seeded", "--help"])
    help_ = capsys.readouterr().out
    assert "  experiment: distill, few, munca, " in help_
    assert (
        "  search: distill, few, fixed, munca, quick, srnca, srnca_ca, or the path of a FILE.yaml\n" in help_
    )
    assert [line.split("  ", 2)[-1].strip() for line in help_.splitlines() if "sampler.n_" in line] == [
        "first"
    ]


def test_hydra_prints_a_config_of_the_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = folder.parent / "space.yaml"
    space.write_text("train.learning_rate: interval(1e-4, 1e-3)\n")
    sweep.main([*given(folder), f"search={space}", "--cfg", "job"])
    printed = capsys.readouterr().out
    assert "  size: 32\n" in printed
    assert "search:\n  train.learning_rate: interval(1e-4, 1e-3)\n" in printed


def test_a_changed_file_is_another_study(folder: Path) -> None:
    plan_at = {}
    for size in (32, 48):
        (folder / "experiment" / "few.yaml").write_text(EXPERIMENT.replace("32", str(size)))
        (plan_at[size],) = make_plans(given(folder, "features=patches"))
    inputs = check_inputs(plan_at[32].config.trial)
    before = json.loads(json.dumps(study_spec(plan_at[32], inputs).fingerprint))
    check_fingerprint(study_spec(plan_at[32], inputs), before)
    with pytest.raises(SweepError, match=r"train\.size 32 -> 48"):
        check_fingerprint(study_spec(plan_at[48], inputs), before)
    (folder / "search" / "few.yaml").write_text(SPACE.replace("12", "16"))
    (changed,) = make_plans(given(folder, "features=patches", "train.size=32"))
    with pytest.raises(SweepError, match=r"model.channels choice\(8, 12\) -> choice\(8, 16\)"):
        check_fingerprint(study_spec(changed, inputs), before)


@pytest.mark.parametrize("name", ["space.yaml", "a space, (2).yml", "~/space.yaml"])
def test_a_search_space_is_a_file(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    file = Path(name).expanduser()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    file.write_text("defaults: [srnca]\nmodel.channels: choice(3, 5)\ntrain.learning_rate: 1e-3\n")
    for plan in make_plans([TEXTURE, "texture=roundleaf,alocasia", f"search={name}", "model.filters=4"]):
        assert plan.space["model.channels"] == Choice((3, 5))
        assert plan.space.keys() == {
            "model.channels",
            "model.hidden_channels",
            "model.update_rate",
            "train.batch_size",
        }
        assert plan.config.trial.train.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"^search=.*space.yaml: cannot be read \(\[Errno 2\] No such file or directory: .*\)$"),
        ("model.channels: [", "^search=.*space.yaml: cannot be read "),
        ("\xff", "must hold a line KEY: DOMAIN for each key, see conf/search/$"),
        ("", "must hold a line KEY: DOMAIN for each key"),
        ("- a\n- b\n", "must hold a line KEY: DOMAIN for each key"),
        ("model.chanels: choice(1, 2)", r"^unknown key 'model.chanels', did you mean 'model.channels'\?$"),
        ("model.channels: choice(1, 2)", "^model.channels=1: must be a whole number, 3 to 64, in choice"),
        ("seed: choice(1, 2)", "^seed cannot be searched, only"),
        ("defaults: [nope]\nmodel.channels: choice(3, 4)", "^search=nope: must be one of distill, "),
    ],
)
def test_a_bad_search_space_is_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "space.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        make_plans([TEXTURE, f"search={file}"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("experiment/few.yaml", "a: [", "few.yaml"),
        ("experiment/few.yaml", EXPERIMENT.replace("size", "sise"), "^unknown key 'train.sise', did you"),
        ("experiment/few.yaml", EXPERIMENT.replace("32", "33"), "^train.size=33: must be a whole number, a"),
        (
            "experiment/few.yaml",
            EXPERIMENT.replace("seeded", "nope"),
            "^sampler=nope: must be one of .*seeded",
        ),
        ("sampler/seeded.yaml", "name: nope", "^sampler.name=nope: must be one of tpe, random"),
        (
            "experiment/quick.yaml",
            EXPERIMENT,
            r"experiment/quick.yaml: has the name of one of our files; give",
        ),
        ("sweep.yaml", EXPERIMENT, r"sweep.yaml: has the name of one of our files; give"),
    ],
)
def test_a_bad_file_is_one_line(folder: Path, file: str, text: str, message: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        make_plans(given(folder))
    assert "\n" not in str(error.value)


def test_a_bad_folder_is_one_line(folder: Path, tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "nope", "^--config-dir .*nope: must be one folder, which can be read$"),
        (tmp_path, "has no folder of configs; make one of executor, experiment, "),
    ):
        with pytest.raises(ConfigError, match=message):
            compose_plain("train", [f"--config-dir={path}", TEXTURE])
    with pytest.raises(ConfigError, match="must be one folder"):
        compose_plain("train", [f"--config-dir={folder}", f"--config-dir={tmp_path}", TEXTURE])
