"""`python -m sweeps.copy from=ADDRESS to=ADDRESS`: studies from one storage to another, with artifacts."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna
from optuna.artifacts import get_all_artifact_meta
from optuna.study import Study
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from sweeps import SweepError
from sweeps.ownership import is_abandoned
from sweeps.storage.optuna_storage import RetryingStorage, first_line, open_storage
from sweeps.study import find_study

__all__ = ["copy_study", "main"]

USAGE = (
    "python -m sweeps.copy from=ADDRESS to=ADDRESS [study=NAME,...] [artifacts=FOLDER to_artifacts=FOLDER]"
)
KEYS = ("from", "to", "study", "artifacts", "to_artifacts")


def main(arguments: Sequence[str] | None = None) -> None:
    """Copy and say what was copied; exit code 2 on bad input or where a storage gives up.

    Raises:
        SystemExit: With it.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        for line in copy(read_options(words)):
            print(line, flush=True)
    except (SweepError, OSError, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        print(f"error: {first_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def read_options(words: Sequence[str]) -> dict[str, str]:
    """Return options by key.

    Raises:
        SweepError: If one is unknown, or one that is needed is missing.
    """
    options = {}
    for word in words:
        key, _, value = word.partition("=")
        if key not in KEYS or not value:
            raise SweepError(f"{word}: is no option; {USAGE}")
        options[key] = value
    missing = [key for key in ("from", "to") if key not in options]
    if missing or ("artifacts" in options) != ("to_artifacts" in options):
        raise SweepError(f"say {', '.join(missing) or 'both folders of artifacts, or none'}: {USAGE}")
    if options["from"] == options["to"]:
        raise SweepError(f"from={options['from']}: is the same as to")
    return options


def copy(options: dict[str, str]) -> Iterator[str]:
    """Copy studies and yield a line for each.

    Raises:
        SweepError: If a storage cannot be opened, or a study is missing, running, or there already; those
            before it are copied then.
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
    """Copy a study whole, or not at all; its trials keep their numbers.

    Args:
        name: The study's.
        source: Where it is.
        target: Where it goes.

    Raises:
        SweepError: If a trial of it runs, or the target has a study of that name.
    """
    study = optuna.load_study(study_name=name, storage=source)
    running = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.RUNNING]
    if running:
        gone = is_abandoned(running[0])
        what = "was left by a sweep that died; mend the study first" if gone else "runs; stop the sweep first"
        raise SweepError(f"study '{name}': trial {running[0].number} {what}")
    if find_study(target, name) is not None:
        raise SweepError(
            f"study '{name}': is there already; choose others with study=NAME, or delete it there"
        )
    try:
        optuna.copy_study(from_study_name=name, from_storage=source, to_storage=target)
    except BaseException:
        if find_study(target, name) is not None:
            optuna.delete_study(study_name=name, storage=target)
        raise
    return optuna.load_study(study_name=name, storage=target)


def copy_artifacts(study: Study, storage: RetryingStorage, source: Path, target: Path) -> int:
    """Copy the files of a study and its trials from one artifact store's folder to another's.

    Args:
        study: Copied already.
        storage: Its storage.
        source: Folder of the files.
        target: Created where missing.

    Returns:
        How many there were; those that are gone from the source are left out.
    """
    target.mkdir(parents=True, exist_ok=True)
    of_study = get_all_artifact_meta(study, storage=storage)
    of_trials = [
        meta for trial in study.get_trials() for meta in get_all_artifact_meta(trial, storage=storage)
    ]
    files = [source / meta.artifact_id for meta in (*of_study, *of_trials)]
    there = [file for file in files if file.is_file()]
    for file in there:
        shutil.copyfile(file, target / file.name)
    return len(there)


if __name__ == "__main__":
    main()
