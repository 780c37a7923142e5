# SPDX-License-Identifier: Apache-2.0
"""Logistic regression for the calibrated router: few weights, exact fits, deterministic.

docs/design.md, section 14. Newton's method in float64 on standardised features with an L2 penalty;
two half observations of either class at the mean keep the bias finite where a class is missing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

#: L2 penalty on standardised weights, in units of one observation's log-loss.
PENALTY = 1.0
_STEPS = 60


@dataclass(frozen=True)
class FitQuality:
    """How well predicted probabilities fit labels that they were not fitted on.

    Attributes:
        count: labels.
        rate: share of positive labels.
        auc: chance that a positive one has the larger prediction; None with one class only.
        brier: mean squared error of the probabilities.
        log_loss: mean negative log-likelihood, in nats.
    """

    count: int
    rate: float
    auc: float | None
    brier: float
    log_loss: float

    def to_dict(self) -> dict[str, float | None]:
        """Every field by name."""
        return asdict(self)


def fit_logistic(features: torch.Tensor, labels: torch.Tensor) -> tuple[float, ...]:
    """Bias and weights that minimise log-loss plus PENALTY / 2 per squared standardised weight.

    Args:
        features: [n, k] float; a column without variance gets weight 0.
        labels: [n] bool.

    Returns:
        k + 1 floats in the features' own units, the bias first.

    Raises:
        ValueError: there is no row.
    """
    x, y = features.to(torch.float64), labels.to(torch.float64)
    if x.shape[0] == 0:
        raise ValueError("fit_logistic: features must have at least one row, got none")
    mean = x.mean(0)
    deviation = (x - mean).square().mean(0).sqrt()
    # Rounding alone leaves about 1e-16 of the mean's size in a constant column.
    moving = deviation > 1e-9 * (1.0 + mean.abs())
    scale = torch.where(moving, deviation, torch.ones_like(deviation))
    z = torch.where(moving, (x - mean) / scale, torch.zeros_like(x))
    one = torch.ones(z.shape[0] + 2, 1, dtype=torch.float64)
    z = torch.cat([one, torch.cat([z, torch.zeros(2, z.shape[1], dtype=torch.float64)])], 1)
    y = torch.cat([y, y.new_tensor([0.0, 1.0])])
    mass = torch.cat([torch.ones(len(y) - 2, dtype=torch.float64), y.new_full((2,), 0.5)])
    penalty = torch.full((z.shape[1],), PENALTY, dtype=torch.float64)
    penalty[0] = 0.0
    weights = _newton(z, y, mass, penalty)
    folded = torch.where(moving, weights[1:] / scale, torch.zeros_like(scale))
    bias = weights[0] - (folded * mean).sum()
    return (float(bias), *folded.tolist())


def _newton(
    z: torch.Tensor, y: torch.Tensor, mass: torch.Tensor, penalty: torch.Tensor
) -> torch.Tensor:
    weights = torch.zeros(z.shape[1], dtype=torch.float64)
    loss = _penalised(z, y, mass, penalty, weights)
    for _ in range(_STEPS):
        predicted = torch.sigmoid(z @ weights)
        gradient = z.T @ (mass * (predicted - y)) + penalty * weights
        curvature = (mass * predicted * (1.0 - predicted)).clamp(min=1e-12)
        hessian = z.T @ (curvature[:, None] * z) + torch.diag(penalty.clamp(min=1e-9))
        step = torch.linalg.solve(hessian, gradient)
        # Halving: far from the minimum a full Newton step may overshoot.
        length = 1.0
        while (found := _penalised(z, y, mass, penalty, weights - length * step)) > loss:
            length /= 2.0
            if length < 1e-6:
                return weights
        weights = weights - length * step
        if loss - found <= 1e-12 * (1.0 + abs(loss)):
            break
        loss = found
    return weights


def _penalised(
    z: torch.Tensor,
    y: torch.Tensor,
    mass: torch.Tensor,
    penalty: torch.Tensor,
    weights: torch.Tensor,
) -> float:
    scores = z @ weights
    losses = torch.nn.functional.softplus(scores) - y * scores
    return float((mass * losses).sum() + 0.5 * (penalty * weights.square()).sum())


def log_odds(weights: tuple[float, ...], features: torch.Tensor) -> torch.Tensor:
    """The bias plus weights * features, [n] float64, of [n, k] features."""
    values = torch.tensor(weights, dtype=torch.float64)
    return features.to(torch.float64) @ values[1:] + values[0]


def auc(scores: torch.Tensor, labels: torch.Tensor) -> float | None:
    """Area under the ROC curve: P(score of a positive > score of a negative), ties count half.

    Args:
        scores: [n] float.
        labels: [n] bool.

    Returns:
        In [0, 1], or None if a class is missing.
    """
    positive = int(labels.sum())
    negative = len(labels) - positive
    if positive == 0 or negative == 0:
        return None
    _, group, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    # Mean rank of each group of equal scores, from 1.
    ranks = counts.cumsum(0).double() - (counts.double() - 1.0) / 2.0
    total = float(ranks[group][labels.bool()].sum())
    return (total - positive * (positive + 1) / 2.0) / (positive * negative)


def quality(weights: tuple[float, ...], features: torch.Tensor, labels: torch.Tensor) -> FitQuality:
    """Judges a model on rows it was not fitted on; arguments as in `fit_logistic`.

    Raises:
        ValueError: there is no row.
    """
    if len(labels) == 0:
        raise ValueError("quality: labels must hold at least one, got none")
    scores = log_odds(weights, features)
    y = labels.to(torch.float64)
    losses = torch.nn.functional.softplus(scores) - y * scores
    brier = (torch.sigmoid(scores) - y).square().mean()
    return FitQuality(
        len(labels), float(y.mean()), auc(scores, labels), float(brier), float(losses.mean())
    )
