"""Measures the time to sample a configuration with 1,000 finished trials: `python -m benchmarks.samplers`.

Six searched parameters, a SQLite file, intermediate values and attributes as those of real trials.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState, create_trial

from nca.study.plan import make_plans
from nca.study.spec import sampler_spec
from sweeps.samplers import ask, make_sampler
from sweeps.space import to_distributions
from sweeps.storage.optuna_storage import open_storage

N_TRIALS = 1000
N_SAMPLED = 7
N_REPORTS = 32
RESULTS = Path(__file__).with_name("samplers.json")
SAMPLERS = ("tpe", "random")


def fill(study: optuna.Study, space: dict[str, optuna.distributions.BaseDistribution]) -> None:
    """Add finished trials with random configurations and losses."""
    draw = np.random.default_rng(0)
    for _ in range(N_TRIALS):
        params = {}
        for key, domain in space.items():
            if isinstance(domain, optuna.distributions.CategoricalDistribution):
                params[key] = domain.choices[draw.integers(len(domain.choices))]
            else:
                assert isinstance(domain, optuna.distributions.FloatDistribution)
                params[key] = draw.uniform(domain.low, domain.high)
        reports = {step * 512: draw.random() for step in range(N_REPORTS)}
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=draw.random(),
                params=params,
                distributions=space,
                intermediate_values=reports,
                user_attrs={"seconds_per_step": 0.3, "reason": "complete", "ended": str(datetime.now())},
            )
        )


def main() -> None:
    """Measure, print, and write samplers.json."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(f"sqlite:///{folder}/optuna.db")
        study = optuna.create_study(storage=storage, study_name="filled")
        for name in SAMPLERS:
            (plan,) = make_plans(["texture=roundleaf", "features=random_filters", f"sampler={name}"])
            space = to_distributions(plan.space)
            if name == SAMPLERS[0]:
                fill(study, space)
            study = optuna.load_study(
                storage=open_storage(f"sqlite:///{folder}/optuna.db"),
                study_name="filled",
                sampler=make_sampler(sampler_spec(plan.config), plan.space),
            )
            seconds = []
            for _ in range(N_SAMPLED):
                start = time.perf_counter()
                trial = ask(study, sampler_spec(plan.config), plan.space)
                seconds.append(time.perf_counter() - start)
                study.tell(trial, state=TrialState.FAIL)
            results[name] = {"first_s": seconds[0], "median_s": statistics.median(seconds[1:])}
            print(f"{name}: first sample {seconds[0]:.3f} s, then {results[name]['median_s']:.3f} s")
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
