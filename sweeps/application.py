"""What an application must offer, and what it gets and returns."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sweeps.running_trial import RunningTrial

__all__ = ["Application", "DashboardNotes", "FinishedTrial", "Result", "load_application"]


@dataclass(frozen=True)
class Result:
    """How a trial ended.

    Args:
        reason: `complete`, `pruned`, `stopped`, or why it failed: `diverged`, `interrupted`,
            `out_of_memory`, `crashed`.
        values: One per objective; used where complete.
        attributes: JSON values recorded with the trial.
        pictures: Image files shown with the trial.

    Raises:
        ValueError: If it is complete without a value, or with one that is not a number.
    """

    reason: str
    values: Sequence[float] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    pictures: Sequence[Path] = ()

    def __post_init__(self) -> None:
        # Optuna fails such a trial without a word, and it would count as complete.
        if self.reason == "complete" and (not self.values or any(map(math.isnan, self.values))):
            raise ValueError(f"a complete trial needs values that are numbers, not {self.values}")


@dataclass(frozen=True)
class FinishedTrial:
    """A trial that has ended for good, as an application is told of it.

    Args:
        number: Of its last attempt.
        folder: Its own.
        reason: Why it ended.
        value: Its first objective; None unless complete.
        params: Its set.
        attributes: What was recorded with it.
    """

    number: int
    folder: Path
    reason: str
    value: float | None
    params: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DashboardNotes:
    """What the Optuna dashboard shows beside the values, in Markdown.

    Args:
        study: With the study; empty for nothing.
        trials: With trials, by number.
    """

    study: str = ""
    trials: Mapping[int, str] = field(default_factory=dict)


class Application(Protocol):
    """What a sweep runs. Made without arguments, in the coordinator and anew in every worker."""

    def open_study(self, study: str, config: Mapping[str, Any]) -> dict[str, str]:
        """Prepare records before any worker starts; return links to keep with the study.

        Called in the coordinator each time the study is begun or continued, with a trial's config. Links
        returned before are in `config["links"]`.
        """

    def warm_up(self) -> None:
        """Load what a trial needs; called in a worker before it has one."""

    def run(self, trial: RunningTrial) -> Result:
        """Run one trial in a worker; what it raises is recorded as `crashed`."""

    def close_trial(self, folder: Path, config: Mapping[str, Any], reason: str) -> None:
        """End the records of a trial whose worker died; called in the coordinator."""

    def show_study(
        self, config: Mapping[str, Any], links: Mapping[str, str], ended: Sequence[FinishedTrial]
    ) -> DashboardNotes:
        """Show the study so far; called in the coordinator as trials end, now and then, and at the end.

        Of the notes on one thing the first is kept. What it raises is said and ends nothing.
        """

    def close_study(
        self, config: Mapping[str, Any], links: Mapping[str, str], summary: Mapping[str, float]
    ) -> None:
        """End the records of a sweep; called in the coordinator."""


def load_application(path: str) -> Application:
    """Import `package.module:Class` and make one."""
    module, _, name = path.partition(":")
    application: Application = getattr(importlib.import_module(module), name)()
    return application
