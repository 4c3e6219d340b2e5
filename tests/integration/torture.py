"""Kills sweeps at random moments, and checks what they leave: `make torture N=500 SEED=1`.

Small real trials with checkpoints, recorded in MLflow, under `sampler=random`: what they should come to is
known from a sweep that nobody disturbs. Workers and coordinators get SIGKILL, SIGTERM or SIGINT until a
study has its total; then the next study begins. The folder keeps finished studies: the same command goes on.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random  # noqa: TID251 - no stream of a training run
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState

from sweeps.trials import final_trials, first_attempt
from tests.integration.commands import SMALL
from tests.integration.records import Records

STEPS = 240
N_TRIALS = 4
COMMAND = (
    "-m",
    *SMALL,
    "sampler=random",
    f"train.steps={STEPS}",
    "outputs.robustness=false",
    f"sweep.n_trials={N_TRIALS}",
    "train.max_ca_steps=8",
    "train.pool_size=8",
    "train.checkpoint_every=12",
    "train.checkpoint_every_s=0",
    "sweep.retries=100",
    "executor.workers=2",
)
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SHORTEST_S, LONGEST_S = 0.1, 8.0  # from one kill to the next
COORDINATORS = 1 / 4  # of the kills; the others hit one of its processes
END_S = 60.0  # within which a coordinator that was asked to must have ended
ORPHANS_S = 1.0
MARK = "TORTURE"  # environment variable that all processes of a sweep bear


@dataclass
class Torture:
    """Sweeps that are killed again and again.

    Args:
        folder: Of all records.
        n_kills: In all.
        seed: Of the moments and the victims.
    """

    folder: Path
    n_kills: int
    seed: int
    done: int = 0
    _mark: str = field(default_factory=lambda: uuid4().hex)

    def run(self) -> None:
        """Kill until there have been enough kills, and check every study."""
        expected = self._undisturbed()
        number = 0
        while self.done < self.n_kills:
            name, chance = f"killed_{number}", random.Random(f"{self.seed} {number}")
            note = self.folder / f"{name}.json"
            if note.exists():
                self.done += json.loads(note.read_text())["kills"]
            else:
                n_before = self.done
                self._kill_until_done(name, chance)
                problems = compare(self.folder, name, expected)
                assert not problems, f"seed {self.seed}, study {name}: " + "; ".join(problems)
                note.write_text(json.dumps({"kills": self.done - n_before}))
                print(f"{name}: {self.done - n_before} kills, {self.done} so far", flush=True)
            number += 1

    def _undisturbed(self) -> Records:
        if not (self.folder / "undisturbed.json").exists():
            process = self._start("undisturbed")
            assert process.wait() == 0, "the undisturbed sweep failed"
            (self.folder / "undisturbed.json").write_text("{}")
        return Records(self.folder, "undisturbed")

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "nca.sweep", *COMMAND]
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*command, f"sweep.study={name}", f"runs_dir={self.folder}"],
                env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", MARK: self._mark},
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def _kill_until_done(self, name: str, chance: random.Random) -> None:
        process = self._start(name)
        while True:
            pause_s = math.exp(chance.uniform(math.log(SHORTEST_S), math.log(LONGEST_S)))
            try:
                code = process.wait(pause_s if self.done < self.n_kills else None)
            except subprocess.TimeoutExpired:
                self._kill_one(process, chance)
                continue
            self._expect_no_orphans()
            if code == 0:
                return
            assert code in (130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT), (
                f"{name} ended with {code}: {(self.folder / f'{name}.log').read_text()[-1000:]}"
            )
            process = self._start(name)

    def _kill_one(self, process: subprocess.Popen[bytes], chance: random.Random) -> None:
        which, at = chance.choice(SIGNALS), chance.random()
        self.done += 1
        if at < COORDINATORS:
            process.send_signal(which)
            process.wait(END_S)
            return
        others = sorted(set(bearing(self._mark)) - {process.pid})
        if others:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(chance.choice(others), which)

    def _expect_no_orphans(self) -> None:
        """Every process of a sweep must be gone within a second of its coordinator."""
        until = time.monotonic() + ORPHANS_S
        while orphans := bearing(self._mark):
            assert time.monotonic() < until, f"processes {orphans} outlive their coordinator"
            time.sleep(0.02)


def bearing(mark: str) -> list[int]:
    """Return the processes that run with a mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and folder.name != str(os.getpid()):
            try:
                if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def compare(folder: Path, name: str, expected: Records) -> list[str]:
    """Return what a study has lost, doubled or left, compared with one that nobody disturbed."""
    records = Records(folder, name)
    trials = records.study.get_trials()
    problems = [f"trial {t.number} is {t.state.name}" for t in trials if not t.state.is_finished()]
    ended = {first_attempt(trial): trial for trial in final_trials(trials)}
    if len(ended) != N_TRIALS or len(final_trials(trials)) != N_TRIALS:
        problems.append(f"{len(final_trials(trials))} trials have ended, of {sorted(ended)}")
    problems += [
        f"parent run is {run.info.status}" for run in records.parents if run.info.status != "FINISHED"
    ]
    if len(records.parents) != 1 or len(records.children) != N_TRIALS:
        problems.append(f"{len(records.parents)} parent runs, {len(records.children)} of trials")
    by_name = {run.info.run_name: run for run in records.children.values()}
    for index, (_, trial) in enumerate(sorted(ended.items())[:N_TRIALS]):
        problems += compare_trial(records, expected, index, trial, by_name)
    checkpoints = [str(path) for path in (folder / "trials" / name).glob("*/checkpoints")]
    return problems + [f"left behind: {path}" for path in checkpoints]


def compare_trial(
    records: Records, expected: Records, index: int, trial: FrozenTrial, by_name: dict[str, Run]
) -> list[str]:
    """Return what is wrong with a trial and its run; the undisturbed one has the number `index`."""
    model, name = expected.study.get_trials()[index], f"trial {first_attempt(trial)}"
    if trial.state != TrialState.COMPLETE:
        return [f"{name} ended {trial.state.name}"]
    problems = []
    if trial.params != model.params or trial.values != model.values:
        problems.append(f"{name}: {trial.params} {trial.values}, not {model.params} {model.values}")
    run = by_name.get(name)
    if run is None:
        return [*problems, f"{name} has no run"]
    if run.info.status != "FINISHED":
        problems.append(f"run of {name} is {run.info.status}")
    ours = losses(records, run.info.run_id)
    theirs = losses(expected, expected.children[index].info.run_id)
    if [step for step, _ in ours] != list(range(STEPS)):
        problems.append(f"{name}: the curve has {len(ours)} points of {STEPS}")
    elif ours != theirs:
        first = next(a for a, b in zip(ours, theirs, strict=True) if a != b)
        problems.append(f"{name}: the curves differ from step {first[0]} on")
    return problems


def losses(records: Records, run_id: str) -> list[tuple[int, float]]:
    """Return a run's loss curve in the order of its steps."""
    return sorted((metric.step, metric.value) for metric in records.client.get_metric_history(run_id, "loss"))


def main() -> None:
    """Torture as the command line says; the seed is printed first."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # programs would inherit that it is ignored
    n_kills, seed, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}", flush=True)
    torture = Torture(folder, n_kills, seed)
    torture.run()
    print(f"{torture.done} kills: nothing lost, nothing doubled, nothing left")


if __name__ == "__main__":
    main()
