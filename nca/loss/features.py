"""Feature extractors of the style loss: VGG-16, or random filters that need no download."""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from nca.automaton.seeding import derive_seed
from nca.cli.errors import ConfigError
from nca.config.schema import FeaturesConfig
from nca.loss.patches import Patches
from nca.loss.vgg_weights import WEIGHTS_SHA256, WEIGHTS_URL, hash_file, imagenet_weights_path

Features = Float[Tensor, "batch _ _"]  # (batch, feature, position); features and positions differ by layer
Images = Float[Tensor, "batch 3 height width"]
Convolution = Callable[[Tensor], Tensor]
# Maps RGB images in [0, 1] to one feature tensor per style layer; the images get gradients.
FeatureExtractor = Callable[[Images], list[Features]]

# torchvision's layer numbers; relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 follow the style layers.
CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24)
POOLS = (4, 9, 16, 23)
STYLE_LAYERS = (0, 5, 10, 17, 24)
# Half the time of a direct convolution by Winograd's algorithm; the first one has three inputs only.
WINOGRAD_LAYERS = CONVOLUTIONS[1:]

N_LEVELS = 4  # of the pyramid
N_RANDOM_FILTERS = 64
FILTER_SIDE = 7  # px
MID_GRAY = 0.5
BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)  # blur between levels
SPECTRUM_SIDE = 64  # px
COLOR_STD = 0.3  # standard deviation of a color's own field relative to the luminance field
WHITENING = 0.3  # exponent: 0 draws white noise, 1 filters whose responses are white on natural images
VARIANCE_FLOOR = 1e-3  # share of the largest variance that is added before whitening


class Vgg16:
    """VGG-16's five style layers with given weights, which get no gradients.

    Args:
        weights: Tensors named `features.<i>.weight` and `.bias` with torchvision's layer numbers.
        device: Device of weights and features.
        dtype: Type of weights and features, float32 or bfloat16.

    Raises:
        ConfigError: If a tensor is missing, of the wrong kind or shape, or all 0, or not all finite.

    Source: Simonyan and Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image
    Recognition", configuration D, up to relu5_1.
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
            _check_tensor(f"features.{index}.weight", weight, n_inputs, 3, 3)
            _check_tensor(f"features.{index}.bias", bias)
            if not len(weight) or len(bias) != len(weight):
                raise ConfigError(f"features.{index} has {len(weight)} kernels and {len(bias)} biases")
            n_inputs = weight.shape[0]
            if not weight.float().any():
                raise ConfigError(f"features.{index}.weight is all 0: its features would show no texture")
            weight, bias = weight.detach().to(device, dtype), bias.detach().to(device, dtype)
            if index in WINOGRAD_LAYERS and device.type == "cpu" and dtype == torch.float32:
                from nca.loss.winograd import WinogradConvolution  # loads Numba

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


def _check_tensor(name: str, tensor: Tensor, *shape: int) -> None:
    """Check that a tensor holds (n, *shape) finite floats in memory.

    Raises:
        ConfigError: If it does not.
    """
    plain = tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta
    if not plain or not tensor.dtype.is_floating_point:
        kind = "a meta tensor" if tensor.is_meta else f"{tensor.dtype}, {tensor.layout}"
        raise ConfigError(f"{name} is {kind}: must be a dense tensor of floats")
    if tensor.dim() != 1 + len(shape) or tensor.shape[1:] != shape:
        wanted = ", ".join(map(str, ("n", *shape))) if shape else "n,"
        raise ConfigError(f"{name} has shape {tuple(tensor.shape)}: must be ({wanted})")
    if not tensor.float().isfinite().all():
        raise ConfigError(f"{name} has values that are not finite in float32")


class RandomFilters:
    """Fixed random filters on a Gaussian pyramid.

    Per level, 64 windowed random 7x7 filters over RGB - 0.5, rectified, and a constant feature, through which
    the Gram matrix includes their means. Levels smaller than a filter are dropped. Convolutions wrap around
    as states do: with zero padding, the coarse levels respond to a pattern's position more than to its shape.

    The filters are partly whitened and scaled to unit response variance under the statistics of natural
    images. White noise filters respond to little besides brightness, and noise images minimize their loss.

    Source: Ustyuzhaninov et al. 2017, "What does it take to generate natural textures?", multi-scale random
    features; number, size and statistics of the filters and the pyramid are our own.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self._dtype = dtype
        self._filters = draw_filters().to(device, dtype).contiguous(memory_format=torch.channels_last)
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


def draw_filters(generator: torch.Generator | None = None) -> Float[Tensor, "filter 3 side side"]:
    """Return windowed Gaussian filters, partly whitened, with unit response variance on natural images.

    Args:
        generator: By default that of the fixed filters.
    """
    generator = generator or torch.Generator().manual_seed(derive_seed(0, "random_filters"))
    covariance = natural_covariance()
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=0) + VARIANCE_FLOOR * values.max()
    whitening = (vectors * values ** (-WHITENING / 2)) @ vectors.T
    drawn = torch.randn(N_RANDOM_FILTERS, covariance.shape[0], generator=generator).double() @ whitening
    window = torch.hann_window(FILTER_SIDE + 2, periodic=False, dtype=torch.float64)[1:-1]
    filters = drawn.view(-1, 3, FILTER_SIDE, FILTER_SIDE) * window[:, None] * window
    flat = filters.flatten(1)
    deviations = ((flat @ covariance) * flat).sum(dim=1).sqrt()
    scaled: Tensor = filters / deviations[:, None, None, None]
    return scaled.float()


def hash_filters() -> str:
    """Return a SHA-256 in hex of the fixed filters and the pyramid, equal where they differ by rounding."""
    hundredths = (100 * draw_filters()).round().to(torch.int16)
    recipe = repr((N_LEVELS, BINOMIAL, hundredths.shape))
    return hashlib.sha256(recipe.encode() + hundredths.numpy().tobytes()).hexdigest()


def natural_covariance() -> Float[Tensor, "patch patch"]:
    """Return the covariance of the values of a 7 x 7 patch of a natural image, color-major.

    Model: unit variance; power falls with the square of the frequency; a color is a common luminance field
    plus `COLOR_STD` times a field of its own.

    Source: Field 1987, "Relations between the statistics of natural images and the response properties of
    cortical cells", for the spectrum.
    """
    frequencies = torch.fft.fftfreq(SPECTRUM_SIDE, dtype=torch.float64)
    squared = frequencies[:, None] ** 2 + frequencies**2
    squared[0, 0] = 1 / SPECTRUM_SIDE**2
    field = torch.fft.ifft2(1 / squared).real
    offsets = torch.arange(FILTER_SIDE)[:, None] - torch.arange(FILTER_SIDE)
    between = field[offsets[:, None, :, None], offsets[None, :, None, :]] / field[0, 0]
    colors = (1 + COLOR_STD**2 * torch.eye(3, dtype=torch.float64)) / (1 + COLOR_STD**2)
    return torch.kron(colors, between.reshape(FILTER_SIDE**2, FILTER_SIDE**2))


def _wrap(images: Tensor, margin: int) -> Tensor:
    return F.pad(images, (margin, margin, margin, margin), mode="circular")


def load_extractor(config: FeaturesConfig, device: torch.device, dtype: torch.dtype) -> FeatureExtractor:
    """Build the extractor of a resolved config.

    Raises:
        ConfigError: If the weights cannot be downloaded or read, or do not fit.
    """
    if config.name == "random_filters":
        return RandomFilters(device, dtype)
    if config.name == "patches":
        assert config.side is not None
        assert config.levels is not None
        assert config.unsharp is not None
        return Patches(config.side, config.levels, config.unsharp, device, dtype)
    if config.weights is None:
        file, key, hint = _download_weights(), "features=vgg16", "delete it to download it again"
    else:
        file, key = Path(config.weights).expanduser(), f"features.weights={config.weights}"
        hint = "give the path of a VGG-16 state dict"
    try:
        return Vgg16(read_weights(file), device, dtype)
    except ConfigError as error:
        where = f"{key}: {file}: " if config.weights is None else f"{key}: "
        raise ConfigError(f"{where}{error}; {hint}") from error


def _download_weights() -> Path:
    """Return the file of the ImageNet weights in torch's cache, downloaded if it is missing.

    Raises:
        ConfigError: If it cannot be downloaded.
    """
    file = imagenet_weights_path()
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(WEIGHTS_URL, str(file), WEIGHTS_SHA256)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"features=vgg16: the ImageNet weights cannot be downloaded ({error}); give "
            "features.weights=PATH or features=random_filters"
        ) from error
    return file


def read_weights(file: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a VGG-16 state dict by torchvision's names, of a file of torch or safetensors.

    Raises:
        ConfigError: If it cannot be read, is damaged or holds something else.
    """
    if not file.is_file():
        raise ConfigError("no such file")
    try:
        sha256 = hash_file(file)
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})") from error
    if file.name == imagenet_weights_path().name and not sha256.startswith(WEIGHTS_SHA256):
        raise ConfigError(
            f"its SHA-256 starts with {sha256[: len(WEIGHTS_SHA256)]}, not with {WEIGHTS_SHA256} as its name "
            "tells: damaged or cut off"
        )
    safe = file.suffix == ".safetensors"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on sparse tensors, which are refused
            weights = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(f"not a readable state dict ({type(error).__name__})") from error
    if not isinstance(weights, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()
    ):
        raise ConfigError("must hold a state dict of tensors")
    prefix = "" if next(iter(weights), "").startswith("features.") else "features."
    return {f"{prefix}{key}": tensor for key, tensor in weights.items()}
