"""Measures training steps against the reference program's algorithm on a GPU: `python -m benchmarks.cuda`.

Prints the rows of `make bench` that apply to a GPU and writes cuda.json with the machine's description. Times
cover whole training steps and rollouts, host included, between two synchronizations. Not yet run on any GPU;
nothing else should run at the same time.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.cases import DISTILL, MUNCA, SET_5, SIX, make_ours, make_reference
from benchmarks.table import show
from benchmarks.timing import speedup, time_alternately, time_rollouts, time_steps

RESULTS = Path(__file__).with_name("cuda.json")
DEVICE = "cuda"
MATRIX_SIDE = 8192
VARIANTS = ("fp32", "fp32, graph", "tf32, graph", "bf16, graph")


def measure_peaks(device: torch.device) -> dict[str, float]:
    """Return the peak of allocated memory in MB of training steps of set 5, its small pool included."""
    size, rows = SET_5.size_px, range(SET_5.batch_size)
    fresh = torch.rand(SET_5.channels, size, size, device=device)
    peaks = {}
    run: Callable[[int], object]
    for program in ("reference", "ours"):
        if program == "ours":
            run = make_ours(SET_5, device=device).train_step
        else:
            theirs = make_reference(SET_5, device=device)
            run = functools.partial(theirs.train_step, rows=rows, ca_steps=SET_5.ca_steps, seed_state=fresh)
            del theirs
        torch.cuda.reset_peak_memory_stats(device)
        for number in range(3):
            run(number)
        peaks[program] = torch.cuda.max_memory_allocated(device) / 1e6
        del run
    return peaks


def main() -> None:
    """Measure, print, and write cuda.json; exit code 2 without a GPU.

    Raises:
        SystemExit: If there is no GPU.
    """
    if torch.cuda.device_count() == 0:
        print("benchmarks.cuda needs a GPU that torch can use; on the CPU run make bench", file=sys.stderr)
        raise SystemExit(2)
    device = torch.device(DEVICE)
    a = torch.rand(MATRIX_SIDE, MATRIX_SIDE, device=device)
    seconds = time_alternately({"fp32": lambda _: a @ a, "tf32": lambda _: a @ a}, device)
    machine = {
        "gpu": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        **{f"{name}_tflops": 2 * MATRIX_SIDE**3 / s / 1e12 for name, s in seconds.items()},
    }
    steps = {case.name: time_steps(case, VARIANTS, device) for case in SIX}
    others = {case.name: time_steps(case, VARIANTS, device) for case in (DISTILL, MUNCA)}
    rollouts = {case.name: time_rollouts(case, device) for case in (SET_5, DISTILL, MUNCA)}
    peaks = measure_peaks(device)
    rows = []
    for variant in VARIANTS:
        ratios = [speedup(found, variant) for found in steps.values()]
        rows.append((f"training step, {variant}, set 5", f"{ratios[0]:.1f}x", "", ""))
        rows.append(
            (f"six sets, {variant}, geometric mean", f"{statistics.geometric_mean(ratios):.1f}x", "", "")
        )
        for name, found in others.items():
            rows.append((f"training step, {variant}, {name}", f"{speedup(found, variant):.1f}x", "", ""))
    for case in (SET_5, DISTILL, MUNCA):
        found = rollouts[case.name]
        rows.append((f"rollout of {case.ca_steps} CA steps, {case.name}", f"{speedup(found):.1f}x", "", ""))
    rows.append(("peak memory, set 5", f"1/{peaks['reference'] / peaks['ours']:.1f}", "", ""))
    show(rows)
    sets = {case.name: {"sizes": case.sizes, **steps[case.name]} for case in SIX}
    results = {"machine": machine, "sets": sets, "other_rules": others, "rollouts": rollouts}
    results["peak_memory"] = peaks
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
