"""Machine code that was just compiled, and the same code from the cache on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders import RULES

pytestmark = pytest.mark.slow

TRAIN = """
import hashlib, sys, torch
from nca.training.run import build_trainer
from tests.builders import GRAM, PATCHES, SLICED, trial_config

torch.set_num_threads(1)
rule = sys.argv[1]
changes = {"loss": GRAM} if rule == "srnca" else {"loss": SLICED, "features": PATCHES}
model = {"channels": 12} if rule == "munca" else {"channels": 12, "hidden_channels": 48}
train = {"steps": 3, "size": 48, "max_ca_steps": 20, "gradient_per_ca_step": rule != "srnca"}
trainer = build_trainer(trial_config(rule=rule, model=model, train=train, **changes), torch.device("cpu"))
losses = [loss for record in trainer.steps() for loss in record.fetched]
weights = b"".join(tensor.numpy().tobytes() for tensor in trainer.model.state_dict().values())
print(losses, hashlib.sha256(weights).hexdigest())
"""


@pytest.mark.parametrize("rule", RULES)
def test_a_run_that_compiles_its_loops_equals_one_that_finds_them(rule: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    program = [sys.executable, "-c", TRAIN, rule]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
    cold, warm = (
        subprocess.run(program, env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert list(cache.rglob("*.nbc"))
    assert cold == warm
