"""Importance of each parameter: Optuna's fANOVA, bootstrapped and scaled by what a forest can predict."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial
from scipy import stats
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict

from analysis.figures.drawing import (
    ALL_THE_SAME,
    FINAL_LOSS,
    MARK,
    MORE_TRIALS,
    Outcome,
    Plot,
    format_label,
    make_figure,
    require,
)

MIN_TRIALS = 10
N_RESAMPLES = 8
MAX_TRIALS = 300  # of a resample; more take longer and change little
N_TREES = 32
N_FOLDS, N_REPEATS = 5, 4
RANK = "rank"


def plot_importances(
    trials: pd.DataFrame,
    points: NDArray[np.float64],
    distributions: Mapping[str, BaseDistribution],
    outcome: Outcome = FINAL_LOSS,
) -> Plot | str:
    """Plot the share of the outcome's rank variance that each parameter explains, by fANOVA.

    Ranks, because a few collapsed trials have most of the variance of the logarithms.
    """
    if len(trials) < MIN_TRIALS or not distributions:
        return require(MIN_TRIALS, trials, " and a searched parameter")
    if trials[outcome.column].nunique() < 2:
        return ALL_THE_SAME
    ranks = stats.rankdata(trials[outcome.column])
    r2 = predict_unseen(points, ranks)
    if r2 <= 0:
        return f"No importances: no random forest predicts the {outcome.name} of unseen trials. {MORE_TRIALS}"
    found = compute_importances(trials.assign(**{RANK: ranks}), distributions).sort_values("importance")
    found[["importance", "sd"]] *= r2
    figure = make_figure(height=0.4 * len(found) + 1)
    (axes,) = figure.axes
    axes.barh(
        [format_label(n) for n in found["parameter"]], found["importance"], xerr=found["sd"], color=MARK
    )
    axes.set(xlabel=f"share of the variance of the ranks of the {outcome.name} (fANOVA)", xlim=(0, None))
    largest = found.iloc[-1]
    text = (
        f"A random forest predicts {r2:.0%} of the variance of ranks in unseen trials (cross-validation); "
        "fANOVA divides it among the parameters. Error bars: one standard deviation over resampled trials. "
        f"Largest: {format_label(largest['parameter'])}, {largest['importance']:.2f} ± {largest['sd']:.2f}."
    )
    return Plot("importances", figure, found, [text])


def predict_unseen(points: NDArray[np.float64], ranks: NDArray[np.float64]) -> float:
    """Return the R² of a random forest on unseen trials; negative if it is worse than the mean."""
    scores = []
    for seed in range(N_REPEATS):
        forest = RandomForestRegressor(N_TREES, random_state=seed, n_jobs=1)
        folds = KFold(N_FOLDS, shuffle=True, random_state=seed)
        scores.append(r2_score(ranks, cross_val_predict(forest, points, ranks, cv=folds)))
    return float(np.mean(scores))


def compute_importances(trials: pd.DataFrame, distributions: Mapping[str, BaseDistribution]) -> pd.DataFrame:
    """Return each parameter's share of the variance of the ranks that a forest explains.

    The shares add up to 1 even if no parameter matters; `predict_unseen` tells whether they mean anything.

    Returns:
        Columns `parameter`, `importance` (mean over resamples of the trials) and `sd`.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    draw, rows = np.random.default_rng(0), []
    for seed in range(N_RESAMPLES):
        sample = trials.iloc[draw.integers(0, len(trials), min(len(trials), MAX_TRIALS))]
        study = optuna.create_study()
        for row in sample[[*distributions, RANK]].astype(object).to_dict("records"):
            rank = float(row.pop(RANK))
            study.add_trial(create_trial(params=row, distributions=dict(distributions), value=rank))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = FanovaImportanceEvaluator(n_trees=N_TREES, seed=seed)
            rows.append(get_param_importances(study, evaluator=evaluator, normalize=True))
    table = pd.DataFrame(rows)
    return pd.DataFrame(
        {"parameter": table.columns, "importance": table.mean().to_numpy(), "sd": table.std().to_numpy()}
    )
