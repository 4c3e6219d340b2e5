"""`python -m sweeps.copy from=ADDRESS to=ADDRESS`: copy studies to another storage, with their artifacts."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna
from optuna.artifacts import get_all_artifact_meta
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from sweeps import SweepError
from sweeps.output import protect_output
from sweeps.ownership import is_abandoned
from sweeps.storage.optuna_storage import RetryingStorage, first_line, open_storage
from sweeps.study import find_study
from sweeps.trials import first_attempt

USAGE = (
    "python -m sweeps.copy from=ADDRESS to=ADDRESS [study=NAME,...] [artifacts=FOLDER to_artifacts=FOLDER]"
)
OPTIONS = {
    "from": "SQLAlchemy address of the storage to copy from",
    "to": "SQLAlchemy address of the storage to copy to, which is created if it is not there",
    "study": "name of the study, or names as A,B; default: all studies",
    "artifacts": "folder of the pictures of the first storage; default: they stay where they are",
    "to_artifacts": "folder to copy these pictures to",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Copy studies and print a line for each; exit code 2 on bad options or an error of a storage.

    Raises:
        SystemExit: With exit code 2.
    """
    protect_output()
    argv = sys.argv[1:] if arguments is None else arguments
    if {"--help", "-h"}.intersection(argv):
        lines = [f"  {key + '=':15}{text}" for key, text in OPTIONS.items()]
        print(
            "\n".join([USAGE, "", "Copy studies to another storage, each whole or not at all.", "", *lines])
        )
        return
    try:
        for line in copy(read_options(argv)):
            print(line, flush=True)
    except (SweepError, OSError, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        print(f"error: {first_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def read_options(argv: Sequence[str]) -> dict[str, str]:
    """Return options by key.

    Raises:
        SweepError: If one is unknown, or a required one is missing.
    """
    options = {}
    for argument in argv:
        key, _, value = argument.partition("=")
        if key not in OPTIONS or not value:
            raise SweepError(f"{argument}: unknown option; {USAGE}")
        options[key] = value
    missing = [key for key in ("from", "to") if key not in options]
    if missing or ("artifacts" in options) != ("to_artifacts" in options):
        raise SweepError(f"give {', '.join(missing) or 'both artifacts and to_artifacts'}: {USAGE}")
    if options["from"] == options["to"]:
        raise SweepError(f"from={options['from']}: must differ from to=")
    return options


def copy(options: dict[str, str]) -> Iterator[str]:
    """Copy studies and yield a line for each.

    Raises:
        SweepError: If a storage cannot be opened, or a study does not exist, is running, or exists in the
            target; the studies before it have been copied.
    """
    source, target = open_storage(options["from"], create=False), open_storage(options["to"])
    names = optuna.get_all_study_names(source)
    for name in options["study"].split(",") if "study" in options else names:
        if name not in names:
            raise SweepError(f"study '{name}': no such study in {options['from']}")
        copied = copy_study(name, source, target)
        n_files = 0
        if "artifacts" in options:
            folders = Path(options["artifacts"]), Path(options["to_artifacts"])
            n_files = copy_artifacts(copied, target, *folders)
        yield f"{name}: {len(copied.get_trials(deepcopy=False))} trials, {n_files} artifacts"


def copy_study(name: str, source: RetryingStorage, target: RetryingStorage) -> Study:
    """Copy a study completely or not at all; its trials keep their numbers.

    Raises:
        SweepError: If one of its trials is running, or the target has a study of that name.
    """
    study = optuna.load_study(study_name=name, storage=source)
    running = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.RUNNING]
    if running:
        orphaned = is_abandoned(running[0])
        state = "is orphaned; repair the study first" if orphaned else "is running; stop the sweep first"
        raise SweepError(f"study '{name}': trial {first_attempt(running[0])} {state}")
    if find_study(target, name) is not None:
        raise SweepError(f"study '{name}': exists in to=; choose others with study=NAME, or delete it there")
    try:
        optuna.copy_study(from_study_name=name, from_storage=source, to_storage=target)
    except BaseException:
        if find_study(target, name) is not None:
            optuna.delete_study(study_name=name, storage=target)
        raise
    return optuna.load_study(study_name=name, storage=target)


def copy_artifacts(study: Study, storage: RetryingStorage, source: Path, target: Path) -> int:
    """Copy the artifacts of a copied study between folders; return how many the source has."""
    target.mkdir(parents=True, exist_ok=True)
    owners: list[Study | FrozenTrial] = [study, *study.get_trials()]
    metas = [meta for owner in owners for meta in get_all_artifact_meta(owner, storage=storage)]
    files = [source / meta.artifact_id for meta in metas if (source / meta.artifact_id).is_file()]
    for file in files:
        shutil.copyfile(file, target / file.name)
    return len(files)


if __name__ == "__main__":
    main()
