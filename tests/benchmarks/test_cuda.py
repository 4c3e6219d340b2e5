"""The benchmark for a GPU, as far as a machine without one can run it: on the CPU, GPU calls replaced."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from benchmarks import cases, cuda, timing
from nca.training import trainer
from nca.training.cuda_graphs import Capture

TINY = cases.Case("tiny", 4, 8, 4, 1, 2, size_px=16)
TINY_DISTILL = dataclasses.replace(TINY, name="tiny, distill", rule="distill", size_px=64, loss="sliced")


def capture_on_cpu(_: list[torch.Generator]) -> Capture:
    return lambda launch: launch


def test_without_a_gpu_it_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    with pytest.raises(SystemExit) as ended:
        cuda.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("benchmarks.cuda needs a GPU")


def test_it_runs_to_its_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 1e6)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "none")
    monkeypatch.setattr(trainer, "capture_on_cuda", capture_on_cpu)
    monkeypatch.setattr(cases, "WIDTHS", (4,) * 11)
    monkeypatch.setattr(timing, "ROUNDS", 1)
    for name, value in {
        "MATRIX_SIDE": 8,
        "SET_5": TINY,
        "SIX": (TINY,),
        "DISTILL": TINY_DISTILL,
        "MUNCA": dataclasses.replace(
            TINY_DISTILL, name="tiny, munca", rule="munca", hidden_channels=0, filters=0
        ),
        "RESULTS": tmp_path / "cuda.json",
        "DEVICE": "cpu",
    }.items():
        monkeypatch.setattr(cuda, name, value)
    cases.vgg_weights.cache_clear()
    try:
        cuda.main()
    finally:
        cases.vgg_weights.cache_clear()
    found = json.loads((tmp_path / "cuda.json").read_text())
    assert set(found["sets"]["tiny"]) == {"sizes", "reference", *cuda.VARIANTS}
    assert found["rollouts"]["tiny"].keys() == {"reference", "fp32", "product"}
    for name in ("tiny, distill", "tiny, munca"):
        assert found["other_rules"][name].keys() == {"plain", *cuda.VARIANTS}
        assert all(found["rollouts"][name][which] > 0 for which in ("plain", "fp32"))
    assert "training step, bf16, graph, set 5" in capsys.readouterr().out
