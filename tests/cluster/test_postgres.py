"""A study in PostgreSQL: made once by whoever comes first, shared, waited for while the server is away."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState
from sqlalchemy import create_engine, inspect

from nca.study.plan import has_study, make_plans
from sweeps import SweepError
from sweeps.storage.optuna_storage import NoStudiesError, open_storage
from sweeps.trials import final_trials, reason_of
from tests.cluster.postgres import PASSWORD, Postgres
from tests.sweeps.fake_application import Sweep
from tests.sweeps.launching import Launch, launching, read_trials, wait_until
from tests.sweeps.locking import expect_study_lock

TIMEOUT_S = 90.0
N_AT_ONCE = 10
OPEN_BOTH = """
import sys, time
from pathlib import Path
from nca.tracking.store import MlflowStore
from sweeps.storage.optuna_storage import open_storage
optuna_address, mlflow_address, begin = sys.argv[1:]
while not Path(begin).exists():
    time.sleep(0.01)
open_storage(optuna_address)
MlflowStore(mlflow_address).experiments.open("shared", Path("/tmp"))
"""


@pytest.fixture
def launch() -> Iterator[Launch]:
    with launching() as start:
        yield start


def n_complete(sweep: Sweep) -> int:
    trials = read_trials(sweep.storage, sweep.study)
    return sum(trial.state == TrialState.COMPLETE for trial in trials)


def test_ten_at_once_make_the_tables_without_an_error(postgres: Postgres, tmp_path: Path) -> None:
    addresses = [postgres.create("optuna_at_once"), postgres.create("mlflow_at_once")]
    begin = tmp_path / "begin"
    command = [sys.executable, "-c", OPEN_BOTH, *addresses, str(begin)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(N_AT_ONCE)
    ]
    time.sleep(5.0)  # most have loaded by then
    begin.touch()
    outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * N_AT_ONCE, outputs


def test_coordinators_wait_for_the_study_lock(postgres: Postgres) -> None:
    expect_study_lock(postgres.create("locks"))


def test_two_coordinators_share_a_study_through_a_restart_of_the_server(
    postgres: Postgres, tmp_path: Path, launch: Launch
) -> None:
    sweep = Sweep(
        str(tmp_path),
        n_trials=40,
        workers=4,
        otherwise="sleep 0.7",
        study="shared",
        server=postgres.address,
        storage_timeout_s=TIMEOUT_S,
    )
    both = [launch(sweep), launch(sweep)]
    wait_until(lambda: n_complete(sweep) >= 4)
    postgres.stop("immediate")  # as if it had crashed
    time.sleep(3.0)
    postgres.start()
    outputs = [process.communicate(timeout=TIMEOUT_S)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n---\n".join(outputs)
    trials = read_trials(sweep.storage, sweep.study)
    assert [reason_of(trial) for trial in final_trials(trials)] == ["complete"] * 40
    assert not [trial for trial in trials if not trial.state.is_finished()]
    assert "killed" not in map(reason_of, trials)  # no retry was used up
    for lines in outputs:
        assert "the storage does not answer, retrying for up to 1 min 30 s: " in lines
        assert "the storage is available again" in lines


def test_a_server_that_stays_away_ends_the_sweep_and_the_same_command_goes_on(
    postgres: Postgres, tmp_path: Path, launch: Launch
) -> None:
    sweep = Sweep(
        str(tmp_path),
        n_trials=6,
        workers=2,
        otherwise="sleep 0.5",
        study="away",
        server=postgres.address,
        storage_timeout_s=2.0,
    )
    process = launch(sweep)
    wait_until(lambda: n_complete(sweep) >= 1)
    postgres.stop("immediate")
    output = process.communicate(timeout=TIMEOUT_S)[0]
    postgres.start()
    assert process.returncode == 1
    last = output.strip().splitlines()[-1]
    assert last.startswith(f"sweeps.SweepError: sweep.storage={postgres.address}: connection failed: ")
    assert last.endswith("what it holds is kept, and the same command continues")
    resumed = launch(sweep)
    assert json.loads(resumed.communicate(timeout=TIMEOUT_S)[0].splitlines()[-1]) == {"complete": 6}
    assert not [trial for trial in read_trials(sweep.storage, sweep.study) if not trial.state.is_finished()]


def test_nothing_is_created_where_one_only_looks(postgres: Postgres, tmp_path: Path) -> None:
    address = postgres.create("looked_at")
    with pytest.raises(NoStudiesError, match="holds no studies; a sweep creates its tables"):
        open_storage(address, create=False)
    (plan,) = make_plans(["texture=roundleaf", f"sweep.storage={address}", f"runs_dir={tmp_path}"])
    assert not has_study(plan)
    engine = create_engine(address)
    assert inspect(engine).get_table_names() == []
    engine.dispose()


def test_a_wrong_password_is_one_line_without_it(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "a wrong one")
    with pytest.raises(SweepError, match=r"cannot be opened \(.*password authentication failed") as caught:
        open_storage(postgres.address)
    assert "a wrong one" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_password_in_an_address_is_refused_and_not_repeated(postgres: Postgres, tmp_path: Path) -> None:
    address = postgres.address.replace("@", f":{PASSWORD.replace(' ', '%20')}@")
    for override in (f"sweep.storage={address}", f"tracking.uri={address}"):
        command = [
            sys.executable,
            "-m",
            "nca.sweep",
            "-m",
            "texture=roundleaf",
            override,
            f"runs_dir={tmp_path}/r",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "leave the password out of the address" in done.stderr
        assert "horse" not in done.stdout + done.stderr
        assert not (tmp_path / "r").exists()
