"""Workers and coordinators killed at random moments: nothing is lost, nothing doubled, nothing left."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.integration.torture import Torture

N_KILLS = 60


def test_a_sweep_survives_kills_at_random_moments(tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", time.time()))
    print(f"seed {seed}; again with: make torture N={N_KILLS} SEED={seed}")
    torture = Torture(tmp_path, N_KILLS, seed)
    torture.run()
    assert torture.done >= N_KILLS
