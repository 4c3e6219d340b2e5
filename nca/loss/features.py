"""Feature extractors: what the style loss looks at. VGG-16, or embedded random filters."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nca.automaton.seeding import derive_seed
from nca.cli.errors import ConfigError
from nca.config.schema import FeaturesConfig
from nca.loss.vgg_weights import WEIGHTS_URL
from nca.loss.winograd import WinogradConvolution

__all__ = [
    "STYLE_LAYERS",
    "FeatureExtractor",
    "Features",
    "RandomFilters",
    "Vgg16",
    "load_extractor",
]

Features = Float[Tensor, "batch _ _"]  # batch, features, positions; the latter two differ between layers
Images = Float[Tensor, "batch 3 height width"]

# torchvision's layer numbers. relu1_1, relu2_1, relu3_1, relu4_1, relu5_1 follow these convolutions.
CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24)
POOLS = (4, 9, 16, 23)
STYLE_LAYERS = {0: "relu1_1", 5: "relu2_1", 10: "relu3_1", 17: "relu4_1", 24: "relu5_1"}

# At full width a quarter faster by Winograd's algorithm; the last layer is not worth the memory.
WINOGRAD_LAYERS = (12, 14, 17, 19, 21)

N_LEVELS = 4
N_RANDOM_FILTERS = 64
FILTER_SIDE = 7
MID_GRAY = 0.5
BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)
SPECTRUM_SIDE = 64
COLOR_PART = 0.3
WHITENING = 0.3  # exponent: 0 draws white noise, 1 filters whose responses are white on natural images
FLOOR = 1e-3  # of the largest variance, added before whitening


Convolution = Callable[[Tensor], Tensor]
# Maps RGB images in [0, 1] to one feature tensor per style layer; differentiable in the images.
FeatureExtractor = Callable[[Images], list[Features]]


class Vgg16:
    """VGG-16's five style layers from given weights, which get no gradients.

    Args:
        weights: Tensors named `features.<i>.weight` and `.bias` with torchvision's layer numbers.
        device: Where features are computed.
        dtype: float32 or bfloat16; features come in this type.

    Raises:
        ConfigError: If a tensor is missing or the shapes do not follow one another.

    Source: Simonyan and Zisserman 2015, configuration D. Nothing is computed past relu5_1.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self._dtype = dtype
        self._convolutions: dict[int, Convolution] = {}
        n_inputs = 3
        for index in CONVOLUTIONS:
            weight, bias = (weights.get(f"features.{index}.{part}") for part in ("weight", "bias"))
            if weight is None or bias is None:
                raise ConfigError(f"features.{index}.weight or .bias is missing: not a VGG-16 state dict")
            if weight.dim() != 4 or weight.shape[1:] != (n_inputs, 3, 3) or bias.shape != weight.shape[:1]:
                shape = tuple(weight.shape)
                raise ConfigError(f"features.{index}.weight has shape {shape}: must be (n, {n_inputs}, 3, 3)")
            n_inputs = weight.shape[0]
            weight, bias = weight.detach().to(device, dtype), bias.detach().to(device, dtype)
            if index in WINOGRAD_LAYERS and device.type == "cpu" and dtype == torch.float32:
                self._convolutions[index] = WinogradConvolution(weight, bias)
            else:
                kernel = weight.contiguous(memory_format=torch.channels_last)
                self._convolutions[index] = functools.partial(F.conv2d, weight=kernel, bias=bias, padding=1)

    def __call__(self, images: Images) -> list[Features]:
        """Return the rectified features of the five style layers."""
        x = images.to(self._dtype).contiguous(memory_format=torch.channels_last)
        features = []
        for index in sorted(CONVOLUTIONS + POOLS):
            if index in POOLS:
                x = F.max_pool2d(x, 2)
                continue
            x = self._convolutions[index](x).relu_()
            if index in STYLE_LAYERS:
                features.append(x.flatten(2))
        return features


class RandomFilters:
    """A Gaussian pyramid of fixed random filters: features that need no download.

    Per level, 64 windowed random 7x7 filters over RGB - 0.5, rectified, with a constant feature appended
    so that the Gram matrix holds their means. Levels smaller than a filter are dropped. Everything wraps
    around, as states do: without that the coarse levels see where a pattern lies more than what it is.

    The filters are drawn partly whitened and scaled to unit response variance under the statistics of
    natural images. Drawn as white noise they respond to little but brightness, and noise satisfies them.

    Source: Ustyuzhaninov et al. 2017, "What does it take to generate natural textures?", multi-scale
    random features. Departs from it in number, size and statistics of the filters, and in the pyramid.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self._dtype = dtype
        filters = draw_filters(torch.Generator().manual_seed(derive_seed(0, "random_filters")))
        self._filters = filters.to(device, dtype).contiguous(memory_format=torch.channels_last)
        taps = torch.tensor(BINOMIAL) / sum(BINOMIAL)
        self._blur = (taps[:, None] * taps).expand(3, 1, -1, -1).to(device, dtype)

    def __call__(self, images: Images) -> list[Features]:
        """Return the features of every pyramid level, finest first."""
        x = images.to(self._dtype) - MID_GRAY
        features = []
        for level in range(N_LEVELS):
            if level > 0:
                x = F.conv2d(_wrap(x, len(BINOMIAL) // 2), self._blur, stride=2, groups=3)
            if min(x.shape[-2:]) < FILTER_SIDE:
                break
            responses = F.relu(F.conv2d(_wrap(x, FILTER_SIDE // 2), self._filters)).flatten(2)
            features.append(F.pad(responses, (0, 0, 0, 1), value=1.0))
        return features


def draw_filters(generator: torch.Generator) -> Float[Tensor, "filter 3 side side"]:
    """Return windowed Gaussian filters, partly whitened, of unit response deviation on natural images."""
    covariance = natural_covariance()
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=0) + FLOOR * values.max()
    whitening = (vectors * values ** (-WHITENING / 2)) @ vectors.T
    drawn = torch.randn(N_RANDOM_FILTERS, covariance.shape[0], generator=generator).double() @ whitening
    window = torch.hann_window(FILTER_SIDE + 2, periodic=False, dtype=torch.float64)[1:-1]
    filters = drawn.view(-1, 3, FILTER_SIDE, FILTER_SIDE) * window[:, None] * window
    flat = filters.flatten(1)
    deviations = ((flat @ covariance) * flat).sum(dim=1).sqrt()
    scaled: Tensor = filters / deviations[:, None, None, None]
    return scaled.float()


def natural_covariance() -> Float[Tensor, "patch patch"]:
    """Return the covariance of the 3 * 7 * 7 values of a patch of a natural image, colors first.

    Modeled as unit variance, power falling with the square of the frequency, and colors that share most
    of it: a luminance field plus `COLOR_PART` times an independent field per color.

    Source: Field 1987, "Relations between the statistics of natural images and the response properties of
    cortical cells", for the spectrum.
    """
    frequencies = torch.fft.fftfreq(SPECTRUM_SIDE, dtype=torch.float64)
    squared = frequencies[:, None] ** 2 + frequencies**2
    squared[0, 0] = 1 / SPECTRUM_SIDE**2
    field = torch.fft.ifft2(1 / squared).real
    offsets = torch.arange(FILTER_SIDE)[:, None] - torch.arange(FILTER_SIDE)
    between = field[offsets[:, None, :, None], offsets[None, :, None, :]] / field[0, 0]
    colors = (1 + COLOR_PART**2 * torch.eye(3, dtype=torch.float64)) / (1 + COLOR_PART**2)
    return torch.kron(colors, between.reshape(FILTER_SIDE**2, FILTER_SIDE**2))


def _wrap(images: Tensor, margin: int) -> Tensor:
    return F.pad(images, (margin, margin, margin, margin), mode="circular")


def load_extractor(config: FeaturesConfig, device: torch.device, dtype: torch.dtype) -> FeatureExtractor:
    """Build the extractor of a resolved config.

    Raises:
        ConfigError: If the weights cannot be had or do not fit.
    """
    if config.name == "random_filters":
        return RandomFilters(device, dtype)
    weights = _read_weights(config.weights) if config.weights else _imagenet_weights()
    try:
        return Vgg16(weights, device, dtype)
    except ConfigError as error:
        raise ConfigError(f"features.weights={config.weights}: {error}") from error


def _imagenet_weights() -> Mapping[str, Tensor]:
    try:
        weights: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            WEIGHTS_URL, map_location="cpu", check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"features=vgg16: the ImageNet weights cannot be downloaded ({error}); give "
            "features.weights=PATH or features=random_filters"
        ) from error
    return weights


def _read_weights(path: str) -> Mapping[str, Tensor]:
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"features.weights={path}: no such file")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights: object = load_file(file)
        else:
            weights = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(
            f"features.weights={path}: not a readable state dict ({type(error).__name__})"
        ) from error
    if not isinstance(weights, Mapping) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise ConfigError(f"features.weights={path}: must hold a state dict of tensors")
    prefix = "" if any(key.startswith("features.") for key in itertools.islice(weights, 1)) else "features."
    return {f"{prefix}{key}": tensor for key, tensor in weights.items()}
