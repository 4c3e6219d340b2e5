"""`python -m analysis.ratings study=S`: ratings of outputs by eye, gathered, exchanged and summed up."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from statistics import fmean

from analysis.ratings.agreement import describe_agreement
from analysis.ratings.ratings import Rating, Ratings
from analysis.ratings.table import read_csv, write_csv
from nca.cli.errors import exit_on_error
from nca.cli.options import Command, atomic_output, read_out_path
from nca.records.paths import RECORD_OPTIONS, read_record_paths
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


@exit_on_error(SweepError, OSError)
def main(arguments: Sequence[str] | None = None) -> None:
    """Import, export, copy to MLflow and sum up a study's ratings; exit code 2 on bad input."""
    options = COMMAND.read(arguments).options
    out = read_out_path(options, "export", "") if "export" in options else None
    paths, study = read_record_paths(options), options["study"]
    ratings = Ratings(paths, study)
    trials = ratings.folders()
    if "import" in options:
        _import(ratings, Path(options["import"]).expanduser(), trials)
    found = ratings.all()
    ratings.tag_runs(sorted({rating.trial for rating in found}))
    if out is not None:
        with atomic_output(out) as partial:
            write_csv(study, found, partial)
        print(f"{out}: {len(found)} ratings")
    for line in describe(found, len(trials)):
        print(line)
    print(f"to rate: {paths.command('analysis.rate', f'study={study}')}")


def _import(ratings: Ratings, file: Path, trials: Collection[int]) -> None:
    new = read_csv(ratings.study, file, trials)
    before = {rating.key: rating.rating for rating in ratings.all()}
    n_replaced = sum(before.get(rating.key, rating.rating) != rating.rating for rating in new)
    for rating in new:
        ratings.add(rating)
    print(f"{file}: {len(new)} ratings" + (f", {n_replaced} in place of others" if n_replaced else ""))


def describe(ratings: Sequence[Rating], n_trials: int) -> Iterator[str]:
    """Yield how many outputs are rated, by whom, and how well the raters agree."""
    yield f"{len({each.trial for each in ratings})} of {n_trials} complete trials are rated"
    for rater in sorted({each.rater for each in ratings}):
        given = [each for each in ratings if each.rater == rater]
        mean = fmean(each.rating for each in given)
        yield f"{rater}: {len({each.trial for each in given})} rated, mean {mean:.2g}"
    yield from describe_agreement([ratings])


if __name__ == "__main__":
    main()
