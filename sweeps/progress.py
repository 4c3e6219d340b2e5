"""What a person sees of a running sweep: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

__all__ = [
    "Progress",
    "Row",
    "Totals",
    "estimate_left_s",
    "format_duration",
    "format_set",
    "make_row",
]

LINE_EVERY_S = 30.0
AROUND_ROWS = 8  # lines of a terminal that the table takes besides its rows
LINES_OF_A_SET = 3  # where it is 80 columns wide
MAX_IN_A_LINE = 8
REFRESH_PER_S = 2


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
    """

    number: int
    slot: int
    params: Mapping[str, Any]
    n_steps: int
    of: int
    loss: float
    rate: float

    @property
    def left_s(self) -> float | None:
        """Seconds to the trial's end; None when not known yet."""
        return (self.of - self.n_steps) / self.rate if self.rate > 0 and self.of else None


def make_row(
    number: int, slot: int, params: Mapping[str, Any], note: Mapping[str, float], first: Mapping[str, float]
) -> Row:
    """Return a trial's row from its newest and its first progress note, both empty before there is one."""
    seconds = note.get("at", 0.0) - first.get("at", 0.0)
    rate = (note["n_steps"] - first["n_steps"]) / seconds if seconds > 0 else 0.0
    loss = note.get("loss", float("nan"))
    return Row(number, slot, params, int(note.get("n_steps", 0)), int(note.get("of", 0)), loss, rate)


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
            self._live.update(make_table(totals, rows, self._console.height))
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


def make_table(totals: Totals, rows: Sequence[Row], height: int) -> Table:
    """Return the live table: as many rows as fit into a terminal of that height, the rest counted."""
    n_rows = max(1, height - AROUND_ROWS)
    crowded = LINES_OF_A_SET * len(rows) > n_rows
    table = Table(title=headline(totals), title_justify="left", caption_justify="left")
    for name in ("trial", "slot", "step", "loss", "it/s", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("set", overflow="fold")
    for row in rows[:n_rows]:
        step = f"{row.n_steps}/{row.of}" if row.of else "starting"
        loss = f"{row.loss:.4g}" if row.n_steps else ""
        rate = f"{row.rate:.2f}" if row.rate else ""
        left = "" if row.left_s is None else format_duration(row.left_s)
        set_ = Text(format_set(row.params), no_wrap=crowded, overflow="ellipsis" if crowded else "fold")
        table.add_row(str(row.number), str(row.slot), step, loss, rate, left, set_)
    if len(rows) > n_rows:
        table.caption = f"and {len(rows) - n_rows} more"
    return table


def format_set(params: Mapping[str, Any]) -> str:
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
