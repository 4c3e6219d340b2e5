"""Slots divide a machine's cores and GPUs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sweeps.executors import cgroups
from sweeps.executors.slots import THREAD_VARIABLES, Slot, make_slots, visible_gpus


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 4, 5, 6, 7, 8, 9, 10})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("workers", "threads", "n_slots", "n_threads", "last_cores"),
    [
        ("auto", "auto", 8, 1, (10,)),
        ("auto", 4, 2, 4, (7, 8, 9, 10)),
        ("auto", 16, 1, 16, ()),
        (2, "auto", 2, 4, (7, 8, 9, 10)),
        (3, "auto", 3, 2, (7, 8)),
        (2, 1, 2, 1, (4,)),
        (16, "auto", 16, 1, ()),
        (4, 4, 4, 4, ()),
    ],
)
def test_cores_are_divided_and_pinned_only_while_they_suffice(
    workers: int, threads: int, n_slots: int, n_threads: int, last_cores: tuple[int, ...]
) -> None:
    made = make_slots(workers, threads, "auto")
    assert [slot.index for slot in made] == list(range(n_slots))
    assert {slot.threads for slot in made} == {n_threads}
    assert made[-1].cores == last_cores
    pinned = [core for slot in made for core in slot.cores]
    assert len(pinned) == len(set(pinned))


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("own", "files", "n_slots"),
    [
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        (
            "0::/a/b\n",
            {"cpu.max": "max 100000\n", "a/cpu.max": "20000 10000", "a/b/cpu.max": "max 100000"},
            2,
        ),
        ("0::/a\n", {"a/cpu.max": "10000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 8),
        (
            "4:cpu,cpuacct:/docker/1\n",
            {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"},
            4,
        ),
        ("4:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ("3:memory:/\n", {}, 8),
    ],
)
def test_a_container_has_as_many_slots_as_its_cpu_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str], n_slots: int
) -> None:
    for name, text in {**files, "own": own}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path)
    monkeypatch.setattr(cgroups, "OWN_CGROUP", tmp_path / "own")
    made = make_slots("auto", "auto", "auto")
    assert [slot.threads for slot in made] == [1] * n_slots
    assert [bool(slot.cores) for slot in made] == [n_slots == 8] * n_slots  # other containers may share cores
    assert {slot.threads for slot in make_slots(1, "auto", "auto")} == {n_slots}


@pytest.mark.usefixtures("machine")
def test_one_slot_per_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [slot.gpu for slot in make_slots("auto", "auto", "auto")] == ["2", "5"]
    assert [slot.threads for slot in make_slots("auto", "auto", "auto")] == [4, 4]
    assert [slot.gpu for slot in make_slots(3, "auto", "auto")] == ["2", "5", "2"]
    assert [slot.gpu for slot in make_slots("auto", "auto", 1)] == ["2"]


@pytest.mark.usefixtures("machine")
def test_several_trials_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    made = make_slots("auto", "auto", "auto", trials_per_gpu=3)
    assert [slot.gpu for slot in made] == ["2", "5"] * 3
    assert {slot.threads for slot in made} == {1}


@pytest.mark.usefixtures("machine")
def test_gpus_0_hides_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    made = make_slots(2, "auto", 0)
    assert [slot.environment()["CUDA_VISIBLE_DEVICES"] for slot in made] == ["", ""]


@pytest.mark.parametrize(
    ("named", "names"),
    [
        ("-1", []),
        ("NoDevFiles", []),
        ("0, 1", ["0", "1"]),
        ("3,-1,4", ["3"]),
        ("GPU-8f6d,MIG-2", ["GPU-8f6d", "MIG-2"]),
    ],
)
def test_gpus_are_those_that_cuda_would_read_from_the_list(
    monkeypatch: pytest.MonkeyPatch, named: str, names: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    made = make_slots("auto", "auto", "auto")
    assert [slot.gpu for slot in made if slot.gpu is not None] == names
    if not names:
        assert len(made) == len(os.sched_getaffinity(0))


def test_gpus_are_listed_by_the_driver_where_the_environment_names_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    listing = tmp_path / "nvidia-smi"
    listing.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: x)'\necho '  MIG 1g'\necho 'GPU 1: B (UUID: y)'\n")
    listing.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert visible_gpus() == ["0", "2"] or visible_gpus() == ["0", "1"]
    listing.write_text("#!/bin/sh\nexit 9\n")
    assert visible_gpus() == []
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert visible_gpus() == []


def test_a_slot_without_a_gpu_leaves_the_environment_as_it_is() -> None:
    assert Slot(0, 3).environment() == dict.fromkeys(THREAD_VARIABLES, "3")
