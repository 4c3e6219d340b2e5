"""`python -m analysis.suggest study=S`: parameters worth a trial, by PCA, UMAP or a model.

All suggestions lie in the study's search space. Queued ones run first, in addition to `sweep.n_trials`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis import check_extra
from nca.cli.errors import ConfigError, exit_on_error, nearest
from nca.cli.options import Command, read_number
from nca.records.paths import RECORD_OPTIONS, read_record_paths
from sweeps import SweepError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.figures.drawing import Outcome
    from analysis.runs import StudyTable
    from analysis.unit_cube import UnitCube

METHODS = ("model", "pca", "umap")
MIN_TRIALS = 10
MIN_RATED = 10  # from this number of ratings on, `model` maximizes the rating
N_CANDIDATES = 4096
N_AROUND = 200  # points around the center of a cluster
WIDTH = 0.7  # their standard deviation, relative to the cluster's
N_NEIGHBORS = 2
MIN_PER_AXIS = 5  # trials per axis for a length scale per axis; with fewer the predictions are overconfident
LENGTH_SCALES = (0.3, 20.0)
NOISE_LEVELS = (0.05, 10.0)  # with smaller ones the process interpolates all trials
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
    """Parameters that are worth a trial.

    Args:
        params: The parameters, by dotted key.
        attributes: Of the queued trial: `suggested_by`, `predicted_log10_COLUMN` and
            `predicted_log10_COLUMN_sd` of the outcome, and the same of the rating with at least `MIN_RATED`
            ratings.
        outcome: What the study minimizes.
        neighbors: Number, distance in the unit cube and outcome of the nearest trials.
    """

    params: Mapping[str, Any]
    attributes: Mapping[str, Any]
    outcome: Outcome
    neighbors: Sequence[tuple[int, float, float]]


@exit_on_error(SweepError, OSError)
def main(arguments: Sequence[str] | None = None) -> None:
    """Print suggestions and queue them if requested; exit code 2 on bad input."""  # noqa: DOC501 - it ends the process
    options = COMMAND.read(arguments).options
    method, enqueue = options.get("method", "model"), options.get("enqueue", "false")
    if method not in METHODS:
        allowed = f"must be one of {', '.join(METHODS)}{nearest(method, METHODS)}"
        raise ConfigError(f"method={method}: {allowed}")
    if enqueue not in {"true", "false"}:
        raise ConfigError(f"enqueue={enqueue}: must be true or false")
    n = read_number(options, "n", 4, 1, 100)
    from analysis.ratings.ratings import read_rating

    target = read_rating("target_rating", options.get("target_rating", "5"))
    check_extra()
    from analysis.runs import read_study

    paths, name = read_record_paths(options), options["study"]
    suggestions, explanation = suggest(read_study(paths, name), method, n, target)
    print(explanation)
    _print(suggestions)
    if enqueue == "true":
        queued = [each.params for each in suggestions]
        paths.open_studies().queue(name, queued, [each.attributes for each in suggestions])
        print(f"queued {len(queued)}: repeat the sweep's command to run them on top of sweep.n_trials")


def suggest(table: StudyTable, method: str, n: int, target_rating: float) -> tuple[list[Suggestion], str]:
    """Return `n` new, different suggestions by one of `METHODS`, and an explanation.

    If there are ratings, `pca` and `umap` choose the cluster with the mean rating nearest to `target_rating`.

    Raises:
        ConfigError: If too few trials are complete, or fewer than `n` new configurations are found.
    """
    from analysis.figures.drawing import LOSS, choose_outcome
    from analysis.unit_cube import UnitCube

    complete = table.trials[table.trials["reason"] == "complete"]
    complete = complete.dropna(subset=[key for key in (LOSS, *table.params) if key in complete])
    outcome = choose_outcome(table.objectives[0], complete)
    if len(complete) < MIN_TRIALS or not table.params:
        raise ConfigError(
            f"study={table.name}: needs at least {MIN_TRIALS} complete trials ({len(complete)} so far)"
        )
    cube = UnitCube(table.distributions)
    points = cube.encode(complete[table.params].to_dict("records"))
    models = {f"log10_{outcome.column}": Model(points, np.log10(complete[outcome.column].to_numpy(float)))}
    rated = complete["rating"].notna().to_numpy()
    if rated.sum() >= MIN_RATED:
        models["rating"] = Model(points[rated], complete["rating"].to_numpy(float)[rated])
    if method == "model":
        found, explanation = _by_model(cube, points, models, outcome, n)
    else:
        clusters = _find_clusters(points, method)
        best, chosen = _choose_cluster(complete.assign(cluster=clusters), target_rating, outcome)
        found, explanation = (
            _by_cluster(cube, points, clusters == best, method, n),
            f"{chosen}, by {method.upper()}",
        )
    if len(found) < n:
        raise ConfigError(
            f"study={table.name}: method={method} found only {len(found)} new suggestions; give a smaller n"
        )
    return [_describe(each, method, cube, models, complete, outcome) for each in found], explanation


class Model:
    """A Gaussian process on the unit cube, of a value per point, (point, axis)."""

    def __init__(self, points: Points, values: Points) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        n, n_axes = points.shape
        scales = np.full(n_axes if n >= MIN_PER_AXIS * n_axes else 1, 0.5)
        kernel = ConstantKernel() * Matern(scales, LENGTH_SCALES, nu=2.5) + WhiteKernel(0.1, NOISE_LEVELS)
        self.points, self.values = points, values
        options = {"n_restarts_optimizer": 2, "normalize_y": True, "random_state": 0}
        self.process = GaussianProcessRegressor(kernel, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.process.fit(points, values)

    def predict(self, points: Points, *, noise: bool = True) -> tuple[Points, Points]:
        """Return means and standard deviations, with or without the noise of a trial."""
        mean, sd = self.process.predict(points, return_std=True)
        if not noise:
            variance = self.process.kernel_.k2.noise_level * self.values.var()
            sd = np.sqrt(np.maximum(sd**2 - variance, 1e-12))
        return np.asarray(mean, float), np.asarray(sd, float)

    def coverage(self) -> float:
        """Return the share of the values within the 95% interval that is predicted without them."""
        from analysis.statistics import Z_95

        inverse = np.linalg.inv(self.process.kernel_(self.points))
        errors = inverse @ self.process.y_train_ / np.sqrt(np.diag(inverse))
        # Leave-one-out errors in standard deviations: Rasmussen and Williams (2006), equations 5.11 and 5.12.
        return float((np.abs(errors) <= Z_95).mean())


def _by_model(
    cube: UnitCube, points: Points, models: Mapping[str, Model], outcome: Outcome, n: int
) -> tuple[list[dict[str, Any]], str]:
    """Return the configurations with the largest expected improvement.

    After each choice the model is fitted to its own prediction for it (kriging believer).
    """
    from scipy.stats import norm, qmc

    is_rated = "rating" in models
    sign, model = (-1.0, models["rating"]) if is_rated else (1.0, models[f"log10_{outcome.column}"])
    explanation = (
        "largest expected improvement under a Gaussian process of the "
        f"{'rating' if is_rated else f'logarithm of the {outcome.name}'} of {len(model.values)} trials, "
        f"of which {model.coverage():.0%} lie within the 95% interval predicted without them"
    )
    draws = qmc.Sobol(len(cube.names), seed=len(points)).random(N_CANDIDATES)
    candidates = _select_new(cube, cube.decode(draws), points)
    encoded, found = cube.encode(candidates), []
    best = float((sign * model.predict(model.points)[0]).min())  # of predictions, which have no noise
    for _ in range(min(n, len(candidates))):
        mean, sd = model.predict(encoded, noise=False)
        gain = best - sign * mean
        expected = gain * norm.cdf(gain / sd) + sd * norm.pdf(gain / sd)
        chosen = int(np.argmax(expected))
        found.append(candidates.pop(chosen))
        model = Model(np.vstack([model.points, encoded[chosen]]), np.append(model.values, mean[chosen]))
        encoded = np.delete(encoded, chosen, axis=0)
    return found, explanation


def _find_clusters(points: Points, method: str) -> NDArray[np.int64]:
    """Return the number of the cluster of each configuration.

    Raises:
        ConfigError: If too few configurations differ for clusters.
    """
    from analysis.figures.clusters import k_means

    if len(np.unique(points, axis=0)) <= N_NEIGHBORS:
        raise ConfigError(f"method={method}: needs at least 3 different configurations; try method=model")
    return np.asarray(k_means(points)[0].labels_)


def _by_cluster(
    cube: UnitCube, points: Points, is_inside: NDArray[np.bool_], method: str, n: int
) -> list[dict[str, Any]]:
    """Return the decoded center of a cluster and configurations around it."""
    from sklearn.decomposition import PCA

    from analysis.figures.clusters import fit_umap

    plane = PCA(min(3, points.shape[1])).fit(points) if method == "pca" else fit_umap(points)
    positions = plane.transform(points) if method == "pca" else np.asarray(plane.embedding_, float)
    inside = positions[is_inside]
    draw, center = np.random.default_rng(len(points)), inside.mean(axis=0)
    around = center + WIDTH * inside.std(axis=0) * draw.normal(size=(N_AROUND, positions.shape[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decoded = plane.inverse_transform(np.vstack([center, around]).astype(positions.dtype))
    return _select_new(cube, cube.decode(np.asarray(decoded, float)), points)[:n]


def _choose_cluster(trials: pd.DataFrame, target_rating: float, outcome: Outcome) -> tuple[int, str]:
    """Return the cluster whose mean rating is nearest to the target, or without ratings the least outcome."""
    by_cluster = trials.groupby("cluster")
    ratings = by_cluster["rating"].mean().dropna()
    if len(ratings):
        best = int((ratings - target_rating).abs().idxmin())
        return best, f"around cluster {best} of {len(by_cluster)}, mean rating {ratings[best]:.2g}"
    means = by_cluster[outcome.column].agg(lambda values: np.log10(values).mean())
    best, n = int(means.idxmin()), len(by_cluster)
    return best, f"around cluster {best} of {n}, mean {outcome.name} {10 ** means[best]:.2g} (no ratings)"


def _select_new(cube: UnitCube, candidates: Sequence[dict[str, Any]], tried: Points) -> list[dict[str, Any]]:
    """Return the different candidates that were not tried."""
    points = map(tuple, cube.encode(candidates).round(9).tolist())
    new = dict(zip(points, candidates, strict=True))
    for point in map(tuple, tried.round(9).tolist()):
        new.pop(point, None)
    return list(new.values())


def _describe(
    params: Mapping[str, Any],
    method: str,
    cube: UnitCube,
    models: Mapping[str, Model],
    trials: pd.DataFrame,
    outcome: Outcome,
) -> Suggestion:
    from analysis.ratings.ratings import MAX_RATING

    point = cube.encode([params])
    attributes: dict[str, Any] = {"suggested_by": method}
    for goal, model in models.items():
        (mean,), (sd,) = model.predict(point)
        if goal == "rating":  # the process knows no end of the scale
            mean = np.clip(mean, 0, MAX_RATING)
        attributes |= {f"predicted_{goal}": float(mean), f"predicted_{goal}_sd": float(sd)}
    distances = np.linalg.norm(models[f"log10_{outcome.column}"].points - point, axis=1)
    nearest_trials = trials.assign(distance=distances).nsmallest(N_NEIGHBORS, "distance")
    neighbors = nearest_trials[["trial", "distance", outcome.column]].values.tolist()
    return Suggestion(params, attributes, outcome, neighbors)


def _print(suggestions: Sequence[Suggestion]) -> None:
    from sweeps.progress import format_params

    for number, each in enumerate(suggestions, 1):
        key, name = f"predicted_log10_{each.outcome.column}", each.outcome.name
        value, sd = (10 ** each.attributes[f"{key}{end}"] for end in ("", "_sd"))
        text = f"{name} {value:.3g} (within a factor of {sd:.2g})"
        if "predicted_rating" in each.attributes:
            text += ", rating {predicted_rating:.1f} ± {predicted_rating_sd:.1f}".format(**each.attributes)
        near = [f"trial {n:.0f} (distance {d:.2f}, {name} {value:.3g})" for n, d, value in each.neighbors]
        print(f"{number}. {format_params(each.params)}\n   predicted: {text}\n   nearest: {'; '.join(near)}")


if __name__ == "__main__":
    main()
