"""The shell that Hydra demands of a sweeper; the sweep itself is `nca.sweep` and `sweeps`.

Imported by every Hydra application in the environment, so nothing heavy is imported here. Hydra runs this
file without registering the module, so annotations must not be postponed: dataclasses would look it up.
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
    """Hands `python -m nca.sweep -m` to the sweep engine."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep nothing: the engine composes every trial itself."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run the studies of the command line."""
        from nca.sweep import run_and_exit

        run_and_exit(arguments)
