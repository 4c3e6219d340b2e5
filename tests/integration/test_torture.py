"""Workers and coordinators killed at random moments: nothing is lost, nothing doubled, nothing left."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.integration.torture import Torture


@pytest.mark.parametrize(
    ("n_kills", "seed"),
    [(8, 1), pytest.param(60, int(os.environ.get("SEED", time.time())), marks=pytest.mark.slow, id="60")],
)
def test_a_sweep_survives_kills_at_random_moments(tmp_path: Path, n_kills: int, seed: int) -> None:
    print(f"seed {seed}; again with: make torture N={n_kills} SEED={seed}")
    torture = Torture(tmp_path, n_kills, seed)
    torture.run()
    assert torture.done >= n_kills
