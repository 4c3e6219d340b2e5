"""A study is opened as it was left, or refused; attempts are counted."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

import sweeps.ownership
from sweeps import SweepError
from sweeps.ownership import describe_owner, is_abandoned
from sweeps.space import Choice, Interval, Space
from sweeps.storage.optuna_storage import NoStudiesError, open_storage
from sweeps.study import StudySpec, find_study, open_study
from sweeps.trials import (
    FIRST_ATTEMPT,
    OWNER,
    REASON,
    RETRY_OF,
    count_reasons,
    final_trials,
    first_attempt,
    ranked,
)

SPACE: Space = {"model.channels": Choice((6, 9)), "train.learning_rate": Interval(1e-5, 1e-3, log=True)}


@pytest.fixture
def spec(tmp_path: Path) -> StudySpec:
    fixed = {"train.steps": 100, "texture.hash": "abc", "features.weights": None}
    return StudySpec("leaf", f"sqlite:///{tmp_path / 'records' / 'optuna.db'}", SPACE, fixed)


def test_sqlite_is_created_in_wal_mode_with_its_folder(spec: StudySpec, tmp_path: Path) -> None:
    open_storage(spec.storage)
    connection = sqlite3.connect(tmp_path / "records" / "optuna.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_a_missing_file_is_not_created_unless_asked(spec: StudySpec, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"sweep\.storage=.*no such file; a sweep creates it"):
        open_storage(spec.storage, create=False)
    assert not list(tmp_path.iterdir())


def test_tables_are_not_created_unless_asked(spec: StudySpec, tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    with pytest.raises(NoStudiesError, match="holds no studies; a sweep creates its tables"):
        open_storage(f"sqlite:///{tmp_path / 'empty.db'}", create=False)
    assert (tmp_path / "empty.db").read_bytes() == b""


def test_a_study_is_created_once(spec: StudySpec) -> None:
    storage = open_storage(spec.storage)
    assert find_study(storage, "leaf") is None
    first = open_study(spec, storage)
    first.add_trial(create_trial(value=1.0))
    reopened = open_study(spec, open_storage(spec.storage, create=False))
    assert len(reopened.trials) == 1
    assert len(storage.get_all_studies()) == 1
    assert find_study(storage, "leaf") is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fixed": {"train.steps": 200}}, r"train\.steps 100 -> 200"),
        ({"fixed": {"texture.hash": "abd"}}, r"texture\.hash abc -> abd"),
        ({"fixed": {"seed": 1}}, r"seed \(none\) -> 1"),
        ({"space": {"model.channels": Choice((6, 12))}}, r"model\.channels choice\(6, 9\) -> choice\(6, 12"),
        ({"space": {"model.filters": Choice((4, 5))}}, r"model\.filters \(none\) -> choice\(4, 5\)"),
        (
            {"fixed": {"train.steps": 200}, "space": {"model.channels": Choice((9,))}},
            r"model\.channels choice\(6, 9\) -> choice\(9\); train\.steps 100 -> 200",
        ),
    ],
)
def test_a_changed_study_is_refused_with_what_differs(
    spec: StudySpec, changes: dict[str, dict[str, Any]], message: str
) -> None:
    storage = open_storage(spec.storage)
    open_study(spec, storage)
    changed = replace(
        spec,
        fixed={**spec.fixed, **changes.get("fixed", {})},
        space={**spec.space, **changes.get("space", {})},
    )
    with pytest.raises(SweepError, match=message) as caught:
        open_study(changed, storage)
    assert "study 'leaf' was begun with another config" in str(caught.value)
    assert "sweep.study=NAME" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_that_is_newer_than_the_study_is_no_change_while_it_has_its_default(spec: StudySpec) -> None:
    storage = open_storage(spec.storage)
    open_study(spec, storage)
    open_study(replace(spec, fixed={**spec.fixed, "train.new": None}), storage)
    with pytest.raises(SweepError, match=r"train\.new \(none\) -> 3"):
        open_study(replace(spec, fixed={**spec.fixed, "train.new": 3}), storage)


def test_a_parameter_fixed_after_it_was_searched_is_named_once(spec: StudySpec) -> None:
    storage = open_storage(spec.storage)
    open_study(spec, storage)
    changed = replace(
        spec,
        fixed={**spec.fixed, "model.channels": 6},
        space={"train.learning_rate": SPACE["train.learning_rate"]},
    )
    with pytest.raises(SweepError, match=r"config: model\.channels choice\(6, 9\) -> \(none\)\. Go back"):
        open_study(changed, storage)


def test_a_long_list_of_differences_is_cut(spec: StudySpec) -> None:
    storage = open_storage(spec.storage)
    open_study(spec, storage)
    fixed = {**spec.fixed, **{f"key{index}": index for index in range(9)}}
    with pytest.raises(SweepError, match=r"key4 \(none\) -> 4; and 4 more\."):
        open_study(replace(spec, fixed=fixed), storage)


def test_another_name_is_another_study(spec: StudySpec) -> None:
    storage = open_storage(spec.storage)
    open_study(spec, storage)
    open_study(replace(spec, name="other", fixed={"train.steps": 200}), storage)
    assert {study.study_name for study in storage.get_all_studies()} == {"leaf", "other"}


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_storage_in_memory_is_refused(address: str) -> None:
    with pytest.raises(SweepError, match=r"trials cannot share a storage in memory; give a file"):
        open_storage(address)


@pytest.mark.parametrize(
    "address",
    [
        "nonsense",
        "",
        "nosuchdatabase://here/x",
        "postgresql+psycopg://nobody@127.0.0.1:1/none",
        "sqlite:////dev/null/optuna.db",
        "sqlite:////proc/none/optuna.db",
    ],
)
def test_a_wrong_address_is_refused_in_one_line(address: str) -> None:
    with pytest.raises(SweepError, match=r"^sweep\.storage=") as caught:
        open_storage(address)
    assert str(caught.value).startswith(f"sweep.storage={address}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused_in_one_line_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "optuna.db"
    file.write_text("a diary, not a database\n" * 100)
    with pytest.raises(SweepError, match=r"cannot be opened \(file is not a database\)"):
        open_storage(f"sqlite:///{file}")
    assert file.read_text().startswith("a diary")


def trial(number: int, state: TrialState = TrialState.FAIL, /, **attributes: Any) -> FrozenTrial:
    value = attributes.pop("value", 1.0) if state == TrialState.COMPLETE else None
    made = create_trial(state=state, value=value, user_attrs=attributes)
    made.number = number
    return made


def test_a_trial_and_its_retries_count_once() -> None:
    trials = [
        trial(0, **{REASON: "killed"}),
        trial(1, TrialState.COMPLETE, value=3.0, **{REASON: "complete"}),
        trial(2, **{FIRST_ATTEMPT: 0, RETRY_OF: 0, REASON: "killed"}),
        trial(3, TrialState.COMPLETE, value=2.0, **{FIRST_ATTEMPT: 0, RETRY_OF: 2, REASON: "complete"}),
        trial(4, TrialState.PRUNED, **{REASON: "pruned"}),
        trial(5, TrialState.RUNNING),
        trial(6, **{REASON: "killed"}),
        trial(7, TrialState.WAITING, **{FIRST_ATTEMPT: 6, RETRY_OF: 6}),
    ]
    assert [t.number for t in final_trials(trials)] == [1, 3, 4]
    assert count_reasons(final_trials(trials)) == {"complete": 2, "pruned": 1}
    assert [first_attempt(t) for t in trials] == [0, 1, 0, 0, 4, 5, 6, 6]


def test_the_best_trial_is_the_complete_one_with_the_smallest_value() -> None:
    trials = [trial(0), trial(1, TrialState.COMPLETE, value=3.0), trial(2, TrialState.COMPLETE, value=2.0)]
    best, *_ = ranked([*trials, trial(3, TrialState.PRUNED)])
    assert best.number == 2
    assert ranked(trials[:1]) == []


def test_a_trial_failed_without_a_reason_was_killed_and_others_count_under_their_state() -> None:
    assert count_reasons([trial(0), trial(1, TrialState.COMPLETE)]) == {"killed": 1, "complete": 1}


def test_a_trial_is_abandoned_when_its_owner_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    monkeypatch.setattr(sweeps.ownership, "INITIAL_NAMESPACE", describe_owner()["pid_namespace"])
    monkeypatch.setattr(sweeps.ownership, "MACHINE_ID", sweeps.ownership.BOOT_ID)  # a file that is there
    ours = describe_owner()
    theirs = ours | {"pid": dead.pid}
    owners = {
        "alive": ours | {"pid": os.getppid()},
        "another host": theirs | {"host": "elsewhere"},
        "another machine of the same name": theirs | {"machine": "another", "boot": "another"},
        "another container of the same name": theirs | {"pid_namespace": "pid:[1]"},
        "of an earlier version": {key: theirs[key] for key in ("host", "boot", "pid")},
        "dead": theirs,
        "before a reboot": ours | {"boot": "earlier", "pid": os.getppid()},
        "our process id, before we began": ours,
    }
    running = {name: trial(0, TrialState.RUNNING, **{OWNER: owner}) for name, owner in owners.items()}
    assert [name for name, each in running.items() if is_abandoned(each)] == [
        "dead",
        "before a reboot",
        "our process id, before we began",
    ]
    assert is_abandoned(trial(0, TrialState.RUNNING))
    monkeypatch.setattr(sweeps.ownership, "INITIAL_NAMESPACE", "pid:[1]")  # we are in a container
    assert not is_abandoned(running["before a reboot"])
    assert is_abandoned(running["dead"])
