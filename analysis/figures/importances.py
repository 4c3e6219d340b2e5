"""How much of the loss each parameter explains: Optuna's fANOVA, resampled, of what a forest can predict."""

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
from sklearn.model_selection import KFold, cross_val_predict

from analysis.figures.drawing import (
    ALL_THE_SAME,
    LOSS,
    MARK,
    MORE,
    Drawn,
    count_complete,
    label_of,
    make_figure,
)

__all__ = ["plot_importances"]

N_RESAMPLES = 8
MOST_TRIALS = 300  # of a resample: more only take longer
N_TREES = 32
FOLDS, REPEATS = 5, 4
FEWEST = 10  # trials
RANK = "rank"


def plot_importances(
    trials: pd.DataFrame, points: NDArray[np.float64], distributions: Mapping[str, BaseDistribution]
) -> Drawn | str:
    """Draw how much of the variance of the loss's ranks each parameter explains, by fANOVA, with its spread.

    Of ranks, for a few trials that collapse have most of the variance of the losses' logarithms.

    Args:
        trials: Complete ones.
        points: Their sets in the unit cube, (set, axis).
        distributions: Of the parameters that vary, by name.
    """
    if len(trials) < FEWEST or not distributions:
        return f"{count_complete(trials)}; an importance takes {FEWEST}. {MORE}"
    if trials[LOSS].nunique() < 2:
        return ALL_THE_SAME
    ranks = stats.rankdata(trials[LOSS])
    predicted = predicted_share(points, ranks)
    if predicted <= 0:
        return f"A forest predicts nothing of the loss of trials that it has not seen: no importances. {MORE}"
    found = importances(trials.assign(**{RANK: ranks}), distributions).sort_values("importance")
    found[["importance", "sd"]] *= predicted
    figure = make_figure(height=0.4 * len(found) + 1)
    (axes,) = figure.axes
    axes.barh([label_of(n) for n in found["parameter"]], found["importance"], xerr=found["sd"], color=MARK)
    axes.set(xlabel="share of the variance of the loss's ranks (fANOVA)", xlim=(0, None))
    first = found.iloc[-1]
    text = [
        f"A forest predicts {predicted:.0%} of the variance of ranks in trials it has not seen "
        "(cross-validation); fANOVA divides it among the parameters. Bars' ends move by one standard "
        f"deviation over resampled trials. Most has {label_of(first['parameter'])}: "
        f"{first['importance']:.2f} ± {first['sd']:.2f}."
    ]
    return Drawn("importances", figure, found, text)


def predicted_share(points: NDArray[np.float64], ranks: NDArray[np.float64]) -> float:
    """Return the share of the variance of the loss's ranks that a forest predicts of unseen trials.

    Below 0 it does worse than their mean.

    Args:
        points: Sets in the unit cube, (set, axis).
        ranks: One per set.
    """
    shares = []
    for seed in range(REPEATS):
        forest = RandomForestRegressor(N_TREES, random_state=seed, n_jobs=1)
        unseen = cross_val_predict(forest, points, ranks, cv=KFold(FOLDS, shuffle=True, random_state=seed))
        shares.append(1 - ((ranks - unseen) ** 2).sum() / ((ranks - ranks.mean()) ** 2).sum())
    return float(np.mean(shares))


def importances(trials: pd.DataFrame, distributions: Mapping[str, BaseDistribution]) -> pd.DataFrame:
    """Return each parameter's share of what a forest explains of the loss's ranks, and its spread.

    The shares add up to 1 even where nothing matters: `predicted_share` says whether they mean anything.

    Args:
        trials: Complete ones, with the column `rank`.
        distributions: Of the parameters, by name.

    Returns:
        Columns `parameter`, `importance` (mean over resamples of the trials) and `sd`.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    draw, rows = np.random.default_rng(0), []
    searched = {name: each for name, each in distributions.items() if trials[name].nunique() > 1}
    for seed in range(N_RESAMPLES):
        sample = trials.iloc[draw.integers(0, len(trials), min(len(trials), MOST_TRIALS))]
        study = optuna.create_study()
        study.add_trials(
            [
                create_trial(
                    params={name: _plain(row[name]) for name in searched},
                    distributions=dict(searched),
                    value=float(row[RANK]),
                )
                for row in sample.to_dict("records")
            ]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = FanovaImportanceEvaluator(n_trees=N_TREES, seed=seed)
            rows.append(get_param_importances(study, evaluator=evaluator, normalize=True))
    table = pd.DataFrame(rows)
    return pd.DataFrame(
        {"parameter": table.columns, "importance": table.mean().to_numpy(), "sd": table.std().to_numpy()}
    )


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value
