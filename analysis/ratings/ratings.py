"""Ratings of outputs by eye: 5 is extremely close to the target in color and pattern, 0 completely different.

Each rating is an attribute of its study in Optuna. MLflow runs have copies as tags.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

from analysis.trial_pictures import has_output
from nca.cli.errors import ConfigError
from nca.records.paths import RecordPaths

MAX_RATING = 5  # the smallest is 0
KEY = "rating:"  # prefix of the study's attributes
RATER = re.compile(r"[\w][\w .-]{0,39}")
RATER_RULE = "1 to 40 letters, digits, spaces, dots, _ and -, a letter or digit first"
TAG = "rating"  # of an MLflow run: the mean over raters; rating.NAME is the mean of one rater


@dataclass(frozen=True)
class Rating:
    """A rating of one output by one person.

    Args:
        trial: Number of the trial's first attempt.
        rater: Name of the person.
        repeat: 0 for the first rating of the output by this rater, 1 for the repeat.
        rating: 0 to 5.
        at: Time in UTC, ISO 8601.
    """

    trial: int
    rater: str
    repeat: int
    rating: float
    at: str

    @property
    def key(self) -> str:
        """Name of the study's attribute."""
        return f"{KEY}{self.trial}:{self.repeat}:{self.rater}"


def check_rater(name: str) -> str:
    """Return a rater's name.

    Raises:
        ConfigError: If the name is not valid.
    """
    if not RATER.fullmatch(name):
        raise ConfigError(f"rater={name}: must be {RATER_RULE}")
    return name


def read_rating(key: str, text: str) -> float:
    """Return a rating from its text.

    Raises:
        ConfigError: If it is not a number in the range.
    """
    try:
        rating = float(text)
    except ValueError:
        rating = math.nan
    if not 0 <= rating <= MAX_RATING:
        raise ConfigError(f"{key}={text}: must be a number from 0 to {MAX_RATING}")
    return rating


def now() -> str:
    """Return the current time as a rating has it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Ratings:
    """The ratings of one study.

    Raises:
        SweepError: If there is no such study.
    """

    def __init__(self, paths: RecordPaths, study: str) -> None:
        self.study = study
        self._paths = paths
        self._studies = paths.open_studies()
        self._studies.status(study)

    @property
    def report_command(self) -> str:
        """The command that draws the ratings beside losses."""
        return self._paths.command("analysis.report", f"study={self.study}")

    def all(self) -> list[Rating]:
        """Return all ratings, the oldest first.

        Earlier versions stored the number of the attempt that was rated.
        """
        found, first = [], self._studies.first_attempts(self.study)
        for key, value in self._studies.attributes(self.study, KEY).items():
            if value is not None:  # None: removed
                trial, repeat, rater = key.removeprefix(KEY).split(":", 2)
                number = first.get(int(trial), int(trial))
                found.append(Rating(number, rater, int(repeat), float(value["rating"]), value["at"]))
        found.sort(key=lambda r: (r.at, r.trial, r.repeat))
        return list({rating.key: rating for rating in found}.values())

    def add(self, rating: Rating) -> None:
        """Store a rating; it replaces an earlier one with the same trial, rater and repeat."""
        self._studies.set_attribute(self.study, rating.key, {"rating": rating.rating, "at": rating.at})

    def remove(self, rating: Rating) -> None:
        """Remove a rating."""
        known = self._studies.attributes(self.study, KEY)
        for number, first in self._studies.first_attempts(self.study).items():
            key = replace(rating, trial=number).key
            if first == rating.trial and key in known:
                self._studies.set_attribute(self.study, key, None)

    def folders(self) -> dict[int, Path]:
        """Return the folders of complete trials with an output, which can be rated, by trial number."""
        trials = self._paths.study_folders(self.study)[0]
        notes = self._studies.trials(self.study)
        complete = {n.first_attempt: trials / str(n.first_attempt) for n in notes if n.reason == "complete"}
        return {number: folder for number, folder in complete.items() if has_output(folder)}

    def tag_runs(self, trials: Iterable[int]) -> None:
        """Write the ratings of trials to the tags of their MLflow runs.

        Raises:
            ConfigError: If the MLflow store cannot be opened.
        """
        store = self._paths.open_tracking()
        if store is None:
            return
        from nca.tracking.client import mlflow_errors

        runs = {n.first_attempt: n.attributes.get("mlflow_run_id") for n in self._studies.trials(self.study)}
        means = mean_by_rater(self.all())
        with mlflow_errors(str(self._paths.tracking)):
            for trial in trials:
                run = runs.get(trial)
                if run is not None and store.has_run(run):
                    tags = {f"{TAG}.{rater}": f"{mean:.3g}" for rater, mean in means.get(trial, {}).items()}
                    overall = {TAG: f"{fmean(means[trial].values()):.3g}"} if tags else {}
                    store.replace_tags(run, TAG, overall | tags)


def mean_by_rater(ratings: Iterable[Rating]) -> dict[int, dict[str, float]]:
    """Return the mean rating of each trial by each of its raters, by trial number and rater."""
    given: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for each in sorted(ratings, key=lambda r: (r.trial, r.rater)):
        given[each.trial][each.rater].append(each.rating)
    return {trial: {rater: fmean(all_) for rater, all_ in each.items()} for trial, each in given.items()}


def mean_ratings(ratings: Iterable[Rating]) -> dict[int, float]:
    """Return the mean over raters of each trial's ratings, by trial number."""
    return {trial: fmean(means.values()) for trial, means in mean_by_rater(ratings).items()}


def repeats(ratings: Iterable[Rating]) -> dict[str, list[tuple[float, float]]]:
    """Return the first and the second rating of every output that a rater rated twice, by rater."""
    given: dict[tuple[str, int], list[float]] = defaultdict(list)
    for each in sorted(ratings, key=lambda r: (r.rater, r.trial, r.repeat)):
        given[each.rater, each.trial].append(each.rating)
    pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for (rater, _), twice in given.items():
        if len(twice) > 1:
            pairs[rater].append((twice[0], twice[1]))
    return pairs
