"""`python -m analysis.ratings study=S`: ratings of outputs by eye, gathered, exchanged and summed up."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from analysis.ratings.ratings import Rating, Ratings, group, self_agreement
from analysis.ratings.table import read_csv, write_csv
from nca.cli.errors import exit_on_error
from nca.cli.options import Command, read_out, writing
from nca.records.paths import RECORD_OPTIONS, RecordPaths, read_record_paths
from sweeps import SweepError

COMMAND = Command(
    "analysis.ratings",
    "Import, export and summarize the ratings of a study's outputs.",
    {
        "study": "name of the study",
        "import": "CSV file of ratings to add",
        "export": "CSV file to write all ratings to",
        **RECORD_OPTIONS,
    },
    required=["study"],
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Take ratings in from everywhere, hand them out, say what there is; exit code 2 on bad input.

    Raises:
        ConfigError: Never: it becomes one line and exit code 2.
    """
    with exit_on_error(SweepError, OSError):
        options = COMMAND.read(arguments).options
        out = read_out(options, "export", "") if "export" in options else None
        paths, study = read_record_paths(options), options["study"]
        _run(paths, study, Path(options["import"]).expanduser() if "import" in options else None, out)


def _run(paths: RecordPaths, study: str, given: Path | None, out: Path | None) -> None:
    ratings = Ratings(paths, study)
    trials = ratings.complete()
    new = [] if given is None else read_csv(study, given, trials)
    if given is not None:
        before = {rating.key: rating.rating for rating in ratings.all()}
        n_replaced = sum(before.get(rating.key, rating.rating) != rating.rating for rating in new)
        print(f"{given}: {len(new)} ratings" + (f", {n_replaced} in place of others" if n_replaced else ""))
    for rating in new:
        ratings.add(rating)
    ratings.tag_runs(sorted(group(ratings.all(), "trial")))
    found = ratings.all()
    if out is not None:
        with writing(out) as partial:
            write_csv(study, found, partial)
        print(f"{out}: {len(found)} ratings")
    for line in describe(found, len(trials)):
        print(line)
    print(f"to rate: {paths.command('analysis.rate', f'study={study}')}")


def describe(ratings: Sequence[Rating], n_trials: int) -> Iterator[str]:
    """Yield how many outputs are rated, by whom, and how well each rater agrees with themself."""
    rated = group(ratings, "trial")
    yield f"{len(rated)} of {n_trials} complete trials are rated"
    for rater, given in group(ratings, "rater").items():
        pairs = self_agreement(given)
        twice = ""
        if pairs:
            n_equal = sum(first == second for first, second in pairs)
            apart = statistics.fmean(abs(first - second) for first, second in pairs)
            twice = f"; {len(pairs)} looked at twice, {n_equal} rated alike, {apart:.2g} apart on average"
        mean = statistics.fmean(r.rating for r in given)
        yield f"{rater}: {len(group(given, 'trial'))} rated, {mean:.2g} on average{twice}"


if __name__ == "__main__":
    main()
