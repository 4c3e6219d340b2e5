"""How much of the loss each parameter explains: Optuna's fANOVA on a study in memory, resampled."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

__all__ = ["importances"]

N_RESAMPLES = 8
MOST_TRIALS = 300  # of a resample: more only take longer
N_TREES = 32
LOSS = "final_loss"


def importances(trials: pd.DataFrame, distributions: Mapping[str, BaseDistribution]) -> pd.DataFrame:
    """Return each parameter's share of the variance of the loss's logarithm, and its spread.

    Args:
        trials: Complete ones.
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
                    value=float(np.log10(row[LOSS])),
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
