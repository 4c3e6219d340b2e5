"""Texture-growing neural cellular automata: loss, training, hyperparameter sweeps."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from nca.outputs.model_file import TrainedAutomaton

__all__ = ["load"]

__version__ = "0.1.0"

# PyTorch's threads wait for their next operation by spinning, for milliseconds, and would take the cores from
# the threads of the compiled loops (docs/performance.md). OpenMP reads this when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def load(
    run: str | Path,
    *,
    runs_dir: str | Path = "mlruns",
    tracking_uri: str | None = None,
    model: str | None = None,
) -> TrainedAutomaton:
    """Return a trained automaton; `nca.load(RUN).grow(size=512)` returns a picture of its texture.

    Args:
        run: MLflow run id, or path of a model.safetensors or of a trial's folder.
        runs_dir: Folder of all records.
        tracking_uri: URI of the MLflow store; by default the store in `runs_dir`.
        model: Dotted path of the class of its rule, if that is your own: its code is run.

    Raises:
        ConfigError: If the run does not exist or its automaton cannot be read.
    """
    from nca.outputs.model_file import load_model
    from nca.records.paths import MODEL, read_record_paths

    options = {"runs_dir": str(runs_dir)} | ({} if tracking_uri is None else {"tracking.uri": tracking_uri})
    return load_model(read_record_paths(options).fetch(str(run), MODEL), model)
