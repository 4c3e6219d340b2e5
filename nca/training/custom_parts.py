"""A trial of a user's own classes at a small size, before anything is created."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from nca.automaton.model import Automaton
from nca.automaton.rules import make_automaton
from nca.automaton.seeding import Streams
from nca.config.custom_class import CustomClassError, custom_code
from nca.config.schema import TrialConfig, custom_classes
from nca.loss.features import load_extractor
from nca.loss.texture_loss import TextureLoss
from nca.textures.load import load_texture
from nca.training.losses import make_loss

CPU = torch.device("cpu")
SIZES = (16, 32)  # px: pictures are larger than the grid of the training
N_STATES = 2
WEIGHT_STD = 0.01  # of what is added to the first weights


def check_custom_parts(config: TrialConfig) -> None:
    """Try the classes of a config that are a user's own: one step, forward and backward.

    Raises:
        CustomClassError: If one cannot be imported, is no subclass of its interface, raises an exception, or
            returns anything of a wrong shape, that is not finite, or that differs from one call to the next.
    """
    for group, name in custom_classes(config).items():
        with custom_code(group, name):
            fault = next(_faults_of_rule(config) if group == "model" else _faults_of_loss(config), None)
        if fault is not None:
            raise CustomClassError(f"{group}={name}: {fault}")


def _faults_of_rule(config: TrialConfig) -> Iterator[str]:
    """Yield what is wrong with a rule, each fault only if those before it are none."""
    streams = Streams(0, CPU)
    model, again = make_automaton(config.model, streams), make_automaton(config.model, Streams(0, CPU))
    if not isinstance(model, Automaton):
        yield f"make() returns a {type(model).__name__}, not an automaton"
    if type(model).update is not Automaton.update:
        yield "update() must stay as it is: a CA step adds delta()"
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    if not weights:
        yield "it has no weights, that is no nn.Parameter to train"
    tensors = model.state_dict()
    if any(not torch.equal(tensor, again.state_dict()[name]) for name, tensor in tensors.items()):
        yield 'make() returns other weights for the same seed; draw them with generator=streams["weights"]'
    save({name: tensor.contiguous() for name, tensor in tensors.items()})
    with torch.no_grad():
        for weight in weights.values():  # as of zeros much cannot be seen
            weight.add_(WEIGHT_STD * torch.randn(weight.shape, generator=streams["weights"]))
    for size in SIZES:
        yield from _faults_of_step(model, streams, size)
    yield from _faults_of_gradient(model, streams, config.train.rollout)


def _faults_of_gradient(model: Automaton, streams: Streams, rollout: str) -> Iterator[str]:
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    delta = model.delta(model.draw_seed_states(N_STATES, SIZES[0], streams["seed_states"]))
    found = torch.autograd.grad(delta.sum(), list(weights.values()), allow_unused=True)
    missing = [name for name, gradient in zip(weights, found, strict=True) if gradient is None]
    if len(missing) == len(weights) or (missing and rollout == "fast"):
        yield f"delta() does not depend on {missing[0]}" + "; give train.rollout=plain" * (
            len(missing) < len(weights)
        )
    if not all(gradient.isfinite().all() for gradient in found if gradient is not None):
        yield "the gradient of delta() is not finite"


def _faults_of_step(model: Automaton, streams: Streams, size: int) -> Iterator[str]:
    shape = (N_STATES, model.channels, size, size)
    state = model.draw_seed_states(N_STATES, size, streams["seed_states"])
    yield from _faults_of_tensor("draw_seed_states()", state, shape)
    delta = model.delta(state)
    yield from _faults_of_tensor("delta()", delta, shape)
    if not torch.equal(delta, model.delta(state)):
        yield "delta() returns another value for the same state; it must draw and keep nothing"
    if not delta.requires_grad:
        yield "delta() does not depend on the weights"
    state = model.update(state, model.draw_mask(state, streams["masks"]))
    yield from _faults_of_tensor("a CA step", state, shape)
    yield from _faults_of_tensor("rgb()", model.rgb(state), (N_STATES, 3, size, size))


def _faults_of_loss(config: TrialConfig) -> Iterator[str]:
    """Yield what is wrong with a loss, each fault only if those before it are none."""
    target = load_texture(config.texture, config.train.size)
    loss = make_loss(config.loss, load_extractor(config.features, CPU, torch.float32), target)
    if not isinstance(loss, TextureLoss):
        yield f"is a {type(loss).__name__}, not a texture loss"
    streams = Streams(0, CPU)
    loss.draw(streams["directions"])
    energy = float(loss.energy)
    if not 0 < energy < math.inf:
        yield f"its energy is {energy:g}, which must be above 0 and finite"
    images = _draw_noise(target, streams).requires_grad_()
    value = loss(images)
    yield from _faults_of_tensor("the loss", value, ())
    if not value.requires_grad:
        yield "the loss does not depend on the images"
    (gradient,) = torch.autograd.grad(value, images)
    yield from _faults_of_tensor("its gradient", gradient, tuple(images.shape))
    if float(loss(target[None]).detach()) >= float(value.detach()):
        yield "the loss of the target is not less than that of noise; it must be 0 for the target"


def _draw_noise(
    target: Float[Tensor, "3 height width"], streams: Streams
) -> Float[Tensor, "batch 3 height width"]:
    return torch.rand(N_STATES, *target.shape, generator=streams["seed_states"])


def _faults_of_tensor(what: str, found: object, shape: tuple[int, ...]) -> Iterator[str]:
    if not isinstance(found, Tensor) or found.shape != shape or found.dtype != torch.float32:
        shown = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        yield f"{what} must be a tensor torch.float32 {shape}, and is {shown}"
    elif not found.isfinite().all():
        yield f"{what} is not finite"
