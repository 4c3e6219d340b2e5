"""Feature extractors: VGG-16 as torchvision has it, weights from files, and embedded random filters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from nca.cli.errors import ConfigError
from nca.config.schema import FeaturesConfig
from nca.loss.features import (
    FILTER_SIDE,
    N_RANDOM_FILTERS,
    STYLE_LAYERS,
    FeatureExtractor,
    RandomFilters,
    Vgg16,
    draw_filters,
    hash_filters,
    load_extractor,
    natural_covariance,
)
from nca.loss.vgg_weights import WEIGHTS_URL, hash_file, imagenet_weights_path
from tests.builders import CPU, generator, vgg_weights


def images(n_images: int = 1, size: int = 32) -> torch.Tensor:
    return torch.rand(n_images, 3, size, size, generator=generator(1))


def load(path: Path | str, name: Literal["vgg16", "random_filters"] = "vgg16") -> FeatureExtractor:
    return load_extractor(FeaturesConfig(name, str(path)), CPU, torch.float32)


@pytest.fixture(scope="module", params=[Vgg16, RandomFilters])
def extractor(request: pytest.FixtureRequest) -> FeatureExtractor:
    return Vgg16(vgg_weights(), CPU) if request.param is Vgg16 else RandomFilters(CPU)


def test_vgg16_equals_torchvisions() -> None:
    with torch.random.fork_rng():
        reference = torchvision.models.vgg16(weights=None).features
    # torchvision's own initialization of the biases, zero, would hide a missing one.
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.dim() == 1:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator()))
    x, expected = images(2), []
    with torch.no_grad():
        for index, layer in enumerate(reference):
            x = layer(x)
            if index in {1, 6, 11, 18, 25}:
                expected.append(x.flatten(2))
        weights = {f"features.{key}": tensor for key, tensor in reference.state_dict().items()}
        ours = Vgg16(weights, CPU)(images(2))
    assert [tuple(f.shape) for f in ours] == [
        (2, 64, 1024),
        (2, 128, 256),
        (2, 256, 64),
        (2, 512, 16),
        (2, 512, 4),
    ]
    for features, reference_features in zip(ours, expected, strict=True):
        assert torch.allclose(features, reference_features, rtol=1e-4, atol=1e-5)


def test_style_layers_are_the_rectified_convolutions_of_the_study() -> None:
    assert [index + 1 for index in STYLE_LAYERS] == [1, 6, 11, 18, 25]


def test_the_address_of_the_weights_is_torchvisions() -> None:
    assert torchvision.models.VGG16_Weights.IMAGENET1K_V1.url == WEIGHTS_URL


def test_gradients_go_to_the_images_and_not_to_the_weights(extractor: FeatureExtractor) -> None:
    x = images().requires_grad_()
    torch.stack([(features**2).mean() for features in extractor(x)]).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().max()) > 0
    assert all(not features.requires_grad for features in extractor(images()))


def test_weights_that_want_gradients_get_none() -> None:
    weights = {key: tensor.requires_grad_() for key, tensor in vgg_weights().items()}
    features = Vgg16(weights, CPU)(images())
    assert not any(layer.requires_grad for layer in features)


def test_features_are_rectified_and_one_image_does_not_see_another(extractor: FeatureExtractor) -> None:
    x = images(3)
    together, alone = extractor(x), extractor(x[1:2])
    for both, single in zip(together, alone, strict=True):
        assert float(both.min()) >= 0
        assert torch.allclose(both[1:2], single, atol=1e-5)


@pytest.mark.parametrize("kind", [Vgg16, RandomFilters])
def test_bfloat16_features_are_close_to_float32(kind: type) -> None:
    arguments: tuple[Any, ...] = (vgg_weights(), CPU) if kind is Vgg16 else (CPU,)
    exact, coarse = kind(*arguments)(images()), kind(*arguments, torch.bfloat16)(images())
    for fine, rough in zip(exact, coarse, strict=True):
        assert rough.dtype == torch.bfloat16
        error = (rough.float() - fine).norm() / fine.norm()
        assert 0 < float(error) < 0.05


class TestWeightFiles:
    """State dicts from disk, and one line for those that do not serve."""

    def refuse(self, path: Path, message: str) -> None:
        with pytest.raises(ConfigError, match=message) as error:
            load(path)
        assert str(error.value).startswith(f"features.weights={path}: ")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth"])
    @pytest.mark.parametrize("prefix", ["features.", ""])
    def test_both_kinds_of_file_and_of_key_are_read(self, tmp_path: Path, suffix: str, prefix: str) -> None:
        weights = {f"{prefix}{k.removeprefix('features.')}": w.half() for k, w in vgg_weights().items()}
        path = tmp_path / f"w.{suffix}"
        save_file(weights, path) if suffix == "safetensors" else torch.save(weights, path)
        halved = {key: tensor.half().float() for key, tensor in vgg_weights().items()}
        for ours, expected in zip(load(path)(images()), Vgg16(halved, CPU)(images()), strict=True):
            assert torch.equal(ours, expected)

    def test_a_whole_vgg16_with_its_classifier_is_read(self, tmp_path: Path) -> None:
        weights = vgg_weights() | {
            "features.26.weight": torch.zeros(16, 16, 3, 3),
            "classifier.0.bias": torch.zeros(4),
        }
        torch.save(weights, tmp_path / "w.pt")
        assert len(load(tmp_path / "w.pt")(images())) == 5

    def test_missing_file(self, tmp_path: Path) -> None:
        self.refuse(tmp_path / "no.pt", "no such file;")
        self.refuse(tmp_path, "no such file;")

    @pytest.mark.parametrize("suffix", ["safetensors", "pt"])
    @pytest.mark.parametrize("content", [b"", b"hello", bytes(1000)])
    def test_corrupt_file(self, tmp_path: Path, suffix: str, content: bytes) -> None:
        (tmp_path / f"w.{suffix}").write_bytes(content)
        self.refuse(tmp_path / f"w.{suffix}", r"not a readable state dict \(\w+\);")

    @pytest.mark.parametrize("suffix", ["safetensors", "pt"])
    def test_file_that_was_cut_off(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"w.{suffix}"
        save_file(vgg_weights(), path) if suffix == "safetensors" else torch.save(vgg_weights(), path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        self.refuse(path, r"not a readable state dict \(\w+\);")

    def test_file_that_would_run_code(self, tmp_path: Path) -> None:
        torch.save({"features.0.weight": Path}, tmp_path / "w.pt")
        self.refuse(tmp_path / "w.pt", r"not a readable state dict \(UnpicklingError\);")

    def test_file_in_the_home_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        torch.save(vgg_weights(), tmp_path / "w.pt")
        assert len(load(Path("~/w.pt"))(images())) == 5

    @pytest.mark.parametrize(
        ("index", "part", "change", "message"),
        [
            (0, "weight", lambda w: w.to_sparse(), "is torch.float32, torch.sparse_coo: must be a dense"),
            (5, "weight", lambda w: w.flatten(1).to_sparse_csr(), "torch.sparse_csr: must be a dense tensor"),
            (0, "weight", lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "is torch.qint8, "),
            (0, "weight", lambda w: w.to("meta"), "is a meta tensor: must be a dense tensor of floats"),
            (0, "weight", lambda w: w.to(torch.complex64), "is torch.complex64, torch.strided: must be"),
            (0, "weight", lambda w: w.int(), "is torch.int32, torch.strided: must be"),
            (2, "weight", lambda w: w * torch.nan, "has values that are not finite in float32"),
            (2, "weight", lambda w: w.double() * 1e300, "has values that are not finite in float32"),
            (2, "bias", lambda b: b / 0, "has values that are not finite in float32"),
            (2, "bias", lambda b: b[:, None], r"has shape \(2, 1\): must be \(n,\)"),
            (24, "weight", torch.zeros_like, "is all 0: its features would show no texture"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning", "ignore:.*quantize:UserWarning")
    def test_tensor_of_the_wrong_kind(
        self, tmp_path: Path, index: int, part: str, change: Callable[[Tensor], Tensor], message: str
    ) -> None:
        weights, name = vgg_weights(), f"features.{index}.{part}"
        weights[name] = change(weights[name])
        torch.save(weights, tmp_path / "w.pt")
        self.refuse(tmp_path / "w.pt", rf"{name} .*{message}")

    @pytest.mark.parametrize("n_kernels", [0, 3])
    def test_numbers_of_kernels_and_biases_that_differ(self, tmp_path: Path, n_kernels: int) -> None:
        torch.save(vgg_weights() | {"features.0.weight": torch.ones(n_kernels, 3, 3, 3)}, tmp_path / "w.pt")
        self.refuse(tmp_path / "w.pt", f"features.0 has {n_kernels} kernels and 2 biases;")

    @pytest.mark.parametrize(
        "content", [[1, 2], {"features.0.weight": "text"}, torch.zeros(3), {0: torch.zeros(3)}, None]
    )
    def test_what_is_no_state_dict(self, tmp_path: Path, content: object) -> None:
        torch.save(content, tmp_path / "w.pt")
        self.refuse(tmp_path / "w.pt", "must hold a state dict of tensors;")

    @pytest.mark.parametrize("key", ["features.0.weight", "features.24.bias"])
    def test_missing_tensor(self, tmp_path: Path, key: str) -> None:
        weights = vgg_weights()
        del weights[key]
        torch.save(weights, tmp_path / "w.pt")
        index = key.split(".")[1]
        self.refuse(
            tmp_path / "w.pt", rf"features.{index}.weight or .bias is missing: not a VGG-16 state dict;"
        )

    @pytest.mark.parametrize("shape", [(2, 4, 3, 3), (2, 3, 5, 5), (2, 27)])
    def test_tensor_that_does_not_fit(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        torch.save(vgg_weights() | {"features.0.weight": torch.zeros(shape)}, tmp_path / "w.pt")
        self.refuse(tmp_path / "w.pt", r"features.0.weight has shape \(.*\): must be \(n, 3, 3, 3\);")

    def test_imagenet_weights_out_of_reach(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setattr("nca.loss.features.WEIGHTS_URL", "http://127.0.0.1:9/vgg16-397923af.pth")
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(variable, raising=False)
        with pytest.raises(
            ConfigError, match=r"^features=vgg16: the ImageNet weights cannot be downloaded \(.*\); give"
        ) as error:
            load_extractor(FeaturesConfig("vgg16"), CPU, torch.float32)
        assert "\n" not in str(error.value)

    @pytest.fixture
    def cached(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        path = imagenet_weights_path()
        assert path.parent == Path(torch.hub.get_dir()) / "checkpoints"
        path.parent.mkdir(parents=True)
        return path

    def test_cached_weights_are_read(self, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.save(vgg_weights(), cached)
        monkeypatch.setattr("nca.loss.features.WEIGHTS_SHA256", hash_file(cached)[:8])
        assert len(load_extractor(FeaturesConfig("vgg16"), CPU, torch.float32)(images())) == 5

    def test_cached_weights_that_are_not_the_published_ones(self, cached: Path) -> None:
        cached.write_bytes(bytes(range(256)) * 4096)
        message = rf"features=vgg16: {cached}: its SHA-256 .* not with 397923af .*; delete it to download it"
        with pytest.raises(ConfigError, match=message):
            load_extractor(FeaturesConfig("vgg16"), CPU, torch.float32)
        self.refuse(cached, "its SHA-256 starts with .*, not with 397923af as its name tells")

    def test_weights_are_downloaded_to_the_cache(self, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = cached.parents[2] / "source.pth"
        torch.save(vgg_weights(), source)
        monkeypatch.setattr("nca.loss.features.WEIGHTS_URL", source.as_uri())
        monkeypatch.setattr("nca.loss.features.WEIGHTS_SHA256", hash_file(source)[:8])
        load_extractor(FeaturesConfig("vgg16"), CPU, torch.float32)
        assert cached.read_bytes() == source.read_bytes()


class TestRandomFilters:
    """The embedded extractor."""

    def test_it_is_the_same_every_time(self) -> None:
        for ours, same in zip(RandomFilters(CPU)(images()), RandomFilters(CPU)(images()), strict=True):
            assert torch.equal(ours, same)

    @pytest.mark.parametrize(("size", "n_levels"), [(16, 2), (32, 3), (64, 4), (128, 4)])
    def test_levels_smaller_than_a_filter_are_dropped(self, size: int, n_levels: int) -> None:
        features = RandomFilters(CPU)(images(2, size))
        side = [size // 2**level for level in range(n_levels)]
        assert [tuple(f.shape) for f in features] == [(2, N_RANDOM_FILTERS + 1, s * s) for s in side]

    def test_a_constant_feature_is_appended(self) -> None:
        for features in RandomFilters(CPU)(images(2)):
            assert torch.equal(features[:, -1], torch.ones_like(features[:, -1]))
            assert len(features[0, 0].unique()) > 1

    def test_mid_gray_has_no_features(self) -> None:
        for features in RandomFilters(CPU)(torch.full((1, 3, 32, 32), 0.5)):
            assert not features[:, :-1].any()

    def test_filters_respond_with_unit_deviation_to_natural_statistics(self) -> None:
        filters = draw_filters(generator()).double().flatten(1)
        variances = torch.einsum("fp,pq,fq->f", filters, natural_covariance(), filters)
        assert filters.shape == (N_RANDOM_FILTERS, 3 * FILTER_SIDE**2)
        assert torch.allclose(variances, torch.ones(N_RANDOM_FILTERS, dtype=torch.float64), atol=1e-5)

    def test_the_covariance_is_one_of_smooth_colored_patches(self) -> None:
        covariance = natural_covariance()
        assert torch.allclose(covariance, covariance.mT)
        assert torch.allclose(covariance.diag(), torch.ones(len(covariance), dtype=torch.float64))
        assert float(torch.linalg.eigvalsh(covariance).min()) > -1e-6
        first = covariance[0].view(3, FILTER_SIDE, FILTER_SIDE)
        assert (first[0, 0].diff() < 0).all(), "near pixels are more alike than far ones"
        assert 0.5 < float(first[1, 0, 0]) < 1, "colors share most of the field"

    def test_filters_follow_their_generator(self) -> None:
        one, same, other = (draw_filters(generator(seed)) for seed in (0, 0, 1))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    @pytest.mark.parametrize(
        ("name", "value"), [("WHITENING", 0.301), ("N_LEVELS", 3), ("BINOMIAL", (1.0, 4.0, 6.0, 4.0, 1.1))]
    )
    def test_another_recipe_has_another_hash(
        self, monkeypatch: pytest.MonkeyPatch, name: str, value: object
    ) -> None:
        before = hash_filters()
        monkeypatch.setattr(f"nca.loss.features.{name}", value)
        assert hash_filters() != before

    def test_rounding_does_not_change_the_hash(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before, filters = hash_filters(), draw_filters()
        monkeypatch.setattr("nca.loss.features.draw_filters", lambda: filters * (1 + 1e-7))
        assert hash_filters() == before

    def test_features_move_with_the_picture_around_the_torus(self) -> None:
        # By 8 pixels: a whole number of pixels on each of the four levels.
        x = images(1, 64)
        for level, (here, there) in enumerate(
            zip(RandomFilters(CPU)(x), RandomFilters(CPU)(x.roll((8, -16), (2, 3))), strict=True)
        ):
            side, step = 64 >> level, 8 >> level
            moved = here.view(1, -1, side, side).roll((step, -2 * step), (2, 3)).flatten(2)
            assert torch.allclose(moved, there, atol=1e-4)
