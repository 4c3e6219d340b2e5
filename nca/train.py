"""`python -m nca.train`: train one run; the same command resumes a stopped one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nca.cli.completion import answer_shell
from nca.cli.errors import EXIT_INTERRUPTED, ConfigError, exit_on_error, nearest
from nca.cli.options import SWEEP_FLAGS, split_overrides
from nca.config.completion import complete_overrides
from nca.config.custom_class import custom_overrides
from nca.config.schema import TrainConfig, TrialConfig, custom_classes, name_study, training_values
from nca.config.validation import build
from nca.loss.vgg_weights import resolve_features
from nca.records.paths import SINGLE_RUNS, RecordPaths
from nca.training.rerun import RERUN_OPTIONS, Rerun, parse_rerun
from sweeps import SweepError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nca.tracking.tracker import Tracker

KEYS = {*RERUN_OPTIONS, *(item.name for item in fields(TrialConfig)), "experiment"}  # those without a dot
MEMORY_KEYS = ("batch_size", "size", "max_ca_steps", "pool_size")
MAX_NAME_BYTES = 200  # before the hash in the name of a run's folder
LINE_EVERY_S = 10.0  # of progress, where there is no terminal


class _Console:
    """Follows a single run: a progress bar on a terminal, a line now and then elsewhere."""

    def __init__(self, n_steps: int) -> None:
        from rich.progress import BarColumn, Progress, TimeRemainingColumn

        count, loss = "{task.completed}/{task.total}", "{task.description}"
        self._bar = Progress(count, BarColumn(), loss, TimeRemainingColumn())
        self._task = self._bar.add_task("starting", total=n_steps)
        self._live = self._bar.console.is_terminal
        if self._live:
            self._bar.start()
        self._interrupted = False
        self._printed_at = time.monotonic()

    def interrupt(self, signum: int, frame: object) -> None:
        """Request the end of the run; a second signal ends the process at once.

        A closed terminal may send several.
        """
        self._interrupted = True
        if signum != signal.SIGHUP:
            signal.signal(signum, signal.SIG_DFL)

    def progress(self, n_steps: int, total_steps: int, loss: float) -> None:
        """Show the last loss."""
        self._bar.update(self._task, completed=n_steps, description=f"loss {loss:.4g}")
        if not self._live and (time.monotonic() - self._printed_at > LINE_EVERY_S or n_steps == total_steps):
            print(f"step {n_steps}/{total_steps} loss {loss:.4g}", flush=True)
            self._printed_at = time.monotonic()

    def show(self, output: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
        """Do nothing: a single run shows no pictures."""

    def report(self, n_steps: int, smoothed: float) -> bool:
        """Return True: a single run is never pruned."""
        return True

    def interrupt_requested(self) -> bool:
        """Return whether ctrl-C or SIGTERM came, or the terminal was closed."""
        return self._interrupted

    def cancelled(self) -> bool:
        """Return False: nothing but a signal ends a single run."""
        return False

    def close(self) -> None:
        """Restore the terminal."""
        if self._live:
            self._bar.stop()


@contextlib.contextmanager
def _memory_errors(train: TrainConfig) -> Iterator[None]:
    """Raise an error for lack of memory as a message of one line.

    Raises:
        ConfigError: In its place.
    """
    try:
        yield
    except Exception as error:
        from nca.training.run import is_out_of_memory

        if is_out_of_memory(error):
            given = ", ".join(f"train.{key}={getattr(train, key)}" for key in MEMORY_KEYS)
            line = f"out of memory with {given}: give smaller ones, or train.recompute=true"
            raise ConfigError(line) from error
        raise


def run_single(config: TrialConfig, rerun: Rerun | None = None) -> int:
    """Train one run to its end and return the exit code of the process.

    Raises:
        ConfigError: If an input is missing or, in a rerun, has changed, where nothing is created, or if there
            is not enough memory.
    """
    from nca.tracking.run_lock import hold
    from nca.training.device import limit_threads
    from nca.training.preflight import check_environment, check_inputs

    limit_threads()
    with _memory_errors(config.train):
        check_environment(config)
        config = replace(config, features=resolve_features(config.features, config.loss))
        inputs = check_inputs(config)
    if rerun is not None:
        rerun.check_inputs(inputs)
    identity = training_values(config) | inputs
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    study = name_study(config).encode()[:MAX_NAME_BYTES].decode(errors="ignore")
    name = f"{study}-{digest}"
    folder = Path(config.runs_dir) / "trials" / SINGLE_RUNS / name
    with hold(folder), _memory_errors(config.train):
        if rerun is not None:
            rerun.restore_to(folder)
        return _train_in(folder, config, name, {} if rerun is None else rerun.tags)


def _train_in(folder: Path, config: TrialConfig, name: str, tags: Mapping[str, str]) -> int:
    """Train a run in its folder; print its metrics and return the exit code."""
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
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, console.interrupt)
    try:
        outcome = train(config, folder, tracker, console)
    finally:
        console.close()
    if outcome.reason == "interrupted":
        print(
            f"interrupted after step {outcome.n_steps - 1}; run the same command to resume", file=sys.stderr
        )
        return EXIT_INTERRUPTED
    for key, value in outcome.metrics.items():
        print(f"{key}: {value:.6g}")
    print(f"{outcome.reason}: {outcome.picture}")
    if outcome.reason == "complete":
        for line in _describe_next(folder, config, tracker):
            print(line)
    return 0 if outcome.reason == "complete" else 1


def _describe_next(folder: Path, config: TrialConfig, tracker: Tracker) -> Iterator[str]:
    """Yield where a run's viewer is, and commands to go on with."""
    uri, runs = config.tracking.uri, Path(config.runs_dir).absolute()
    paths = RecordPaths(runs, RecordPaths.in_folder(runs).storage, uri)
    viewer = folder / "artifacts" / "viewer.html"
    if tracker.run_id is not None:
        viewer = paths.study_folders(SINGLE_RUNS)[1] / tracker.run_id / "artifacts" / "viewer.html"
    if viewer.exists():  # not at a server
        yield f"viewer: {viewer}"
    run = f"run={tracker.run_id or folder}"
    own = custom_overrides(custom_classes(config), "model")
    yield f"render: {paths.command('nca.render', run, *own, 'size=512', 'out=grown.png')}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the entry point.

    Raises:
        ConfigError: Never: it becomes one line and exit code 2.
        SystemExit: 0 trained, 1 diverged, 2 bad input, 130 interrupted.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    with exit_on_error(SweepError, OSError):  # of a full or unwritable disk, for instance
        if answer_shell(argv, partial(complete_overrides, "train")):
            raise SystemExit(0)
        flags, overrides = split_overrides(argv)
        if SWEEP_FLAGS.intersection(flags):
            raise ConfigError("nca.train -m: nca.train trains one run; a sweep is python -m nca.sweep -m")
        from nca.config.compose import compose_plain, run_hydra

        if flags:
            return run_hydra("train", flags, overrides)
        keys = {word.partition("=")[0] for word in overrides}
        for key in keys - KEYS:
            if nearest(key, RERUN_OPTIONS):
                raise ConfigError(f"unknown key '{key}'{nearest(key, RERUN_OPTIONS)}")
        if not keys & set(RERUN_OPTIONS):
            raise SystemExit(run_single(build(TrialConfig, compose_plain("train", overrides))))
        rerun = parse_rerun(overrides)
        print(rerun.description, flush=True)
        raise SystemExit(run_single(rerun.config, rerun))


if __name__ == "__main__":
    main()
