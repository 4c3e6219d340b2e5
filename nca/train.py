"""`python -m nca.train`: one training run; the same command goes on where a stopped one was."""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

from nca.cli.errors import ConfigError, exit_on_error, nearest
from nca.config.schema import TrialConfig, name_study, training_values
from nca.config.validation import build
from nca.loss.vgg_weights import resolve_features
from nca.records.paths import SINGLE_RUNS
from nca.training.rerun import WORDS, Again, check_same_inputs, read_again, take_up
from sweeps import SweepError

__all__ = ["main"]

KEYS = {*WORDS, *(item.name for item in fields(TrialConfig)), "experiment"}  # without a dot


class _Console:
    """Follows a single run on the terminal: a progress bar, or a line now and then elsewhere."""

    LINE_EVERY_S = 10.0

    def __init__(self, n_steps: int) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._stop = False
        self._said_at = time.monotonic()
        columns = (
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns)
        self._task = self._bar.add_task("starting", total=n_steps)
        self._live = self._bar.console.is_terminal
        if self._live:
            self._bar.start()

    def interrupt(self, signum: int, frame: object) -> None:
        """Ask the run to stop; a second signal ends the process at once."""
        import signal

        self._stop = True
        signal.signal(signum, signal.SIG_DFL)

    def progress(self, n_steps: int, of: int, loss: float) -> None:
        """Show the last loss."""
        self._bar.update(self._task, completed=n_steps, description=f"loss {loss:.4g}")
        if not self._live and (time.monotonic() - self._said_at > self.LINE_EVERY_S or n_steps == of):
            print(f"step {n_steps}/{of} loss {loss:.4g}", flush=True)
            self._said_at = time.monotonic()

    def report(self, n_steps: int, smoothed: float) -> bool:
        """Go on: a single run is never pruned."""
        return True

    def interrupt_requested(self) -> bool:
        """Return whether Ctrl-C or SIGTERM came."""
        return self._stop

    def cancelled(self) -> bool:
        """Return False: nothing but a signal ends a single run."""
        return False

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()


def run_single(config: TrialConfig, again: Again | None = None) -> int:
    """Train one run to its end and return the process's exit code.

    Args:
        config: Its own.
        again: What it takes from an earlier run.

    Raises:
        ConfigError: If an input cannot be had; nothing has been created then.
    """
    from nca.tracking.run_lock import hold
    from nca.training.preflight import check_inputs, check_surroundings

    check_surroundings(config)
    config = replace(config, features=resolve_features(config.features))
    inputs = check_inputs(config)
    if again is not None:
        check_same_inputs(again, inputs)
    identity = training_values(config) | inputs
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    name = f"{name_study(config)}-{digest}"
    runs = Path(config.runs_dir)
    folder = runs / "trials" / SINGLE_RUNS / name
    with hold(folder):
        if again is not None:
            take_up(again, folder)
        return _run_in(folder, config, name, {} if again is None else again.tags)


def _run_in(folder: Path, config: TrialConfig, name: str, tags: Mapping[str, str]) -> int:
    """Train a run in its folder."""
    from nca.tracking.store import MlflowStore
    from nca.tracking.tracker import Tracker
    from nca.training.run import train

    tracker = Tracker()
    if config.tracking.uri is not None:
        store = MlflowStore(config.tracking.uri)
        artifacts = Path(config.runs_dir) / "artifacts" / SINGLE_RUNS
        experiment = store.experiments.open(SINGLE_RUNS, artifacts)
        tracker = store.open_run(folder, experiment, name, params=asdict(config))
        tracker.set_tags(tags)
    console = _Console(config.train.steps)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, console.interrupt)
    try:
        outcome = train(config, folder, tracker, console)
    finally:
        console.close()
    if outcome.reason == "interrupted":
        print(
            f"interrupted after step {outcome.n_steps - 1}; the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    for key, value in outcome.metrics.items():
        print(f"{key}: {value:.6g}")
    print(f"{outcome.reason}: {outcome.picture}")
    return 0 if outcome.reason == "complete" else 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the entry point.

    Raises:
        ConfigError: Never: it becomes one line and exit code 2.
        SystemExit: 0 trained, 1 diverged, 2 bad input, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with exit_on_error(SweepError, OSError):  # a full or unwritable disk is said in its own words
        if {"-m", "--multirun"} & set(words):
            raise ConfigError("nca.train -m: nca.train trains one run; a sweep is python -m nca.sweep -m")
        from nca.config.compose import compose_plain, run_hydra

        if any(word.startswith("-") for word in words):
            return run_hydra("train", words)
        for word in words:
            key = word.partition("=")[0]
            if key not in KEYS and nearest(key, WORDS):
                raise ConfigError(f"unknown key '{key}'{nearest(key, WORDS)}")
        again = None
        if {word.partition("=")[0] for word in words} & set(WORDS):
            again = read_again(words)
            print(again.what, flush=True)
        config = build(TrialConfig, compose_plain("train", words)) if again is None else again.config
        raise SystemExit(run_single(config, again))


if __name__ == "__main__":
    main()
