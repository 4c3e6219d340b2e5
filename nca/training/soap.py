"""The optimizer SOAP: Adam along the directions in which the gradients of a weight matrix vary."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Soap(torch.optim.Optimizer):
    """Adam in the eigenbasis of Shampoo's preconditioner; a weight that is no matrix gets plain Adam.

    Per matrix, with its gradient G, and all averages exponential:

        rows, columns = average of G @ G.T, average of G.T @ G
        Q, P = qr(rows @ Q), qr(columns @ P)  # one iteration towards their eigenvectors, from the identity
        first, second = average of G, average of (Q.T @ G @ P)**2
        weight -= lr * Q @ (Q.T @ first @ P / sqrt(second)) @ P.T  # averages corrected for their start at 0

    All state is in tensors on the device of the weights, and a step makes no host sync.

    Args:
        parameters: The weights.
        lr: Learning rate; a tensor where CUDA graphs read it from memory.
        betas: What the average of gradients, and all other averages, keep of themselves in a step.
        eps: Added to the root.
        found_inf: No step changes a weight while it is not 0, as in PyTorch's fused Adam.

    Source: Vyas et al. 2024, "SOAP: Improving and Stabilizing Shampoo using Adam", with a basis that is
    updated at every step and starts from the identity.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float | Tensor,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        found_inf: Float[Tensor, ""] | None = None,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps})
        self.found_inf = found_inf

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change all weights that have a gradient; `closure` must be None."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    change = group["lr"] * self._direction(weight.grad, self.state[weight], group)
                    if self.found_inf is not None:
                        change = torch.where(self.found_inf == 0, change, 0.0)
                    weight.sub_(change)

    def _direction(self, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        """Return what the learning rate multiplies, and update the state of a weight."""
        keep_first, keep_second = group["betas"]
        if not state:
            state["step"] = grad.new_zeros(())
            state["first"], state["second"] = torch.zeros_like(grad), torch.zeros_like(grad)
        state["step"] += 1
        if grad.ndim == 2:
            _update_basis("rows", grad, state, 1 - keep_second)
            _update_basis("columns", grad.T, state, 1 - keep_second)
        first = state["first"].lerp_(grad, 1 - keep_first)
        second = state["second"].lerp_(_rotate(grad, state).square(), 1 - keep_second)
        scale = (second / (1 - keep_second ** state["step"])).sqrt() + group["eps"]
        return _rotate_back(_rotate(first, state) / (1 - keep_first ** state["step"]) / scale, state)


def _update_basis(side: str, matrix: Tensor, state: dict[str, Tensor], share: float) -> None:
    """Add `matrix @ matrix.T` to its average, and move the basis towards the average's eigenvectors."""
    if side not in state:
        state[side] = matrix.new_zeros(len(matrix), len(matrix))
        state[f"{side}_basis"] = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    average, basis = state[side], state[f"{side}_basis"]
    average.lerp_(matrix @ matrix.T, share)
    basis.copy_(torch.linalg.qr(average @ basis).Q)


def _rotate(values: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Return a matrix in its bases; a vector as it is."""
    return state["rows_basis"].T @ values @ state["columns_basis"] if values.ndim == 2 else values


def _rotate_back(values: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Undo `_rotate`."""
    return state["rows_basis"] @ values @ state["columns_basis"].T if values.ndim == 2 else values
