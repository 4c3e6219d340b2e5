"""`python -m analysis.suggest study=S`: sets that are worth a trial, by PCA, UMAP or a model of the loss.

All lie in the study's search space. Queued ones run first, on top of the total, when the study goes on.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nca.cli.errors import ConfigError, exit_on_error, nearest
from nca.cli.options import Command, read_number
from nca.records.paths import RECORD_OPTIONS, read_record_paths
from sweeps import SweepError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.runs import StudyTable
    from analysis.unit_cube import UnitCube

__all__ = ["METHODS", "Model", "Suggestion", "main", "suggest"]

METHODS = ("model", "pca", "umap")
FEWEST_RATED = 10  # ratings, from which on they are what a suggestion is after
N_CANDIDATES = 4096
TRIES = 200  # points around a cluster's center, of which the first new sets are taken
WIDTH = 0.7  # of those points, in the cluster's own standard deviations
N_NEIGHBORS = 2
SETS_PER_WIDTH = 5  # from which on the process has a width for each axis: with fewer it is far too sure
LENGTHS, NOISES = (0.3, 20.0), (5e-2, 1e1)  # of the process; shorter and less would pass through every trial
GOALS = ("loss", "rating")
COMMAND = Command(
    "analysis.suggest",
    "Suggest hyperparameters that are worth a trial, from the trials of a study.",
    {
        "study": "name of the study",
        "method": f"one of {', '.join(METHODS)}; default model",
        "n": "number of suggestions, 1 to 100; default 4",
        "target_rating": "mean rating whose cluster pca and umap draw from, 0 to 5; default 5",
        "enqueue": "true: queue the suggestions as the study's next trials; default false",
        **RECORD_OPTIONS,
    },
    required=["study"],
)

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Suggestion:
    """A set that is worth a trial.

    Args:
        params: The set.
        method: Whose idea it is.
        loss: Predicted logarithm of the final loss, to base 10, and its standard deviation.
        rating: Predicted rating and its standard deviation; None with too few ratings.
        neighbors: The nearest tried sets: trial number, distance in the unit cube, final loss.
    """

    params: Mapping[str, Any]
    method: str
    loss: tuple[float, float]
    rating: tuple[float, float] | None
    neighbors: Sequence[tuple[int, float, float]]

    def attributes(self) -> dict[str, Any]:
        """Return what is kept with the trial."""
        mean, sd = self.loss
        kept = {"suggested_by": self.method, "predicted_log10_loss": mean, "predicted_log10_loss_sd": sd}
        if self.rating is not None:
            kept |= {"predicted_rating": self.rating[0], "predicted_rating_sd": self.rating[1]}
        return kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Print suggestions, and queue them if asked to; exit code 2 on bad input.

    Raises:
        ConfigError: Never: it becomes one line and exit code 2.
    """
    with exit_on_error(SweepError, OSError):
        options = COMMAND.read(arguments).options
        method, enqueue = options.get("method", "model"), options.get("enqueue", "false")
        if method not in METHODS:
            raise ConfigError(
                f"method={method}: must be one of {', '.join(METHODS)}{nearest(method, METHODS)}"
            )
        if enqueue not in {"true", "false"}:
            raise ConfigError(f"enqueue={enqueue}: must be true or false")
        n, target = read_number(options, "n", 4, 1, 100), _read_rating(options)
        from analysis import check_extra
        from analysis.runs import read_study

        check_extra()
        paths, name = read_record_paths(options), options["study"]
        table = read_study(paths, name)
        suggestions, why = suggest(table, method, n, target)
        print(why)
        _show(suggestions)
        if enqueue == "true":
            sets = [each.params for each in suggestions]
            paths.open_studies().queue(name, sets, [each.attributes() for each in suggestions])
            print(f"queued {len(sets)}: they run first, on top of the total, with the sweep's next command")


def _read_rating(options: Mapping[str, str]) -> float:
    from analysis.ratings.ratings import MAX_RATING

    text = options.get("target_rating", str(MAX_RATING))
    try:
        rating = float(text)
    except ValueError:
        rating = -1.0
    if not 0 <= rating <= MAX_RATING:
        raise ConfigError(f"target_rating={text}: must be a number from 0 to {MAX_RATING}")
    return rating


def suggest(table: StudyTable, method: str, n: int, target_rating: float) -> tuple[list[Suggestion], str]:
    """Return different sets that were not tried, and how they came about.

    Args:
        table: The study.
        method: One of `METHODS`.
        n: How many.
        target_rating: The cluster whose mean rating is nearest to it is taken, where there are ratings.

    Raises:
        ConfigError: If too few trials are complete, or fewer new sets can be found.
    """
    from analysis.figures.clusters import FEWEST
    from analysis.figures.drawing import LOSS
    from analysis.unit_cube import UnitCube

    complete = table.trials[table.trials["reason"] == "complete"]
    complete = complete.dropna(subset=[LOSS, *table.params]) if LOSS in complete else complete.iloc[:0]
    if len(complete) < FEWEST or not table.params:
        raise ConfigError(
            f"study={table.name}: {len(complete)} trials are complete; a suggestion takes {FEWEST}"
        )
    cube = UnitCube(table.distributions)
    points = cube.encode(complete[list(table.params)].to_dict("records"))
    models = _fit_models(points, complete)
    if method == "model":
        sets, why = _by_model(cube, points, models, n, len(table.trials))
    else:
        sets, why = _by_cluster(cube, points, complete, method, n, target_rating)
    if len(sets) < n:
        raise ConfigError(
            f"study={table.name}: only {len(sets)} new sets found with method={method}; give a smaller n"
        )
    return [_describe(each, method, cube, models, complete) for each in sets], why


class Model:
    """A Gaussian process on the unit cube; what it predicts is scaled back.

    Args:
        points: Sets, (set, axis).
        values: One per set.
    """

    def __init__(self, points: Points, values: Points) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        n_configurations, n_axes = points.shape
        widths = np.full(n_axes if n_configurations >= SETS_PER_WIDTH * n_axes else 1, 0.5)
        kernel = ConstantKernel() * Matern(widths, LENGTHS, nu=2.5) + WhiteKernel(0.1, NOISES)
        self.points, self.values = points, values
        self.mean, self.sd = float(values.mean()), float(values.std()) or 1.0
        self.process = GaussianProcessRegressor(kernel, n_restarts_optimizer=2, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.process.fit(points, (values - self.mean) / self.sd)

    def predict(self, points: Points) -> tuple[Points, Points]:
        """Return means and standard deviations, the noise of a trial among them."""
        mean, sd = self.process.predict(points, return_std=True)
        return self.mean + self.sd * np.asarray(mean, float), self.sd * np.asarray(sd, float)

    def predict_mean(self, points: Points) -> tuple[Points, Points]:
        """Return means and their standard deviations, without the noise of a trial."""
        mean, sd = self.predict(points)
        noise = self.process.kernel_.k2.noise_level * self.sd**2
        return mean, np.sqrt(np.maximum(sd**2 - noise, 1e-12))

    def coverage(self) -> float:
        """Return the share of the values that lie in the 95% range predicted without them."""
        from analysis.statistics import Z_95

        inverse = np.linalg.inv(self.process.kernel_(self.points))
        errors = inverse @ ((self.values - self.mean) / self.sd)
        errors = errors / np.sqrt(np.diag(inverse))  # Rasmussen and Williams 5.12, in standard deviations
        return float((np.abs(errors) <= Z_95).mean())


def _fit_models(points: Points, complete: pd.DataFrame) -> dict[str, Model]:
    """Return a model of the loss's logarithm, and one of the rating where there are enough."""
    models = {"loss": Model(points, np.log10(complete["final_loss"].to_numpy(float)))}
    rated = complete["rating"].notna().to_numpy()
    if rated.sum() >= FEWEST_RATED:
        models["rating"] = Model(points[rated], complete["rating"].to_numpy(float)[rated])
    return models


def _by_model(
    cube: UnitCube, points: Points, models: Mapping[str, Model], n: int, seed: int
) -> tuple[list[dict[str, Any]], str]:
    """Return the sets of largest expected improvement; after each, the model believes its own prediction."""
    from scipy.stats import norm, qmc

    goal = "rating" if "rating" in models else "loss"
    model, sign = models[goal], -1.0 if goal == "rating" else 1.0
    draws = qmc.Sobol(len(cube.names), seed=seed).random(N_CANDIDATES)
    candidates = _new(cube, cube.decode(draws), points)
    encoded, sets = cube.encode(candidates), []
    n_values = len(model.values)
    sure = f"{model.coverage():.0%} of them lie within the 95% range predicted without them"
    best = float((sign * model.predict(model.points)[0]).min())  # of what it thinks, without the noise
    for _ in range(min(n, len(candidates))):
        mean, sd = model.predict_mean(encoded)
        gain = best - sign * mean
        expected = gain * norm.cdf(gain / sd) + sd * norm.pdf(gain / sd)
        chosen = int(np.argmax(expected))
        sets.append(candidates.pop(chosen))
        believed = np.append(model.values, mean[chosen])
        model = Model(np.vstack([model.points, encoded[chosen]]), believed)
        encoded = np.delete(encoded, chosen, axis=0)
    what = "rating" if goal == "rating" else "logarithm of the final loss"
    why = f"largest expected improvement under a Gaussian process on the {what} of {n_values} trials"
    return sets, f"{why}; {sure}"


def _by_cluster(
    cube: UnitCube, points: Points, complete: pd.DataFrame, method: str, n: int, target_rating: float
) -> tuple[list[dict[str, Any]], str]:
    """Return the center of the good cluster, decoded, and sets around it.

    Raises:
        ConfigError: If too few sets differ for clusters.
    """
    from sklearn.decomposition import PCA

    from analysis.figures.clusters import find_clusters, fit_umap

    if len(np.unique(points, axis=0)) <= N_NEIGHBORS:
        raise ConfigError(f"method={method}: takes more than {N_NEIGHBORS} different sets; try method=model")
    clusters = find_clusters(points, cube.names)
    good, why = _choose_cluster(clusters.labels, complete, target_rating)
    plane = PCA(min(3, points.shape[1])).fit(points) if method == "pca" else fit_umap(points)
    positions = plane.transform(points) if method == "pca" else np.asarray(plane.embedding_, float)
    inside = positions[clusters.labels == good]
    draw, center = np.random.default_rng(len(complete)), inside.mean(axis=0)
    around = center + WIDTH * inside.std(axis=0) * draw.normal(size=(TRIES, positions.shape[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decoded = plane.inverse_transform(np.vstack([center, around]).astype(positions.dtype))
    return _new(cube, cube.decode(np.asarray(decoded, float)), points)[:n], f"{why}, by {method.upper()}"


def _choose_cluster(
    labels: NDArray[np.int64], complete: pd.DataFrame, target_rating: float
) -> tuple[int, str]:
    """Return the cluster whose mean rating is nearest to the target; by loss, where none is rated."""
    by_cluster = complete.assign(cluster=labels).groupby("cluster")
    ratings = by_cluster["rating"].mean().dropna()
    n_clusters = len(by_cluster)
    if len(ratings):
        good = int((ratings - target_rating).abs().idxmin())
        return good, f"around cluster {good} of {n_clusters}, mean rating {ratings[good]:.2g}"
    losses = by_cluster["final_loss"].agg(lambda loss: np.log10(loss).mean())
    good, why = int(losses.idxmin()), "nothing is rated"
    return (
        good,
        f"around cluster {good} of {n_clusters}, mean final loss {10 ** losses[good]:.2g} ({why})",
    )


def _new(cube: UnitCube, sets: Sequence[dict[str, Any]], tried: Points) -> list[dict[str, Any]]:
    """Return different sets that were not tried."""
    seen, new = {tuple(point.round(9)) for point in tried}, []
    for each, point in zip(sets, cube.encode(sets), strict=True):
        key = tuple(point.round(9))
        if key not in seen:
            seen.add(key)
            new.append(each)
    return new


def _describe(
    params: Mapping[str, Any],
    method: str,
    cube: UnitCube,
    models: Mapping[str, Model],
    complete: pd.DataFrame,
) -> Suggestion:
    point, tried = cube.encode([params]), models["loss"].points
    predicted: dict[str, tuple[float, float]] = {}
    for goal, model in models.items():
        mean, sd = model.predict(point)
        predicted[goal] = (float(mean[0]), float(sd[0]))
    distances = np.linalg.norm(tried - point, axis=1)
    nearest_ones = complete.assign(distance=distances).nsmallest(N_NEIGHBORS, "distance")
    neighbors = [(row.trial, row.distance, row.final_loss) for row in nearest_ones.itertuples()]
    return Suggestion(params, method, predicted["loss"], predicted.get("rating"), neighbors)


def _show(suggestions: Sequence[Suggestion]) -> None:
    from sweeps.progress import format_params

    for number, each in enumerate(suggestions, 1):
        mean, sd = each.loss
        rating = "" if each.rating is None else f", rating {each.rating[0]:.1f} ± {each.rating[1]:.1f}"
        near = "; ".join(
            f"trial {trial}, {distance:.2f} away, {loss:.3g}" for trial, distance, loss in each.neighbors
        )
        print(f"{number}. {format_params(each.params)}")
        print(f"   predicted: final loss {10**mean:.3g} (within a factor of {10**sd:.2g}){rating}")
        print(f"   nearest tried: {near}")


if __name__ == "__main__":
    main()
