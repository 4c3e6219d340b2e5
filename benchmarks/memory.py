"""Measures the peak memory of training steps: `python -m benchmarks.memory PROGRAM [KEY=VALUE ...]`.

Prints one JSON line: the peak resident memory without the pool and without what the process had before the
trainer, after loading torch and running every kind of operation once; and the median time of a step.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.cases import SET_5, Case, make_ours, make_reference, vgg_weights
from nca.loss.winograd import WinogradConvolution
from nca.training.device import keep_freed_memory

ROUNDS = 4
MB = 1e6


def measure(program: str, **options: object) -> dict[str, float]:
    """Return the measurements of a new process.

    Args:
        program: `ours` or `reference`.
        options: Fields of `Case`, `ca_steps` of every rollout, `rounds`; for `ours` also `size`, `precision`
            and `recompute`.
    """
    arguments = [f"{key}={json.dumps(value)}" for key, value in options.items()]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", program, *arguments],
        check=True,
        capture_output=True,
        encoding="utf-8",
        cwd=Path(__file__).parents[1],
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def resident_mb(key: str) -> float:
    """Return VmRSS or VmHWM of this process in MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024 / MB


def warm_up() -> None:
    """Run every kind of operation once, so that its code is loaded."""
    images = torch.rand(2, 16, 16, 16).contiguous(memory_format=torch.channels_last)
    weight = torch.rand(16, 16, 3, 3, requires_grad=True)
    F.conv2d(images, weight).relu().sum().backward()
    torch.optim.Adam([weight], fused=True).step()
    torch.bmm(torch.rand(4, 64, 64), torch.rand(4, 64, 64))
    WinogradConvolution(weight.detach(), torch.rand(16))(images.requires_grad_()).sum().backward()


def main(argv: list[str]) -> None:
    """Measure and print."""
    program, *given = argv
    options = {key: json.loads(value) for key, _, value in (option.partition("=") for option in given)}
    fields = {field.name for field in dataclasses.fields(Case)}
    case = dataclasses.replace(SET_5, **{k: options.pop(k) for k in fields & options.keys()})
    rounds, ca_steps = options.pop("rounds", ROUNDS), options.pop("ca_steps", case.ca_steps)
    warm_up()
    before = resident_mb("VmRSS")
    rows, size = 64 * case.batch_size, options.get("size", case.size_px)
    step: Callable[[int], object]
    if program == "reference":
        theirs = make_reference(case, pool_rows=rows)
        fresh = torch.rand(case.channels, case.size_px, case.size_px)
        step = lambda number: theirs.train_step(number, range(case.batch_size), ca_steps, fresh)  # noqa: E731
    else:
        ours = make_ours(case, pool_rows=rows, **options)
        ours.ca_steps, step = ca_steps, ours.train_step
        vgg_weights.cache_clear()
        keep_freed_memory()
    seconds = []
    for number in range(rounds):
        start = time.perf_counter()
        step(number)
        seconds.append(time.perf_counter() - start)
    pool_mb = rows * case.channels * size**2 * 4 / MB
    peak_mb = resident_mb("VmHWM") - before - pool_mb
    print(json.dumps({"peak_mb": peak_mb, "pool_mb": pool_mb, "step_s": statistics.median(seconds[1:])}))


if __name__ == "__main__":
    main(sys.argv[1:])
