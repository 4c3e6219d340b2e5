"""Slots divide a machine's cores and GPUs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sweeps import SweepError
from sweeps.executors import cgroups, slots
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


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "2048\n"}, 2048),
        ("3:memory:/docker/1\n", {"memory/memory.limit_in_bytes": "4096\n"}, 4096),
        ("0::/\n", {}, sys.maxsize),
    ],
)
def test_the_memory_of_a_container_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str], limit: int
) -> None:
    for name, text in {**files, "own": own}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path)
    monkeypatch.setattr(cgroups, "OWN_CGROUP", tmp_path / "own")
    assert cgroups.memory_limit() == limit


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


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a program by the name of nvidia-smi, which a test writes."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.touch(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def let_list(program: Path, text: str) -> None:
    (program.parent / "listing").write_text(text)
    program.write_text(f"#!/bin/sh\ncat '{program.parent}/listing'\n")


TWO_GPUS = "GPU 0: NVIDIA H200 (UUID: GPU-8f6d)\nGPU 1: NVIDIA L4 (UUID: GPU-77aa)\n"
DIVIDED = (
    "GPU 0: NVIDIA H200 (UUID: GPU-8f6d)\n"
    "  MIG 1g.18gb     Device  0: (UUID: MIG-01)\n"
    "  MIG 1g.18gb     Device  1: (UUID: MIG-02)\n"
    "GPU 1: NVIDIA L4 (UUID: GPU-77aa)\n"
)


@pytest.mark.parametrize(
    ("listing", "names"),
    [(TWO_GPUS, ["0", "1"]), (DIVIDED, ["MIG-01", "MIG-02", "GPU-77aa"]), ("No devices found.\n", [])],
)
def test_gpus_are_those_of_the_driver_and_each_mig_instance_is_one(
    nvidia_smi: Path, listing: str, names: list[str]
) -> None:
    let_list(nvidia_smi, listing)
    assert visible_gpus() == names
    made = make_slots("auto", "auto", "auto")
    assert [slot.gpu for slot in made if slot.gpu is not None] == names
    if not names:
        assert len(made) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("named", "names"),
    [
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1, 0", ["1", "0"]),
        ("0,0", ["0"]),
        ("0,-1,1", ["0"]),
        ("0,2,1", ["0"]),  # the machine has two
        ("GPU-77,MIG-02", ["GPU-77", "MIG-02"]),
        ("GPU-77aa,GPU-99,0", ["GPU-77aa"]),
        ("gpu", []),
    ],
)
def test_gpus_are_those_that_cuda_would_read_from_the_list(
    nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch, named: str, names: list[str]
) -> None:
    let_list(nvidia_smi, DIVIDED)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == names


def test_without_nvidia_smi_gpus_are_those_of_the_kernels_driver_and_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(slots, "DRIVER_GPUS", tmp_path / "gpus")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,GPU-1")
    assert visible_gpus() == ["7", "GPU-1"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == []
    for address in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / address).mkdir(parents=True)
    assert visible_gpus() == ["0", "1"]


def test_a_driver_that_does_not_answer_has_no_gpu(nvidia_smi: Path) -> None:
    nvidia_smi.write_text("#!/bin/sh\nexit 9\n")
    assert visible_gpus() == []


def test_more_gpus_than_are_visible_are_refused(nvidia_smi: Path) -> None:
    let_list(nvidia_smi, TWO_GPUS)
    assert [slot.gpu for slot in make_slots("auto", "auto", 2)] == ["0", "1"]
    with pytest.raises(SweepError, match=r"executor\.gpus=3: 2 GPUs are visible here; give 2 or auto"):
        make_slots("auto", "auto", 3)


def test_a_slot_without_a_gpu_leaves_the_environment_as_it_is() -> None:
    assert Slot(0, 3).environment() == dict.fromkeys(THREAD_VARIABLES, "3")
