"""Every command of README.md, CONTRIBUTING.md and docs/ is run, at reduced size.

Sweeps are composed and checked; two of them are run.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from nca.sweep import main
from tests.integration.commands import TIMEOUT_S, run_module, sweep
from tests.integration.records import copy_records
from tests.templates import build_once

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "cluster.md",
    "custom_parts.md",
}  # their commands are run by tests/cluster and test_custom_parts.py
OTHERS = [p for p in ROOT.glob("docs/*.md") if p.name not in ELSEWHERE]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *(str(path.relative_to(ROOT)) for path in OTHERS)]
SMALL = ["train.size=16", "train.steps=2", "features=random_filters", "outputs.robustness=false"]
SMALL_SWEEP = [*SMALL, "sweep.n_trials=1", "tracking=none"]
SMALLER = {"size=512": "size=64", "size=256": "size=32", "frames=200": "frames=5"}  # of pictures


def commands() -> list[str]:
    found = []
    for document in DOCUMENTS:
        for block in re.findall(r"^```\n(.*?)^```", (ROOT / document).read_text(), re.DOTALL | re.MULTILINE):
            lines = [line.partition(" #")[0].rstrip() for line in block.splitlines()]
            found += [line for line in lines if line.startswith(("make ", "python "))]
    return list(dict.fromkeys(found))


COMMANDS = commands()


def test_there_are_commands() -> None:
    """The README's two commands and the main job are among those that are run."""
    assert {"make sweep", "make test", "python -m nca.sweep -m texture=roundleaf"} <= set(COMMANDS)


def overrides_of(command: str, tmp_path: Path) -> list[str]:
    image = tmp_path / "image.png"
    Image.effect_noise((640, 480), 60).convert("RGB").save(image)
    command = command.replace("texture.path=FOLDER", f"texture.path={tmp_path}")
    return shlex.split(command.replace("PATH", str(image)))


def environment() -> dict[str, str]:
    """The tests themselves may run under make, whose flags an inner make would take up."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return {**inherited, "OMP_NUM_THREADS": "1"}


def run(argv: list[str], folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    if argv[:2] == [sys.executable, "-m"]:
        done = run_module(*argv[2:], folder=folder)
    else:
        done = subprocess.run(
            argv,
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="session")
def study(shared: Path) -> Path:
    """Return where the records of a study named STUDY are, of two trials."""

    def make(runs: Path) -> None:
        sweep(runs, *SMALL, "sweep.n_trials=2", "sweep.study=STUDY", folder=shared)

    return build_once(shared / "study", make)


@pytest.mark.parametrize("command", [c for c in COMMANDS if re.search("study=STUDY|run=RUN", c)])
def test_command_on_records(command: str, study: Path, tmp_path: Path) -> None:
    runs = copy_records(study, tmp_path / "runs")
    run_id = next((runs / "artifacts" / "STUDY").glob("*/artifacts/output.png")).parts[-3]
    argv = [sys.executable, *shlex.split(command.replace("run=RUN", f"run={run_id}"))[1:]]
    argv = [SMALLER.get(argument, argument) for argument in argv]
    if "nca.train" in argv:
        argv = [re.sub("^train.steps=.*", "train.steps=3", argument) for argument in argv]
        argv.append("outputs.robustness=false")
    argv.append(f"runs_dir={runs}")
    if "analysis.suggest" in argv:  # ten trials would take long
        assert "needs at least 10 complete trials" in run(argv, tmp_path, code=2).stderr
        return
    if "analysis.rate" not in argv:
        assert run(argv, tmp_path).stdout.strip()
        return
    server = subprocess.Popen(argv, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    with server.stdout:
        assert re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
        server.send_signal(signal.SIGINT)
        assert "analysis.ratings study=STUDY" in server.stdout.read()
    assert server.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python -m nca.studies ")])
def test_command_on_studies(command: str, study: Path, tmp_path: Path) -> None:
    runs = copy_records(study, tmp_path / "runs")
    argv = [sys.executable, *shlex.split(command.replace("roundleaf-srnca-random_filters", "STUDY"))[1:]]
    argv += ["--yes"] * (argv[3] in {"delete", "repair"}) + [f"runs_dir={runs}"]
    if "stop" in argv:  # what has ended is not stopped
        assert "no trial is running" in run(argv, tmp_path, code=2).stderr
    else:
        assert run(argv, tmp_path).stdout.strip()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python -m nca.sweep ")])
def test_sweep_is_composed_and_checked(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = [argument for argument in overrides_of(command, tmp_path)[3:] if argument != "-m"]
    main([*argv, "features=random_filters", f"runs_dir={tmp_path / 'runs'}"])
    assert "nothing was started; add -m to start" in capsys.readouterr().out
    written = {"preview.png"} if "sweep.preview=preview.png" in command else set()
    assert {path.name for path in tmp_path.iterdir()} == {"image.png"} | written


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if re.match(r"python -m nca\.(?!studies|sweep)(?!.*(STUDY|RUN))", c)]
)
def test_python_command(command: str, tmp_path: Path) -> None:
    argv = overrides_of(command, tmp_path)
    argv[0] = sys.executable
    if "nca.train" in argv:
        argv += [*SMALL, "tracking=none"]
    if "--help" not in argv:
        argv.append(f"runs_dir={tmp_path / 'runs'}")
    assert run(argv, tmp_path).stdout.strip()
    assert not {"outputs", "multirun", "mlruns"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    "command",
    [
        "python -m nca.sweep -m texture=roundleaf",
        "python -m nca.sweep -m texture=image texture.path=PATH",
    ],
)
def test_sweep_is_run(command: str, tmp_path: Path) -> None:
    assert command in COMMANDS
    argv = [sys.executable, *overrides_of(command, tmp_path)[1:], *SMALL_SWEEP]
    assert "1 complete" in run([*argv, f"runs_dir={tmp_path / 'runs'}"], tmp_path).stdout
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "image.png"}


@pytest.mark.slow
def test_make_sweep_at_reduced_size(tmp_path: Path) -> None:
    overrides = f"train.size=16 train.steps=4 sweep.n_trials=2 runs_dir={tmp_path}"
    done = run(["make", "sweep", f"SWEEP={overrides}"], ROOT)
    assert "quick: 2 complete" in done.stdout
    assert (tmp_path / "mlflow.db").exists()


@pytest.mark.slow
def test_make_study_at_reduced_size(tmp_path: Path) -> None:
    argv = ["train.size=16", "train.steps=2", "train.min_ca_steps=6", "train.max_ca_steps=12"]
    argv += ["sweep.n_trials=1", "tracking=none"]
    small = [
        f"STUDY={' '.join(argv)} outputs.robustness=false",
        "PLANTS=roundleaf",
        "PRESETS=spots",
        f"RUNS_DIR={tmp_path}",
    ]
    done = run(["make", "study", *small, f"STUDY_OUT={tmp_path / 'study'}"], ROOT)
    assert f"{tmp_path / 'study'}: 9 trials" in done.stdout
    sheets = {file.stem for file in (tmp_path / "study").glob("*.png")}
    assert {"roundleaf-seeds", "roundleaf-fifty-munca", "roundleaf-srnca", "gray_scott-spots-set8"} < sheets
    assert len(sheets) == 9


@pytest.mark.slow
def test_make_test_finds_the_tests() -> None:
    done = run(["make", "test", "PYTEST=-n 0 --collect-only -q tests/golden"], ROOT)
    assert "tests collected" in done.stdout


def test_make_help_lists_what_the_documents_name() -> None:
    listed = {line.split()[0] for line in run(["make", "help"], ROOT).stdout.splitlines() if line.strip()}
    named = {command.split()[1] for command in COMMANDS if command.startswith("make ")}
    assert listed == {
        "help",
        "cluster-test",
        "setup",
        "sweep",
        "test",
        "test-all",
        "check",
        "ui",
        "dashboard",
        "study",
        "figures",
        "docs",
        "bench",
        "torture",
        "clean",
    }
    assert named <= listed


def test_make_setup_is_done() -> None:
    run(["make", "setup"], ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ui", "dashboard"])
def test_make_server_prints_its_address(target: str, study: Path) -> None:
    server = subprocess.Popen(
        ["make", target, f"SERVE=runs_dir={study}"],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert server.stdout is not None
        assert re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.communicate(timeout=30)


def test_the_lines_on_tables_run(study: Path, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "python.md").read_text()
    (lines,) = re.findall(r"^```pycon\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    program = lines.replace('load("STUDY")', f'load("STUDY", runs_dir={str(study)!r})')
    assert "final_loss" in run([sys.executable, "-c", program], tmp_path).stdout
    assert (tmp_path / "study.csv").read_text().startswith("trial,")


def test_the_lines_of_python_run(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "python.md").read_text()
    (lines,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    argv = ["-m", "nca.train", "texture=roundleaf", *SMALL, "tracking=none", f"runs_dir={tmp_path / 'runs'}"]
    run([sys.executable, *argv], tmp_path)
    (trained,) = (tmp_path / "runs" / "trials" / "single-runs").iterdir()
    program = lines.replace("RUN", str(trained)).replace("512", "32")
    run([sys.executable, "-c", program], tmp_path)
    with Image.open(tmp_path / "grown.png") as picture:
        assert picture.size == (32, 32)
