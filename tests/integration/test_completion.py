"""Tab completion as a real bash has it: the script is sourced, and its function called as readline does."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nca.cli.completion import PROGRAMS, SCRIPTS, answer_shell
from nca.cli.errors import ConfigError
from tests.config.test_programs import SCRIPTS as ENTRY_POINTS
from tests.integration.commands import run_python

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the console scripts, as an installation makes them."""
    folder = tmp_path_factory.mktemp("bin")
    for name, target in ENTRY_POINTS.items():
        module = target.partition(":")[0]
        path = f"import sys; sys.path.insert(0, {str(ROOT)!r})"
        script = folder / name
        script.write_text(f"#!{sys.executable}\n{path}\nfrom {module} import main\nmain()\n")
        script.chmod(0o755)
    return folder


def complete(bin_folder: Path, line: str, folder: Path) -> list[str]:
    """Return what bash would offer at the end of a command line, where = and : end a word."""
    program = line.partition(" ")[0]
    shell = f"""
    export PATH={shlex.quote(str(bin_folder))}:$PATH
    eval "$({program} --shell-completion install=bash)"
    complete -p {program} > /dev/null || exit 3
    compopt() {{ :; }}
    COMP_LINE={shlex.quote(line)}; COMP_POINT=${{#COMP_LINE}}
    _nca_complete {program}
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", shell], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nca-sweep tex", ["texture="]),
        ("nca-sweep -m texture=ro", ["roundleaf"]),
        ("nca-sweep texture=roundleaf model=", ["distill", "munca", "srnca"]),
        ("nca-sweep model.hid", ["model.hidden_channels="]),
        ("nca-sweep model=munca model.hid", []),
        ("nca-sweep experiment=distill loss.", ["loss.directions=", "loss.norm="]),
        ("nca-sweep train.optimizer=", ["adam", "soap"]),
        ("nca-sweep sweep.n", ["sweep.n_trials="]),
        ("nca-sweep --conf", ["--config-dir"]),
        ("nca-sweep --config-dir mine experiment=l", ["leaf"]),
        ("nca-train train.keep=", ["best", "last"]),
        ("nca-train train.recompute=", ["true", "false"]),
        ("nca-train sweep", []),
        ("nca-studies s", ["show", "stop", "sweep.storage="]),
        ("nca-studies delete STUDY --", ["--yes", "--help"]),
        ("nca-render run=abc s", ["size=", "seed=", "sweep.storage="]),
    ],
)
def test_bash_completes(bin_folder: Path, tmp_path: Path, line: str, expected: list[str]) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "leaf.yaml").write_text("# @package _global_\n# leaf\nseed: 1\n")
    assert complete(bin_folder, line, tmp_path) == expected


def test_every_console_script_is_completed_but_the_copy() -> None:
    assert {*PROGRAMS, "nca-copy"} == ENTRY_POINTS.keys()


def test_completion_loads_nothing_heavy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", "nca-sweep train.")
    code = (
        "from nca.sweep import main; main(['--shell-completion', 'query']); import sys; print(*sys.modules)"
    )
    *found, loaded = run_python("-c", code, folder=tmp_path).stdout.splitlines()
    assert "train.steps=" in found
    assert not {"torch", "mlflow", "optuna", "hydra", "numpy", "yaml"} & {*loaded.split()}


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_script_names_every_program(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer_shell(["--shell-completion", f"install={shell}"], lambda words, word: [])
    script = capsys.readouterr().out
    assert " ".join(PROGRAMS) in script
    assert "--shell-completion query" in script


def test_an_unknown_shell_is_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"^--shell-completion install=csh: give .*, one of bash, zsh, fish$"
    ):
        answer_shell(["--shell-completion", "install=csh"], lambda words, word: [])
    assert not answer_shell(["texture=roundleaf"], lambda words, word: [])
