"""The transcription that benchmarks compare with is the recorded program: it meets its training numbers."""

from pathlib import Path

import numpy as np
import torch

from benchmarks import reference

RECORDED = np.load(Path(__file__).with_name("srnca_golden.npz"))


def recorded(key: str) -> torch.Tensor:
    return torch.from_numpy(RECORDED[key].copy())


def relative_error(ours: torch.Tensor, key: str) -> float:
    return float((ours.detach() - recorded(key)).norm() / recorded(key).norm())


def test_training_trajectory() -> None:
    vgg = reference.make_vgg({k: recorded(k).float() for k in RECORDED.files if k.startswith("features.")})
    parameters = {"filters": recorded("step_f5/filters")} | {
        name: recorded(f"train/{name}_init") for name in ("w0", "w1")
    }
    pool = torch.zeros(128, 6, 48, 48)
    pool[recorded("train/pool_used")] = recorded("train/pool")
    trainer = reference.ReferenceTrainer(
        parameters,
        pool,
        lambda images: reference.style_loss(images, recorded("train/target"), vgg),
        schedule=(float(recorded("train/meta")[4]), 24),
        update_rate=1.0,
    )
    seeds = iter(recorded("train/seeds"))
    none = torch.zeros(())
    losses = [
        trainer.train_step(step, rows, ca_steps, next(seeds) if step % 8 == 0 else none)
        for step, (rows, ca_steps) in enumerate(
            zip(recorded("train/batch_index").tolist(), recorded("train/ca_steps").tolist(), strict=True)
        )
    ]
    expected = recorded("train/losses").double()
    assert ((torch.tensor(losses, dtype=torch.float64) - expected).abs() / expected).max() <= 1e-4
    for name in ("w0", "w1"):
        assert relative_error(trainer.parameters[name], f"train/{name}_final") <= 1e-4
