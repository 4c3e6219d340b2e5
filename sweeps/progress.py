"""The progress of a sweep: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleDimensions, Group
from rich.table import Table
from rich.text import Text

from sweeps.live import LiveDisplay, draw_lines, print_frame
from sweeps.pictures import LIVE_PLACES, Picture, Strip, erase
from sweeps.terminal import find_graphics, shows_text_alone

LINE_EVERY_S = 30.0
AROUND_ROWS = 8  # lines of a terminal that the table takes besides its rows
MIN_WIDTH_WITH_PARAMS = 110  # columns of a terminal
LINES_OF_PARAMS = 3  # on a terminal of that width
MAX_IN_LINE = 8
BLOCKS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 10
MAX_LOSSES = 64  # kept of a trial


@dataclass
class TrialProgress:
    """The progress of a running trial.

    Args:
        number: Of the first attempt.
        started_at: Start, on the monotonic clock.
        n_steps: Finished training steps.
        total_steps: Training steps of the whole trial; 0 if not known yet.
        loss: Loss of the last step; NaN if not known yet.
        rate: Steps per second since the first update; 0 if not known yet.
        losses: Losses of all updates, thinned out evenly.
    """

    number: int
    slot: int
    folder: Path
    params: Mapping[str, Any]
    started_at: float = field(default_factory=time.monotonic)
    n_steps: int = 0
    total_steps: int = 0
    loss: float = math.nan
    rate: float = 0.0
    losses: list[float] = field(default_factory=list)
    _first: Mapping[str, float] = field(default_factory=dict)
    _last: Mapping[str, float] = field(default_factory=dict)
    _n_updates: int = 0
    _every: int = 1

    def update(self, new: Mapping[str, float]) -> None:
        """Update from a result of `read_progress`, which may be empty or unchanged."""
        if not new or new == self._last:
            return
        self._first, self._last = self._first or new, new
        self.n_steps, self.total_steps, self.loss = int(new["n_steps"]), int(new["total_steps"]), new["loss"]
        seconds = new["at"] - self._first["at"]
        self.rate = (self.n_steps - self._first["n_steps"]) / seconds if seconds > 0 else 0.0
        if self._n_updates % self._every == 0:
            self.losses.append(self.loss)
        self._n_updates += 1
        if len(self.losses) > MAX_LOSSES:
            self.losses = self.losses[::2]
            self._every *= 2

    @property
    def left_s(self) -> float | None:
        """Seconds to the end of the trial; None if not known yet."""
        return (self.total_steps - self.n_steps) / self.rate if self.rate > 0 and self.total_steps else None


def draw_curve(losses: Sequence[float]) -> str:
    """Return losses as a line of blocks, on a logarithmic scale from the smallest to the largest."""
    n_shown = min(len(losses), CURVE_WIDTH)
    shown = [losses[len(losses) * i // n_shown] for i in range(n_shown)]
    logs = [math.log(loss) if loss > 0 and math.isfinite(loss) else None for loss in shown]
    known = [log for log in logs if log is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    scale = (len(BLOCKS) - 1) / (high - low or 1)
    return "".join(BLOCKS[0 if log is None else round((log - low) * scale)] for log in logs)


def estimate_left_s(
    running: Sequence[TrialProgress], durations_s: Sequence[float], n_to_come: int, n_slots: int
) -> float | None:
    """Return the seconds to the end of a sweep; None until the rate of every running trial is known.

    Args:
        running: The running trials.
        durations_s: Durations of complete trials.
        n_to_come: Number of trials that have not started.
        n_slots: Trials at once.
    """
    left = [trial.left_s for trial in running if trial.left_s is not None]
    if not left or len(left) < len(running):
        return None
    durations = [*durations_s, *(trial.total_steps / trial.rate for trial in running)]
    return (sum(left) + n_to_come * sum(durations) / len(durations)) / n_slots


class Progress:
    """Shows the progress of a sweep; used from the coordinator's thread.

    Args:
        console: Output; a terminal gets the live table, with pictures if it can show them.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._graphics = find_graphics(self._console)
        self._live: LiveDisplay | None = None
        self._shown_at = time.monotonic()
        self._place = LIVE_PLACES  # of the next picture that stays

    def __enter__(self) -> Progress:
        if not shows_text_alone(self._console):
            self._live = LiveDisplay(self._console, erase(self._graphics))
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def print(self, text: str) -> None:
        """Print a line, above the table."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def print_pictures(self, pictures: Sequence[Picture]) -> None:
        """Print pictures side by side, where the terminal can show them."""
        if self._graphics is not None:
            width, height = self._console.size
            strip = Strip(pictures, width, height - 1, self._graphics, self._place)
            if strip.overlays:
                self._place += len(strip.overlays)
                print_frame(self._console, strip.text, strip.overlays)

    def show(self, headline: str, running: Sequence[TrialProgress], pictures: Sequence[Picture] = ()) -> None:
        """Show the running trials: in the table, or without a terminal in a line at intervals.

        Args:
            headline: The state of the sweep.
            running: The running trials.
            pictures: Shown below the table, as far as there is room.
        """
        if self._live is not None:
            table = make_table(headline, running, self._console.size)
            self._show(self._live, table, pictures)
        elif time.monotonic() - self._shown_at >= LINE_EVERY_S:
            self._shown_at = time.monotonic()
            texts = [
                f"{trial.number}: {trial.n_steps}/{trial.total_steps} loss {trial.loss:.4g}"
                if trial.total_steps
                else f"{trial.number}: starting"
                for trial in running[:MAX_IN_LINE]
            ]
            texts += [f"and {len(running) - MAX_IN_LINE} more"] * (len(running) > MAX_IN_LINE)
            self.print(f"{headline}; running {', '.join(texts) or 'nothing'}")

    def _show(self, live: LiveDisplay, table: Table, pictures: Sequence[Picture]) -> None:
        if self._graphics is None or not pictures:
            live.show(table)
            return
        width, height = self._console.size
        n_free = height - 1 - len(draw_lines(self._console, table))
        strip = Strip(pictures, width, n_free, self._graphics)
        live.show(Group(table, strip.text) if strip.overlays else table, strip.overlays)


def make_table(headline: str, running: Sequence[TrialProgress], terminal: ConsoleDimensions) -> Table:
    """Return the live table: as many rows as fit into the terminal, and the number of the others.

    A narrow terminal gets no params; they stand in the line that is printed as a trial starts.
    """
    n_rows = max(1, terminal.height - AROUND_ROWS)
    shows_params = terminal.width >= MIN_WIDTH_WITH_PARAMS
    is_crowded = LINES_OF_PARAMS * len(running) > n_rows
    title = Text(headline, "table.title")  # not a string, whose brackets would be styles
    table = Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    for name in ("trial", "slot", "step", "loss"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("curve", no_wrap=True, min_width=CURVE_WIDTH)
    for name in ("it/s", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    if shows_params:
        table.add_column("params", overflow="fold")
    for trial in running[:n_rows]:
        params = format_params(trial.params)
        cells: list[str | Text] = [
            str(trial.number),
            str(trial.slot),
            f"{trial.n_steps}/{trial.total_steps}" if trial.total_steps else "starting",
            f"{trial.loss:.4g}" if trial.n_steps else "",
            draw_curve(trial.losses),
            f"{trial.rate:.2f}" if trial.rate else "",
            "" if trial.left_s is None else format_duration(trial.left_s),
            Text(params, no_wrap=is_crowded, overflow="ellipsis" if is_crowded else "fold"),
        ]
        table.add_row(*cells[: len(table.columns)])
    if len(running) > n_rows:
        table.caption = f"and {len(running) - n_rows} more"
    return table


def format_params(params: Mapping[str, Any]) -> str:
    """Return params in a short line, keys without their group."""
    return " ".join(
        f"{key.rpartition('.')[2]}={value:.4g}"
        if isinstance(value, float)
        else f"{key.rpartition('.')[2]}={value}"
        for key, value in params.items()
    )


def format_duration(seconds: float) -> str:
    """Return seconds as 42 s, 3 min 20 s, 5 h 12 min or 2 d 3 h."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days} d {h} h"
    if hours:
        return f"{hours} h {m} min"
    return f"{m} min {s} s" if minutes else f"{s} s"
