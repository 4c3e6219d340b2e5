"""`python -m analysis.ratings study=S`: ratings of outputs by eye, gathered, exchanged and summed up.

5: color and pattern extremely close to the target; 0: completely different. Optuna keeps them with the study,
one attribute each; the MLflow runs have them as tags.
"""

from __future__ import annotations

import csv
import math
import re
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nca.cli.options import PLACES, read_options, read_out, read_places, writing
from nca.config.validation import ConfigError, exit_on_error
from nca.records.paths import DASHBOARD, Places
from sweeps import SweepError

__all__ = ["DASHBOARD_RATER", "LARGEST", "Rating", "Ratings", "check_rater", "main", "mean_ratings", "now"]

USAGE = (
    "python -m analysis.ratings study=NAME [import=FILE.csv] [export=FILE.csv] [runs_dir=mlruns] "
    "[sweep.storage=ADDRESS] [tracking.uri=ADDRESS|none]"
)
LARGEST = 5  # of a rating; the smallest is 0
DASHBOARD_RATER = "dashboard"  # who rates in the Optuna dashboard, which knows no names

STUDY = "study"  # column of a table, which may hold several studies
KEY = "rating:"  # of an attribute of the study
RATER = re.compile(r"[\w][\w .-]{0,39}")
TAG = "rating"  # of an MLflow run: the mean; with a dot and a name that of one rater


@dataclass(frozen=True)
class Rating:
    """What one person says of one output at one look.

    Args:
        trial: Number of the trial.
        rater: The person's name.
        look: 0 for the first look, 1 for the second, which measures how well a rater agrees with themself.
        rating: 0 to 5.
        at: When, in UTC, ISO 8601.
    """

    trial: int
    rater: str
    look: int
    rating: float
    at: str

    @property
    def key(self) -> str:
        """The study's attribute that holds it."""
        return f"{KEY}{self.trial}:{self.look}:{self.rater}"


def check_rater(name: str) -> str:
    """Return a rater's name.

    Raises:
        ConfigError: If it is none.
    """
    if not RATER.fullmatch(name):
        raise ConfigError(
            f"rater={name}: 1 to 40 letters, digits, spaces, dots, _ and -, a letter or digit first"
        )
    return name


def now() -> str:
    """Return the time as a rating notes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Ratings:
    """The ratings of one study.

    Args:
        places: Where records are.
        study: Its name.

    Raises:
        SweepError: If there is no such study.
    """

    def __init__(self, places: Places, study: str) -> None:
        self.study = study
        self._places = places
        self._studies = places.open_studies()
        self._studies.look(study)

    def all(self) -> list[Rating]:
        """Return all ratings, the oldest first."""
        found = []
        for key, value in self._studies.attributes(self.study, KEY).items():
            if value is not None:  # one that was taken back
                trial, look, rater = key.removeprefix(KEY).split(":", 2)
                found.append(Rating(int(trial), rater, int(look), float(value["rating"]), value["at"]))
        return sorted(found, key=lambda r: (r.at, r.trial, r.look))

    def add(self, rating: Rating) -> None:
        """Keep a rating, in place of an earlier one of that person and look."""
        self._studies.set_attribute(self.study, rating.key, {"rating": rating.rating, "at": rating.at})

    def take_back(self, rating: Rating) -> None:
        """Forget a rating."""
        self._studies.set_attribute(self.study, rating.key, None)

    def complete(self) -> dict[int, Path]:
        """Return the folders of the trials that can be rated, by number: complete ones with an output."""
        from analysis.trial_pictures import has_output

        trials = self._places.folders(self.study)[0]
        notes = self._studies.trials(self.study)
        folders = {n.number: trials / str(n.origin) for n in notes if n.reason == "complete"}
        return {number: folder for number, folder in folders.items() if has_output(folder)}

    def tag_runs(self, trials: Iterable[int]) -> None:
        """Copy the ratings of trials to their MLflow runs.

        Raises:
            ConfigError: If the MLflow store cannot be opened.
        """
        store = self._places.open_tracking()
        if store is None:
            return
        from nca.tracking import one_line

        runs = {n.number: n.attributes.get("mlflow_run_id") for n in self._studies.trials(self.study)}
        by_trial = group(self.all(), "trial")
        with one_line(str(self._places.tracking)):
            for trial in trials:
                run = runs.get(trial)
                if run is not None and store.has_run(run):
                    store.replace_tags(run, TAG, tags_of(means_of(by_trial.get(trial, []))))


def tags_of(means: Mapping[str, float]) -> dict[str, str]:
    """Return the tags of a run by its raters' means."""
    if not means:
        return {}
    overall = statistics.fmean(means.values())
    return {TAG: f"{overall:.3g}"} | {f"{TAG}.{rater}": f"{mean:.3g}" for rater, mean in means.items()}


def group(ratings: Iterable[Rating], field: str) -> dict[Any, list[Rating]]:
    """Return ratings by one of their fields, in the order of its values."""
    groups: dict[Any, list[Rating]] = {}
    for rating in ratings:
        groups.setdefault(getattr(rating, field), []).append(rating)
    return dict(sorted(groups.items()))


def means_of(ratings: Iterable[Rating]) -> dict[str, float]:
    """Return each rater's mean of the ratings of one trial."""
    by_rater = group(ratings, "rater")
    return {rater: statistics.fmean(r.rating for r in given) for rater, given in by_rater.items()}


def means_by_trial(ratings: Iterable[Rating]) -> dict[int, float]:
    """Return one rater's mean ratings by trial."""
    by_trial = group(ratings, "trial")
    return {trial: statistics.fmean(r.rating for r in given) for trial, given in by_trial.items()}


def mean_ratings(ratings: Iterable[Rating]) -> dict[int, float]:
    """Return the mean of the raters' means by trial."""
    return {
        trial: statistics.fmean(means_of(given).values()) for trial, given in group(ratings, "trial").items()
    }


def self_agreement(ratings: Iterable[Rating]) -> list[tuple[float, float]]:
    """Return the first and the second rating of everything that one rater has looked at twice."""
    looks = group(ratings, "trial").values()
    pairs = [sorted(given, key=lambda r: r.look) for given in looks if len(given) > 1]
    return [(pair[0].rating, pair[1].rating) for pair in pairs]


def write_csv(study: str, ratings: Sequence[Rating], file: Path) -> None:
    """Write ratings as a table with a head, the study's name in front."""
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.DictWriter(text, [STUDY, *(field.name for field in fields(Rating))])
        writer.writeheader()
        writer.writerows({STUDY: study} | asdict(rating) for rating in ratings)


def read_csv(study: str, file: Path, trials: Iterable[int]) -> list[Rating]:
    """Return a study's ratings of a table: columns trial and rating, and rater, look and at if it has them.

    Args:
        study: Of a table with a column study its lines are taken, of others all.
        file: The table.
        trials: Numbers that may be rated.

    Raises:
        ConfigError: If a line is none, with its number, or all are of other studies.
    """
    known = set(trials)
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text)
            missing = [name for name in ("trial", "rating") if name not in (reader.fieldnames or ())]
            if missing:
                raise ConfigError(f"import={file}: has no column {' and no '.join(missing)}")
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"import={file}: cannot be read ({error})") from error
    ours = [_read_row(file, line, row, known) for line, row in rows if row.get(STUDY, study) == study]
    if rows and not ours:
        others = ", ".join(sorted({str(row[STUDY]) for _, row in rows}))
        raise ConfigError(f"import={file}: has ratings of {others}, none of {study}")
    return ours


def _read_row(file: Path, line: int, row: Mapping[str, str | None], known: set[int]) -> Rating:
    def refuse(name: str, allowed: str) -> ConfigError:
        return ConfigError(
            f"import={file}, line {line}: {name}={row.get(name)}: {allowed}; nothing was imported"
        )

    trial, look = row["trial"] or "", row.get("look") or "0"
    if not trial.isdecimal() or int(trial) not in known:
        raise refuse("trial", "no complete trial of the study has that number")
    if look not in {"0", "1"}:
        raise refuse("look", "must be 0 or 1")
    try:
        rating = float(row["rating"] or "")
    except ValueError:
        rating = math.nan
    if not 0 <= rating <= LARGEST:
        raise refuse("rating", f"must be a number from 0 to {LARGEST}")
    rater = row.get("rater") or file.stem
    if not RATER.fullmatch(rater):
        raise refuse("rater", "must be 1 to 40 letters, digits, spaces, dots, _ and -")
    at = row.get("at") or now()
    try:
        datetime.fromisoformat(at)
    except ValueError:
        raise refuse("at", "must be a time in ISO 8601") from None
    return Rating(int(trial), rater, int(look), rating, at)


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Take ratings in from everywhere, hand them out, say what there is; exit code 2 on bad input.

    Raises:
        ConfigError: Never: it becomes one line and exit code 2.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with exit_on_error(SweepError, OSError):
        options = read_options(words, ("study", "import", "export", *PLACES), USAGE, "study")
        out = read_out(options, "export", "") if "export" in options else None
        places, study = read_places(options), options["study"]
        _run(places, study, Path(options["import"]).expanduser() if "import" in options else None, out)


def _run(places: Places, study: str, given: Path | None, out: Path | None) -> None:
    from analysis.ratings.companion import RATINGS, collect, top_up

    ratings = Ratings(places, study)
    trials = ratings.complete()
    new = [] if given is None else read_csv(study, given, trials)
    if given is not None:
        before = {rating.key: rating.rating for rating in ratings.all()}
        n_replaced = sum(before.get(rating.key, rating.rating) != rating.rating for rating in new)
        print(f"{given}: {len(new)} ratings" + (f", {n_replaced} in place of others" if n_replaced else ""))
    n_new = top_up(places, study, trials)
    new += collect(places, study)
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
    waiting = f", {n_new} new" if n_new else ""
    print(f"to rate: {places.command('analysis.rate', f'study={study}')}")
    print(f"or make dashboard, {DASHBOARD}, study {study}{RATINGS}{waiting}")


if __name__ == "__main__":
    main()
