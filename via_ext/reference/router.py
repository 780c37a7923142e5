# SPDX-License-Identifier: Apache-2.0
"""The calibrated router: what its models see of a row and a node, and the tiers they give."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from via_ext.reference.filters import Row

#: Logarithms are cut at -LIMIT, margins at LIMIT.
LIMIT = 20.0
NUM_WEIGHTS = 8
PACKED_SIZE = 3 * NUM_WEIGHTS + 3


@dataclass(frozen=True)
class RowRouter:
    """The router of one batch row.

    Attributes:
        draft: bias and weights [8] of the log-odds that a drafted token is wrong.
        slim: the same for the slim verifier's first choice beside a refused candidate.
        bonus: the same where there is no candidate.
        accept_limit: log-odds up to which a drafted token is accepted.
        regenerate_limit: up to which the slim verifier decides beside a refused candidate.
        bonus_limit: up to which it decides where there is no candidate.
    """

    draft: list[float]
    slim: list[float]
    bonus: list[float]
    accept_limit: float
    regenerate_limit: float
    bonus_limit: float

    @property
    def is_valid(self) -> bool:
        """False for a weight that is not finite, or a limit that is NaN."""
        weights = [*self.draft, *self.slim, *self.bonus]
        limits = (self.accept_limit, self.regenerate_limit, self.bonus_limit)
        return all(map(math.isfinite, weights)) and not any(map(math.isnan, limits))

    @property
    def has_bonus(self) -> bool:
        """False if no bonus token can pass: a leaf escalates without being read."""
        return self.bonus_limit > -math.inf


def routers_per_row(router: Any, batch: int) -> list[RowRouter | None]:
    """A router's form for every batch row.

    Args:
        router: something with a method `pack`, a packed [27] or [B, 27] float32, or None.
        batch: B.
    """
    if router is None:
        return [None] * batch
    packed = router if isinstance(router, Tensor) else router.pack()
    rows = packed.to("cpu", torch.float32).expand(batch, PACKED_SIZE).tolist()
    ends = (NUM_WEIGHTS, 2 * NUM_WEIGHTS, 3 * NUM_WEIGHTS)
    return [
        RowRouter(row[: ends[0]], row[ends[0] : ends[1]], row[ends[1] : ends[2]], *row[ends[2] :])
        for row in rows
    ]


def cut(value: float, low: float, high: float) -> float:
    """`value` in [low, high], as float32; NaN becomes `low`."""
    value = min(value, high) if value > low else low
    return float(torch.tensor(value, dtype=torch.float32))


def row_features(row: Row, temperature: float) -> list[float]:
    """log_max and margin of a row's distribution s at the ratios' temperature.

    A margin is what the largest logit has over the second largest, in units of the temperature: 0
    where two tokens share the maximum, LIMIT where no other token has mass. A row without mass has
    the lowest value of both.
    """
    if not row.has_mass:
        return [-LIMIT, 0.0]
    gaps = (row.logits - row.logits.max()) / (temperature or 1.0)
    second = float(gaps.sort(descending=True).values[1]) if len(gaps) > 1 else -math.inf
    return [cut(-float(gaps.logsumexp(0)), -LIMIT, 0.0), cut(-second, 0.0, LIMIT)]


def node_features(
    row: Row, temperature: float, token: int, depth: int, scores: list[float] | None
) -> list[float]:
    """The seven features of a drafted token.

    Args:
        row: of the node's parent.
        temperature: of the request, 0 = greedy.
        token: the node's.
        depth: of the node; a child of the root has 1.
        scores: ln p(token) and ln p1 - ln p2 of the drafter; None = both features 0.
    """
    log_ratio, is_first = -LIMIT, False
    if row.has_mass:
        gap = float(row.logits[token] - row.logits.max()) / (temperature or 1.0)
        log_ratio, is_first = cut(gap, -LIMIT, 0.0), token == row.argmax
    drafted = [0.0, 0.0]
    if scores is not None:
        drafted = [cut(scores[0], -LIMIT, 0.0), cut(scores[1], 0.0, LIMIT)]
    return [log_ratio, *row_features(row, temperature), *drafted, float(depth), float(is_first)]


def bonus_features(row: Row, temperature: float, depth: int) -> list[float]:
    """The same where there is no candidate: everything about a token is 0.

    Args:
        row: where the walk stands.
        temperature: of the request.
        depth: that a child of the row would have.
    """
    return [0.0, *row_features(row, temperature), 0.0, 0.0, float(depth), 0.0]


def log_odds(model: list[float], features: list[float]) -> float:
    """Bias and weighted features, added in their order."""
    total = model[0]
    for weight, feature in zip(model[1:], features, strict=True):
        total += weight * feature
    return total
