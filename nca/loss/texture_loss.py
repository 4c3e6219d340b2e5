"""What all losses have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "batch 3 height width"]  # RGB in [0, 1]
Scalar = Float[Tensor, ""]


class TextureLoss(ABC):
    """How much the texture of images differs from that of a target.

    Attributes:
        energy: The loss of an image whose features are all 0.
    """

    energy: Scalar

    @abstractmethod
    def __call__(self, images: Images) -> Scalar:
        """Return the loss of images, their mean; 0 for the target itself."""

    def draw(self, generator: torch.Generator | None) -> None:
        """Draw what is random in the loss, if anything is, until the next call.

        Args:
            generator: The stream `directions`, on the host.
        """
        del generator

    def loss_and_grad(self, images: Images) -> tuple[Scalar, Images]:
        """Return the loss and its gradient with respect to the images.

        Only the features of one image are in memory at a time.
        """
        losses, grads = [], []
        for image in images.detach().split(1):
            image.requires_grad_()
            loss = self(image) / len(images)
            grads += torch.autograd.grad(loss, image)
            losses.append(loss.detach())
        return torch.stack(losses).sum(), torch.cat(grads)
