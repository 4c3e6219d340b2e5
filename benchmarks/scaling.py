"""Measures the growth of time and memory of a training step: `python -m benchmarks.scaling`.

Set 5 with 30 CA steps, one parameter changed at a time, each point in a new process; also the largest rollout
that `train.recompute` is meant for. Takes ten minutes; draws docs/images/scaling.png and writes scaling.json.
"""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.cases import SET_5, SIZE_PX
from benchmarks.memory import measure

RESULTS = Path(__file__).with_name("scaling.json")
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "scaling.png"
CA_STEPS = 30
# Each changed parameter with its values and its value in set 5.
AXES: dict[str, tuple[tuple[int, ...], int]] = {
    "size": ((64, 128, 256, 512), SIZE_PX),
    "batch_size": ((1, 2, 4, 8, 16), SET_5.batch_size),
    "ca_steps": ((16, 32, 48, 64, 96), CA_STEPS),
    "channels": ((6, 9, 12, 15), SET_5.channels),
}
LABELS = {
    "size": "size, px",
    "batch_size": "batch size",
    "ca_steps": "CA steps of a rollout",
    "channels": "channels",
}
LARGEST = {"size": 512, "batch_size": 4, "ca_steps": 96}


def measure_all() -> dict[str, list[dict[str, float]]]:
    """Return the measurements along every axis, with and without recomputation."""
    found: dict[str, list[dict[str, float]]] = {}
    for axis, (values, _) in AXES.items():
        found[axis] = []
        for value in values:
            options = {"ca_steps": CA_STEPS, axis: value}
            point = measure("ours", **options)
            recomputed = measure("ours", **options, recompute=True)
            found[axis].append(
                {
                    "value": value,
                    **point,
                    "recompute_s": recomputed["step_s"],
                    "recompute_mb": recomputed["peak_mb"],
                }
            )
            print(axis, found[axis][-1], flush=True)
    return found


def draw(found: dict[str, list[dict[str, float]]]) -> None:
    """Draw time above memory, with a column for each axis."""
    figure = Figure(figsize=(13, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(found))
    kinds = (("step_s", "recompute_s", "seconds per step"), ("peak_mb", "recompute_mb", "peak memory, MB"))
    for column, (axis, points) in enumerate(found.items()):
        values = [point["value"] for point in points]
        for row, (plain, recomputed, label) in enumerate(kinds):
            plot = axes[row][column]
            plot.plot(values, [p[plain] for p in points], "o-", color="#08519c", label="all states kept")
            plot.plot(
                values, [p[recomputed] for p in points], "s--", color="#e6550d", label="train.recompute"
            )
            plot.set(xlabel=LABELS[axis], ylabel=label if column == 0 else "", ylim=(0, None))
            plot.grid(alpha=0.3)
    axes[0][0].legend(frameon=False)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE)


def main() -> None:
    """Measure, draw, and write scaling.json."""
    found = measure_all()
    draw(found)
    largest = measure("ours", **LARGEST, recompute=True, rounds=2)
    print("largest", LARGEST, largest)
    results = {"axes": found, "largest": {**LARGEST, **largest}}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
