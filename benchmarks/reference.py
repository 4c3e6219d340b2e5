"""What is measured against, plain and slow: the algorithm of the study's program, and a sliced loss.

Autograd through perception and both convolutions, a float mask per CA step, VGG-16 with gradients of its
weights, the target's Gram matrices recomputed at every step. Only the program's output files are left out.
The sliced loss sorts with `torch.sort`, and autograd goes through its values. Nothing here shares code with
`nca`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STYLE_LAYERS = (1, 6, 11, 18, 25)
CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24)
POOLS = (4, 9, 16, 23)
RESEED_EVERY = 8
BLUR = (0.05448868, 0.24420134, 0.40261995)  # of standard deviation 1, half of 5 taps


def perceive(x: Tensor, filters: Tensor) -> Tensor:
    """Return the perception, channel-major, (batch, channels * filters, height, width)."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch * channels, 1, height, width)
    x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), filters[:, None])
    return x.reshape(batch, -1, height, width)


def rollout(x: Tensor, parameters: Mapping[str, Tensor], ca_steps: int, update_rate: float) -> Tensor:
    """Return the state after `ca_steps` CA steps.

    Args:
        x: Cell states, (batch, channels, height, width).
        parameters: `filters` (filters, 3, 3), `w0` (hidden, channels * filters), `w1` (channels, hidden).
        ca_steps: Number of CA steps.
        update_rate: Probability of an update, for each cell and channel.
    """
    w0, w1 = (parameters[name][:, :, None, None] for name in ("w0", "w1"))
    for _ in range(ca_steps):
        mask = (torch.rand_like(x) < update_rate) * 1.0
        hidden = F.conv2d(perceive(x, parameters["filters"]), w0)
        x = torch.clamp(x + F.conv2d(hidden, w1) * mask, 0.0, 1.0)
    return x


def make_vgg(weights: Mapping[str, Tensor]) -> nn.ModuleList:
    """Return VGG-16 up to relu5_1 as torchvision builds it, with gradients for its weights."""
    layers: list[nn.Module] = []
    for index in range(STYLE_LAYERS[-1] + 1):
        if index in CONVOLUTIONS:
            weight = weights[f"features.{index}.weight"]
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            layer.weight.data.copy_(weight)
            assert layer.bias is not None
            layer.bias.data.copy_(weights[f"features.{index}.bias"])
            layers.append(layer)
        else:
            layers.append(nn.MaxPool2d(2) if index in POOLS else nn.ReLU(inplace=True))
    return nn.ModuleList(layers)


def compute_grams(images: Tensor, vgg: nn.ModuleList) -> list[Tensor]:
    """Return the Gram matrices of the five style layers."""
    x, grams = images, []
    for index, layer in enumerate(vgg):
        x = layer(x)
        if index in STYLE_LAYERS:
            height, width = x.shape[-2:]
            y = x.clone()
            grams.append(torch.einsum("bchw,bdhw->bcd", y, y) / (height * width))
    return grams


def style_loss(images: Tensor, target: Tensor, vgg: nn.ModuleList) -> Tensor:
    """Return the sum over layers of the mean squared difference of Gram matrices."""
    pairs = zip(compute_grams(images, vgg), compute_grams(target, vgg), strict=True)
    return torch.stack([(ours - theirs).square().mean() for ours, theirs in pairs]).sum()


def wrap(images: Tensor, margin: int) -> Tensor:
    """Return images continued over their edges."""
    return F.pad(images, (margin, margin, margin, margin), mode="circular")


def extract_patches(images: Tensor, side: int, n_levels: int, unsharp: float) -> list[Tensor]:
    """Return all patches of each level of a Gaussian pyramid, (batch, 3 * side * side, pixels)."""
    taps = torch.tensor([*BLUR, *BLUR[1::-1]], device=images.device)
    kernel = torch.outer(taps, taps).expand(3, 1, 5, 5)
    patches = []
    for _ in range(n_levels):
        blurred = F.conv2d(wrap(images, 2), kernel, groups=3)
        patches.append(F.unfold(wrap(images + unsharp * (images - blurred), side // 2), side))
        images = blurred[:, :, ::2, ::2]
    return patches


def sliced_loss(levels: Sequence[Tensor], target: Sequence[Tensor], directions: Sequence[Tensor]) -> Tensor:
    """Return the mean absolute difference of sorted projections, summed over levels.

    Args:
        levels: Features of images, (batch, features, positions) per level.
        target: Features of the target, of as many positions.
        directions: (directions, features) per level.
    """
    terms = []
    for ours, theirs, each in zip(levels, target, directions, strict=True):
        ordered, expected = torch.sort(each @ ours)[0], torch.sort(each @ theirs)[0]
        terms.append((ordered - expected).abs().mean())
    return torch.stack(terms).sum()


class ReferenceTrainer:
    """A trainer that takes one training step per call.

    Args:
        parameters: See `rollout`; all except the filters are trained.
        pool: States, (rows, channels, height, width).
        loss: Loss of RGB images, (batch, 3, height, width).
        schedule: Adam's learning rate, which drops after a third of the steps, and the number of steps.
        update_rate: Probability of an update, in (0, 1].
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        pool: Tensor,
        loss: Callable[[Tensor], Tensor],
        schedule: tuple[float, int],
        update_rate: float,
    ) -> None:
        self.parameters = {name: tensor.clone() for name, tensor in parameters.items()}
        learning_rate, steps = schedule
        trained = [t.requires_grad_() for name, t in self.parameters.items() if name != "filters"]
        self.optimizer = torch.optim.Adam(trained, lr=learning_rate)
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, [steps // 3], 0.3)
        self.pool, self.loss, self.update_rate = pool, loss, update_rate

    def train_step(self, step: int, rows: Sequence[int], ca_steps: int, seed_state: Tensor) -> float:
        """Take a training step with the given random draws; return its loss."""
        index = torch.tensor(rows)
        x = self.pool[index]
        if step % RESEED_EVERY == 0:
            x[:1] = seed_state
        self.optimizer.zero_grad()
        x = rollout(x, self.parameters, ca_steps, self.update_rate)
        loss = self.loss(x[:, :3])
        loss.backward()
        for parameter in self.optimizer.param_groups[0]["params"]:
            parameter.grad /= parameter.grad.norm() + 1e-8
        self.optimizer.step()
        self.scheduler.step()
        self.pool[index] = x.detach()
        return float(loss.detach())
