"""Hydra's sweeper plugin, which calls `nca.sweep`.

Every Hydra application in the environment imports it, so it imports nothing heavy. Hydra does not register
the module, which dataclasses need for postponed annotations: there are none here.
"""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class NcaSweeperConfig:
    """Selects the sweeper: `override hydra/sweeper: nca`."""

    _target_: str = "hydra_plugins.nca_sweeper.sweeper.NcaSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="nca", node=NcaSweeperConfig, provider="nca")


class NcaSweeper(Sweeper):
    """Passes `python -m nca.sweep -m` to the sweep engine."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep the user's own config folder, which is no override; the engine composes all configs."""
        self._own = [f"--config-dir={path.removeprefix('file://')}" for path in config.hydra.searchpath]

    def sweep(self, arguments: list[str]) -> Any:
        """Run the studies of the command line."""
        from nca.sweep import run_and_exit

        run_and_exit([*arguments, *self._own])
