"""Ratings of outputs by eye, kept with their study.

5: color and pattern extremely close to the target; 0: completely different. Optuna keeps them with the study,
one attribute each; the MLflow runs have them as tags.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nca.cli.errors import ConfigError
from nca.records.paths import RecordPaths

__all__ = ["LARGEST", "Rating", "Ratings", "check_rater", "mean_ratings", "now"]

LARGEST = 5  # of a rating; the smallest is 0

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
        paths: Where records are.
        study: Its name.

    Raises:
        SweepError: If there is no such study.
    """

    def __init__(self, paths: RecordPaths, study: str) -> None:
        self.study = study
        self._paths = paths
        self._studies = paths.open_studies()
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

        trials = self._paths.study_folders(self.study)[0]
        notes = self._studies.trials(self.study)
        folders = {n.number: trials / str(n.origin) for n in notes if n.reason == "complete"}
        return {number: folder for number, folder in folders.items() if has_output(folder)}

    def tag_runs(self, trials: Iterable[int]) -> None:
        """Copy the ratings of trials to their MLflow runs.

        Raises:
            ConfigError: If the MLflow store cannot be opened.
        """
        store = self._paths.open_tracking()
        if store is None:
            return
        from nca.tracking import mlflow_errors

        runs = {n.number: n.attributes.get("mlflow_run_id") for n in self._studies.trials(self.study)}
        by_trial = group(self.all(), "trial")
        with mlflow_errors(str(self._paths.tracking)):
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
