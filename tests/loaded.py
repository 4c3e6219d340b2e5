"""Loads what programs under test load, some of it late in their course: each fork of this process has it."""

from __future__ import annotations

import importlib

from nca.study.application import TextureSweep
from sweeps.storage.optuna_storage import warm_up

LATE = (
    "hydra.main",
    "hydra_plugins.nca_sweeper.sweeper",
    "nca.config.compose",
    "nca.training.preflight",
    "optuna_dashboard",
    "pandas",
    "rich.live",
    "sweeps.coordinator",
    "tests.sweeps.fake_application",
)

TextureSweep().warm_up()
warm_up()
for name in LATE:
    importlib.import_module(name)
