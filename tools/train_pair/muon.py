# SPDX-License-Identifier: Apache-2.0
"""Muon for the matrices of a network: momentum, made orthogonal by five Newton-Schulz steps.

Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
Matrices of one shape are orthogonalised in one batch, which on a CPU is several times faster.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Coefficients of the quintic iteration, from the source above.
A, B, C = 3.4445, -4.7750, 2.0315


class Muon:
    """Updates a list of matrices from their gradients; those without one are left alone."""

    def __init__(
        self, weights: list[Tensor], momentum: float = 0.95, weight_decay: float = 0.05
    ) -> None:
        """Momentum buffers start at zero."""
        self.weights, self.momentum, self.weight_decay = weights, momentum, weight_decay
        self.buffers = [torch.zeros_like(weight) for weight in weights]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update with learning rate `rate`."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, weight in enumerate(self.weights):
            if weight.grad is not None:
                groups.setdefault(tuple(weight.shape), []).append(index)
        for (rows, columns), members in groups.items():
            gradients = torch.stack([_gradient(self.weights[i]) for i in members])
            buffers = torch.stack([self.buffers[i] for i in members])
            buffers.lerp_(gradients, 1 - self.momentum)
            for i, buffer in zip(members, buffers, strict=True):
                self.buffers[i].copy_(buffer)
            update = orthogonal(gradients.lerp(buffers, self.momentum))
            scale = rate * max(1.0, rows / columns) ** 0.5
            for i, part in zip(members, update, strict=True):
                self.weights[i].mul_(1 - rate * self.weight_decay).add_(part, alpha=-scale)


def _gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None
    return weight.grad


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix of each of [N, rows, columns], roughly."""
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2).contiguous()
    for _ in range(5):
        gram = x @ x.transpose(1, 2)
        x = A * x + (B * gram + C * (gram @ gram)) @ x
    return x.transpose(1, 2) if tall else x
