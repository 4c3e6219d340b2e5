"""A trained automaton becomes a page, a picture, an animation or a video."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from PIL.GifImagePlugin import GifImageFile

import nca
from nca.cli.errors import ConfigError
from nca.outputs.model_file import save_model
from nca.render import main
from tests.builders import automaton, trial_config


@pytest.fixture
def run(tmp_path: Path) -> str:
    """Return the folder of a run that was not recorded in MLflow."""
    files = tmp_path / "trial" / "artifacts"
    files.mkdir(parents=True)
    config = trial_config(rule="distill")
    save_model(automaton("distill", channels=4), asdict(config), files / "model.safetensors")
    Image.new("RGB", (16, 16), "red").save(files / "target.png")
    Image.new("RGB", (34, 16), "blue").save(files / "output.png")
    return str(tmp_path / "trial")


def render(tmp_path: Path, *argv: str) -> Path:
    out = tmp_path / argv[-1].removeprefix("out=")
    main([*argv[:-1], f"out={out}"])
    return out


def test_a_viewer_is_made_of_any_run(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = render(tmp_path, f"run={run}", "size=64", "out=v.html")
    assert capsys.readouterr().out == f"{page}\n"
    assert '"size": 64' in page.read_text()
    assert "roundleaf-distill-random_filters" in page.read_text()
    assert '"size": 128' in render(tmp_path, f"run={run}", "out=w.html").read_text()


def test_a_picture_has_the_size_that_was_asked_for_and_is_nca_load_s(run: str, tmp_path: Path) -> None:
    picture = Image.open(render(tmp_path, f"run={run}", "size=48", "seed=3", "out=p.png"))
    assert picture.size == (48, 48)
    assert np.array_equal(np.asarray(picture), np.asarray(nca.load(run).grow(size=48, seed=3)))
    few = Image.open(render(tmp_path, f"run={run}", "size=48", "seed=3", "ca_steps=0", "out=s.png"))
    assert not np.array_equal(np.asarray(picture), np.asarray(few))


def test_an_animation_has_its_frames(run: str, tmp_path: Path) -> None:
    with Image.open(render(tmp_path, f"run={run}", "frames=7", "out=a.gif")) as animation:
        assert isinstance(animation, GifImageFile)
        assert animation.n_frames == 7
        assert animation.size == (256, 256)


@pytest.mark.parametrize("out", ["p.png", "a.gif"])
def test_a_terminal_shows_how_far_it_is(
    run: str, tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for a terminal
    file = render(tmp_path, f"run={run}", "frames=7", f"out={out}")
    found = capsys.readouterr()
    assert found.out == f"{file}\n"
    assert "growing" in found.err
    assert "100%" in found.err


@pytest.mark.parametrize("out", ["p.png", "a.gif"])
def test_without_a_terminal_lines_on_stderr_tell_how_far_it_is(
    run: str, tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nca.cli.progress.LINE_EVERY_S", 0.0)  # as if each frame took long
    file = render(tmp_path, f"run={run}", "frames=7", f"out={out}")
    found = capsys.readouterr()
    assert found.out == f"{file}\n"
    assert found.err.endswith("growing: 100%\n")


@pytest.mark.parametrize("kind", ["mp4", "webm"])
def test_a_video_has_its_frames(run: str, tmp_path: Path, kind: str) -> None:
    video = render(tmp_path, f"run={run}", "size=32", "frames=9", f"out=a.{kind}")
    assert imageio_ffmpeg.count_frames_and_secs(str(video))[0] == 9


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "'run' is missing: give run=VALUE; see python -m nca.render --help"),
        (["run=nowhere"], "run=nowhere: not a path, and not a run in sqlite:///"),
        (["run=%"], "run=%: not a path, and not a run in sqlite:///"),
        (["run=a'; DROP TABLE runs; --"], "DROP TABLE runs; --: not a path, and not a run in sqlite:///"),
        (["run=../../../../../etc/passwd"], "passwd: has no model.safetensors"),
        (["run=RUN", "sise=5"], "unknown key 'sise', did you mean 'size'?"),
        (["run=RUN", "size=40"], "size=40: must be a multiple of 16"),
        (["run=RUN", "size=big"], "size=big: must be a whole number from 0 to 4096"),
        (["run=RUN", "frames=0"], "frames=0: must be a whole number from 1"),
        (["run=RUN", "out=x.bmp"], "out=x.bmp: must end with one of .html, .png, .gif, .mp4, .webm"),
        (["run=RUN", "out=/nowhere/x.png"], "/nowhere is not a folder"),
    ],
)
def test_mistakes_are_one_line(
    run: str,
    tmp_path: Path,
    mlflow_uri: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main([*(argument.replace("RUN", run) for argument in argv), f"runs_dir={tmp_path}"])
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert message in text
    assert text.count("\n") == 1


def test_a_run_without_its_files_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "trial").mkdir()
    with pytest.raises(ConfigError, match=r"has no model\.safetensors"):
        nca.load(tmp_path / "trial")


@pytest.mark.parametrize("name", ["target", "output"])
def test_a_damaged_picture_of_a_run_is_named(
    run: str, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = Path(run) / "artifacts" / f"{name}.png"
    for content, reason in ((b"", "is not an image"), (picture.read_bytes()[:50], "is damaged or cut off")):
        picture.write_bytes(content)
        with pytest.raises(SystemExit, match="2"):
            main([f"run={run}", f"out={tmp_path / 'v.html'}"])
        assert capsys.readouterr().err.startswith(f"error: {picture} {reason}")
    assert not (tmp_path / "v.html").exists()


def test_importing_the_package_is_light() -> None:
    program = "import sys, nca, nca.render; print({'torch', 'mlflow', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
