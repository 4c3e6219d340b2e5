"""Checkpoints: bit for bit, two of them, and nothing half written ever counts."""

from __future__ import annotations

import errno
import itertools
import json
import resource
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from nca.automaton.rules import Srnca
from nca.automaton.seeding import STREAMS
from nca.training import checkpoint
from nca.training.checkpoint import Checkpoints
from nca.training.run import build_trainer
from nca.training.trainer import Trainer
from tests.builders import CPU, RULES, trial_config


def make_trainer(rule: str = "srnca", steps: int = 6, optimizer: str = "adam") -> Trainer:
    # The learning rate drops after two of six steps: before the checkpoint at three, so it must be kept.
    return build_trainer(trial_config(rule=rule, train={"steps": steps, "optimizer": optimizer}), CPU)


def state(value: float = 1.0) -> dict[str, Tensor]:
    return {
        "a": torch.full((3, 4), value, dtype=torch.float32),
        "b.c": torch.tensor(2.5, dtype=torch.float64),
    }


def assert_equal(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", 1, 0.0)


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
@pytest.mark.parametrize("rule", RULES)
def test_training_goes_on_bit_for_bit(rule: str, optimizer: str, checkpoints: Checkpoints) -> None:
    straight = make_trainer(rule, optimizer=optimizer)
    list(straight.steps())

    first = make_trainer(rule, optimizer=optimizer)
    list(itertools.islice(first.steps(), 3))
    checkpoints.save(first.state(), first.step)
    second = make_trainer(rule, optimizer=optimizer)
    loaded = checkpoints.load()
    assert loaded is not None
    assert_equal(loaded, first.state())
    second.load_state(loaded)
    assert second.step == 3
    assert torch.equal(second.output, first.output)
    list(second.steps())

    assert second.losses == straight.losses
    assert_equal(second.state(), straight.state())
    rates = [trainer._optimizer.param_groups[0]["lr"] for trainer in (second, straight)]
    assert rates == pytest.approx([3e-4, 3e-4])


def test_a_checkpoint_holds_moments_streams_pool_and_losses(checkpoints: Checkpoints) -> None:
    trainer = make_trainer("distill")
    list(itertools.islice(trainer.steps(), 2))
    names = set(trainer.state())
    parts = {f"optimizer.{i}.{key}" for i in range(3) for key in ("step", "exp_avg", "exp_avg_sq")}
    parts |= {f"streams.{name}" for name in STREAMS}
    parts |= {"model.kernels", "model.w0", "model.w1", "model.bias", "pool", "output", "losses"}
    assert names >= parts


def test_a_trainer_before_its_first_step_can_be_saved(checkpoints: Checkpoints) -> None:
    trainer = make_trainer()
    checkpoints.save(trainer.state(), 0)
    loaded = checkpoints.load()
    assert loaded is not None
    assert_equal(loaded, trainer.state())


def test_a_checkpoint_does_not_change_with_the_trainer(checkpoints: Checkpoints) -> None:
    trainer = make_trainer()
    assert isinstance(trainer.model, Srnca)
    next(trainer.steps())
    checkpoints.save(trainer.state(), 1)
    before = trainer.model.w1.detach().clone()
    next(trainer.steps())
    loaded = checkpoints.load()
    assert loaded is not None
    assert torch.equal(loaded["model.w1"], before)
    assert not torch.equal(trainer.model.w1, before)


def test_nothing_saved_is_none(checkpoints: Checkpoints, tmp_path: Path) -> None:
    assert checkpoints.load() is None
    assert list(tmp_path.iterdir()) == []
    checkpoints.clear()


def test_everybody_whom_the_umask_allows_may_read_a_checkpoint(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    checkpoints.save({"pool": torch.zeros(1)}, 1)
    (tmp_path / "text").touch()
    (saved,) = tmp_path.rglob("*.safetensors")
    assert saved.stat().st_mode == (tmp_path / "text").stat().st_mode


def test_the_last_two_are_kept(checkpoints: Checkpoints, tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        checkpoints.save(state(step), step)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["00000003.safetensors", "00000010.safetensors"]
    loaded = checkpoints.load()
    assert loaded is not None
    assert_equal(loaded, state(10))
    checkpoints.clear()
    assert not (tmp_path / "checkpoints").exists()


def test_a_tensor_of_any_layout_comes_back(checkpoints: Checkpoints) -> None:
    tensors = {
        "permuted": torch.arange(24.0).view(1, 2, 3, 4).permute(0, 3, 1, 2),
        "shared": torch.zeros(4).expand(3, 4),
        "bytes": torch.arange(5, dtype=torch.uint8),
    }
    checkpoints.save(tensors, 1)
    loaded = checkpoints.load()
    assert loaded is not None
    assert_equal(loaded, tensors)


def newest(tmp_path: Path) -> Path:
    return max((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, -1])
def test_a_truncated_newest_falls_back_to_the_older(
    checkpoints: Checkpoints, tmp_path: Path, kept: int
) -> None:
    checkpoints.save(state(1), 1)
    checkpoints.save(state(2), 2)
    content = newest(tmp_path).read_bytes()
    newest(tmp_path).write_bytes(content[:kept])
    loaded = checkpoints.load()
    assert loaded is not None
    assert_equal(loaded, state(1))


def test_any_flipped_bit_falls_back_to_the_older(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoints.save(state(1), 1)
    checkpoints.save(state(2), 2)
    path = newest(tmp_path)
    content = path.read_bytes()
    for index in range(len(content)):
        path.write_bytes(content[:index] + bytes([content[index] ^ 4]) + content[index + 1 :])
        loaded = checkpoints.load()
        assert loaded is not None
        # Any other state would be damaged data that was accepted.
        value = float(loaded["a"][0, 0])
        assert_equal(loaded, state(value))
        assert value in {1.0, 2.0}


@pytest.mark.parametrize("header", [None, {}, {"checksum": "0"}, {"checksum": "0", "values": "{}"}])
def test_a_file_of_somebody_elses_is_none(
    checkpoints: Checkpoints, tmp_path: Path, header: dict[str, str] | None
) -> None:
    (tmp_path / "checkpoints").mkdir()
    save_file(state(), tmp_path / "checkpoints" / "00000009.safetensors", header)
    assert checkpoints.load() is None


def test_a_checkpoint_with_values_beside_its_tensors_is_read(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    # So older versions wrote them; the checksum was over the values too, and before the tensors.
    values = json.dumps({"scheduler": 3})
    checksum = zlib.crc32(b"a", zlib.crc32(values.encode()))
    checksum = zlib.crc32(torch.ones(2).numpy().tobytes(), checksum)
    (tmp_path / "checkpoints").mkdir()
    path = tmp_path / "checkpoints" / "00000009.safetensors"
    save_file({"a": torch.ones(2)}, path, {"values": values, "checksum": str(checksum)})
    loaded = checkpoints.load()
    assert loaded is not None
    assert_equal(loaded, {"a": torch.ones(2)})
    save_file({"a": torch.ones(2)}, path, {"values": values.replace("3", "4"), "checksum": str(checksum)})
    assert checkpoints.load() is None


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (SafetensorError("I/O error: No space left"), "cannot be written .*No space left"),
    ],
)
def test_a_full_disk_leaves_the_older_and_no_part(
    checkpoints: Checkpoints,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    raised: str,
) -> None:
    checkpoints.save(state(1), 1)

    def fail(tensors: object, path: Path, header: object) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(OSError, match=raised):
        checkpoints.save(state(2), 2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["00000001.safetensors"]
    loaded = checkpoints.load()
    assert loaded is not None
    assert_equal(loaded, state(1))


SAVE_UNDER_A_LIMIT = """
import resource, signal, sys, torch
from pathlib import Path
from nca.training.checkpoint import Checkpoints
saved = Checkpoints(Path(sys.argv[1]), 1, 0.0)
saved.save({"a": torch.ones(10)}, 1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    saved.save({"a": torch.ones(100_000)}, 2)
except OSError as error:
    print("OSError", error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on the size of files here")
def test_a_file_that_may_not_grow_is_an_oserror(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SAVE_UNDER_A_LIMIT, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("OSError")
    assert [path.name for path in tmp_path.iterdir()] == ["00000001.safetensors"]


def test_a_crash_while_writing_leaves_the_older(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save(state(1), 1)
    # What kill -9 leaves: the first half of a file that was never renamed.
    checkpoints.save(state(2), 2)
    whole = newest(tmp_path)
    whole.with_suffix(".partial").write_bytes(whole.read_bytes()[:50])
    whole.unlink()
    after_crash = Checkpoints(tmp_path / "checkpoints", 1, 0.0)
    loaded = after_crash.load()
    assert loaded is not None
    assert_equal(loaded, state(1))
    after_crash.save(state(2), 2)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["00000001.safetensors", "00000002.safetensors"]


def test_due_after_so_many_steps_and_so_many_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    checkpoints = Checkpoints(tmp_path, 4, 60.0)
    assert not checkpoints.due(4)
    now[0] += 60
    assert not checkpoints.due(3)
    assert checkpoints.due(4)
    checkpoints.save(state(), 4)
    assert not checkpoints.due(8)
    now[0] += 60
    assert not checkpoints.due(7)
    assert checkpoints.due(8)
    with monkeypatch.context() as patch:  # a slow disk
        patch.setattr("nca.training.checkpoint._sync", lambda _: now.__setitem__(0, now[0] + 1000))
        checkpoints.save(state(), 8)
    now[0] += 60
    assert checkpoints.due(12)
    resumed = Checkpoints(tmp_path, 4, 0.0)
    resumed.load()
    assert not resumed.due(11)
    assert resumed.due(12)
