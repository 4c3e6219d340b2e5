"""What a person sees of a running sweep: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleDimensions
from rich.live import Live
from rich.table import Table
from rich.text import Text

__all__ = [
    "Notes",
    "Progress",
    "Row",
    "Totals",
    "estimate_left_s",
    "format_duration",
    "format_params",
    "make_row",
]

LINE_EVERY_S = 30.0
AROUND_ROWS = 8  # lines of a terminal that the table takes besides its rows
WIDTH_WITH_SETS = 110  # columns of a terminal
LINES_OF_A_SET = 3  # where it is no wider
MAX_IN_A_LINE = 8
REFRESH_PER_S = 2
BLOCKS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 10
MOST_LOSSES = 64  # kept of a trial


@dataclass(frozen=True)
class Row:
    """A running trial as the table shows it.

    Args:
        number: The trial's.
        slot: Where it runs.
        params: What was drawn for it.
        n_steps: Finished steps; 0 before the first note.
        of: Steps in all; 0 when not known yet.
        loss: Of the last step; NaN when not known yet.
        rate: Steps per second.
        losses: Those of its notes so far, thinned out evenly.
    """

    number: int
    slot: int
    params: Mapping[str, Any]
    n_steps: int
    of: int
    loss: float
    rate: float
    losses: Sequence[float] = ()

    @property
    def left_s(self) -> float | None:
        """Seconds to the trial's end; None when not known yet."""
        return (self.of - self.n_steps) / self.rate if self.rate > 0 and self.of else None


@dataclass
class Notes:
    """A running trial's progress notes: the first, the last, and the losses of some between them."""

    first: Mapping[str, float] = field(default_factory=dict)
    last: Mapping[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    _every: int = 1
    _n_seen: int = 0

    def add(self, note: Mapping[str, float]) -> None:
        """Take a note; one that is empty or known changes nothing."""
        if not note or note == self.last:
            return
        self.first, self.last = self.first or note, note
        if self._n_seen % self._every == 0:
            self.losses.append(note["loss"])
        self._n_seen += 1
        if len(self.losses) > MOST_LOSSES:
            self.losses = self.losses[::2]
            self._every *= 2


def draw_curve(losses: Sequence[float]) -> str:
    """Return losses as a line of blocks, on a logarithmic scale from the smallest to the largest."""
    shown = [losses[len(losses) * i // CURVE_WIDTH] for i in range(CURVE_WIDTH)] if losses else []
    shown = list(losses) if len(losses) <= CURVE_WIDTH else shown
    known = [math.log(loss) for loss in shown if loss > 0 and math.isfinite(loss)]
    if not known:
        return ""
    low, high = min(known), max(known)
    levels = [
        round((math.log(loss) - low) / (high - low or 1) * (len(BLOCKS) - 1))
        if loss > 0 and math.isfinite(loss)
        else 0
        for loss in shown
    ]
    return "".join(BLOCKS[level] for level in levels)


def make_row(number: int, slot: int, params: Mapping[str, Any], notes: Notes) -> Row:
    """Return a trial's row from its progress notes."""
    note, first = notes.last, notes.first
    seconds = note.get("at", 0.0) - first.get("at", 0.0)
    rate = (note["n_steps"] - first["n_steps"]) / seconds if seconds > 0 else 0.0
    loss = note.get("loss", float("nan"))
    n_steps, of = int(note.get("n_steps", 0)), int(note.get("of", 0))
    return Row(number, slot, params, n_steps, of, loss, rate, notes.losses)


def estimate_left_s(
    rows: Sequence[Row], durations_s: Sequence[float], n_to_come: int, n_slots: int
) -> float | None:
    """Return seconds to a sweep's end; None until every running trial has a pace.

    Args:
        rows: The running trials.
        durations_s: Of trials that are complete.
        n_to_come: Trials that have not started.
        n_slots: Trials at once.
    """
    lefts = [row.left_s for row in rows if row.left_s is not None]
    if not lefts or len(lefts) < len(rows):
        return None
    wholes = [*durations_s, *(row.of / row.rate for row in rows)]
    return (sum(lefts) + n_to_come * sum(wholes) / len(wholes)) / n_slots


@dataclass(frozen=True)
class Totals:
    """The sweep as the table shows it.

    Args:
        study: Its name.
        n_ended: Trials ended for good.
        n_trials: Trials in all.
        counts: Ended trials by reason.
        best: Best value so far with its trial's number; None before the first.
        left_s: Seconds to the sweep's end; None when not known yet.
    """

    study: str
    n_ended: int
    n_trials: int
    counts: Mapping[str, int]
    best: tuple[int, float] | None
    left_s: float | None


class Progress:
    """Shows a sweep; used from the coordinator's thread.

    Args:
        console: Where to; a terminal gets the live table.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live = (
            Live(console=self._console, refresh_per_second=REFRESH_PER_S)
            if self._console.is_terminal
            else None
        )
        self._said_at = time.monotonic()

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line that stays, above the table."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, totals: Totals, rows: Sequence[Row]) -> None:
        """Show where everything is; elsewhere than on a terminal, a line now and then."""
        if self._live is not None:
            self._live.update(make_table(totals, rows, self._console.size))
        elif time.monotonic() - self._said_at >= LINE_EVERY_S:
            self._said_at = time.monotonic()
            running = [
                f"{row.number}: {row.n_steps}/{row.of} loss {row.loss:.4g}"
                if row.of
                else f"{row.number}: starting"
                for row in rows[:MAX_IN_A_LINE]
            ]
            running += [f"and {len(rows) - MAX_IN_A_LINE} more"] * (len(rows) > MAX_IN_A_LINE)
            self.say(f"{headline(totals)}; running {', '.join(running) or 'nothing'}")


def headline(totals: Totals) -> str:
    """Return the sweep in one line."""
    parts = [f"{totals.study}: {totals.n_ended}/{totals.n_trials} trials"]
    parts += [f"{count} {reason}" for reason, count in totals.counts.items() if reason != "complete"]
    if totals.best is not None:
        parts.append(f"best {totals.best[1]:.4g} (trial {totals.best[0]})")
    if totals.left_s is not None:
        parts.append(f"{format_duration(totals.left_s)} left")
    return ", ".join(parts)


def make_table(totals: Totals, rows: Sequence[Row], terminal: ConsoleDimensions) -> Table:
    """Return the live table: as many rows as fit into the terminal, the rest counted.

    A narrow one shows no sets; they stand in the lines that say that a trial starts.
    """
    n_rows = max(1, terminal.height - AROUND_ROWS)
    shows_sets = terminal.width >= WIDTH_WITH_SETS
    crowded = LINES_OF_A_SET * len(rows) > n_rows
    table = Table(title=headline(totals), title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    for name in ("trial", "slot", "step", "loss"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("curve", no_wrap=True, min_width=CURVE_WIDTH)
    for name in ("it/s", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    if shows_sets:
        table.add_column("set", overflow="fold")
    for row in rows[:n_rows]:
        step = f"{row.n_steps}/{row.of}" if row.of else "starting"
        loss = f"{row.loss:.4g}" if row.n_steps else ""
        rate = f"{row.rate:.2f}" if row.rate else ""
        left = "" if row.left_s is None else format_duration(row.left_s)
        set_ = Text(format_params(row.params), no_wrap=crowded, overflow="ellipsis" if crowded else "fold")
        curve = draw_curve(row.losses)
        cells = [str(row.number), str(row.slot), step, loss, curve, rate, left]
        table.add_row(*cells, *[set_] * shows_sets)
    if len(rows) > n_rows:
        table.caption = f"and {len(rows) - n_rows} more"
    return table


def format_params(params: Mapping[str, Any]) -> str:
    """Return a set in a short line, keys without their group."""
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
