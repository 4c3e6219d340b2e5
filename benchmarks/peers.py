"""Time to a texture beside published programs: `python -m benchmarks.peers FOLDER [features.weights=PATH]`.

Google's texture notebook, NoiseNCA and muNCA (`benchmarks.published`) and ours, on the same targets and
sizes, in one process of one thread. The run with the fewest seconds goes next, so that all meet the same
neighbors. Seconds are processor time of training alone. Outputs are measured four times per doubling of the
steps, of all programs in the same way: the texture distance as `final_distance`, and the VGG ratio after
1,000 CA steps, the Gram loss through VGG-16 over that of the target with its pixels shuffled. Without
`features.weights` VGG-16 has seeded random weights.

A run ends after its published steps, or after an hour. The command goes on where FOLDER was left; `--hours`
limits the time that it takes, 0 to print and draw what there is; `--panel` and `--program` choose runs, for
several processes at once. The steps of all programs on a target are timed alternately before its runs, with
rollouts of their mean lengths. Prints tables, draws a picture of each size in docs/images and writes
peers.json, which keeps what it has of targets and programs that FOLDER has not.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from analysis.figures.drawing import scale_by_logarithm
from benchmarks.cases import vgg_weights
from benchmarks.peer_runs import NAMES, OURS, Measure, Panel, Run, time_steps
from benchmarks.table import measure_machine
from nca.cli.errors import ConfigError, exit_on_error
from nca.loss.features import read_weights
from nca.loss.vgg_weights import hash_file
from nca.training.device import keep_freed_memory
from sweeps.files import write_atomically

RESULTS = Path(__file__).with_name("peers.json")
PICTURES = Path(__file__).parents[1] / "docs" / "images"
PANELS = {
    panel.name: panel
    for panel in (Panel(texture, size) for size in (64, 128) for texture in ("roundleaf", "alocasia"))
}
TURN_S = 60.0  # of a run, until another one goes on
WEIGHTS_KEY = "features.weights="
RANDOM = "seeded random weights"
TIMED = "step_seconds.json"
LABEL_PT = 6.5  # above an output; longer ones would meet
SECONDS, DISTANCE, VGG_RATIO = 0, 2, 3  # columns of a curve
MEASURES = {DISTANCE: "texture distance", VGG_RATIO: "VGG ratio"}
COLORS = dict(zip(NAMES, ("#d95f02", "#7570b3", "#e7298a", "#1b9e77", "#66a61e"), strict=True))

Records = Mapping[str, Mapping[str, Mapping[str, Any]]]  # by panel and name, see `Run.record`


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line.

    Raises:
        ConfigError: If an argument is not known.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("weights", nargs="?", default="", metavar=f"{WEIGHTS_KEY}PATH")
    parser.add_argument("--hours", type=float, default=float("inf"))
    parser.add_argument("--panel", nargs="+", choices=PANELS, default=list(PANELS))
    parser.add_argument("--program", nargs="+", choices=NAMES, default=list(NAMES))
    options = parser.parse_intermixed_args(argv)
    if options.weights and not options.weights.startswith(WEIGHTS_KEY):
        raise ConfigError(f"'{options.weights}' is not known: give {WEIGHTS_KEY}PATH")
    options.weights = options.weights.removeprefix(WEIGHTS_KEY)
    return options


def load_weights(path: str) -> tuple[Mapping[str, Tensor], str]:
    """Return VGG-16's weights and what names them: the SHA-256 of their file, or that they are random.

    Raises:
        ConfigError: If the file is no VGG-16.
    """
    if not path:
        return vgg_weights(), RANDOM
    file = Path(path).expanduser()
    try:
        weights = {name: tensor.float() for name, tensor in read_weights(file).items()}
    except ConfigError as error:
        raise ConfigError(f"{WEIGHTS_KEY}{path}: {error}; give the path of a VGG-16 state dict") from error
    return weights, hash_file(file)


def claim(folder: Path, identity: str) -> None:
    """Name the weights in a folder, for all its runs are of the same.

    Raises:
        ConfigError: If the folder has runs with other weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "vgg16.txt"
    if note.exists() and note.read_text(encoding="utf-8").strip() != identity:
        raise ConfigError(f"{folder} has runs with other weights of VGG-16; give these, or another folder")
    note.write_text(identity + "\n", encoding="utf-8")


def train(
    panel: Panel, names: Sequence[str], folder: Path, weights: Mapping[str, Tensor], until: float
) -> None:
    """Time steps on a panel, once, and train runs to their ends, or until a time of `time.monotonic`."""
    timed = folder / panel.name / TIMED
    if not timed.exists():
        timed.parent.mkdir(parents=True, exist_ok=True)
        timed.write_text(json.dumps(time_steps(panel, weights)) + "\n", encoding="utf-8")
    if time.monotonic() >= until:
        return
    measure = Measure(panel.load_target(), weights)
    runs = [Run(folder / panel.name / name, panel, name, weights, measure) for name in names]
    while time.monotonic() < until and (left := [run for run in runs if not run.end]):
        min(left, key=lambda run: run.seconds).train(TURN_S)


def read(file: Path) -> dict[str, Any]:
    """Return what a JSON file holds; nothing if it is not there."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def collect(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the records of all runs of a folder that have been measured."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for panel in PANELS:
        for name in NAMES:
            record = read(folder / panel / name / "curve.json")
            if record.get("curve"):
                found.setdefault(panel, {})[name] = record
    return found


def merge(
    before: Mapping[str, Any], found: Records, steps: Mapping[str, Mapping[str, float]], vgg: str
) -> dict[str, Any]:
    """Return what peers.json holds next: what was found, and what it has from before of the same weights.

    Args:
        before: What it holds.
        found: Records; they get the day of this call.
        steps: Seconds of a training step, by panel and name.
        vgg: What names the weights.
    """
    kept: Mapping[str, Any] = before if before.get("vgg16") == vgg else {}
    records: dict[str, dict[str, Any]] = {}
    for panel in PANELS:
        runs = dict(kept.get("runs", {}).get(panel, {}))
        runs |= {name: {**run, "measured": str(date.today())} for name, run in found.get(panel, {}).items()}
        if runs:
            records[panel] = {name: runs[name] for name in NAMES if name in runs}
    return {
        "machine": measure_machine(),
        "vgg16": vgg,
        "step_seconds": {**kept.get("step_seconds", {}), **steps},
        "compared": compare(records),
        "runs": records,
    }


def seconds_to(curve: Sequence[Sequence[float]], measure: int, goal: float) -> float | None:
    """Return the seconds after which a curve was first as low as the goal; None if it never was."""
    return next((point[SECONDS] for point in curve if point[measure] <= goal), None)


def best(curve: Sequence[Sequence[float]], measure: int) -> float:
    """Return the least value of a curve."""
    return min(point[measure] for point in curve)


def compare(records: Records) -> list[dict[str, Any]]:
    """Return for each published program and measure its best value, and after how many seconds who had it."""
    rows = []
    for panel, runs in records.items():
        for name in NAMES:
            if name in OURS or name not in runs:
                continue
            for measure, label in MEASURES.items():
                goal = best(runs[name]["curve"], measure)
                who = [name, *(each for each in OURS if each in runs)]
                seconds = {each: seconds_to(runs[each]["curve"], measure, goal) for each in who}
                rows.append(
                    {"panel": panel, "program": name, "measure": label, "best": goal, "seconds": seconds}
                )
    return rows


def show(
    records: Records, rows: Sequence[Mapping[str, Any]], steps: Mapping[str, Mapping[str, float]]
) -> None:
    """Print seconds per step, what the runs reached, and when ours had what published programs reached."""
    console = Console(width=130)
    table = Table("target, px", *(f"{name}, s per step" for name in NAMES))
    for panel, seconds in steps.items():
        table.add_row(panel, *(f"{seconds[name]:.3f}" for name in NAMES))
    console.print(table)
    table = Table("target, px", "program", "steps", "of", "seconds", "s per step", *MEASURES.values(), "end")
    for panel, runs in records.items():
        for name, run in runs.items():
            lows = [f"{best(run['curve'], measure):.3f}" for measure in MEASURES]
            counts = [str(run["steps"]), str(run["published_steps"])]
            times = [f"{run['curve'][-1][SECONDS]:.0f}", f"{run['seconds_per_step']:.3f}"]
            table.add_row(panel, name, *counts, *times, *lows, run["end"])
    console.print(table)
    table = Table("target, px", "program", "measure", "its best", "after s", *(f"{each}, s" for each in OURS))
    for row in rows:
        theirs = row["seconds"][row["program"]]
        cells = []
        for each in OURS:
            ours = row["seconds"].get(each)
            cells.append("not reached" if ours is None else f"{ours:.0f} ({theirs / ours:.1f}x)")
        table.add_row(
            row["panel"], row["program"], row["measure"], f"{row['best']:.3f}", f"{theirs:.0f}", *cells
        )
    console.print(table)


def draw(folder: Path, records: Records, picture: Path) -> None:
    """Draw quality against seconds, a column for each panel, above one output of each run."""
    figure = Figure(figsize=(6.5 * len(records), 9), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(3, len(records), squeeze=False, height_ratios=(3, 3, 1.3))
    for column, (panel, runs) in enumerate(records.items()):
        for row, (measure, label) in enumerate(MEASURES.items()):
            axes = grid[row][column]
            for name, run in runs.items():
                curve = np.array(run["curve"])
                style = "o-" if name in OURS else "s--"
                axes.plot(curve[:, SECONDS], curve[:, measure], style, ms=3, label=name, color=COLORS[name])
            axes.set(xscale="log", ylabel=label, xlabel="seconds of processor time, training")
            values = [point[measure] for run in runs.values() for point in run["curve"]]
            scale_by_logarithm(axes, "y", np.array(values))
            axes.grid(alpha=0.3, which="both")
        texture, _, size = panel.rpartition("-")
        grid[0][column].set_title(f"{texture}, {size} px")
        draw_outputs(grid[2][column], folder / panel, list(runs))
    grid[0][0].legend(frameon=False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)


def draw_outputs(axes: Any, folder: Path, names: Sequence[str]) -> None:
    """Draw the target and the first of each run's last outputs, from what the runs left."""
    axes.set_axis_off()
    files = {name: folder / name / "outputs.png" for name in names}
    sheets = {name: np.asarray(Image.open(file)) for name, file in files.items() if file.exists()}
    if not sheets:
        return
    side = len(next(iter(sheets.values())))
    step = side + 2  # to the next column, behind a gap
    first = next(iter(sheets.values()))[:, :side]
    columns = [first, *(sheet[:, step : step + side] for sheet in sheets.values())]
    white = np.full((side, side // 16, 3), 255, dtype=np.uint8)
    axes.imshow(np.concatenate([piece for column in columns for piece in (column, white)], axis=1))
    for index, label in enumerate(("target", *sheets)):
        axes.text(index * (side + side // 16), -side // 16, label, fontsize=LABEL_PT)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is left within the time, print, draw and write peers.json.

    Raises:
        ConfigError: If nothing was measured yet.
    """
    with exit_on_error():
        options = parse(argv)
        until = time.monotonic() + 3600 * options.hours
        torch.set_num_threads(1)
        keep_freed_memory()
        weights, identity = load_weights(options.weights)
        claim(options.folder, identity)
        for name in options.panel:
            if time.monotonic() < until:
                train(PANELS[name], options.program, options.folder, weights, until)
        found = collect(options.folder)
        if not found:
            raise ConfigError(f"{options.folder} has no measured runs yet: give it more than 0 hours")
        vgg = RANDOM if identity == RANDOM else f"SHA-256 {identity}"
        steps = {name: timed for name in found if (timed := read(options.folder / name / TIMED))}
        results = merge(read(RESULTS), found, steps, vgg)
        named = RANDOM if identity == RANDOM else f"the weights of {WEIGHTS_KEY}{options.weights}"
        print(f"VGG-16 has {named}")
        show(results["runs"], results["compared"], results["step_seconds"])
        for size in sorted({PANELS[name].size for name in found}):
            records = {name: results["runs"][name] for name in found if PANELS[name].size == size}
            draw(options.folder, records, PICTURES / f"peers_{size}.png")
        write_atomically(RESULTS, json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
