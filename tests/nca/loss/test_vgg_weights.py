"""Where VGG-16's weights are and what features=auto means; no network is asked."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from nca.config.compose import compose_plain
from nca.config.schema import FeaturesConfig, LossConfig
from nca.config.validation import build
from nca.loss import vgg_weights as weights
from nca.loss.vgg_weights import PATCHES, hash_weights, imagenet_weights_path, resolve_features
from tests.builders import GRAM, SLICED

Name = Literal["vgg16", "random_filters"]
AUTO = FeaturesConfig("auto")


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Stand in for the network: the answer, changed by the test; answering twice is an error."""
    answers = [False]
    monkeypatch.setattr(weights, "_can_download", answers.pop)
    return answers


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth"


@pytest.mark.parametrize("name", ["vgg16", "random_filters"])
def test_what_was_asked_for_stays_and_nobody_is_asked(name: Name, online: list[bool], cache: Path) -> None:
    config = FeaturesConfig(name)
    assert all(resolve_features(config, loss) is config for loss in (GRAM, SLICED))
    assert online == [False]


def test_cached_weights_are_vgg16_without_the_network(online: list[bool], cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.touch()
    assert resolve_features(AUTO, GRAM) == FeaturesConfig("vgg16")
    assert online == [False]


@pytest.mark.parametrize("loss", [GRAM, SLICED])
def test_given_weights_are_vgg16_without_the_network(
    loss: LossConfig, online: list[bool], cache: Path
) -> None:
    assert resolve_features(FeaturesConfig("auto", "w.pt"), loss) == FeaturesConfig("vgg16", "w.pt")
    assert online == [False]


@pytest.mark.parametrize(("answer", "name"), [(True, "vgg16"), (False, "random_filters")])
def test_otherwise_the_network_decides(answer: bool, name: Name, online: list[bool], cache: Path) -> None:
    online[:] = [answer]
    assert resolve_features(AUTO, GRAM) == FeaturesConfig(name)


def test_the_sliced_loss_compares_patches_and_nobody_is_asked(online: list[bool], cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.touch()
    assert resolve_features(AUTO, SLICED) == PATCHES
    assert online == [False]


def test_patches_by_name_are_those_of_auto() -> None:
    values = compose_plain("train", ["texture=roundleaf", "features=patches"])["features"]
    assert build(FeaturesConfig, values) == PATCHES


def test_a_dry_run_does_not_use_the_network(online: list[bool], cache: Path) -> None:
    online[:] = [True]
    assert resolve_features(AUTO, GRAM, use_network=False) == FeaturesConfig("random_filters")
    assert online == [True]


def test_an_unreachable_server_is_no_download(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(weights, "WEIGHTS_URL", "http://127.0.0.1:9/vgg16.pth")
    assert resolve_features(AUTO, GRAM) == FeaturesConfig("random_filters")


def test_the_cache_follows_torchs_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = "hub/checkpoints/vgg16-397923af.pth"
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert imagenet_weights_path() == tmp_path / "cache" / "torch" / name
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert imagenet_weights_path() == tmp_path / ".cache" / "torch" / name
    monkeypatch.setenv("TORCH_HOME", "~/t")
    assert imagenet_weights_path() == tmp_path / "t" / name


def test_hashes_follow_the_content_and_not_the_path(tmp_path: Path) -> None:
    for name, content in (("a.pt", b"one"), ("b.pt", b"one"), ("c.pt", b"two")):
        (tmp_path / name).write_bytes(content)
    one, same, other = (hash_weights(FeaturesConfig("vgg16", str(tmp_path / f"{name}.pt"))) for name in "abc")
    assert one == same == hashlib.sha256(b"one").hexdigest()
    assert one != other


def test_a_path_in_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.pt").write_bytes(b"one")
    assert hash_weights(FeaturesConfig("vgg16", "~/w.pt")) == hashlib.sha256(b"one").hexdigest()


def test_the_published_weights_have_a_name() -> None:
    assert hash_weights(FeaturesConfig("vgg16")) == "IMAGENET1K_V1"


def test_deciding_loads_no_torch() -> None:
    code = (
        "import sys; from nca.loss.vgg_weights import *; from nca.config.schema import *\n"
        "resolve_features(FeaturesConfig('auto'), LossConfig(name='gram'), use_network=False)\n"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
