"""The slots of a sweep fit its device; a dry run survives its reader."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from nca import sweep
from nca.cli.errors import ConfigError
from nca.study.plan import make_plans
from nca.sweep import _make_slots, dry_run, main, run_studies
from nca.training import preflight
from sweeps.executors import slots


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "visible_gpus", lambda: ["0", "1"])


def gpus_of(*overrides: str) -> list[str | None]:
    (plan,) = make_plans(["texture=roundleaf", "executor.workers=2", *overrides])
    return [slot.gpu for slot in _make_slots(plan)]


def test_a_trial_on_a_gpu_sees_that_one_and_a_trial_on_the_cpu_none() -> None:
    for device in ("auto", "cuda", "cuda:0"):
        assert gpus_of(f"device={device}") == ["0", "1"]
    assert gpus_of("device=cpu") == gpus_of("executor.gpus=0") == ["", ""]
    assert gpus_of("executor.gpus=1") == ["0", "0"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["device=cuda:1"], "device=cuda:1: each trial of a sweep sees one GPU; choose GPUs by CUDA_VISIBLE"),
        (["device=cuda", "executor.gpus=0"], "device=cuda: executor.gpus=0 hides all GPUs"),
        (["device=cuda:1", "executor=ray"], "device=cuda:1: each trial of a sweep sees one GPU"),
    ],
)
def test_a_device_that_no_trial_would_see_is_refused(
    overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "check_environment", lambda config, *, remote: None)  # as with two GPUs
    with pytest.raises(ConfigError, match=message):
        dry_run(["texture=roundleaf", *overrides])
    with pytest.raises(ConfigError, match=message):
        run_studies(["texture=roundleaf", *overrides])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["texture=image", "texture.path={folder}/nope.png"],
            r"nope\.png does not exist: give the path of an",
        ),
        (["texture=image", "texture.path={folder}"], r"a folder without images; must hold files"),
        (["texture=image", "texture.path=https://example.com/a.png"], r"a\.png does not exist"),
        (["texture=gray_scott", "texture.preset=corral"], r"texture\.preset=corral: must be one of .*coral"),
        (
            ["texture=roundleaf", "features=vgg16", "features.weights=no.pth"],
            r"weights=no\.pth: no such file",
        ),
        (["texture=roundleaf", "device=foo"], r"device=foo: must be auto, cuda, cuda:N or cpu"),
    ],
)
def test_a_dry_run_refuses_files_and_names_that_are_not_there(
    overrides: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=message):
        dry_run([each.replace("{folder}", str(tmp_path)) for each in overrides])
    assert capsys.readouterr().out == ""


def test_a_dry_run_whose_reader_goes_away_ends_as_usual(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nca.sweep", "texture=roundleaf", f"runs_dir={tmp_path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        program.stdout.close()
        assert program.stderr.read() == b""
    assert program.returncode == 0


def test_a_dry_run_shows_the_studies_of_all_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 32), "green").save(tmp_path / name)
    dry_run(["texture=image", f"texture.path={tmp_path}", "features=random_filters"])
    printed = capsys.readouterr().out
    for stem in ("a", "b"):
        assert f"study     {stem}-srnca-random_filters\ntexture   {stem} (file), 128 px\n" in printed
    assert f"images    {tmp_path}: 2 images\n" in printed


@pytest.mark.parametrize("path", ["", "/c.png", "/c.png,{}/a.png"])
def test_a_dry_run_refuses_a_file_that_is_no_image(path: str, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), "green").save(tmp_path / "a.png")
    (tmp_path / "c.png").write_text("no image")
    with pytest.raises(ConfigError, match=r"/c\.png is not an image that Pillow can read"):
        dry_run(["texture=image", f"texture.path={tmp_path}{path.format(tmp_path)}"])


def test_the_preview_is_all_that_a_dry_run_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (90, 60), "green").save(tmp_path / name)
    part = ["texture.crop=[10,0,60,60]", "texture.scale=0.5", "train.size=16", "model=srnca,distill"]
    images = ["texture=image", f"texture.path={tmp_path}", *part, "features=random_filters"]
    dry_run([*images, f"runs_dir={tmp_path}/runs"])
    printed = capsys.readouterr().out
    assert printed.count("target    32 x 32 px at 24,14 of 90 x 60 px, scale 0.5\n") == 4
    assert "preview   sweep.preview=FILE.png shows the targets\n" in printed
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "b.png"]
    out = tmp_path / "shown,1.png"
    dry_run([*images, f"runs_dir={tmp_path}/runs", f"sweep.preview={out}"])
    assert f"preview   {out}\n" in capsys.readouterr().out
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "b.png", out.name]
    with Image.open(out) as shown:
        assert shown.height > 2 * 384  # a row for each image, not for each study
    dry_run(["texture=roundleaf", "train.size=32", f"sweep.preview={out}", f"runs_dir={tmp_path}/runs"])
    assert "target    32 x 32 px at 0,0 of 32 x 32 px, scale 1\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("preview", "message"),
    [
        ("{}/a.gif", r"^sweep\.preview=.*/a\.gif: must end with one of \.png$"),
        ("{}/no/a.png", r"^sweep\.preview=.*: .*/no is not a folder$"),
        ("{}/a.png", r"/a\.png: cannot be written \("),
    ],
)
def test_a_preview_that_cannot_be_written_is_one_line(preview: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(ConfigError, match=message) as error:
        dry_run(["texture=roundleaf", f"sweep.preview={preview.format(tmp_path)}"])
    assert "\n" not in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_a_space_whose_largest_trial_does_not_fit_into_the_memory_is_refused(tmp_path: Path) -> None:
    (plan,) = make_plans(["texture=roundleaf", "train.pool_size=null,8,1000000000000", "model.channels=6,9"])
    (trial,) = plan.largest_trials
    assert (trial.train.pool_size, trial.model.channels) == (10**12, 9)
    overrides = ["texture=roundleaf", "train.pool_size=8,1000000000000", f"runs_dir={tmp_path / 'runs'}"]
    with pytest.raises(ConfigError, match=r"train\.pool_size=1000000000000, .*: a run needs more than"):
        run_studies([*overrides, "device=cpu", "tracking=none", "features=random_filters"])
    assert list(tmp_path.iterdir()) == []


def test_a_precision_of_a_search_that_this_machine_lacks_is_refused(tmp_path: Path) -> None:
    overrides = ["texture=roundleaf", "train.precision=fp32,tf32", f"runs_dir={tmp_path / 'runs'}"]
    with pytest.raises(ConfigError, match=r"^train\.precision=tf32: needs a GPU, and device is cpu"):
        run_studies([*overrides, "device=cpu", "tracking=none", "features=random_filters"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("summary", "code"),
    [
        ({"best": None, "interrupted": True, "at_limit": True}, 0),  # a limit is no failure
        ({"best": None, "interrupted": True, "at_limit": False}, 130),
        ({"best": None, "interrupted": False, "at_limit": False}, 1),
        ({"best": "a trial", "interrupted": False, "at_limit": False}, 0),
    ],
)
def test_exit_codes(summary: dict[str, object], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "run_studies", lambda _: [SimpleNamespace(**summary)])
    with pytest.raises(SystemExit) as end:
        sweep.run_and_exit([])
    assert end.value.code == code


def test_a_plain_command_line_is_as_on_a_dumb_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    main(["--plain", "texture=roundleaf", f"runs_dir={tmp_path}"])
    assert capsys.readouterr().out.endswith("nothing was started; add -m to start\n")
    assert os.environ["TERM"] == "dumb"
