"""Measures training steps against the reference program's algorithm and plain autograd: `make bench`.

Prints the table of docs/performance.md and writes results.json with the machine's description. Steps of both
alternate; medians are compared. Nothing else should run at the same time.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import memory, tracking
from benchmarks.cases import DISTILL, MUNCA, SET_5, SIX, Case
from benchmarks.timing import MATRIX_SIDE, speedup, time_alternately, time_rollouts, time_steps
from nca.training.device import keep_freed_memory

RESULTS = Path(__file__).with_name("results.json")
STREAM_FLOATS = 2**25  # 128 MB, more than the caches
RECORDED_S = {"set 5": 1.74, "smallest": 0.70, "largest": 4.93}  # the reference program itself, per step


def measure_machine() -> dict[str, Any]:
    """Return the memory bandwidth and the machine's description."""
    source, copy = torch.rand(STREAM_FLOATS), torch.empty(STREAM_FLOATS)
    seconds = time_alternately({"copy": lambda _: copy.copy_(source)})
    names = [
        line
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": names[0].partition(":")[2].strip() if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "copy_gb_per_s": 2 * 4 * STREAM_FLOATS / seconds["copy"] / 1e9,
    }


def rollout_gflop(case: Case) -> float:
    """Return the operations of a folded rollout: forward, gradient in the state, gradient in the kernel."""
    products = 9 * case.channels**2 * case.batch_size * case.size_px**2
    return 3 * 2 * products * case.ca_steps / 1e9


def show(rows: Sequence[tuple[str, str, str, str]]) -> None:
    """Print the table."""
    table = Table("what", "measured", "at least", "aim")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


def main() -> None:
    """Measure, print, and write results.json."""
    began = time.monotonic()
    keep_freed_memory()
    machine = measure_machine()
    steps = {case.name: time_steps(case, ("fp32", "bf16")) for case in SIX}
    others = {case.name: time_steps(case, ("fp32",)) for case in (DISTILL, MUNCA)}
    rollouts = {case.name: time_rollouts(case) for case in (SET_5, DISTILL, MUNCA)}
    peaks = {program: memory.measure(program) for program in ("reference", "ours")}
    records = tracking.measure()
    ratio = {name: found["reference"] / found["fp32"] for name, found in steps.items()}
    machine["fp32_gflops"] = 2 * MATRIX_SIDE**3 / rollouts["set 5"]["product"] / 1e9
    share = rollout_gflop(SET_5) / rollouts["set 5"]["fp32"] / machine["fp32_gflops"]
    rows = [
        ("training step, fp32, set 5", f"{ratio['set 5']:.1f}x", "4.5x", "6x"),
        (
            "six sets, fp32, geometric mean",
            f"{statistics.geometric_mean(list(ratio.values())):.1f}x",
            "3.8x",
            "5x",
        ),
        (
            "six sets, bf16, geometric mean",
            f"{statistics.geometric_mean([s['reference'] / s['bf16'] for s in steps.values()]):.1f}x",
            "6.5x",
            "9x",
        ),
        ("rollout of 30 CA steps, set 5", f"{speedup(rollouts['set 5']):.1f}x", "9x", "15x"),
        *(
            row
            for case in (DISTILL, MUNCA)
            for row in (
                (
                    f"training step, {case.rule}, sliced loss, against plain autograd",
                    f"{speedup(others[case.name]):.1f}x",
                    "4x",
                    "8x",
                ),
                (
                    f"rollout of {case.ca_steps} CA steps, {case.rule}, likewise",
                    f"{speedup(rollouts[case.name]):.1f}x",
                    "5x",
                    "10x",
                ),
            )
        ),
        (
            "peak memory, set 5, above the process and the pool",
            f"1/{peaks['reference']['peak_mb'] / peaks['ours']['peak_mb']:.1f}",
            "1/4",
            "1/8",
        ),
        ("folded operations, share of the matrix product rate", f"{share:.0%}", "60%", "80%"),
        ("records, images and checkpoints, share of a trial", f"{records['share']:.2%}", "2%", "1%"),
    ]
    show(rows)
    for name, recorded in RECORDED_S.items():
        found = steps[name]["reference"]
        print(f"the transcription, {name}: {found:.2f} s per step; the program itself {recorded:.2f} s")
    results = {
        "machine": machine,
        "sets": {case.name: {"sizes": case.sizes, **steps[case.name]} for case in SIX},
        "other_rules": others,
        "rollouts": rollouts,
        "peak_memory": peaks,
        "tracking": records,
        "table": [dict(zip(("what", "measured", "at_least", "aim"), row, strict=True)) for row in rows],
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"took {time.monotonic() - began:.0f} s; written to {RESULTS}")


if __name__ == "__main__":
    main()
