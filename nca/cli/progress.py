"""How far a long command is, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
LINE_EVERY_S = 10.0  # where there is no terminal


def watch(items: Iterable[Item], n: int, what: str) -> Iterator[Item]:
    """Yield `n` items; stderr shows how many have come, in a bar on a terminal, else in a line at times.

    Args:
        items: May take long to come.
        n: Their number.
        what: Is done with them, as "growing".
    """
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    printed_at = time.monotonic()
    bar = track(items, what, n, console=console, disable=not console.is_terminal, transient=True)
    for count, item in enumerate(bar, start=1):
        if not console.is_terminal and time.monotonic() - printed_at > LINE_EVERY_S:
            print(f"{what}: {count / n:.0%}", file=sys.stderr, flush=True)
            printed_at = time.monotonic()
        yield item
