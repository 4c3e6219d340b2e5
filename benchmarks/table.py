"""Measures training steps against the reference program's algorithm and plain autograd: `make bench`.

Prints the table of docs/performance.md and writes results.json with the machine's description. Steps of both
alternate; medians are compared. Nothing else should run at the same time. `make bench BENCH=--quick` prints
the first lines, from three rounds each, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import memory, tracking
from benchmarks.cases import DISTILL, DISTILL_HALF, MUNCA, SET_5, SIX, Case
from benchmarks.timing import MATRIX_SIDE, ROUNDS, speedup, time_alternately, time_rollouts, time_steps
from nca.training.device import cpu_multiplies_bf16, keep_freed_memory

RESULTS = Path(__file__).with_name("results.json")
STREAM_FLOATS = 2**25  # 128 MB, more than the caches
QUICK_ROUNDS = 3
MEMORY_ROUNDS = 3  # processes: what one of them takes varies by a tenth
OTHER_RULES = (DISTILL, DISTILL_HALF, MUNCA)
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


Row = tuple[str, str, str, str]  # what, measured, at least, aim
Seconds = dict[str, dict[str, float]]  # of each variant, by case


def rows_of_speed(steps: Seconds, rollouts: Seconds) -> Iterable[Row]:
    """Return the rows of a training step and a rollout of set 5 and of the other rules."""
    yield "training step, fp32, set 5", f"{speedup(steps[SET_5.name]):.1f}x", "6x", "8x"
    yield "rollout of 30 CA steps, set 5", f"{speedup(rollouts[SET_5.name]):.1f}x", "11x", "16x"
    rate = 2 * MATRIX_SIDE**3 / rollouts[SET_5.name]["product"] / 1e9
    share = rollout_gflop(SET_5) / rollouts[SET_5.name]["fp32"] / rate
    yield "folded operations, share of the matrix product rate", f"{share:.0%}", "60%", "80%"
    for case in OTHER_RULES:
        step, rollout = speedup(steps[case.name]), speedup(rollouts[case.name])
        yield f"training step, {case.name}, against plain autograd", f"{step:.1f}x", "4x", "8x"
        yield f"rollout of {case.ca_steps} CA steps, {case.name}, likewise", f"{rollout:.1f}x", "5x", "10x"


def rows_of_all_sets(steps: Seconds) -> Iterable[Row]:
    """Return the rows of the six sets in both precisions."""
    for precision, at_least, aim in (("fp32", "5x", "6.5x"), ("bf16", "6.5x", "9x")):
        found = [speedup(steps[case.name], precision) for case in SIX if precision in steps[case.name]]
        measured = f"{statistics.geometric_mean(found):.1f}x" if found else "the CPU multiplies no bf16"
        yield f"six sets, {precision}, geometric mean", measured, at_least, aim


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    table = Table("what", "measured", "at least", "aim")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


def measure_memory(program: str) -> dict[str, float]:
    """Return the measurements of that process, of some, whose peak memory is the median."""
    found = [memory.measure(program) for _ in range(MEMORY_ROUNDS)]
    return sorted(found, key=lambda each: each["peak_mb"])[MEMORY_ROUNDS // 2]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write results.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the first lines alone, in half a minute")
    quick = parser.parse_args(arguments).quick
    began, rounds = time.monotonic(), QUICK_ROUNDS if quick else ROUNDS
    keep_freed_memory()
    precisions = ("fp32", "bf16") if cpu_multiplies_bf16() and not quick else ("fp32",)
    steps = {case.name: time_steps(case, precisions, rounds=rounds) for case in ((SET_5,) if quick else SIX)}
    others = {case.name: time_steps(case, ("fp32",), rounds=rounds) for case in OTHER_RULES}
    rollouts = {case.name: time_rollouts(case, rounds=rounds) for case in (SET_5, *OTHER_RULES)}
    rows = list(rows_of_speed(steps | others, rollouts))
    if quick:
        show(rows)
        print(f"took {time.monotonic() - began:.0f} s")
        return
    rows[1:1] = rows_of_all_sets(steps)
    peaks = {program: measure_memory(program) for program in ("reference", "ours")}
    records = tracking.measure()
    peak = peaks["reference"]["peak_mb"] / peaks["ours"]["peak_mb"]
    rows.append(("peak memory, set 5, above the process and the pool", f"1/{peak:.1f}", "1/4", "1/8"))
    rows.append(("records, images and checkpoints, share of a trial", f"{records['share']:.2%}", "2%", "1%"))
    show(rows)
    for name, recorded in RECORDED_S.items():
        found = steps[name]["reference"]
        print(f"the transcription, {name}: {found:.2f} s per step; the program itself {recorded:.2f} s")
    machine = measure_machine()
    machine["fp32_gflops"] = 2 * MATRIX_SIDE**3 / rollouts[SET_5.name]["product"] / 1e9
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
