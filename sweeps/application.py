"""The interface between the sweep engine and the application whose trials it runs."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sweeps.running_trial import RunningTrial
    from sweeps.trials import TrialSummary


@dataclass(frozen=True)
class Result:
    """The result of a trial.

    Args:
        reason: `complete`, `pruned`, `stopped`, or a failure: `diverged`, `interrupted`, `out_of_memory`,
            `crashed`.
        values: One value per objective of a complete trial.
        attributes: JSON values recorded with the trial.
        pictures: Image files shown with the trial.

    Raises:
        ValueError: If the trial is complete and has no value, or one that is NaN.
    """

    reason: str
    values: Sequence[float] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    pictures: Sequence[Path] = ()

    def __post_init__(self) -> None:
        # Optuna would silently fail such a trial, with the reason `complete`.
        if self.reason == "complete" and (not self.values or any(map(math.isnan, self.values))):
            raise ValueError(f"a complete trial needs values that are numbers, not {self.values}")


@dataclass(frozen=True)
class DashboardNotes:
    """Notes for the Optuna dashboard, in Markdown, and what it shows beside them.

    Args:
        study: Note on the study; empty for none.
        trials: Notes on trials, by number; each begins with the pictures of its trial's result.
        pictures: Image files of the study, with which its note begins; one replaces the one of its name.
        plots: Plots of the study, by an id for HTML: Plotly figures in JSON.
    """

    study: str = ""
    trials: Mapping[int, str] = field(default_factory=dict)
    pictures: Sequence[Path] = ()
    plots: Mapping[str, str] = field(default_factory=dict)


class Application(Protocol):
    """What a sweep runs: created without arguments in the coordinator, and again for each trial.

    All methods of the coordinator get the config that the study was opened with, composed from no params.
    """

    def open_study(
        self, study: str, config: Mapping[str, Any], lock: Callable[[], AbstractContextManager[None]]
    ) -> dict[str, str]:
        """Prepare the records of a study; return links that are kept with it.

        Called in the coordinator at the start of each sweep, before any trial. The config has also the links
        of an earlier call as `links` and the study's unique id as `uid`. `lock` keeps other coordinators out
        that begin at the same moment; no database may be created under it.
        """

    def warm_up(self) -> None:
        """Load what trials need; called once, in the process from which trials are forked."""

    def run(self, trial: RunningTrial) -> Result:
        """Run a trial, in its own process; an exception fails it as `crashed`."""

    def close_trial(self, folder: Path, config: Mapping[str, Any], reason: str) -> None:
        """End the records of a trial whose process died; called in the coordinator."""

    def show_study(
        self, config: Mapping[str, Any], links: Mapping[str, str], trials: Sequence[TrialSummary]
    ) -> DashboardNotes:
        """Show the finished trials; called in a thread of the coordinator at intervals and at the end.

        A note is saved only where there is none; pictures and plots are replaced. An exception is printed and
        does not end the sweep.
        """

    def close_study(
        self,
        config: Mapping[str, Any],
        links: Mapping[str, str],
        summary: Mapping[str, float],
        ended_at: datetime | None,
    ) -> None:
        """End the records of a sweep, whose last trial ended at a time; called in the coordinator."""


def load_application(path: str) -> Application:
    """Import and create an application from `package.module:Class`."""
    module, _, name = path.partition(":")
    application: Application = getattr(importlib.import_module(module), name)()
    return application
