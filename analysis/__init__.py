"""What studies have found: tables, pages and figures read from both stores; nothing imports it."""

from __future__ import annotations

import importlib.util

from nca.cli.errors import ConfigError

__all__ = ["WEIGHTS", "WEIGHTS_OPTION", "check_extra"]

WEIGHTS = "features.weights"
WEIGHTS_OPTION = {WEIGHTS: "file of a VGG-16 state dict, to measure rated outputs through it too"}


def check_extra() -> None:
    """Refuse to begin where the packages of the extra are missing.

    Raises:
        ConfigError: If so.
    """
    needed = ("jinja2", "plotly", "seaborn", "sklearn", "statsmodels", "umap")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)} not installed: pip install 'nca-sweep[analysis]'")
